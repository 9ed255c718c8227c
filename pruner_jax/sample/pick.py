"""Picking a token: from logits and one uniform number per row to a token and its log-probability.

A draw is an inverse of the distribution function: token v is taken where the running sum of the
probabilities first passes the uniform number. One random number per row instead of V, no sort, no
second pass over the logits. Takes logits [B, V]; leaves out where the random numbers come from.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

# Running sums are taken over this many numbers at a time. Measured on 2 CPU cores with 256 rows and
# V = 512: 0.17 ms, against 0.47 ms with cumsum and 2.8 ms with Gumbel noise.
CHUNK = 32


@dataclasses.dataclass(frozen=True)
class Picking:
    """The options of ``SampleOptions`` that say which token is picked; static under jit."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


def pick(logits_BV: jax.Array, uniform_B: jax.Array, how: Picking) -> jax.Array:
    """One token per row, int32 [B]; ``uniform_B`` in [0, 1). At temperature 0 the likeliest."""
    if how.temperature == 0:
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)
    z = _scaled(logits_BV, how)
    weights = jnp.exp(z)
    if how.top_k or how.top_p < 1 or how.min_p:
        weights = jnp.where(_allowed(z, how), weights, 0)
    return invert(weights, uniform_B)


def score(logits_BV: jax.Array, token_B: jax.Array, how: Picking) -> tuple[jax.Array, jax.Array]:
    """Log-probability of the tokens and entropy of the distribution, both float32 [B], in nats.

    Of softmax(logits / temperature) before any truncation; of softmax(logits) at temperature 0.
    """
    z = _scaled(logits_BV, how)
    weights = jnp.exp(z)
    total = jnp.sum(weights, axis=-1)
    own = jnp.take_along_axis(z, token_B[:, None], axis=-1)[:, 0]
    log_total = jnp.log(total)
    return own - log_total, log_total - jnp.sum(weights * z, axis=-1) / total


def invert(weights_BV: jax.Array, uniform_B: jax.Array) -> jax.Array:
    """The index at which the running sum of the weights first passes ``uniform`` of the total.

    Never one of weight 0. Works from sums over chunks of chunks down to the single weight, so that
    each step adds up ``CHUNK`` numbers.
    """
    levels = [weights_BV]
    while levels[-1].shape[-1] > CHUNK:
        levels[-1] = _fill(levels[-1])
        rows, width = levels[-1].shape
        levels.append(levels[-1].reshape(rows, width // CHUNK, CHUNK).sum(-1))
    index = jnp.zeros(len(weights_BV), jnp.int32)
    target = None
    for level in reversed(levels):
        chunks = level.reshape(len(level), -1, min(CHUNK, level.shape[-1]))
        chunk = jnp.take_along_axis(chunks, index[:, None, None], axis=1)[:, 0]
        # Each sum adds the same terms in the same order, some of them 0: so they never decrease.
        sums = jnp.sum(chunk[:, None] * jnp.tril(jnp.ones((chunk.shape[-1],) * 2)), axis=-1)
        total = sums[:, -1]
        # Below the total, though the rounding of the level above may say otherwise.
        below = total * (1 - 2.0**-23)
        target = jnp.minimum(uniform_B * total if target is None else target, below)
        place = jnp.sum(sums <= target[:, None], axis=-1).astype(jnp.int32)
        before = jnp.take_along_axis(sums, jnp.maximum(place - 1, 0)[:, None], axis=-1)[:, 0]
        target = target - jnp.where(place > 0, before, 0)
        index = index * CHUNK + place
    return index


def _scaled(logits_BV: jax.Array, how: Picking) -> jax.Array:
    """Logits over temperature, less the largest of their row; float32."""
    z = logits_BV.astype(jnp.float32) / (how.temperature or 1.0)
    return z - jnp.max(z, axis=-1, keepdims=True)


def _allowed(z_BV: jax.Array, how: Picking) -> jax.Array:
    """Which tokens stay in the draw: top-k, then top-p of what is left, then min-p.

    Ties of the last one stay too, so the set never depends on an order among equals.
    """
    least = jnp.full(z_BV.shape[:1], -jnp.inf)
    if how.top_k and how.top_k < z_BV.shape[-1]:
        least = jax.lax.top_k(z_BV, how.top_k)[0][:, -1]
    if how.top_p < 1:
        falling = -jnp.sort(-jnp.where(z_BV >= least[:, None], z_BV, -jnp.inf), axis=-1)
        weights = jnp.exp(falling)
        before = jnp.cumsum(weights, axis=-1) - weights
        kept = before < how.top_p * jnp.sum(weights, axis=-1, keepdims=True)
        least = jnp.maximum(least, jnp.min(jnp.where(kept, falling, jnp.inf), axis=-1))
    if how.min_p:
        least = jnp.maximum(least, jnp.log(how.min_p))
    return z_BV >= least[:, None]


def _fill(weights_BV: jax.Array) -> jax.Array:
    """Zeros up to a multiple of ``CHUNK``."""
    return jnp.pad(weights_BV, ((0, 0), (0, -weights_BV.shape[-1] % CHUNK)))
