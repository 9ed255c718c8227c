"""Who of a pod is alive, who has failed, who was asked to stop, and how a process ends then.

One thread looks at the board of the coordination service and tells. Every process counts up a
number of its own there, whatever else it does; one whose number stands still for too long is dead,
one that is merely slow is not. A second thread asks nothing of anybody, so that nothing holds it
up: it notices that the first process, which has the board, does not answer; and it ends a process
that cannot end by itself, because it waits inside a collective for one that is dead.

What is wrong is found once (`_trouble`). The main thread hears of it where it waits for others
(`check`), and what it ends with then is decided here alone (`ended_by`). The guard ends it

* 10 s after there is trouble, while it has not heard;
* 60 s after there is, or after it has failed by itself, while it closes what it has open (`tell`);
* 60 s after the pod was left with an error.
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
from collections.abc import Mapping
from typing import Any

import jax

AGAIN = 75  # exit code (EX_TEMPFAIL): what starts the run is to start the same command again

_LOOK = 1.0  # seconds between two looks
_LEAVE = 10.0  # seconds that a process has to find out that it cannot go on
_END = 60.0  # and to end, once it has: to close what it has open
_BYE = 15.0  # seconds that the first process waits for the others to go before it

# How a collective fails where another process is gone; it is no error of this one.
_COLLECTIVE = re.compile(
    r"\bGloo\b|\bNCCL\b|\b(UNAVAILABLE|ABORTED):|Connection (reset|closed) by peer"
)


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
        self._trouble: PodError | None = None  # the first that was found
        self._ending = False  # the main thread has an error, and closes what it has open
        self._own: BaseException | None = None  # the error, if this process has failed alone
        self._unheard = 0  # looks of the guard since the board last answered
        self._beat: dict[int, tuple[bytes | None, float]] = {}  # of each, and since when
        self._gone: set[int] = set()  # processes that have not been heard of for too long
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=work, name=f"pod {work.__name__}", daemon=True)
            for work in (self._look, self._guard)
        ]
        self.left: dict[int, bytes] = {}  # others that have ended, and what with
        self.stop: int | None = None  # the number of a signal that a process was sent
        self.noted: int | None = None  # of one that this process was sent; the thread tells of it

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(5 * _LOOK)  # the board may not answer
        if error is None:
            return  # all come to the end, and leave together
        self._take_leave(error)
        # In the end JAX waits for all processes, and is aborted because one does not come; and a
        # save that cannot be completed would be waited for.
        code = exit_code(error)
        atexit.register(leave, code)
        late = threading.Timer(_END, leave, [code])
        late.daemon = True
        late.start()

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

    def check(self, left: Mapping[int, bytes] | None = None) -> None:
        """Raise what is wrong with the pod, if anything is; ``left``: who has ended, where all are
        waited for."""
        if self._trouble is not None:
            raise self._trouble
        if left:
            index = min(left)
            raise self._theirs(index, "has ended", left[index])

    def wait_for_trouble(self) -> None:
        """Raise what is wrong with the pod as soon as it is known; return if nothing is found in
        the time in which a dead process would be."""
        deadline = time.monotonic() + self._patience + 3 * _LOOK
        while time.monotonic() < deadline and self._trouble is None:
            time.sleep(_LOOK / 10)
        self.check()

    def tell(self, error: BaseException) -> None:
        """Tell the others what this process has failed with, if they do not know and it is its own
        failure. From here on it closes what it has open."""
        self._ending = True
        if getattr(error, "shared", False) or isinstance(error, (PodError, Interrupted)):
            return
        if isinstance(error, KeyboardInterrupt):
            self.ask_to_stop(signal.SIGINT)
        elif not _of_a_collective(error):
            self._own = error
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                self.put(f"failed/{self._index}", _note(error))

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

    # -- the threads -------------------------------------------------------------------------------

    def _look(self) -> None:
        """Say that this process is alive, and hear of the others."""
        beat, host = 0, socket.gethostname().encode()
        while not self._done.wait(_LOOK if beat else 0):
            beat += 1
            # Else the first process does not answer; the guard counts.
            with contextlib.suppress(jax.errors.JaxRuntimeError):
                if beat == 1:
                    self.put(f"host/{self._index}", host)
                self.put(f"alive/{self._index}", b"%d" % beat)
                if self.noted is not None:
                    self.ask_to_stop(self.noted)
                left = self._all("left")  # before who failed: that is told first
                if (trouble := self._failed() or self._dead(left)) and self._trouble is None:
                    self._trouble = trouble
                self.left = left
                self.stop = next(iter(map(int, self._all("stop").values())), self.stop)
                self._unheard = 0

    def _guard(self) -> None:
        """End this process where it cannot go on and does not find out, or does not come to an end.
        Times are counted in looks, for a machine may sleep."""
        looks = 0  # since this process could not go on
        while not self._done.wait(_LOOK):
            self._unheard += 1
            silent = self._unheard * _LOOK > self._patience + _LOOK
            if silent and self._trouble is None:
                self._trouble = Gone(_unheard_of("the first process of the pod", self._patience))
            error = self._trouble or self._own
            looks += error is not None
            if looks * _LOOK > (_END if self._ending else _LEAVE):
                self.say(f"error: {error}")
                if not silent:
                    self._take_leave(error)
                leave(exit_code(error))

    def _failed(self) -> PodError | None:
        for index, note in self._all("failed").items():
            if index != self._index:
                return self._theirs(index, "failed", note)
        return None

    def _dead(self, left: Mapping[int, bytes]) -> PodError | None:
        self._hear()
        gone = self._gone - (left.keys() if self._ending else set())  # the others may be quicker
        if not gone:
            return None
        index = min(gone)
        if index in left:
            return self._theirs(index, "has ended", left[index])
        return Gone(_unheard_of(self._name(index), self._patience))

    def _hear(self) -> None:
        """Note who has not been heard of for too long."""
        now, beats = time.monotonic(), self._all("alive")
        for index in set(range(self._count)) - {self._index}:
            beat, since = self._beat.setdefault(index, (beats.get(index), now))
            if beat != beats.get(index):
                self._beat[index] = beats.get(index), now
            elif now - since > self._patience:
                self._gone.add(index)

    def _theirs(self, index: int, what: str, note: bytes) -> PodError:
        """What another process has met with, of which this one ends with the same code."""
        code, _, said = note.decode().partition(" ")
        error = PodError(f"{self._name(index)} {what}: {said}")
        error.exit_code = int(code)
        return error

    def _name(self, index: int) -> str:
        host = self._all("host").get(index, b"?").decode()
        return f"process {index} (host {host})"

    # -- the end -----------------------------------------------------------------------------------

    def _take_leave(self, error: BaseException) -> None:
        """Say that this process ends, and with what. The first one, which has the board, lets the
        others go before it: those that are alive. For `_BYE` seconds at most, answer or not."""
        bye = threading.Thread(target=self._say_bye, args=(_note(error),), daemon=True)
        bye.start()
        bye.join(_BYE + 2 * _LOOK)

    def _say_bye(self, note: bytes) -> None:
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self.put(f"left/{self._index}", note)
            if self._index:
                return
            others = set(range(1, self._count))
            until = time.monotonic() + _BYE
            while not others <= self._all("left").keys() | self._gone and time.monotonic() < until:
                time.sleep(_LOOK / 10)
                self._hear()
            if others - self._gone:
                time.sleep(2 * _LOOK)  # in which they say what they end with, and end


def _of_a_collective(error: BaseException) -> bool:
    """Whether it is how a collective fails where another process is gone; some as ValueError."""
    theirs = isinstance(error, jax.errors.JaxRuntimeError) or type(error) is ValueError
    return theirs and bool(_COLLECTIVE.search(str(error)))


def _unheard_of(who: str, patience: float) -> str:
    return (
        f"{who} has not been heard of for {patience:g} s (pod.patience): it was killed, or its "
        "machine is gone. The same command on all hosts continues from what was saved last, if "
        "anything was"
    )


def _note(error: BaseException) -> bytes:
    """What the others are told of an error: the code that it ends with, and what it says."""
    return f"{exit_code(error)} {type(error).__name__}: {error}"[:2000].encode()


def exit_code(error: BaseException) -> int:
    """What the command line ends with after an error."""
    otherwise = 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return getattr(error, "exit_code", otherwise)


def leave(code: int) -> None:
    """End this process at once."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
