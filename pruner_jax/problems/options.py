"""Which problems a run is about, and how its three disjoint sets come to be."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class ProblemsOptions:
    """A source of problems and what is made of it."""

    name: str = "last_digit"
    """The source: the name of a file in ``pruner_jax/problems/``, or ``path/to/file.py``."""

    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Settings of that source, as its own ``Options`` declares them."""

    monitor_from_train: int = 200
    """How many problems of train become the monitor set, if the source has none of its own."""

    test_from_train: int = 0
    """How many problems of train become the test set, if the source has none of its own."""

    train_limit: int | None = None
    """Most problems of the train set; which ones depends on their ids and `split_seed` alone."""

    monitor_limit: int | None = None
    """Most problems of the monitor set."""

    test_limit: int | None = None
    """Most problems of the test set."""

    split_seed: int = 0
    """Chooses the problems that the settings above take. Not the seed of the run, so that runs
    with different seeds are measured on the same problems."""

    overlap: str = "error"
    """What to do with a question that stands in two sets. error: refuse. drop: it stays in test
    rather than monitor, in monitor rather than train; the count is printed."""

    def __post_init__(self) -> None:
        for name in ("monitor_from_train", "test_from_train"):
            if getattr(self, name) < 0:
                raise ValueError(f"problems.{name} is {getattr(self, name)}; it must be 0 or more")
        for name in ("train_limit", "monitor_limit", "test_limit"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ValueError(f"problems.{name} is {limit}; it must be at least 1, or null")
        if self.overlap not in ("error", "drop"):
            raise ValueError(f"problems.overlap is {self.overlap!r}; allowed: error, drop")
