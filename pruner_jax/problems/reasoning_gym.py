"""Problems from reasoning-gym: some hundred generators of tasks, each with a scorer of its own.

Takes the name of a data set there and its settings, gives problems whose verdict comes from that
scorer (the checker `reasoning_gym`, which may give partial credit). Needs ``pruner-jax[tasks]``.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import zlib
from collections.abc import Callable
from typing import Any

from pruner_jax.problems.rows import lookup
from pruner_jax.types import Problem

# How many of 16 hash buckets belong to each set. A question's bucket depends on its words alone:
# the generators draw entry i from seed + i, so sets told apart by seed would run into each other.
BUCKETS = {"train": range(0, 10), "monitor": range(10, 12), "test": range(12, 16)}
PATIENCE = 4  # give up after that many times the entries that a rich generator would need


@dataclasses.dataclass(frozen=True)
class Options:
    """Which generator, with what settings, and how many problems."""

    dataset: str = "chain_sum"
    """Name of a data set of reasoning-gym."""

    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Its settings (those of its config class, without size and seed)."""

    difficulty: str = ""
    """Entry of a problem's metadata that is its difficulty, e.g. num_terms; dots go down."""

    train: int = 2000
    """Problems to train on."""

    monitor: int = 200
    """Problems of the monitor set."""

    test: int = 400
    """Problems of the test set."""

    seed: int = 0
    """Which problems are drawn."""

    def __post_init__(self) -> None:
        for name in ("train", "monitor", "test"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        taken = {"size", "seed"} & set(self.config)
        if taken:
            raise ValueError(
                f"config sets {', '.join(sorted(taken))}; use train, monitor, test and seed instead"
            )


def load(options: Options, split: str) -> list[Problem]:
    """The first distinct questions of one set, in the generator's order.

    ``columns`` holds what the scorer needs: ``dataset``, ``config`` and the whole ``entry``. The
    answer is empty where the generator gives none (any answer that the scorer accepts will do).
    """
    wanted = getattr(options, split)
    entries = _entries(options.dataset, json.dumps(options.config), options.seed, _size(options))
    problems: list[Problem] = []
    seen: set[str] = set()
    index = 0
    while len(problems) < wanted and index < _size(options):
        entry = entries(index)
        question = entry["question"]
        if zlib.crc32(question.encode()) % 16 in BUCKETS[split] and question not in seen:
            seen.add(question)
            problems.append(_problem(entry, index, options))
        index += 1
    if len(problems) < wanted:
        raise ValueError(
            f"{split} is {wanted}, but {options.dataset} with config {options.config} gave only "
            f"{len(problems)} different questions for it; ask for fewer, or widen the config"
        )
    return problems


def _size(options: Options) -> int:
    """How many entries are looked at, at most: the same for all three sets."""
    needed = (16 * getattr(options, split) // len(BUCKETS[split]) for split in BUCKETS)
    return PATIENCE * max(needed) + 100


@functools.lru_cache(maxsize=1)
def _entries(dataset: str, config: str, seed: int, size: int) -> Callable[[int], dict[str, Any]]:
    """The generator's entries by index, made once for all three sets (some take a second each)."""
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ValueError(
            "the package reasoning-gym is not installed; pip install 'pruner-jax[tasks]'"
        ) from error
    if dataset not in DATASETS:
        raise ValueError(f"dataset is {dataset!r}; reasoning-gym has {', '.join(sorted(DATASETS))}")
    try:
        made = reasoning_gym.create_dataset(dataset, size=size, seed=seed, **json.loads(config))
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"config {config} does not fit {dataset}: {error}") from error
    return functools.cache(made.__getitem__)


def _problem(entry: dict[str, Any], index: int, options: Options) -> Problem:
    difficulty = None
    if options.difficulty:
        found, difficulty = lookup(entry["metadata"], options.difficulty)
        if not found or not isinstance(difficulty, (int, float)):
            raise ValueError(
                f"difficulty names {options.difficulty!r}, which is no number in the metadata of "
                f"{options.dataset}: {entry['metadata']}"
            )
    return Problem(
        id=f"{options.dataset}/{options.seed + index}",
        question=entry["question"],
        answer="" if entry["answer"] is None else str(entry["answer"]),
        checker="reasoning_gym",
        difficulty=None if difficulty is None else float(difficulty),
        source=f"reasoning_gym/{options.dataset}",
        columns={"dataset": options.dataset, "config": dict(options.config), "entry": entry},
    )
