"""A table of collected rows: one folder of Parquet parts, and what they were made with.

    FOLDER/key.json         model, tokenizer, template, sampler, K ... by name
    FOLDER/part-*.parquet   rows of some problems each, as `records.write_rollouts` has them
    FOLDER/again-*.parquet  rows that were sampled again, with a hint (`run.second.ask_again`)

A table is filled part by part, so making one can be stopped and goes on; it serves every run whose
key is the same, as far as it has the problems that the run wants. Reference lengths, a teacher's
programs and what expert iteration collects are all such tables.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pruner_jax.store.folder import write_atomically
from pruner_jax.store.records import read_graded, read_rollouts, seconds_of, write_rollouts
from pruner_jax.types import Graded, Problem, take_prompts, take_rows


class TableError(ValueError):
    """A table was made with something else than the run has."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table's folder, opened under a key. ``own``: it is part of a run's folder; others are
    named by reference_table."""

    folder: pathlib.Path
    own: bool = False

    @contextlib.contextmanager
    def filling(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Only one process at a time adds rows; another one waits, and then looks again. Meanwhile
        ``waiting`` is called, which may raise."""
        with open(self.folder / ".lock", "w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    waiting()
                    time.sleep(0.2)
            for half_written in self.folder.glob(".*.parquet.tmp"):
                half_written.unlink()
            yield

    def missing(self, problems: Sequence[Problem], visit_P: np.ndarray) -> list[int]:
        """Places of the problems that have no rows of this visit yet.

        Raises:
          TableError: a problem has another question or answer in the table.
        """
        have = {visit for path in self._parts() for visit in _visits(path)}
        self.check_same(problems)
        wanted = zip(problems, visit_P.tolist())
        return [n for n, (problem, visit) in enumerate(wanted) if (problem.id, visit) not in have]

    def add(self, graded: Graded, *, step: int, seconds: float = 0.0) -> None:
        """Write the rows of some problems as one part, whole or not at all; ``seconds`` is what
        they took."""
        prompts = graded.rollouts.prompts
        names = [problem.id for problem in prompts.problems]
        said = json.dumps([names, prompts.visit_P.tolist()])
        digest = hashlib.blake2b(said.encode(), digest_size=8).hexdigest()
        path = self.folder / f"part-{digest}.parquet"
        write_rollouts(path, graded, round=0, step=step, seconds=seconds)

    def seconds(self, problems: Sequence[Problem], visit_P: np.ndarray) -> float:
        """What the rows of these visits to the problems took when they were written: of each part
        as large a share as its rows are of it. Older parts do not say and count as nothing."""
        wanted = set(zip([problem.id for problem in problems], visit_P.tolist()))
        total = 0.0
        for path in self._parts():
            visits = _visits(path)
            share = sum(visit in wanted for visit in visits) / max(1, len(visits))
            total += share * seconds_of(path)
        return total

    def read(
        self,
        problems: Sequence[Problem],
        visit_P: np.ndarray,
        *,
        tokens: bool = True,
        longest: int | None = None,
    ) -> Graded:
        """The rows of these visits to the problems, in their order; none for those that have none.
        ``tokens`` and ``longest`` as of `records.read_graded`.

        Raises:
          TableError: there is no row of any.
          ValueError: all of them are longer than ``longest``.
        """
        wanted = list(zip([problem.id for problem in problems], visit_P.tolist()))
        known = set(wanted)
        parts = [path for path in self._parts() if not known.isdisjoint(_visits(path))]
        if not parts:
            raise TableError(f"{self.folder} has no rows of the {len(problems)} problems")
        graded = read_graded(parts, _by_id(parts, problems), tokens=tokens, longest=longest)
        return _in_order(graded, wanted)

    def with_tokens(self, graded: Graded, parts: Sequence[np.ndarray]) -> Iterator[Graded]:
        """Rows that were read without texts and tokens, with them: one part of their places (int32,
        ascending) after the other, each with the prompts of its own rows only."""
        old = graded.rollouts
        problems, visit_P = old.prompts.problems, old.prompts.visit_P.tolist()
        file_of = {visit: path for path in self._parts() for visit in _visits(path)}
        for rows in parts:
            wanted = [(problems[g].id, visit_P[g]) for g in old.group_B[rows]]
            paths = sorted({file_of[visit] for visit in wanted})
            samples = old.sample_B[rows].tolist()
            only = {(*visit, sample) for visit, sample in zip(wanted, samples)}
            more = read_graded(paths, _by_id(paths, problems), only=only)
            more = _in_order(more, list(dict.fromkeys(wanted)))
            rollouts = dataclasses.replace(more.rollouts, limit=old.limit)
            yield dataclasses.replace(more, rollouts=rollouts)

    def everything(self) -> Graded:
        """All rows, without texts and tokens; of the problems only the ids are known.

        Raises:
          TableError: there are none.
        """
        parts = self._parts()
        if not parts:
            raise TableError(
                f"{self.folder} has no rows any more, but the run was using them; put the table "
                "back, or start again with another --out"
            )
        return read_graded(parts, _by_id(parts, ()), tokens=False)

    def check_same(self, problems: Sequence[Problem]) -> None:
        """The problems are those of the table, as far as it has them.

        Raises:
          TableError: one has another question or answer there.
        """
        known = {problem.id: (problem.question, problem.answer) for problem in problems}
        for path in self._parts():
            columns = read_rollouts(path, ["problem_id", "question", "gold"])
            for name, *said in zip(*columns.values()):
                if known.get(name, tuple(said)) != tuple(said):
                    raise TableError(
                        f"{self.folder} was made with other problems: {name!r} asks "
                        f"{said[0][:80]!r} there and {known[name][0][:80]!r} here; "
                        f"{_ways_out(self.own)}"
                    )

    def _parts(self) -> list[pathlib.Path]:
        return sorted(self.folder.glob("part-*.parquet"))


def open_table(folder: pathlib.Path, key: Mapping[str, Any], own: bool = False) -> Table:
    """The table of a folder, which is made if it is not there; ``own`` as of `Table`.

    Raises:
      TableError: as of ``find_table``.
    """
    found = find_table(folder, lambda: key, own)
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "key.json", json.dumps(key, indent=2) + "\n")
    return found or Table(folder, own)


