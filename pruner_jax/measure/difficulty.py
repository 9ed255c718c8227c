"""The same numbers by difficulty: where the tokens were saved and where the accuracy went.

Two ways to sort problems. By the source's own difficulty (a MATH level, the number of terms). Or
by how often the *base* solves them; then the bins come from one half of the base's samples and the
base's values from the other half, because with the same samples in both places regression to the
mean looks like "loss on easy, gain on hard".
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from pruner_jax.measure.outcomes import Outcomes, halves, take_problems
from pruner_jax.measure.paired import aligned
from pruner_jax.measure.stats import accuracy, mean_tokens, per_problem

_MOST_LEVELS = 10  # more distinct difficulties than this are put into fifths
_EDGES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclasses.dataclass(frozen=True)
class Bin:
    """Problems of like difficulty, base and final side by side."""

    label: str
    problems: int
    base_accuracy: float
    final_accuracy: float
    base_tokens: float
    final_tokens: float


def by_difficulty(base: Outcomes, final: Outcomes) -> tuple[Bin, ...]:
    """One bin per difficulty of the source, easy first; fifths where it is continuous.

    Problems without a difficulty are left out; no bins when none has one.
    """
    base, final = aligned(base, final)
    return _bins(base, final, levels(base.difficulty_P))


def levels(difficulty_P: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Labels and members (bool [P]) of each difficulty there is, ascending; of fifths where there
    are more than ten. Problems without one (NaN) are in none."""
    known = difficulty_P[np.isfinite(difficulty_P)]
    distinct = np.unique(known)
    if len(distinct) <= _MOST_LEVELS:
        return [(f"{level:g}", difficulty_P == level) for level in distinct]
    edges = np.unique(np.quantile(known, np.linspace(0.0, 1.0, 6)))
    return [
        (
            f"{low:.3g} to {high:.3g}",
            (difficulty_P >= low) & ((difficulty_P < high) | (high == edges[-1])),
        )
        for low, high in itertools.pairwise(edges)
    ]


def by_base_accuracy(base: Outcomes, final: Outcomes) -> tuple[Bin, ...]:
    """Bins by the base's own solve rate, easy first: all, (3/4, 1), (1/2, 3/4], ..., none.

    Needs two samples or more of every problem; the base's numbers come from the half of its
    samples that did not choose the bin. Empty bins are left out.
    """
    base, final = aligned(base, final)
    chooser, base = halves(base)
    rate_P = per_problem(chooser.correct_PG, chooser)
    members = [("all", rate_P == 1.0)]
    for low, high in reversed(list(itertools.pairwise(_EDGES))):
        inside = (rate_P > low) & (rate_P <= high) & (rate_P < 1.0)
        members.append((f"{100 * low:.0f}–{100 * high:.0f} %", inside))
    members.append(("none", rate_P == 0.0))
    return _bins(base, final, members)


def adaptation_ratio(bins: tuple[Bin, ...]) -> tuple[float, float]:
    """Tokens on the hardest bin over tokens on the easiest, for base and final (ALP, 2506.05256).

    1 means the model spends the same whatever the question; NaN with fewer than two bins.
    """
    if len(bins) < 2:
        return float("nan"), float("nan")
    easy, hard = bins[0], bins[-1]
    return hard.base_tokens / easy.base_tokens, hard.final_tokens / easy.final_tokens


def _bins(
    base: Outcomes, final: Outcomes, members: list[tuple[str, np.ndarray]]
) -> tuple[Bin, ...]:
    """The named groups of problems that are not empty."""
    rows = []
    for label, inside_P in members:
        if not inside_P.any():
            continue
        sides = [take_problems(side, inside_P) for side in (base, final)]
        rows.append(
            Bin(label, int(inside_P.sum()), *map(accuracy, sides), *map(mean_tokens, sides))
        )
    return tuple(rows)
