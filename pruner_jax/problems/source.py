"""Finding a source of problems and making its three disjoint sets: train, monitor and test.

A source is a file with

    Options                 a frozen dataclass: its settings
    load(options, split)    the list of problems of "train", "monitor" or "test",
                            or None where the source has no such set

Takes `ProblemsOptions`, gives lists of `Problem`. A set that the source lacks is carved out of
train. Leaves out what a problem looks like on disk (the sources) and the order of training
(`order`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import json
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path

from pruner_jax import plugin
from pruner_jax.problems.options import ProblemsOptions
from pruner_jax.problems.settings import resolve
from pruner_jax.types import Problem, Purpose

Sets = dict[str, list[Problem]]

HERE = Path(__file__).parent
SPLITS = tuple(purpose.value for purpose in Purpose)
FRAMEWORK = {"__init__", "options", "order", "rows", "settings", "source"}


# -- finding a source ------------------------------------------------------------------------------


def names() -> list[str]:
    """The sources that come with the package: the files of this folder."""
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem not in FRAMEWORK)


def find(name: str) -> types.ModuleType:
    """The module of a source, by its name or as ``path/to/file.py``."""
    if name.endswith(".py"):
        path = Path(name).expanduser()
        if not path.is_file():
            raise ValueError(f"problems.name: there is no file {path}")
        module = plugin.load(path, "problems")
    elif name in names():
        module = importlib.import_module(f"{__package__}.{name}")
    else:
        raise ValueError(
            f"problems.name is {name!r}; allowed: {', '.join(names())}, or path/to/file.py"
        )
    options = getattr(module, "Options", None)
    if not dataclasses.is_dataclass(options) or not callable(getattr(module, "load", None)):
        raise ValueError(
            f"problems.name: {name} must define a dataclass Options and load(options, split)"
        )
    return module


# -- the three sets --------------------------------------------------------------------------------


def load_problems(options: ProblemsOptions, split: str) -> list[Problem]:
    """The problems of one set; the same list that `load_sets` gives for it."""
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; allowed: {', '.join(SPLITS)}")
    sets = _load(options, (split,))
    return _need(sets, split, options)


def load_sets(options: ProblemsOptions) -> Sets:
    """Train, monitor and test, none of them empty, no id and no question in two of them."""
    sets = _load(options, SPLITS)
    return {split: _need(sets, split, options) for split in SPLITS}


def _load(options: ProblemsOptions, wanted: Sequence[str]) -> Sets:
    module = find(options.name)
    settings = resolve(module.Options, options.options, "problems.options")

    @functools.cache
    def own(split: str) -> list[Problem] | None:
        try:
            return _unique(module.load(settings, split))
        except ValueError as error:
            raise ValueError(f"problems, {split} set of {options.name!r}: {error}") from error

    # A test set of the source's own depends on no other; the other two depend on all.
    if tuple(wanted) == ("test",) and own("test") is not None:
        sets = {"test": own("test")}
    else:
        given = {split: own(split) for split in SPLITS}
        sets = carve({split: part for split, part in given.items() if part is not None}, options)
        if options.overlap == "drop":
            sets = drop_overlap(sets)
        else:
            check_disjoint(sets)
    return {split: _limit(part, split, options) for split, part in sets.items()}


def _unique(problems: Sequence[Problem] | None) -> list[Problem] | None:
    """The problems, unless two have the same id."""
    seen: set[str] = set()
    for problem in problems or ():
        if problem.id in seen:
            raise ValueError(
                f"two problems have the id {problem.id!r}; ids must be unique, for they make the "
                "random keys"
            )
        seen.add(problem.id)
    return None if problems is None else list(problems)


def _need(sets: Sets, split: str, options: ProblemsOptions) -> list[Problem]:
    if not sets.get(split):
        cure = "" if split == "train" else f" of its own; set problems.{split}_from_train"
        raise ValueError(f"problems: the source {options.name!r} has no {split} set{cure}")
    return sets[split]


def carve(sets: Sets, options: ProblemsOptions) -> Sets:
    """Take the sets that the source lacks out of its train set.

    Which problems are taken depends on their ids and ``split_seed`` alone, so that it stays nearly
    the same when the source grows.
    """
    sets = dict(sets)
    sizes = {
        split: getattr(options, f"{split}_from_train")
        for split in ("test", "monitor")
        if split not in sets and "train" in sets
    }
    if not any(sizes.values()):
        return sets
    train = sets["train"]
    if sum(sizes.values()) >= len(train):
        settings = ", ".join(f"problems.{k}_from_train={v}" for k, v in sizes.items())
        raise ValueError(f"{settings} would leave nothing of {len(train)} train problems")
    ranked = _ranked(train, options.split_seed)
    for split, size in sizes.items():
        chosen, ranked = set(ranked[:size]), ranked[size:]
        if size:
            sets[split] = [problem for i, problem in enumerate(train) if i in chosen]
    kept = set(ranked)
    return sets | {"train": [problem for i, problem in enumerate(train) if i in kept]}


def _ranked(problems: Sequence[Problem], seed: int) -> list[int]:
    """Indices in an order that depends on the ids and the seed alone."""

    def rank(index: int) -> bytes:
        return hashlib.blake2b(f"{seed}:{problems[index].id}".encode(), digest_size=8).digest()

    return sorted(range(len(problems)), key=rank)


def _limit(problems: list[Problem], split: str, options: ProblemsOptions) -> list[Problem]:
    limit = getattr(options, f"{split}_limit")
    if limit is None or limit >= len(problems):
        return problems
    return [problems[i] for i in sorted(_ranked(problems, options.split_seed)[:limit])]


# -- disjoint --------------------------------------------------------------------------------------


def question_keys(problems: Sequence[Problem]) -> list[set[str]]:
    """What makes questions the same, for each problem of a set: their words, whatever the spacing
    and the case, and whatever the system message where the set has one only: where it has more,
    they may be what is asked about. A chat of several turns is a question of its own."""
    systems_P = [_said(problem, system=True) for problem in problems]
    alone = len({tuple(said) for said in systems_P if said}) <= 1
    found = []
    for problem, said in zip(problems, systems_P):
        turns = _said(problem, system=False) or [problem.question]
        ways = [said + turns, turns] if alone else [said + turns]
        found.append({_key(way) for way in ways})
    return found


def _said(problem: Problem, *, system: bool) -> list[str]:
    return [m["content"] for m in problem.messages or () if (m["role"] == "system") == system]


def _key(turns: Sequence[str]) -> str:
    text = turns[0] if len(turns) == 1 else json.dumps(turns, ensure_ascii=False)
    return " ".join(text.split()).casefold()


def check_disjoint(sets: Mapping[str, Sequence[Problem]]) -> None:
    """Refuse sets that share an id or a question."""
    kinds = {"id": lambda problems: [{p.id} for p in problems], "question": question_keys}
    for kind, keys_of in kinds.items():
        owner: dict[str, tuple[str, str]] = {}
        shared = []
        for split, problems in sets.items():
            for problem, keys in zip(problems, keys_of(problems)):
                owners = [owner.setdefault(key, (split, problem.id)) for key in sorted(keys)]
                others = [f"{of!r} of {first}" for first, of in owners if first != split]
                if others:
                    shared.append(f"{others[0]} and {problem.id!r} of {split}")
        if shared:
            raise ValueError(
                f"problems: the sets must be disjoint, but {len(shared)} problems share their "
                f"{kind} with another set, e.g. {'; '.join(shared[:3])}. Mend the source, or set "
                "problems.overlap=drop"
            )


def drop_overlap(sets: Sets) -> Sets:
    """Leave out of train what stands in monitor or test, and out of monitor what stands in test."""
    taken: set[str] = set()
    kept: Sets = {}
    for split in ("test", "monitor", "train"):
        if split in sets:
            keys = [
                {"id " + problem.id, *("question " + key for key in found)}
                for problem, found in zip(sets[split], question_keys(sets[split]))
            ]
            kept[split] = [p for p, key in zip(sets[split], keys) if not key & taken]
            taken.update(*keys)
            dropped = len(sets[split]) - len(kept[split])
            if dropped:
                print(
                    f"problems: {dropped} of {len(sets[split])} {split} problems stand in another "
                    "set too and were left out (problems.overlap=drop)",
                    file=sys.stderr,
                )
    return kept
