"""Graded rows as padded [P, G] arrays with a mask, and back.

Takes `Graded`, whose rows name their prompt; gives `Groups`, in which every measure of a row (its
length, its verdict, its budget...) is a float64 array [P, G] and ragged groups are padded. The same
type holds the rows being weighed, the reference table and the monitor set, so a statistic is taken
over any of them by the same code. Left out: tokens, and everything that needs the network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from pruner_jax import masked
from pruner_jax.types import Graded

Subset = Literal["all", "correct", "wrong", "finished"]


@dataclasses.dataclass(frozen=True)
class Groups:
    """P groups of at most G rows.

    ``row_PG[p, g]`` is the row (of the `Graded` it was made from) that stands at this place, -1
    where there is none. ``sample_PG`` is its sample number. Measures at padding are 0.
    """

    problems: tuple[str, ...]
    row_PG: np.ndarray
    sample_PG: np.ndarray
    measures: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, graded: Graded) -> Groups:
        """The groups of graded rows; rows keep their order within a group."""
        rollouts = graded.rollouts
        row_PG = _places(rollouts.group_B, len(rollouts.prompts))
        measures_B = {
            "length": rollouts.length_B,
            "thinking": rollouts.thinking_B,
            "answer": rollouts.answer_B,
            "score": graded.score_B,
            "correct": graded.correct_B,
            "finished": rollouts.finished_B,
            "verdict": graded.verdict_B,
            "mode": rollouts.mode_B,
            "budget": np.where(rollouts.budget_B < 0, np.nan, rollouts.budget_B),
        }
        return cls(
            problems=tuple(problem.id for problem in rollouts.prompts.problems),
            row_PG=row_PG,
            sample_PG=_pad(row_PG, rollouts.sample_B, -1),
            measures={k: _pad(row_PG, v.astype(np.float64), 0.0) for k, v in measures_B.items()},
        )

    @property
    def mask_PG(self) -> np.ndarray:
        """Where there is a row, bool [P, G]."""
        return self.row_PG >= 0

    def measure(self, name: str) -> np.ndarray:
        """A measure of every row, float64 [P, G].

        Besides the stored ones: ``rank``, the number of shorter correct rows of the group.
        """
        if name == "rank":
            length = self.measures["length"]
            shorter = length[:, None, :] < length[:, :, None]
            return np.sum(shorter & self.subset("correct")[:, None, :], axis=2).astype(np.float64)
        if name not in self.measures:
            raise ValueError(f"measure is {name!r}; allowed: {', '.join([*self.measures, 'rank'])}")
        return self.measures[name]

    def subset(self, name: Subset) -> np.ndarray:
        """Rows that belong to a named subset, bool [P, G]."""
        if name == "all":
            return self.mask_PG
        if name == "wrong":
            return self.mask_PG & (self.measures["correct"] == 0)
        if name in ("correct", "finished"):
            return self.mask_PG & (self.measures[name] > 0)
        raise ValueError(f"over is {name!r}; allowed: all, correct, wrong, finished")

    @property
    def solve_rate_P(self) -> np.ndarray:
        """Share of correct rows of each group, float64 [P]; 0 for a group without rows."""
        return masked.mean(self.measures["correct"], self.mask_PG, axis=1, empty=0.0)

    def pad(self, x_B: np.ndarray, fill: float = 0.0) -> np.ndarray:
        """Values of rows [B] at their places [P, G]."""
        return _pad(self.row_PG, np.asarray(x_B, np.float64), fill)

    def flat(self, x_PG: np.ndarray) -> np.ndarray:
        """Values at places [P, G] (or broadcastable to it) back as values of rows [B]."""
        x_PG = np.broadcast_to(x_PG, self.row_PG.shape)
        x_B = np.zeros(int(self.mask_PG.sum()), x_PG.dtype)
        x_B[self.row_PG[self.mask_PG]] = x_PG[self.mask_PG]
        return x_B

    def at(self, problems: Sequence[str]) -> Groups:
        """The groups of these problems, in this order; empty for a problem that is not here."""
        place = {problem: p for p, problem in enumerate(self.problems)}
        index = np.array([place.get(problem, -1) for problem in problems], int)
        known = (index >= 0)[:, None]
        return Groups(
            problems=tuple(problems),
            row_PG=np.where(known, self.row_PG[index], -1),
            sample_PG=np.where(known, self.sample_PG[index], -1),
            measures={k: np.where(known, v[index], 0.0) for k, v in self.measures.items()},
        )


def varies(x_PG: np.ndarray, mask_PG: np.ndarray) -> np.ndarray:
    """Whether the selected values of a group are not all the same, bool [P, 1]."""
    highest = masked.max(x_PG, mask_PG, 1, empty=0.0, keepdims=True)
    return highest > masked.min(x_PG, mask_PG, 1, empty=0.0, keepdims=True)


def join(tables: Sequence[Groups]) -> Groups:
    """Several tables one below the other; of a problem that comes twice `at` finds the last."""
    width = max(table.row_PG.shape[1] for table in tables)

    def stack(arrays: list[np.ndarray], fill: float) -> np.ndarray:
        wide = [np.pad(x, [(0, 0), (0, width - x.shape[1])], constant_values=fill) for x in arrays]
        return np.concatenate(wide)

    return Groups(
        problems=tuple(problem for table in tables for problem in table.problems),
        row_PG=stack([table.row_PG for table in tables], -1),
        sample_PG=stack([table.sample_PG for table in tables], -1),
        measures={
            name: stack([table.measures[name] for table in tables], 0.0)
            for name in tables[0].measures
        },
    )


def _places(group_B: np.ndarray, prompts: int) -> np.ndarray:
    """Row numbers by group, int32 [P, G], -1 where a group is shorter than the longest."""
    size_P = np.bincount(group_B, minlength=prompts)
    order_B = np.argsort(group_B, kind="stable")
    within_B = np.arange(len(group_B)) - np.repeat(np.cumsum(size_P) - size_P, size_P)
    row_PG = np.full((prompts, max(1, size_P.max(initial=0))), -1, np.int32)
    row_PG[group_B[order_B], within_B] = order_B
    return row_PG


def _pad(row_PG: np.ndarray, x_B: np.ndarray, fill: float) -> np.ndarray:
    if len(x_B) == 0:
        return np.full(row_PG.shape, fill, x_B.dtype)
    return np.where(row_PG >= 0, x_B[row_PG], fill)
