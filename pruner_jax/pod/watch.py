"""Who of a pod is alive, who has failed, who was asked to stop: one thread that looks and tells.

Every process counts up a number of its own on the board of the coordination service, whatever else
it does; one whose number stands still for too long is dead, one that is merely slow is not. The
thread ends a process that waits for a dead one inside a collective, which nothing else could.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from typing import Any

import jax

AGAIN = 75  # exit code (EX_TEMPFAIL): what starts the run is to start the same command again

_LOOK = 1.0  # seconds between two looks
_LEAVE = 10.0  # seconds that a process has to end by itself once another is gone


class PodError(ConnectionError):
    """A process of the pod has failed, or was not found."""

    exit_code = 1


class Gone(PodError):
    """A process of the pod is gone; the same command continues the run."""

    exit_code = AGAIN


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, here or on another host. ``exit_code``: by a scheduler, that the
    command is to be started again; by a person, what a shell would report."""

    def __init__(self, number: int):
        self.number = signal.Signals(number)
        super().__init__(f"stopped by {self.number.name}; the same command continues")
        self.exit_code = AGAIN if number == signal.SIGTERM else 128 + number


class Watch:
    """The board of the pod, and the thread that watches over it while it is entered."""

    def __init__(self, patience: float) -> None:
        from jax._src.distributed import global_state  # there is no public way to the service

        self._service, self._patience = global_state.client, patience
        self._index, self._count = jax.process_index(), jax.process_count()
        self._trouble: PodError | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, name="pod watch", daemon=True)
        self.stop: int | None = None

    def __enter__(self) -> Watch:
        self.put(f"host/{self._index}", socket.gethostname().encode())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        if isinstance(self._trouble, Gone):
            # In the end JAX waits for all processes, and is aborted because one does not come.
            atexit.register(_leave, self._trouble.exit_code)

    # -- the board ---------------------------------------------------------------------------------

    def put(self, key: str, value: bytes) -> None:
        """Something that all can read; what stood there goes."""
        self._service.key_value_set_bytes(f"pruner/{key}", value, allow_overwrite=True)

    def get(self, key: str, seconds: float) -> bytes | None:
        """What stands there, or None if nothing does for so long."""
        try:
            wait = max(1, int(1000 * seconds))
            return self._service.blocking_key_value_get_bytes(f"pruner/{key}", wait)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" in str(error):
                return None
            self.check()
            raise Gone("the first process of the pod is gone") from error

    def drop(self, key: str) -> None:
        """Take something off."""
        self._service.key_value_delete(f"pruner/{key}")

    def _all(self, room: str) -> dict[int, bytes]:
        found = self._service.key_value_dir_get_bytes(f"pruner/{room}/")
        return {int(key.rpartition("/")[2]): value for key, value in found}

    # -- what is told ------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise what is wrong with the pod, if anything is."""
        if self._trouble is not None:
            raise self._trouble

    def wait_for_trouble(self) -> None:
        """Raise what is wrong with the pod as soon as it is known; return if nothing is found in
        the time in which a dead process would be."""
        deadline = time.monotonic() + self._patience + 3 * _LOOK
        while time.monotonic() < deadline and self._trouble is None:
            time.sleep(_LOOK / 10)
        self.check()

    def tell(self, error: BaseException) -> None:
        """Tell the others what this process failed with."""
        if isinstance(error, (KeyboardInterrupt, PodError)):
            return
        said = f"{type(error).__name__}: {error}"[:2000]
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self.put(f"failed/{self._index}", said.encode())

    def ask_to_stop(self, number: int) -> None:
        """Tell the others that this process was sent a signal."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self.put(f"stop/{self._index}", b"%d" % number)

    def say(self, words: str) -> None:
        """A line on stderr, with the name of the process."""
        print(f"process {self._index} of {self._count}: {words}", file=sys.stderr, flush=True)

    # -- the thread --------------------------------------------------------------------------------

    def _look(self) -> None:
        beat, last, since = 0, {}, {}
        while not self._done.wait(_LOOK):
            beat += 1
            try:
                self.put(f"alive/{self._index}", b"%d" % beat)
                trouble = self._failed() or self._dead(last, since)
                stops = self._all("stop")
            except jax.errors.JaxRuntimeError as error:
                trouble, stops = Gone(f"the first process of the pod is gone ({_line(error)})"), {}
            self.stop = next(iter(map(int, stops.values())), self.stop)
            if trouble is not None:
                self._trouble = trouble
                self._end()
                return

    def _failed(self) -> PodError | None:
        for index, said in self._all("failed").items():
            if index != self._index:
                return PodError(f"{self._name(index)} failed: {said.decode()}")
        return None

    def _dead(self, last: dict[int, bytes], since: dict[int, float]) -> PodError | None:
        now, beats = time.monotonic(), self._all("alive")
        for index in range(self._count):
            if index == self._index or last.get(index) != beats.get(index):
                last[index], since[index] = beats.get(index), now
            elif now - since.setdefault(index, now) > self._patience:
                return Gone(
                    f"{self._name(index)} has not been heard of for {self._patience:g} s "
                    "(pod.patience): it was killed, or its machine is gone. The same command on "
                    "all hosts continues from the last saved state"
                )
        return None

    def _name(self, index: int) -> str:
        host = self._all("host").get(index, b"?").decode()
        return f"process {index} (host {host})"

    def _end(self) -> None:
        """Let the main thread find out; if it cannot, because it waits on a device, end all."""
        if self._done.wait(_LEAVE):
            return
        self.say(f"error: {self._trouble}")
        _leave(self._trouble.exit_code)


def _leave(code: int) -> None:
    """End this process at once."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _line(error: Any) -> str:
    return str(error).strip().splitlines()[0][:200]
