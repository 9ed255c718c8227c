"""Who of a pod is alive, who has failed, who was asked to stop: one thread that looks and tells.

Every process counts up a number of its own on the board of the coordination service, whatever else
it does; one whose number stands still for too long is dead, one that is merely slow is not. The
thread ends a process that waits for a dead one inside a collective, which nothing else could.

What a process ends with after an error is decided here alone (`Watch.ended_by`).
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import signal
import socket
import sys
import threading
import time
from typing import Any

import jax

AGAIN = 75  # exit code (EX_TEMPFAIL): what starts the run is to start the same command again

_LOOK = 1.0  # seconds between two looks
_LEAVE = 10.0  # seconds that a process has to end by itself once it cannot go on
_CLOSE = 600.0  # seconds that it may take to complete a save before

# How a collective fails where another process is gone; it is no error of this one.
_COLLECTIVE = re.compile(r"Gloo|NCCL|UNAVAILABLE|ABORTED|Connection (reset|closed)|peer")


class PodError(ConnectionError):
    """A process of the pod has failed, or was not found."""

    exit_code = 1


class Gone(PodError):
    """A process of the pod is gone; the same command continues what keeps what it has done."""

    exit_code = AGAIN


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop, here or on another host. ``exit_code``: by a scheduler, that the
    command is to be started again; by a person, what a shell would report."""

    kept = True  # whether the same command finds what was done so far

    def __init__(self, number: int):
        self.number = signal.Signals(number)
        super().__init__(number)
        self.exit_code = AGAIN if number == signal.SIGTERM else 128 + number

    def __str__(self) -> str:
        then = "continues" if self.kept else "begins again, for nothing was kept"
        return f"stopped by {self.number.name}; the same command {then}"


