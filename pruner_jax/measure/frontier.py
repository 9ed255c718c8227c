"""Many models on the same problems, each trained with several seeds: means, frontier, hypervolume.

Letters of this file: S seeds, M = 2 models (base, final), P problems, Q quantities, U subsets of
the problems, N points (a method at one strength), R resamples. Takes the means over samples of
every problem; leaves out where they come from and what is made of them.

Intervals are over problems *and* seeds, percentiles of R draws:

* problems are drawn with replacement, the same ones for all points and both models, so everything
  is paired by problem and how hard the drawn problems are cancels in differences;
* seeds get random weights, for each point by itself: two methods have nothing in common but the
  number. A run's base model was sampled with the run's seed and goes with it. Seeds are few, two or
  three as a rule, and drawing them with replacement would give percentiles that are the best and
  the worst of them, whatever the confidence. So their weights (`_seed_weights`) are such that the
  mean over seeds is spread as Student's t with S - 1 degrees of freedom: the classical interval,
  which with three seeds reaches 4.3 standard errors to either side. With one seed the interval says
  nothing about others.

The sampling noise of single responses is drawn with either of them and so counted more than once,
which makes intervals rather too wide (Owen, Annals of Applied Statistics 1, 2007), and so does the
difference of two t's. Neither is corrected. Simulated (`benchmarks/coverage.py`), 95 % intervals
with three seeds cover a mean over 200 problems in 94 to 99 % of the cases and the difference of two
in 98 to 100 %, from seeds that differ far less than problems to seeds that differ far more.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from pruner_jax import masked
from pruner_jax.measure.bootstrap import times_drawn
from pruner_jax.measure.difficulty import levels

MODELS = ("base", "final")
SUBSETS = ("all", "easy", "hard")
_CHUNK = 256  # resamples at once


@dataclasses.dataclass(frozen=True)
class Means:
    """Means of one point over its seeds and over problems. Row 0 is the data, the others draws."""

    quantities: Sequence[str]
    draws_RMUQ: np.ndarray  # float64 [1 + R, M, U, Q], NaN for a subset without problems

    def __call__(self, quantity: str, subset: str = "all", model: str = "final") -> np.ndarray:
        """One mean, float64 [1 + R]."""
        place = self.quantities.index(quantity)
        return self.draws_RMUQ[:, MODELS.index(model), SUBSETS.index(subset), place]


_MEANS = {
    "accuracy": ("accuracy", "all"),
    "tokens": ("tokens", "all"),
    "thinking_tokens": ("thinking_tokens", "all"),
    "easy_accuracy": ("accuracy", "easy"),
    "easy_tokens": ("tokens", "easy"),
    "hard_accuracy": ("accuracy", "hard"),
    "hard_tokens": ("tokens", "hard"),
    "at_once": ("at_once", "all"),
    "easy_at_once": ("at_once", "easy"),
    "hard_at_once": ("at_once", "hard"),
}
MEASURES = (*_MEANS, "adaptivity")
"""What a model is measured by; at_once is the share of responses without a thought."""


def bounds(name: str) -> tuple[float, float]:
    """Where one of ``MEASURES`` can lie."""
    return (0.0, 1.0) if name.endswith(("accuracy", "at_once")) else (0.0, np.inf)


def measure(means: Means, name: str, model: str = "final") -> np.ndarray:
    """One of ``MEASURES``, float64 [1 + R]. Adaptivity: mean tokens on hard problems over those on
    easy ones (ALP, arXiv 2506.05256)."""
    if name == "adaptivity":
        hard, easy = (means("tokens", subset, model) for subset in ("hard", "easy"))
        return ratio(hard, easy)
    return means(*_MEANS[name], model)


def subsets(difficulty_P: np.ndarray) -> np.ndarray:
    """Which problems are in which of ``SUBSETS``, bool [P, U].

    Easy and hard are the first and the last of the `levels` there are; both are empty where no two
    problems differ.
    """
    bins = [inside_P for _, inside_P in levels(difficulty_P)]
    none_P = np.zeros(len(difficulty_P), bool)
    easy_P, hard_P = (bins[0], bins[-1]) if len(bins) > 1 else (none_P, none_P)
    return np.stack([~none_P, easy_P, hard_P], axis=1)


def resampled(
    values: Mapping[str, np.ndarray],
    quantities: Sequence[str],
    subsets_PU: np.ndarray,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> dict[str, Means]:
    """Means of every point and of its draws, as above.

    Seeds of negative weight may lead a draw beyond what the quantity can be. It is left there, so
    that differences of means with the same seeds stay what they are; ``estimate`` cuts intervals.

    Args:
      values: by the point's name float [S, M, P, Q], the mean over samples of each problem.
      quantities: what the Q columns are called.
      subsets_PU: of ``subsets``.
      resamples: R.
      seed: of the draws; a point's do not depend on which other points there are.
    """
    problems = len(subsets_PU)
    once_1P = np.ones((1, problems))
    draws = {
        name: [_means(x, once_1P, np.full((1, len(x)), 1 / len(x)), subsets_PU)]
        for name, x in values.items()
    }
    rng = np.random.default_rng(seed)
    own = {name: np.random.default_rng([seed, zlib.crc32(name.encode())]) for name in values}
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        times_RP = times_drawn(rng, size, problems)
        for name, x in values.items():
            weights_RS = _seed_weights(own[name], size, len(x))
            draws[name].append(_means(x, times_RP, weights_RS, subsets_PU))
    return {name: Means(tuple(quantities), np.concatenate(parts)) for name, parts in draws.items()}


def _seed_weights(rng: np.random.Generator, rows: int, seeds: int) -> np.ndarray:
    """Weights of the seeds, float64 [rows, S], of sum 1; some may be negative.

    1 / S + (z - mean z) / sqrt(S (S - 1)) / sqrt(chi2 / (S - 1)), with S standard normal z and chi2
    of S - 1 degrees of freedom. Over seeds with values x, mean m and standard deviation s, sum (z -
    mean z) x is normal with variance (S - 1) s^2; so the weighted mean is m + s / sqrt(S) * t.
    """
    if seeds == 1:
        return np.ones((rows, 1))
    z_RS = rng.standard_normal((rows, seeds))
    z_RS -= z_RS.mean(axis=1, keepdims=True)
    chi2_R1 = rng.chisquare(seeds - 1, (rows, 1))
    return 1 / seeds + z_RS / np.sqrt(seeds * chi2_R1)


def _means(
    values_SMPQ: np.ndarray,
    times_RP: np.ndarray,
    weights_RS: np.ndarray,
    subsets_PU: np.ndarray,
) -> np.ndarray:
    """Means over problems that count so often and seeds of such weights, float64 [R, M, U, Q]."""
    seeds, models, problems, columns = values_SMPQ.shape
    inside_PUSMQ = subsets_PU[:, :, None, None, None] * values_SMPQ.transpose(2, 0, 1, 3)[:, None]
    sums = times_RP @ inside_PUSMQ.reshape(problems, -1)
    sums_RUSMQ = sums.reshape(len(times_RP), subsets_PU.shape[1], seeds, models, columns)
    counts_RU = times_RP @ subsets_PU.astype(float)
    means_RUMQ = np.einsum("rs,rusmq->rumq", weights_RS, sums_RUSMQ)
    return masked.ratio(means_RUMQ, counts_RU[:, :, None, None], np.nan).transpose(0, 2, 1, 3)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Of the draws of two means that are never negative; NaN where the denominator is 0."""
    return masked.ratio(np.maximum(numerator, 0.0), divisor(denominator), np.nan)


