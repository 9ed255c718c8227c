"""Seconds by phase, measured in one place so that the names stay stable: ``time/rollout``, ..."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

import jax


class Clock:
    """Adds up seconds by phase, over the whole run and since the last lap.

    Phases may nest; the inner one's seconds are not counted again in the outer one.
    """

    def __init__(self, total: Mapping[str, float] | None = None):
        self.total: dict[str, float] = dict(total or {})
        self._lap: dict[str, float] = {}
        self._since = time.perf_counter()
        self._inner: list[float] = []

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Everything inside counts as ``name``, and stands under it in a trace (`profile`)."""
        start = time.perf_counter()
        self._inner.append(0.0)
        try:
            with jax.profiler.TraceAnnotation(name):  # under a microsecond where none is written
                yield
        finally:
            whole = time.perf_counter() - start
            own = whole - self._inner.pop()
            if self._inner:
                self._inner[-1] += whole
            self.total[name] = self.total.get(name, 0.0) + own
            self._lap[name] = self._lap.get(name, 0.0) + own

    def charge(self, name: str, seconds: float) -> None:
        """Let the next lap tell of seconds that were spent elsewhere; no total has them."""
        if seconds:
            self._lap[name] = self._lap.get(name, 0.0) + seconds

    def lap(self) -> dict[str, float]:
        """Seconds by phase since the last lap, as metrics; and all of them (``perf/wall_seconds``),
        with what is no phase's."""
        lap, self._lap = self._lap, {}
        since, self._since = self._since, time.perf_counter()
        by_phase = {f"time/{name}": seconds for name, seconds in lap.items()}
        return by_phase | {"perf/wall_seconds": self._since - since}
