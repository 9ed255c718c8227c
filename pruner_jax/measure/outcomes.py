"""What an evaluation leaves behind: who was asked, what came of each sample, how long it was.

Takes ``Graded`` rows and gives ``Outcomes``, arrays ``[P, G]`` on which every statistic of this
room is computed. Groups may be ragged: ``mask_PG`` says which cells hold a sample. Texts, tokens
and log-probabilities stay behind; they live in the stored rollouts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from pruner_jax.types import Graded

_CELLS = ("correct_PG", "length_PG", "thinking_PG", "finished_PG", "mask_PG")


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """P problems with up to G samples each; every problem has at least one.

    Lengths are generated token ids, the end token included. Cells outside the mask hold zeros.
    """

    problem_ids: tuple[str, ...]
    difficulty_P: np.ndarray  # float64, NaN where the source gives none
    correct_PG: np.ndarray  # bool
    length_PG: np.ndarray  # int64
    thinking_PG: np.ndarray  # int64, how many of them belong to the thought
    finished_PG: np.ndarray  # bool
    mask_PG: np.ndarray  # bool
    limit: int  # the most tokens a sample could have

    def __post_init__(self) -> None:
        """Refuse what no statistic is defined on."""
        shape = self.mask_PG.shape
        wrong = [name for name in _CELLS if getattr(self, name).shape != shape]
        if wrong or len(shape) != 2 or shape[0] != len(self.problem_ids):
            raise ValueError(
                f"Outcomes need arrays [P, G] with P = {len(self.problem_ids)} problems; "
                f"mask_PG is {shape}, of another shape: {wrong}"
            )
        if shape[0] == 0:
            raise ValueError("Outcomes of no problem at all: the evaluation gave no rows")
        if len(set(self.problem_ids)) != len(self.problem_ids):
            raise ValueError("Outcomes hold a problem id twice")
        empty = np.flatnonzero(~self.mask_PG.any(axis=1))
        if len(empty):
            raise ValueError(f"problem {self.problem_ids[empty[0]]!r} has no sample")

    def __len__(self) -> int:
        return len(self.problem_ids)

    @property
    def samples_P(self) -> np.ndarray:
        """How many samples each problem has, int64 [P]."""
        return self.mask_PG.sum(axis=1)

    @property
    def answer_PG(self) -> np.ndarray:
        """Tokens after the thought, int64 [P, G]."""
        return self.length_PG - self.thinking_PG


def from_rows(
    problem_ids: Sequence[str],
    difficulty_B: np.ndarray,
    correct_B: np.ndarray,
    length_B: np.ndarray,
    thinking_B: np.ndarray,
    finished_B: np.ndarray,
    limit: int,
) -> Outcomes:
    """Outcomes of B rows; problems in order of first appearance, samples in row order.

    ``problem_ids[b]`` names the problem that row b answers.
    """
    place: dict[str, int] = {}
    index_B = np.array([place.setdefault(str(name), len(place)) for name in problem_ids], np.int64)
    first_P = np.unique(index_B, return_index=True)[1]
    order = np.argsort(index_B, kind="stable")
    samples_P = np.bincount(index_B, minlength=len(place))
    slot_B = np.empty_like(index_B)
    slot_B[order] = np.arange(len(index_B)) - np.repeat(np.cumsum(samples_P) - samples_P, samples_P)

    def cells(rows_B: np.ndarray, dtype: type) -> np.ndarray:
        grid = np.zeros((len(place), samples_P.max(initial=0)), dtype)
        grid[index_B, slot_B] = rows_B
        return grid

    return Outcomes(
        problem_ids=tuple(place),
        difficulty_P=np.asarray(difficulty_B, np.float64)[first_P],
        correct_PG=cells(correct_B, bool),
        length_PG=cells(length_B, np.int64),
        thinking_PG=cells(thinking_B, np.int64),
        finished_PG=cells(finished_B, bool),
        mask_PG=cells(np.ones(len(index_B)), bool),
        limit=int(limit),
    )


def outcomes(graded: Graded) -> Outcomes:
    """What the graded rows say, per problem. Problems without a row are left out."""
    rollouts = graded.rollouts
    problems = [rollouts.prompts.problems[group] for group in rollouts.group_B]
    return from_rows(
        [problem.id for problem in problems],
        np.array([np.nan if p.difficulty is None else p.difficulty for p in problems]),
        graded.correct_B,
        rollouts.length_B,
        rollouts.thinking_B,
        rollouts.finished_B,
        rollouts.limit,
    )


def at_limit(outcomes: Outcomes, n: int) -> Outcomes:
    """What the same samples would have been under the smaller limit n.

    Exact, because a sampler that stops at n writes the same first n tokens: correct at n = correct
    and length <= n (an unfinished answer is not correct).
    """
    if not 1 <= n <= outcomes.limit:
        raise ValueError(
            f"at_limit({n}): samples drawn under a limit of {outcomes.limit} tokens say nothing "
            f"about that limit; allowed are 1 to {outcomes.limit}"
        )
    within_PG = outcomes.length_PG <= n
    return dataclasses.replace(
        outcomes,
        correct_PG=outcomes.correct_PG & within_PG,
        finished_PG=outcomes.finished_PG & within_PG,
        length_PG=np.minimum(outcomes.length_PG, n),
        thinking_PG=np.minimum(outcomes.thinking_PG, n),
        limit=n,
    )


def take_problems(outcomes: Outcomes, problems: np.ndarray) -> Outcomes:
    """The given problems (int indices or a bool mask over P), in that order."""
    problems = np.asarray(problems)
    index = np.flatnonzero(problems) if problems.dtype == bool else problems
    return dataclasses.replace(
        outcomes,
        problem_ids=tuple(outcomes.problem_ids[i] for i in index),
        difficulty_P=outcomes.difficulty_P[index],
        **{name: getattr(outcomes, name)[index] for name in _CELLS},
    )


def halves(outcomes: Outcomes) -> tuple[Outcomes, Outcomes]:
    """Every second sample of each problem, and the others: two independent evaluations."""
    if outcomes.samples_P.min() < 2:
        poor = outcomes.problem_ids[int(outcomes.samples_P.argmin())]
        raise ValueError(
            f"problem {poor!r} has a single sample, which cannot be split in halves; "
            "raise the evaluation's samples to 2 or more"
        )
    rank_PG = np.cumsum(outcomes.mask_PG, axis=1) - 1
    even_PG = rank_PG % 2 == 0
    return _keep(outcomes, even_PG), _keep(outcomes, ~even_PG)


def _keep(outcomes: Outcomes, keep_PG: np.ndarray) -> Outcomes:
    """The cells that stay; the others become empty. A product keeps bool bool and int int."""
    return dataclasses.replace(
        outcomes, **{name: getattr(outcomes, name) * keep_PG for name in _CELLS}
    )
