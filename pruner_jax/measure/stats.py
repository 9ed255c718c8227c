"""Numbers about one model on one problem set: accuracy, lengths, truncation, pass@k.

Takes ``Outcomes``, gives floats. Accuracies and mean lengths are *macro* means: the mean of a
problem's samples first, then the mean over problems, so that every problem counts the same when
groups are ragged. Medians and percentiles are over all samples. Two models are compared in
``paired``.

With truncation the mean length is a restricted mean, E[min(L, cap)] with the cap named; truncated
samples are never dropped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from pruner_jax import masked
from pruner_jax.measure.bootstrap import Estimate, interval, normal_quantile, resampled_means
from pruner_jax.measure.outcomes import Outcomes


def per_problem(x_PG: np.ndarray, outcomes: Outcomes) -> np.ndarray:
    """Mean over the samples of each problem, float64 [P]."""
    return masked.mean(np.asarray(x_PG, np.float64), outcomes.mask_PG, 1, empty=np.nan)


def macro(x_PG: np.ndarray, outcomes: Outcomes) -> float:
    """Mean over problems of the mean over samples."""
    return float(per_problem(x_PG, outcomes).mean())


def accuracy(outcomes: Outcomes) -> float:
    """avg@n: the expected share of problems that one sample solves."""
    return macro(outcomes.correct_PG, outcomes)


def sampling_error(outcomes: Outcomes) -> float:
    """Standard error of the accuracy on *these* problems: sampling noise alone.

    SE = sqrt(sum_j p_j (1 - p_j) / (n_j - 1)) / P, the unbiased form of the binomial variance of
    each mean. NaN when a problem has one sample, which says nothing about its own noise.
    """
    p_P = per_problem(outcomes.correct_PG, outcomes)
    variance_P = masked.ratio(p_P * (1.0 - p_P), outcomes.samples_P - 1.0, np.nan)
    return float(np.sqrt(variance_P.sum()) / len(outcomes))


def accuracy_on_these(outcomes: Outcomes, confidence: float = 0.95) -> Estimate:
    """Accuracy with the interval for these very problems, asked again (normal approximation)."""
    value, error = accuracy(outcomes), sampling_error(outcomes)
    reach = normal_quantile((1.0 + confidence) / 2.0) * error
    low, high = np.clip([value - reach, value + reach], 0.0, 1.0)
    return Estimate(value, float(low), float(high))


def in_general(
    outcomes: Outcomes,
    values: Mapping[str, np.ndarray],
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Macro means of values [P, G] with intervals for other problems of the same kind (cluster
    bootstrap, one resampling for all)."""
    mean_PC = np.stack([per_problem(x_PG, outcomes) for x_PG in values.values()], axis=1)
    low_C, high_C = interval(resampled_means(mean_PC, resamples, seed), confidence)
    ends = zip(mean_PC.mean(axis=0), low_C, high_C)
    return {name: Estimate(*map(float, found)) for name, found in zip(values, ends)}


def mean_tokens(outcomes: Outcomes) -> float:
    """Generated tokens, thought and answer together; the restricted mean at the limit."""
    return macro(outcomes.length_PG, outcomes)


def truncated(outcomes: Outcomes) -> float:
    """Share of samples without an end token within the limit."""
    return macro(~outcomes.finished_PG, outcomes)


def mean_tokens_where(outcomes: Outcomes, where_PG: np.ndarray) -> float:
    """Mean length of the chosen samples, over samples (not macro); NaN when there are none."""
    return float(
        masked.mean(
            outcomes.length_PG.astype(np.float64), outcomes.mask_PG & where_PG, empty=np.nan
        )
    )


def percentile(outcomes: Outcomes, q: float) -> float:
    """The q-th quantile (0..1) of the length over all samples, truncated ones at the limit."""
    return float(
        masked.quantile(outcomes.length_PG.astype(np.float64), outcomes.mask_PG, q, empty=np.nan)
    )


def pass_at_k(outcomes: Outcomes, k: int) -> float:
    """Chance that one of k samples is correct: mean of 1 - C(n - c, k) / C(n, k).

    The unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, eq. 1), as the product over
    j < k of (n - c - j) / (n - j).
    """
    n_P = outcomes.samples_P
    if not 1 <= k <= n_P.min():
        raise ValueError(
            f"pass@{k} needs at least {k} samples of every problem; the fewest are {n_P.min()}. "
            "Lower k or raise the evaluation's samples"
        )
    correct_P = masked.sum(outcomes.correct_PG, outcomes.mask_PG, 1)
    j_k = np.arange(k)
    wrong_P = n_P - correct_P
    # With fewer than k wrong samples one factor is exactly 0, as it should be.
    missed_P = np.prod((wrong_P[:, None] - j_k) / (n_P[:, None] - j_k), axis=1)
    return float(1.0 - missed_P.mean())


def adherence(
    outcomes: Outcomes,
    budget: int,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Any]:
    """How well a model keeps to the tokens that it was told, with intervals for other problems:
    the mean of |length - budget|, and the shares of samples that end within the budget and of those
    that are longer. The budget is below the limit of the samples, so that one cut there is over it.
    """
    off_PG = np.abs(outcomes.length_PG - budget)
    over_PG = outcomes.length_PG > budget
    within_PG = outcomes.finished_PG & ~over_PG
    parts = {"distance": off_PG, "within": within_PG, "over": over_PG}
    found = in_general(outcomes, parts, confidence, resamples, seed)
    return {"tokens": budget, **{name: dataclasses.asdict(e) for name, e in found.items()}}


def describe(
    outcomes: Outcomes,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    budget: int | None = None,
) -> dict[str, Any]:
    """Everything that is reported of one model, by name (the ``base`` and ``final`` of a summary).

    ``*_in_general``: intervals for other problems of the same kind. NaN where the data cannot say
    (mean length of wrong samples when there are none). pass@k is given for powers of two up to half
    the samples, where the estimator's variance is still small. ``budget``: tokens that the model
    was told.
    """
    fixed = accuracy_on_these(outcomes, confidence)
    means = {
        "accuracy": outcomes.correct_PG,
        "mean_tokens": outcomes.length_PG,
        "mean_thinking_tokens": outcomes.thinking_PG,
        "mean_answer_tokens": outcomes.answer_PG,
        "truncated": ~outcomes.finished_PG,
    }
    general = in_general(outcomes, means, confidence, resamples, seed)
    fewest, most = int(outcomes.samples_P.min()), int(outcomes.samples_P.max())
    ks = [2**i for i in range(1, fewest.bit_length()) if 2**i <= fewest // 2]
    found = {
        "accuracy_on_these": {"low": fixed.low, "high": fixed.high},
        "pass_at_k": {str(k): pass_at_k(outcomes, k) for k in ks},
        **{name: e.value for name, e in general.items()},
        **{f"{name}_in_general": {"low": e.low, "high": e.high} for name, e in general.items()},
        "median_tokens": percentile(outcomes, 0.5),
        "p10_tokens": percentile(outcomes, 0.1),
        "p90_tokens": percentile(outcomes, 0.9),
        "mean_tokens_correct": mean_tokens_where(outcomes, outcomes.correct_PG),
        "mean_tokens_wrong": mean_tokens_where(outcomes, ~outcomes.correct_PG),
        "n_problems": len(outcomes),
        "samples_per_problem": most if fewest == most else float(outcomes.samples_P.mean()),
        "limit": outcomes.limit,
    }
    if budget is not None:
        found["budget"] = adherence(outcomes, budget, confidence, resamples, seed)
    return found
