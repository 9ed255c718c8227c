"""The losses: log-probabilities of one micro-batch -> sums and counts, divided once by the caller.

Every loss adds up ``share * (loss of the token)``; the share makes the sum, divided by
``Batch.count``, the mean that ``LossSpec.aggregation`` names. So packing, micro-batching and the
number of devices do not change the gradient. Metrics are sums with their counts, and peaks.

``pg`` is clipped policy gradient (PPO, arXiv 1707.06347 eq. 7; dual clip arXiv 1912.09729; mean
log-ratio of a sequence: GSPO, arXiv 2507.18071) with an estimator of the KL divergence and an
entropy bonus; ``ce`` is weighted cross-entropy; ``pairs`` is DPO (arXiv 2305.18290 eq. 7).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from pruner_jax import masked
from pruner_jax.learn.pack import Micro
from pruner_jax.objective.loss_spec import LossSpec

# The clip has decided long before a ratio of e^20; past it exp would overflow, and the gradient of
# the branch that was not chosen would be 0 * inf.
_MOST = 20.0


@struct.dataclass
class Sums:
    """What one micro-batch adds to an update."""

    loss: jax.Array  # scalar: sum of share * loss
    means: dict[str, tuple[jax.Array, jax.Array]]  # metric: (sum, count)
    peaks: dict[str, jax.Array]  # metric: largest value, at least 0

    def __add__(self, other: Sums) -> Sums:
        """Both micro-batches together."""
        return Sums(
            self.loss + other.loss,
            jax.tree.map(jnp.add, self.means, other.means),
            jax.tree.map(jnp.maximum, self.peaks, other.peaks),
        )


def loss_of(kind: str) -> Callable[[LossSpec, jax.Array, jax.Array, Micro], Sums]:
    """The loss function of that kind: (spec, logp_RN, entropy_RN, micro) -> Sums."""
    return {"pg": policy_gradient, "ce": cross_entropy, "pairs": preference}[kind]


def policy_gradient(
    spec: LossSpec, logp_RN: jax.Array, entropy_RN: jax.Array, micro: Micro
) -> Sums:
    """max(-w r, -w clip(r, 1 - low, 1 + high)) + kl * KL - entropy * H, with w the advantage."""
    trained_RN, weight_RN = micro.share_RN > 0, micro.weight_RN
    difference_RN = jnp.where(trained_RN, logp_RN - micro.old_logp_RN, 0)
    log_ratio_RN = jnp.clip(_by_unit(spec, difference_RN, micro), -_MOST, _MOST)
    ratio_RN = jnp.exp(log_ratio_RN)
    low = 0.0 if spec.clip_low is None else 1 - spec.clip_low
    high = jnp.inf if spec.clip_high is None else 1 + spec.clip_high
    loss_RN = jnp.maximum(-weight_RN * ratio_RN, -weight_RN * jnp.clip(ratio_RN, low, high))
    if spec.clip_dual is not None:
        bounded_RN = jnp.minimum(loss_RN, -weight_RN * spec.clip_dual)
        loss_RN = jnp.where(weight_RN < 0, bounded_RN, loss_RN)
    gap_RN = jnp.abs(difference_RN)
    # A sequence has one ratio, so it counts once however long it is.
    once_RN = trained_RN
    if spec.ratio != "token":
        once_RN = masked.ratio(trained_RN.astype(jnp.float32), micro.size_U[micro.unit_RN], 0.0)
    lows_RN = (ratio_RN < low) & (weight_RN < 0)
    highs_RN = (ratio_RN > high) & (weight_RN > 0)
    metrics = {
        "entropy": _sum(entropy_RN, trained_RN),
        "prune/ratio_mean": _sum(ratio_RN, once_RN),
        "clip_ratio/low_mean": _sum(lows_RN, once_RN),
        "clip_ratio/high_mean": _sum(highs_RN, once_RN),
        "clip_ratio/region_mean": _sum(lows_RN | highs_RN, once_RN),
        "sampling/sampling_logp_difference/mean": _sum(gap_RN, trained_RN),
    }
    if spec.kl:
        kl_RN = _KL[spec.kl_estimator](micro.ref_logp_RN - logp_RN)
        metrics["kl"] = _sum(kl_RN, trained_RN)
        loss_RN = loss_RN + spec.kl * kl_RN
    if spec.entropy:
        loss_RN = loss_RN - spec.entropy * entropy_RN
    total = masked.sum(micro.share_RN * loss_RN, trained_RN)
    return Sums(total, metrics, {"sampling/sampling_logp_difference/max": gap_RN.max()})


def k2(difference: jax.Array) -> jax.Array:
    """The k2 estimate of KL(policy || reference) from ``logp_ref - logp``: d^2 / 2 >= 0."""
    return difference**2 / 2


def k3(difference: jax.Array) -> jax.Array:
    """The k3 estimate of KL(policy || reference) from ``logp_ref - logp``: exp(d) - d - 1 >= 0."""
    return jnp.expm1(difference) - difference


_KL = {"k2": k2, "k3": k3}


def cross_entropy(spec: LossSpec, logp_RN: jax.Array, entropy_RN: jax.Array, micro: Micro) -> Sums:
    """-w log p."""
    trained_RN = micro.share_RN > 0
    total = masked.sum(-micro.share_RN * micro.weight_RN * logp_RN, trained_RN)
    return Sums(total, {"entropy": _sum(entropy_RN, trained_RN)}, {})


def preference(spec: LossSpec, logp_RN: jax.Array, entropy_RN: jax.Array, micro: Micro) -> Sums:
    """-w log sigmoid(beta * margin) of each pair.

    The margin is by how much more than the reference the policy prefers the preferred row: the
    difference of summed log-ratios, or of mean ones when the aggregation is ``sequence``.
    """
    trained_RN = micro.share_RN > 0
    gain_RN = jnp.sign(micro.weight_RN) * micro.share_RN * (logp_RN - micro.ref_logp_RN)
    margin_U = spec.pair_beta * _unit_sum(jnp.where(trained_RN, gain_RN, 0), micro)
    weight_U = masked.ratio(_unit_sum(jnp.abs(micro.weight_RN), micro), micro.size_U, 0.0)
    total = jnp.sum(weight_U * jax.nn.softplus(-margin_U))
    pairs_U = micro.size_U > 0
    metrics = {
        "entropy": _sum(entropy_RN, trained_RN),
        "rewards/margins": _sum(margin_U, pairs_U),
        "rewards/accuracies": _sum(margin_U > 0, pairs_U),
    }
    return Sums(total, metrics, {})


def _by_unit(spec: LossSpec, difference_RN: jax.Array, micro: Micro) -> jax.Array:
    """The log-ratio that each token's loss uses: its own, or the mean or sum of its row's."""
    if spec.ratio == "token":
        return difference_RN
    total_U = _unit_sum(difference_RN, micro)
    if spec.ratio == "sequence":
        total_U = masked.ratio(total_U, micro.size_U, 0.0)
    return total_U[micro.unit_RN]


def _unit_sum(x_RN: jax.Array, micro: Micro) -> jax.Array:
    """Sums over the units; what is padding must be 0."""
    return jnp.zeros(micro.size_U.shape, x_RN.dtype).at[micro.unit_RN].add(x_RN)


def _sum(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A metric's (sum, count); a boolean weight selects, a number weighs."""
    return masked.sum(x * weight, weight > 0), jnp.sum(weight).astype(jnp.float32)
