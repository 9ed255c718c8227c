"""Log-probabilities of given tokens, and the entropy there, without the logits of a whole batch.

Takes hidden states and the places to be scored; gives float32 ``logp_RN`` and ``entropy_RN`` of
``softmax(logits / temperature)``. Only the listed places go through the vocabulary product, a chunk
at a time, and the backward pass computes each chunk's logits again, so ``[R, T, V]`` never exists.
Leaves out the forward pass and the loss.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from pruner_jax.policy.config import ModelConfig
from pruner_jax.policy.forward import unembed


def logp_of(
    params: dict[str, Any],
    config: ModelConfig,
    hidden_RTD: jax.Array,
    place_RN: jax.Array,
    target_RN: jax.Array,
    *,
    temperature: jax.Array | float,
    chunk: int,
    differentiate_entropy: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Log-probability of ``target_RN[r, n]`` given the hidden state at ``place_RN[r, n]``, entropy.

    Args:
      params: as ``policy.forward`` takes them; only the unembedding is used.
      config: of the model.
      hidden_RTD: after the final norm.
      place_RN: which of the T hidden states predicts each target.
      target_RN: token ids.
      temperature: what the logits are divided by.
      chunk: how many of the N places of every packed row are scored at once. The chunks run along
        N, so that rows may lie on several devices.
      differentiate_entropy: whether gradients flow through the entropy (it costs a pass over V).
    """

    def score(hidden_RnD: jax.Array, target_Rn: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits_RnV = unembed(params, config, hidden_RnD) / temperature
        norm_Rn = jax.nn.logsumexp(logits_RnV, axis=-1)
        # A select, not a gather: its gradient needs no scatter, and V may lie on many devices.
        chosen = jax.lax.broadcasted_iota(jnp.int32, logits_RnV.shape, 2) == target_Rn[..., None]
        logp_Rn = jnp.where(chosen, logits_RnV, 0).sum(-1) - norm_Rn
        if not differentiate_entropy:
            logits_RnV, norm_Rn = jax.lax.stop_gradient((logits_RnV, norm_Rn))
        shares_RnV = jnp.exp(logits_RnV - norm_Rn[..., None])
        return logp_Rn, norm_Rn - (shares_RnV * logits_RnV).sum(-1)

    with jax.named_scope("logprob"):
        hidden_RND = jnp.take_along_axis(hidden_RTD, place_RN[..., None], axis=1)
        R, N = target_RN.shape
        if chunk >= N:
            return score(hidden_RND, target_RN)
        count = -(-N // chunk)
        chunk = -(-N // count)

        def split(x: jax.Array) -> jax.Array:
            fill = [(0, 0), (0, count * chunk - N)] + [(0, 0)] * (x.ndim - 2)
            return jnp.moveaxis(jnp.pad(x, fill).reshape(R, count, chunk, *x.shape[2:]), 1, 0)

        def join(x: jax.Array) -> jax.Array:
            return jnp.moveaxis(x, 0, 1).reshape(R, count * chunk)[:, :N]

        scored = jax.lax.map(
            lambda one: jax.checkpoint(score)(*one), (split(hidden_RND), split(target_RN))
        )
        return join(scored[0]), join(scored[1])
