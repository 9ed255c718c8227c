"""Problems from reasoning-gym: some hundred generators of tasks, each with a scorer of its own.

Takes the name of a data set there and its settings, gives problems whose verdict comes from that
scorer (the checker `reasoning_gym`, which may give partial credit). Needs ``pruner-jax[tasks]``.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

from pruner_jax.problems.rows import lookup
from pruner_jax.types import Problem

# How many of 16 hash buckets belong to each set. A question's bucket depends on its words alone:
# the generators draw entry i from seed + i, so sets told apart by seed would run into each other.
BUCKETS = {"train": range(0, 12), "monitor": range(12, 14), "test": range(14, 16)}
ENTRIES = 1_000_000  # how many entries of a generator are looked at, at most
PATIENCE = 5_000  # entries without a new question before giving up


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

    ``columns`` holds what the scorer needs: ``dataset``, ``config`` and the whole ``entry``.
    """
    generator = _generator(options)
    size = getattr(options, split)
    problems: list[Problem] = []
    seen: set[str] = set()
    last = 0
    for index in range(ENTRIES):
        if len(problems) == size:
            return problems
        entry = generator[index]
        question = entry["question"]
        bucket = zlib.crc32(question.encode()) % 16
        if bucket in BUCKETS[split] and question not in seen:
            seen.add(question)
            problems.append(_problem(entry, index, options))
            last = index
        if index - last > PATIENCE:
            break
    raise ValueError(
        f"{split} is {size}, but {options.dataset} with config {options.config} gave only "
        f"{len(problems)} different questions for it; ask for fewer, or widen the config"
    )


def _generator(options: Options) -> Any:
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ValueError(
            "problems: the source reasoning_gym needs the package; pip install 'pruner-jax[tasks]'"
        ) from error
    if options.dataset not in DATASETS:
        raise ValueError(
            f"dataset is {options.dataset!r}; reasoning-gym has {', '.join(sorted(DATASETS))}"
        )
    try:
        return reasoning_gym.create_dataset(
            options.dataset, size=ENTRIES, seed=options.seed, **options.config
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(
            f"config {options.config} does not fit {options.dataset}: {error}"
        ) from error


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
        answer=str(entry["answer"]),
        checker="reasoning_gym",
        difficulty=None if difficulty is None else float(difficulty),
        source=f"reasoning_gym/{options.dataset}",
        columns={"dataset": options.dataset, "config": dict(options.config), "entry": entry},
    )
