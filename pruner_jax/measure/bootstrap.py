"""How sure a number is: the cluster bootstrap over problems, and the normal quantile.

The problems are the units that are drawn again; all samples of a problem go together, so the
intervals hold for *new problems of the same kind*, whatever the number of samples per problem.
Given two models on the same problems, drawing both columns together is the paired bootstrap.
Percentile intervals; seeded, so the same data give the same interval.
"""

from __future__ import annotations

import dataclasses
import statistics

import numpy as np

_CHUNK = 256  # resamples counted at once; bounds the memory at _CHUNK * P integers


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value with its interval; NaN bounds mean that the data cannot say."""

    value: float
    low: float
    high: float


def resampled_means(values_PC: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of C columns over problems drawn with replacement, float64 [resamples, C].

    Row r of the result belongs to one draw, the same for all columns.
    """
    values_PC = np.asarray(values_PC, np.float64)
    n = len(values_PC)
    rng = np.random.default_rng(seed)
    means = np.empty((resamples, values_PC.shape[1]))
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        means[start : start + size] = times_drawn(rng, size, n) @ values_PC / n
    return means


def times_drawn(rng: np.random.Generator, rows: int, things: int) -> np.ndarray:
    """How often each thing is drawn when as many are, with replacement, int [rows, things]."""
    drawn = rng.integers(0, things, (rows, things)) + things * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * things).reshape(rows, things)


def interval(draws: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Central interval of the draws along axis 0; NaN where any draw is NaN."""
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(draws, [tail, 1.0 - tail], axis=0)
    return low, high


def estimate(
    draws: np.ndarray, confidence: float = 0.95, within: tuple[float, float] = (-np.inf, np.inf)
) -> Estimate:
    """The value in the first place with the central interval of the others, cut to where the
    quantity can lie."""
    low, high = np.clip(interval(draws[1:], confidence), *within)
    return Estimate(float(draws[0]), float(low), float(high))


def normal_quantile(probability: float) -> float:
    """z with P(Z <= z) = probability for a standard normal Z."""
    return statistics.NormalDist().inv_cdf(probability)
