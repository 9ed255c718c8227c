"""What the processes of a pod do together: each its part, one for all, all the same.

Every process runs the same program and calls these in the same order. Small values go through the
coordination service, large ones over the devices' own network, after everybody has said that it is
there; so waiting always ends: with the value, or with a clear error once somebody is dead or has
failed (`watch`). What one process fails with, all fail with.
"""

from __future__ import annotations

import functools
import itertools
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pruner_jax.pod import wire
from pruner_jax.pod.watch import Interrupted, PodError, Watch

__all__ = ["ALONE", "Pod", "PodError", "Unlike"]

_SMALL = 16 * 1024  # bytes that go through the coordination service
_TOGETHER = 64 * 1024 * 1024  # bytes of all processes that are on a device at a time
_SAY_AFTER = 30.0  # seconds of waiting before it is told


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

    def ask_to_stop(self, number: int) -> None:
        """Tell the others that this process was sent a signal."""
        if self._watch is not None:
            self._watch.ask_to_stop(number)

    def share(self, count: int) -> np.ndarray:
        """Which of so many things are this process's part, int array; neighbours go to different
        processes, for they are often alike."""
        return np.arange(self.index, count, self.count)

    def tell(self, error: BaseException) -> None:
        """Tell the others what this process has failed with, if they do not know."""
        if self._watch is not None:
            self._watch.tell(error)

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
        stops = [note["signal"] for note in failed.values() if note["signal"]]
        if stops and not isinstance(error, KeyboardInterrupt):
            raise Interrupted(stops[0])
        if error is not None:
            raise error
        if failed:
            index, note = next(iter(failed.items()))
            raise PodError(f"process {index} failed: {note['said']}")
        return [note["value"] for note in notes]

    def lead(self, work: Callable[..., Any], *args: Any) -> Any:
        """What the first process alone does; all go on when it is done, with what it gave."""
        if self._watch is None:
            return work(*args)

        @functools.wraps(work)
        def led() -> Any:
            return work(*args) if self.leads else None

        return self.each(led)[0]

    def agree(self, what: str, value: Mapping[str, Any], cure: str) -> None:
        """Refuse to go on where the processes have different values.

        Raises:
          Unlike: which differ, with both values, and ``cure``.
        """
        others = self.gather(dict(value), what)
        for index, other in enumerate(others):
            first = others[0]
            names = sorted(n for n in first.keys() | other.keys() if first.get(n) != other.get(n))
            if names:
                told = "; ".join(
                    f"{name} is {first.get(name)} on process 0 and {other.get(name)} on "
                    f"process {index}"
                    for name in names[:5]
                )
                raise Unlike(f"{what} differ: {told}; {cure}")

    def _exchange(self, data: bytes, at: str) -> list[bytes]:
        """The bytes of every process."""
        small = len(data) <= _SMALL
        head = b"=" + data if small else b"#%d" % len(data)
        heads = self._heads(head, at)
        sizes = [0 if h[:1] == b"=" else int(h[1:]) for h in heads]
        parts = _over_devices(b"" if small else data, max(sizes), self.count)
        return [h[1:] if not size else part[:size] for h, size, part in zip(heads, sizes, parts)]

    def _heads(self, head: bytes, at: str) -> list[bytes]:
        """Something short of every process. When all have come, all have left the meeting before
        it, so what was said there may go."""
        board, began, told, number = self._watch, time.monotonic(), False, next(self._numbers)
        board.put(f"meet/{number}/{self.index}", at.encode() + b"\0" + head)
        heads = []
        for other in range(self.count):
            while (found := board.get(f"meet/{number}/{other}", seconds=1.0)) is None:
                board.check()
                if not told and time.monotonic() - began > _SAY_AFTER:
                    told = True
                    board.say(f"waits at {at} for process {other}, which is alive")
            place, _, said = found.partition(b"\0")
            if place != at.encode():
                board.wait_for_trouble()  # it has left the common way, and will have said why
                raise PodError(f"process {other} is at {place.decode()}, this one at {at}")
            heads.append(said)
        if number:
            board.drop(f"meet/{number - 1}/{self.index}")
        return heads


ALONE = Pod()


def _name(work: Callable[..., Any]) -> str:
    while isinstance(work, functools.partial):
        work = work.func
    return getattr(work, "__qualname__", type(work).__name__)


def _note(error: BaseException | None) -> dict[str, Any] | None:
    """What the others are told of an error."""
    if error is None:
        return None
    stopped = isinstance(error, KeyboardInterrupt)
    number = getattr(error, "number", signal.SIGINT) if stopped else 0
    return {"said": f"{type(error).__name__}: {error}", "signal": int(number)}


def _over_devices(data: bytes, longest: int, count: int) -> list[bytes]:
    """The bytes of every process, all ``longest`` long, piece by piece over the devices' network:
    a program of one shape, whatever is sent."""
    from jax.experimental.multihost_utils import process_allgather

    if not longest:
        return [b""] * count
    piece = _TOGETHER // count
    padded = np.zeros(-(-longest // piece) * piece, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    found = [process_allgather(part) for part in padded.reshape(-1, piece)]
    return [b"".join(part[i].tobytes() for part in found) for i in range(count)]
