"""What the processes of a pod do together: each its part, one for all, all the same.

Every process runs the same program and calls these in the same order. Small values go through the
coordination service: all put theirs on its board, the first process puts them together, and all
read that. Large ones go over the devices' own network, after everybody has said that it is there;
so waiting always ends: with the value, or with a clear error once somebody is dead or has failed
(`watch`). What one process fails with, all fail with.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pruner_jax.pod import wire
from pruner_jax.pod.watch import Interrupted, PodError, Watch, exit_code

__all__ = ["ALONE", "Pod", "PodError", "Unlike"]

_SMALL = 16 * 1024  # bytes that go through the coordination service
_TOGETHER = 64 * 1024 * 1024  # bytes of all processes that are on a device at a time
_SAY_AFTER = 30.0  # seconds of waiting before it is told
_TOLD = 80  # characters of a value that is compared


class Unlike(ValueError):
    """The processes were not started with the same."""


class Pod:
    """The processes of a run; one alone is a pod too.

    Attributes:
      index: of this process, from 0. The first one leads: it writes the files and shows progress.
      count: of all.
    """

    def __init__(self, index: int = 0, count: int = 1, watch: Watch | None = None) -> None:
        self.index, self.count, self._watch = index, count, watch
        self._numbers = itertools.count()

    @property
    def leads(self) -> bool:
        """Whether this process is the first."""
        return self.index == 0

    @property
    def stop(self) -> int | None:
        """The number of a signal that another process was sent."""
        return None if self._watch is None else self._watch.stop

    def note_stop(self, number: int) -> None:
        """Let the others hear soon, whatever this process waits for, that it was sent a signal. A
        handler of signals may call it."""
        if self._watch is not None:
            self._watch.noted = number

    def ask_to_stop(self, number: int) -> None:
        """Tell the others that this process was sent a signal."""
        if self._watch is not None:
            self._watch.ask_to_stop(number)

    def share(self, count: int) -> np.ndarray:
        """Which of so many things are this process's part, int array; neighbours go to different
        processes, for they are often alike."""
        return np.arange(self.index, count, self.count)

    def fail(self, error: BaseException) -> bool:
        """Tell the others what this process has failed with, if they do not know; whether all have
        failed at the same place, and can do something together before they end."""
        if self._watch is None:
            return True
        self._watch.tell(error)
        return getattr(error, "shared", False)

    def gather(self, value: Any, at: str) -> list[Any]:
        """What each process gives, by process.

        Args:
          value: as of `wire.pack`.
          at: the place in the program, the same on all.

        Raises:
          PodError: a process is gone, or at another place.
        """
        if self._watch is None:
            return [value]
        return [wire.unpack(part) for part in self._exchange(wire.pack(value), at)]

    def each(self, work: Callable[..., Any], *args: Any) -> list[Any]:
        """What the work came to on each process, by process; it may do different things there.

        Raises:
          Exception: what it failed with here; a PodError that names the process where it failed
            elsewhere; that of a request to stop, wherever it came, before both.
        """
        if self._watch is None:
            return [work(*args)]
        value = error = None
        try:
            value = work(*args)
        except (Exception, KeyboardInterrupt) as failed:
            error = failed
        notes = self.gather({"value": value, "failed": _note(error)}, _name(work))
        failed = {i: note["failed"] for i, note in enumerate(notes) if note["failed"] is not None}
        if not failed:
            return [note["value"] for note in notes]
        if stops := [note for note in failed.values() if note["stop"]]:
            # Who is to stop at once goes before who is to save first; all do the same.
            first = min(stops, key=lambda note: note["saves"])
            error = (
                Interrupted(first["stop"]) if first["saves"] else KeyboardInterrupt(first["said"])
            )
            error.exit_code = first["exit_code"]
        if error is None:
            index, note = next(iter(failed.items()))
            error = PodError(f"process {index} failed: {note['said']}")
            error.exit_code = note["exit_code"]
        error.shared = True
        raise error

    def lead(self, work: Callable[..., Any], *args: Any) -> Any:
        """What the first process alone does; all go on when it is done, with what it gave."""
        if self._watch is None:
            return work(*args)

        @functools.wraps(work)
        def led() -> Any:
            return work(*args) if self.leads else None

        return self.each(led)[0]

    def agree(self, what: str, describe: Callable[[], Mapping[str, Any]], cure: str) -> None:
        """Refuse to go on where the processes have different values, which ``describe`` gives; a
        process alone need not work them out. Long ones are compared by their digests: all together
        stay small, for processes that are unlike may have no program in common for their devices.

        Raises:
          Unlike: which differ, with both values, and ``cure``.
        """
        if self._watch is None:
            return
        others = self.gather({name: _short(value) for name, value in describe().items()}, what)
        for index, other in enumerate(others):
            first = others[0]
            names = sorted(n for n in first.keys() | other.keys() if first.get(n) != other.get(n))
            if names:
                told = "; ".join(
                    f"{name} is {first.get(name)} on process 0 and {other.get(name)} on "
                    f"process {index}"
                    for name in names[:5]
                )
                error = Unlike(f"{what} differ: {told}; {cure}")
                error.shared = True
                raise error

    def _exchange(self, data: bytes, at: str) -> list[bytes]:
        """The bytes of every process."""
        small = len(data) <= _SMALL
        said = self._meet({"at": at, "size": 0 if small else len(data), "data": data * small})
        for index, one in enumerate(said):
            if one["at"] != at:
                # It has left the common way, or this one has; who did will have said why.
                self._watch.wait_for_trouble()
                raise PodError(f"process {index} is at {one['at']}, this one at {at}")
        sizes = [one["size"] for one in said]
        parts = self._over_devices(b"" if small else data, sizes)
        return [part if one["size"] else one["data"] for one, part in zip(said, parts)]

    def _meet(self, note: dict[str, Any]) -> list[dict[str, Any]]:
        """What all say at a meeting. Once the first process has heard all, none reads of the
        meeting before it any more."""
        board, number = self._watch, next(self._numbers)
        board.put(f"meet/{number}/{self.index}", wire.pack(note))
        if not self.leads:
            return wire.unpack(self._wait(f"all/{number}", "for the others"))
        said = []
        for other in range(self.count):
            key = f"meet/{number}/{other}"
            said.append(wire.unpack(self._wait(key, f"for process {other} at {note['at']}")))
            board.drop(key)
        board.put(f"all/{number}", wire.pack(said))
        if number:
            board.drop(f"all/{number - 1}")
        return said

    def _wait(self, key: str, what: str) -> bytes:
        board, began, told = self._watch, time.monotonic(), False
        while True:
            left = board.left  # who ended before it was looked for
            if (found := board.get(key, seconds=1.0)) is not None:
                return found
            board.check(left)
            if self.leads and not told and time.monotonic() - began > _SAY_AFTER:
                told = True
                board.say(f"waits {what}, which is alive")

    def _over_devices(self, data: bytes, sizes: list[int]) -> list[bytearray]:
        """The bytes of every process that has any, over the devices' network, piece by piece: few
        programs, whatever is sent, and no more memory than what comes."""
        from jax.experimental import multihost_utils

        senders = [index for index, size in enumerate(sizes) if size]
        whole = [bytearray(size) for size in sizes]
        piece = _TOGETHER // (1 if len(senders) == 1 else self.count)
        for first in range(0, max(sizes), piece):
            own = np.zeros(piece, np.uint8)
            part = data[first : first + piece]
            own[: len(part)] = np.frombuffer(part, np.uint8)
            if len(senders) == 1:
                source = self.index == senders[0]
                found = {senders[0]: multihost_utils.broadcast_one_to_all(own, source)}
            else:
                found = multihost_utils.process_allgather(own)
            for index in senders:
                end = min(first + piece, sizes[index])
                if first < end:
                    whole[index][first:end] = np.asarray(found[index])[: end - first].tobytes()
        return whole


ALONE = Pod()


def _short(value: Any) -> str:
    """A value as it is told; of a long one how it begins, and a digest."""
    said = str(value)
    if len(said) <= _TOLD:
        return said
    digest = hashlib.blake2b(said.encode(), digest_size=8).hexdigest()
    return f"{said[: _TOLD - 20]}... ({digest})"


def _name(work: Callable[..., Any]) -> str:
    while isinstance(work, functools.partial):
        work = work.func
    return getattr(work, "__qualname__", type(work).__name__)


def _note(error: BaseException | None) -> dict[str, Any] | None:
    """What the others are told of an error."""
    if error is None:
        return None
    stopped = isinstance(error, KeyboardInterrupt)
    return {
        "said": str(error) if stopped else f"{type(error).__name__}: {error}",
        "stop": int(getattr(error, "number", signal.SIGINT)) if stopped else 0,
        "saves": isinstance(error, Interrupted),
        "exit_code": exit_code(error),
    }
