"""Two models on the same problems: what changed, and how sure that is.

"No accuracy lost, fewer tokens" is a paired statement: the per-problem differences are drawn
again, so how hard the problems are cancels. Takes two ``Outcomes`` over the same problems under
the same limit.

AES, the accuracy-efficiency score of O1-Pruner (arXiv 2501.12570, section 4.1), with dL = (L0 - L)
/ L0 and dA = (A - A0) / A0, both relative:

    AES = a dL + b |dA|  if dA >= 0,  a dL - g |dA|  otherwise;   a = 1, b = 3, g = 5

The published table prints rows that lost accuracy with the first branch; here each row follows the
formula. Relative accuracy makes weak bases score high and the kink at dA = 0 rewards noise, so the
two plain numbers stand first and AES beside them.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pruner_jax import masked
from pruner_jax.measure.bootstrap import Estimate, estimate, normal_quantile, resampled_means
from pruner_jax.measure.outcomes import Outcomes, take_problems
from pruner_jax.measure.stats import per_problem, sampling_error

AES_A, AES_B, AES_G = 1.0, 3.0, 5.0


@dataclasses.dataclass(frozen=True)
class Paired:
    """What the second model changes, each with its interval over problems."""

    accuracy_change: Estimate  # final - base, in accuracy (0.01 = one point)
    token_ratio: Estimate  # mean tokens of final / mean tokens of base
    aes: Estimate  # NaN where the base solves nothing


def aligned(base: Outcomes, final: Outcomes) -> tuple[Outcomes, Outcomes]:
    """Both in the base's order of problems; refuses other problems and other limits."""
    place = {name: i for i, name in enumerate(final.problem_ids)}
    if set(place) != set(base.problem_ids):
        only = sorted(set(base.problem_ids) ^ set(place))
        raise ValueError(
            f"paired statistics need the same problems on both sides; {len(only)} are on one side "
            f"only, {only[0]!r} for one. Evaluate both models on the same problem set"
        )
    if base.limit != final.limit:
        raise ValueError(
            f"one side was sampled up to {base.limit} tokens, the other up to {final.limit}; "
            "lengths compare at a common cap only. Bring both to the smaller one with at_limit()"
        )
    return base, take_problems(final, np.array([place[name] for name in base.problem_ids]))


def aes(
    accuracy_base: np.ndarray | float,
    tokens_base: np.ndarray | float,
    accuracy: np.ndarray | float,
    tokens: np.ndarray | float,
) -> np.ndarray:
    """AES by the formula above, elementwise; NaN where the base accuracy is 0."""
    accuracy_base, tokens_base = np.float64(accuracy_base), np.float64(tokens_base)
    shorter = masked.ratio(tokens_base - tokens, tokens_base, np.nan)
    better = masked.ratio(accuracy - accuracy_base, accuracy_base, np.nan)
    return AES_A * shorter + np.where(better >= 0, AES_B, AES_G) * better


def paired(
    base: Outcomes,
    final: Outcomes,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Paired:
    """Change of accuracy, ratio of mean tokens and AES, with paired bootstrap intervals.

    The ratio is one of means (tokens saved in all), not a mean of ratios.
    """
    columns_PC = _columns(*aligned(base, final))
    drawn = resampled_means(columns_PC, resamples, seed)

    acc_0, tok_0, acc_1, tok_1 = np.vstack([columns_PC.mean(axis=0), drawn]).T
    return Paired(
        accuracy_change=estimate(acc_1 - acc_0, confidence),
        token_ratio=estimate(masked.ratio(tok_1, tok_0, np.nan), confidence),
        aes=estimate(aes(acc_0, tok_0, acc_1, tok_1), confidence),
    )


def accuracy_lower_bound(
    base: Outcomes,
    final: Outcomes,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> float:
    """One-sided bound: with this confidence the accuracy changed by no less than that.

    Non-inferiority at tolerance t is the statement that the bound is at least -t.
    """
    acc_0, _, acc_1, _ = _columns(*aligned(base, final)).T
    drawn = resampled_means((acc_1 - acc_0)[:, None], resamples, seed)[:, 0]
    return float(np.quantile(drawn, 1.0 - confidence))


def smallest_detectable_change(outcomes: Outcomes, confidence: float = 0.95) -> float:
    """The least loss of accuracy that a second evaluation like this one can tell from none.

    z sqrt(2) SE, the minimal detectable change: SE is the sampling error of the accuracy on these
    problems (``stats.sampling_error``), sqrt(2) because two models are sampled, z the one-sided
    normal quantile. A model that lost nothing has a lower bound near minus this value, so a
    smaller tolerance would refuse it as often as not. At least one sample's worth, 1 / (P n).
    """
    if outcomes.samples_P.min() < 2:
        raise ValueError(
            "the smallest detectable change needs two samples or more of every problem, found "
            f"{outcomes.samples_P.min()}; raise the samples of the monitor evaluation"
        )
    error = np.sqrt(2.0) * sampling_error(outcomes)
    return max(normal_quantile(confidence) * float(error), 1.0 / float(outcomes.samples_P.sum()))


def _columns(base: Outcomes, final: Outcomes) -> np.ndarray:
    """Accuracy and tokens of each problem, base then final, float64 [P, 4]."""
    return np.stack(
        [
            per_problem(x_PG, side)
            for side in (base, final)
            for x_PG in (side.correct_PG, side.length_PG)
        ],
        axis=1,
    )
