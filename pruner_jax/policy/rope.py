"""Rotary positions: the frequencies of each kind, the rotation of queries and keys.

Heads are rotated as Hugging Face does it: dimension i is paired with i + H/2. Frequencies are
float32 numpy, computed in the order of operations of ``transformers`` so that long positions agree
to the bit.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from pruner_jax.policy.config import ModelConfig, RopeConfig


def frequencies(rope: RopeConfig, head_width: int) -> np.ndarray:
    """Radians per position, float32 [H/2]."""
    exponent = np.arange(0, head_width, 2, dtype=np.float32) / np.float32(head_width)
    plain = np.float32(1.0) / np.power(np.float32(rope.theta), exponent)
    if rope.kind == "linear":
        plain = plain / np.float32(rope.factor)
    elif rope.kind == "llama3":
        plain = _llama3(plain, rope)
    elif rope.kind == "yarn":
        plain = _yarn(plain, rope, head_width)
    return plain.astype(np.float32)


def _llama3(plain: np.ndarray, rope: RopeConfig) -> np.ndarray:
    """Long waves are slowed by the factor, short ones kept, those between blended (Llama 3.1)."""
    wavelength = 2 * np.pi / plain
    turns = rope.original_context / wavelength
    blend = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    between = (1 - blend) * plain / rope.factor + blend * plain
    return np.where(
        wavelength > rope.original_context / rope.low_freq_factor,
        plain / rope.factor,
        np.where(wavelength < rope.original_context / rope.high_freq_factor, plain, between),
    )


def _yarn(plain: np.ndarray, rope: RopeConfig, head_width: int) -> np.ndarray:
    """A linear ramp over dimensions from kept to slowed (YaRN, arXiv 2309.00071, section 3.2)."""

    def dimension(turns: float) -> float:
        ratio = rope.original_context / (turns * 2 * math.pi)
        return head_width * math.log(ratio) / (2 * math.log(rope.theta))

    low, high = dimension(rope.beta_fast), dimension(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_width - 1)
    high = high + 0.001 if low == high else high
    ramp = np.clip((np.arange(head_width // 2, dtype=np.float32) - low) / (high - low), 0, 1)
    return plain / rope.factor * ramp + plain * (1 - ramp)


def rotation(config: ModelConfig, positions_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """cos and sin of every position's angles, float32 [B, T, H/2]."""
    angles = positions_BT[..., None].astype(jnp.float32) * frequencies(
        config.rope, config.head_width
    )
    factor = config.rope.attention_factor
    return jnp.cos(angles) * factor, jnp.sin(angles) * factor


@jax.custom_vjp
def rotate(x_BTNH: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Queries or keys turned by their positions; computed in float32, given back in x's dtype.

    No gradient flows to the angles.
    """
    first, second = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    # Side by side by adding zeros: XLA:CPU concatenates number by number, at a third of the speed.
    none, half = [(0, 0)] * 3, first.shape[-1]
    turned = jnp.pad(first * cos - second * sin, [*none, (0, half)])
    turned += jnp.pad(second * cos + first * sin, [*none, (half, 0)])
    return turned.astype(x_BTNH.dtype)


def _rotate_forward(x_BTNH, cos, sin):
    return rotate(x_BTNH, cos, sin), (cos, sin)


def _rotate_backward(angles, g_BTNH):
    """The same angle back."""
    cos, sin = angles
    return rotate(g_BTNH, cos, -sin), None, None


rotate.defvjp(_rotate_forward, _rotate_backward)
