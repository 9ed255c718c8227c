"""Weight merge: what is done with the parameters after the last phase, one array at a time.

A merge is called with the start and the final value of one parameter (numpy or JAX) and gives the
value to export.
"""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Average:
    """``start + share * (end - start)`` (Kimi's long2short averaging with share 1/2)."""

    share: float = 0.5

    def __call__(self, start: Any, end: Any) -> Any:
        return start + self.share * (end - start)


@dataclasses.dataclass(frozen=True)
class TopDelta:
    """Only the largest changes of each array survive: the top ``share`` by absolute value, times
    ``times`` (DLER-merge: .25 and .7)."""

    share: float = 0.25
    times: float = 0.7

    def __call__(self, start: Any, end: Any) -> Any:
        xp = end.__array_namespace__()
        delta = end - start
        size = xp.abs(delta)
        threshold = xp.quantile(size, 1 - self.share)
        return start + xp.where(size >= threshold, self.times * delta, 0.0)


Merge = Average | TopDelta