def divisor(draws: np.ndarray) -> np.ndarray:
    """Draws of a positive mean that something is divided by: those that seeds lead to 0 or below
    become a hundredth of the value. All 0 where the value is."""
    return np.maximum(draws, draws[0] / 100) if draws[0] > 0 else np.zeros_like(draws)


def on_frontier(tokens_RN: np.ndarray, accuracy_RN: np.ndarray) -> np.ndarray:
    """Pareto frontier, bool [R, N]: no other point has at most the tokens and at least the
    accuracy, one of them strictly."""
    on_RN = np.ones(tokens_RN.shape, bool)
    for n in range(tokens_RN.shape[1]):
        tokens_R1, accuracy_R1 = tokens_RN[:, n : n + 1], accuracy_RN[:, n : n + 1]
        as_good_RN = (tokens_RN <= tokens_R1) & (accuracy_RN >= accuracy_R1)
        better_RN = (tokens_RN < tokens_R1) | (accuracy_RN > accuracy_R1)
        on_RN[:, n] = ~(as_good_RN & better_RN).any(axis=1)
    return on_RN


def hypervolume(tokens_RN: np.ndarray, accuracy_RN: np.ndarray, limit: int) -> np.ndarray:
    """How much of the plane the points dominate together, float64 [R], between 0 and 1.

    The plane is x = 1 - log(tokens) / log(limit) against accuracy a. The reference point is (limit
    tokens, accuracy 0), where x = a = 0; (1 token, accuracy 1) is the best there could be. The area
    of the union of the rectangles from the reference to each point is the integral over t from 0 to
    1 of max{a_n : x_n >= t}.
    """
    if limit < 2:
        raise ValueError(f"the hypervolume needs a token limit of 2 or more, found {limit}")
    x_RN = np.clip(1.0 - np.log(np.maximum(tokens_RN, 1.0)) / np.log(limit), 0.0, 1.0)
    order = np.argsort(x_RN, axis=1)
    x_RN = np.take_along_axis(x_RN, order, axis=1)
    a_RN = np.take_along_axis(np.clip(accuracy_RN, 0.0, 1.0), order, axis=1)
    reached_RN = np.maximum.accumulate(a_RN[:, ::-1], axis=1)[:, ::-1]
    return (np.diff(x_RN, axis=1, prepend=0.0) * reached_RN).sum(axis=1)


def correlation(x_P: np.ndarray, y_P: np.ndarray) -> float:
    """Pearson's, over the problems where both are known; NaN where one of them does not vary."""
    known_P = np.isfinite(x_P) & np.isfinite(y_P)
    x_P, y_P = x_P[known_P], y_P[known_P]
    if len(x_P) < 2 or np.ptp(x_P) == 0 or np.ptp(y_P) == 0:
        return float("nan")
    return float(np.corrcoef(x_P, y_P)[0, 1])