def find_table(
    folder: pathlib.Path, make_key: Callable[[], Mapping[str, Any]], own: bool = False
) -> Table | None:
    """The table of a folder if there is one; nothing is written. ``make_key`` is called only then:
    a key may take long to make. ``own`` as of `Table`.

    Raises:
      TableError: the folder has a table that was made under another key (says what differs), or
        files that are no table.
    """
    path = folder / "key.json"
    if not path.exists():
        if folder.exists() and not folder.is_dir():
            raise TableError(f"{folder} is a file; {_ways_out(own)}")
        if folder.exists() and any(not other.name.startswith(".") for other in folder.iterdir()):
            raise TableError(
                f"{folder} is no table: it has files but no key.json; {_ways_out(own)}"
            )
        return None
    before, key = json.loads(path.read_text()), make_key()
    after = json.loads(json.dumps(key))
    differing = [name for name in before if before[name] != after.get(name)]
    if differing:
        told = "; ".join(
            f"{name}: the table has {before[name]!r}, this run {after.get(name)!r}"
            for name in differing
        )
        raise TableError(f"{folder} was made with something else ({told}); {_ways_out(own)}")
    unknown = [name for name in after if name not in before]
    if unknown:
        raise TableError(
            f"{folder} was made by an older version, which did not note {', '.join(unknown)}, so "
            "nobody knows whether its rows are what this run would collect. Take the folder away "
            f"and they are made anew, or {_ways_out(own)}"
        )
    return Table(folder, own)


def _ways_out(own: bool) -> str:
    """What to do where a table does not fit."""
    if own:
        return "start again with another --out"
    return (
        "name another folder (reference_table), or leave reference_table out so that the run makes "
        "its own"
    )


@functools.lru_cache(maxsize=4096)  # a part is named by its visits, so they never change
def _visits(path: pathlib.Path) -> tuple[tuple[str, int], ...]:
    """Problem and visit of every row of a part."""
    columns = read_rollouts(path, ["problem_id", "visit"])
    return tuple(zip(columns["problem_id"], columns["visit"]))


def _by_id(parts: Sequence[pathlib.Path], problems: Sequence[Problem]) -> dict[str, Problem]:
    strangers = {name for path in parts for name, _ in _visits(path)}
    known = {name: Problem(name, "", "") for name in strangers}
    return known | {problem.id: problem for problem in problems}


def _in_order(graded: Graded, wanted: Sequence[tuple[str, int]]) -> Graded:
    """The groups of these (problem, visit), in this order; rows have no parents any more."""
    prompts = graded.rollouts.prompts
    place = {
        (problem.id, int(visit)): g
        for g, (problem, visit) in enumerate(zip(prompts.problems, prompts.visit_P))
    }
    chosen = [place[visit] for visit in wanted if visit in place]
    rows: dict[int, list[int]] = {}
    for b, group in enumerate(graded.rollouts.group_B.tolist()):
        rows.setdefault(group, []).append(b)
    taken = take_rows(graded, np.array([b for g in chosen for b in rows[g]], int))
    number = {g: n for n, g in enumerate(chosen)}
    rollouts = dataclasses.replace(
        taken.rollouts,
        prompts=take_prompts(prompts, chosen),
        group_B=np.array([number[g] for g in taken.rollouts.group_B.tolist()], np.int32),
        parent_B=np.full(len(taken), -1, np.int32),
    )
    return dataclasses.replace(taken, rollouts=rollouts)
