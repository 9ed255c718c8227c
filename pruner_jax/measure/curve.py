"""Accuracy as a function of the token budget, from one set of samples.

J(b) = mean 1[correct and L <= b]: what a server that stops at b tokens would score. No text is
generated again. This is *truncate-and-fail*; forcing an answer at the budget is another, stronger
decoder and is not what is drawn here.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pruner_jax.measure.bootstrap import interval, resampled_means
from pruner_jax.measure.outcomes import Outcomes
from pruner_jax.measure.stats import macro, per_problem

_ROUNDING = 1e-9  # sums of 1 / (P n) are not exact; far below the weight of one sample


@dataclasses.dataclass(frozen=True)
class Curve:
    """J at each budget with a pointwise interval over problems."""

    budgets: np.ndarray  # int64, ascending
    value: np.ndarray  # float64
    low: np.ndarray
    high: np.ndarray


def log_budgets(low: int, high: int, count: int = 64) -> np.ndarray:
    """About ``count`` whole budgets from low to high, evenly spaced in their logarithm."""
    if not 1 <= low <= high:
        raise ValueError(f"budgets need 1 <= low <= high, found low {low} and high {high}")
    return np.unique(np.rint(np.geomspace(low, high, count)).astype(np.int64))


def curve(
    outcomes: Outcomes,
    budgets: np.ndarray,
    *,
    confidence: float = 0.95,
    resamples: int = 2_000,
    seed: int = 0,
) -> Curve:
    """J(b) at the given budgets; none of them may lie beyond the limit of the samples."""
    budgets = np.asarray(budgets, np.int64)
    if budgets.max() > outcomes.limit:
        raise ValueError(
            f"a budget of {budgets.max()} lies beyond the limit of {outcomes.limit} tokens that "
            "the samples were drawn under; sample under a larger limit or end the curve there"
        )
    solved_PN = np.stack(
        [
            per_problem(outcomes.correct_PG & (outcomes.length_PG <= budget), outcomes)
            for budget in budgets
        ],
        axis=1,
    )
    low, high = interval(resampled_means(solved_PN, resamples, seed), confidence)
    return Curve(budgets, solved_PN.mean(axis=0), low, high)


def area(outcomes: Outcomes, low: int, high: int) -> float:
    """Mean of J(b) over log b between two budgets: integral of J d(log b) / log(high / low).

    Exact, since J is a step function: a correct sample of length L counts for the part of the log
    axis from max(L, low) to high.
    """
    if not 1 <= low < high <= outcomes.limit:
        raise ValueError(
            f"the area needs 1 <= low < high <= {outcomes.limit} (the limit of the samples), "
            f"found low {low} and high {high}"
        )
    length_PG = np.clip(outcomes.length_PG, low, high)
    part_PG = np.log(high / length_PG) / np.log(high / low)
    return macro(np.where(outcomes.correct_PG, part_PG, 0.0), outcomes)


def budget_to_reach(outcomes: Outcomes, accuracy: float) -> int | None:
    """The least budget b with J(b) >= accuracy; None when no budget reaches it.

    Asked with x % of the *base* accuracy, it tells how many tokens a model needs for what the base
    did.
    """
    weight_PG = np.broadcast_to(
        1.0 / (len(outcomes) * outcomes.samples_P[:, None]), outcomes.mask_PG.shape
    )
    solved = outcomes.correct_PG & outcomes.mask_PG
    lengths = outcomes.length_PG[solved]
    order = np.argsort(lengths, kind="stable")
    reached = np.cumsum(weight_PG[solved][order])
    enough = np.flatnonzero(reached >= accuracy - _ROUNDING)
    return int(lengths[order][enough[0]]) if len(enough) else None