class Watch:
    """The board of the pod, and the thread that watches over it while it is entered."""

    def __init__(self, patience: float) -> None:
        from jax._src.distributed import global_state  # there is no public way to the service

        self._service, self._patience = global_state.client, patience
        self._index, self._count = jax.process_index(), jax.process_count()
        self._trouble: PodError | None = None
        self._beat: dict[int, tuple[bytes | None, float]] = {}  # of each, and since when
        self._gone: set[int] = set()  # processes that have not been heard of for too long
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, name="pod watch", daemon=True)
        self.stop: int | None = None  # the number of a signal that a process was sent
        self.noted: int | None = None  # of one that this process was sent; the thread tells of it
        self.closing = False  # completing a save, in which the others may still take part

    def __enter__(self) -> Watch:
        self.put(f"host/{self._index}", socket.gethostname().encode())
        self._thread.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        self._done.set()
        self._thread.join()
        if error is None:
            return  # all come to the end, and leave together
        self._take_leave()
        # In the end JAX waits for all processes, and is aborted because one does not come.
        otherwise = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
        atexit.register(_leave, getattr(error, "exit_code", otherwise))

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
            if "DEADLINE_EXCEEDED" not in str(error):
                time.sleep(seconds)  # the thread finds out whether it is for good
            return None

    def drop(self, key: str) -> None:
        """Take something off."""
        self._service.key_value_delete(f"pruner/{key}")

    def _all(self, room: str) -> dict[int, bytes]:
        found = self._service.key_value_dir_get_bytes(f"pruner/{room}/")
        return {int(key.rpartition("/")[2]): value for key, value in found}

    # -- what is told ------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise what is wrong with the pod, if anything is; while a save is completed, only that a
        process is gone, for those that have failed come to complete it too."""
        if self._trouble is not None and (isinstance(self._trouble, Gone) or not self.closing):
            raise self._trouble

    def wait_for_trouble(self) -> None:
        """Raise what is wrong with the pod as soon as it is known; return if nothing is found in
        the time in which a dead process would be."""
        deadline = time.monotonic() + self._patience + 3 * _LOOK
        while time.monotonic() < deadline and self._trouble is None:
            time.sleep(_LOOK / 10)
        self.check()

    def tell(self, error: BaseException) -> None:
        """Tell the others what this process has failed with, if they do not know and it is its own
        failure."""
        if getattr(error, "shared", False) or isinstance(error, (PodError, Interrupted)):
            return
        if isinstance(error, KeyboardInterrupt):
            self.ask_to_stop(signal.SIGINT)
        elif not _of_a_collective(error):
            code = getattr(error, "exit_code", PodError.exit_code)  # the others end with it, too
            said = f"{code} {type(error).__name__}: {error}"[:2000]
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                self.put(f"failed/{self._index}", said.encode())

    def ended_by(self, error: BaseException) -> BaseException:
        """What this process ends with: the error, which the others are told; but where a collective
        has failed, that a process is gone, if one is."""
        self.tell(error)
        if not getattr(error, "shared", False) and _of_a_collective(error):
            try:
                self.wait_for_trouble()
            except PodError as trouble:
                return trouble
        return error

    def ask_to_stop(self, number: int) -> None:
        """Tell the others that this process was sent a signal."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self.put(f"stop/{self._index}", b"%d" % number)

    def say(self, words: str) -> None:
        """A line on stderr, with the name of the process."""
        print(f"process {self._index} of {self._count}: {words}", file=sys.stderr, flush=True)

    # -- the thread --------------------------------------------------------------------------------

    def _look(self) -> None:
        beat, heard = 0, time.monotonic()
        while not self._done.wait(_LOOK):
            beat += 1
            trouble = None
            try:
                self.put(f"alive/{self._index}", b"%d" % beat)
                if self.noted is not None:
                    self.ask_to_stop(self.noted)
                trouble = self._failed() or self._dead()
                self.stop = next(iter(map(int, self._all("stop").values())), self.stop)
                heard = time.monotonic()
            except jax.errors.JaxRuntimeError as error:
                if time.monotonic() - heard > self._patience:
                    trouble = Gone(f"the first process of the pod is gone ({_line(error)})")
            if trouble is not None:
                self._trouble = trouble
                self._end()
                return

    def _failed(self) -> PodError | None:
        for index, said in self._all("failed").items():
            if index != self._index:
                code, _, words = said.decode().partition(" ")
                trouble = PodError(f"{self._name(index)} failed: {words}")
                trouble.exit_code = int(code)
                return trouble
        return None

    def _hear(self) -> None:
        """Note who has not been heard of for too long."""
        now, beats = time.monotonic(), self._all("alive")
        for index in set(range(self._count)) - {self._index}:
            beat, since = self._beat.setdefault(index, (beats.get(index), now))
            if beat != beats.get(index):
                self._beat[index] = beats.get(index), now
            elif now - since > self._patience:
                self._gone.add(index)

    def _dead(self) -> PodError | None:
        self._hear()
        if not self._gone:
            return None
        return Gone(
            f"{self._name(min(self._gone))} has not been heard of for {self._patience:g} s "
            "(pod.patience): it was killed, or its machine is gone. The same command on "
            "all hosts continues from what was saved last, if anything was"
        )

    def _name(self, index: int) -> str:
        host = self._all("host").get(index, b"?").decode()
        return f"process {index} (host {host})"

    def _end(self) -> None:
        """Let the main thread find out; if it cannot, because it waits on a device, end all."""
        until = time.monotonic() + _CLOSE
        while not self._done.wait(_LEAVE):
            if not self.closing or time.monotonic() > until:
                self.say(f"error: {self._trouble}")
                self._take_leave()
                _leave(self._trouble.exit_code)

    def _take_leave(self) -> None:
        """Say that this process ends. The first one, which has the board, lets the others go before
        it: those that are alive, for 15 seconds."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self.put(f"left/{self._index}", b"")
            if self._index:
                return
            others = set(range(1, self._count))
            until = time.monotonic() + _LEAVE + 5 * _LOOK
            while not others <= self._all("left").keys() | self._gone and time.monotonic() < until:
                time.sleep(_LOOK / 10)
                self._hear()
            if others - self._gone:
                time.sleep(2 * _LOOK)  # in which they say what they end with, and end


def _of_a_collective(error: BaseException) -> bool:
    """Whether it is how a collective fails where another process is gone; some as ValueError."""
    runtime = isinstance(error, jax.errors.JaxRuntimeError)
    return (runtime or isinstance(error, ValueError)) and bool(_COLLECTIVE.search(str(error)))


def _leave(code: int) -> None:
    """End this process at once."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _line(error: Any) -> str:
    return str(error).strip().splitlines()[0][:200]
