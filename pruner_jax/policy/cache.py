"""The key/value cache of the sampler: one shared slot, rows that end together.

All rows write their next token at the same ``slot``: one scalar slice update for the whole batch,
the cheapest write on every platform. Row b is live in the slots ``start_B[b] .. slot - 1``, so
prompts are right-aligned and a token's position is its slot minus its row's start. Keys and values
are separate arrays per layer, [B, K, H, S] and [B, K, S, H]: see ``attention.py``. All functions
are pure and meant for inside ``jit``.

While the samples of a prompt sit side by side, its slots may be kept once for all of them, as a
prefix: P groups of B/P neighbours, [P, K, H, L] and [P, K, L, H]. Slots are numbered through, the
prefix first. A decode step then reads a prompt once for its group, not once for each sample
(Hydragen, arXiv 2402.05099).
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from pruner_jax.policy.config import ModelConfig

Pair = tuple[jax.Array, jax.Array]  # one layer's keys [B, K, H, S] and values [B, K, S, H]


@flax.struct.dataclass
class Cache:
    """Keys and values of every layer, and which slots of which row are live."""

    layers: list[Pair]
    start_B: jax.Array  # int32, the first live slot
    slot: jax.Array  # int32 scalar, the next slot to be written
    prefix: list[Pair] | None = None  # of every layer, the slots before those in ``layers``

    @property
    def prefix_slots(self) -> int:
        """L, how many slots are kept once for a group."""
        return self.prefix[0][1].shape[2] if self.prefix else 0

    @property
    def slots(self) -> int:
        """How many slots a row has, those of its prefix included."""
        return self.prefix_slots + self.layers[0][1].shape[2]


def init_cache(config: ModelConfig, rows: int, slots: int, dtype: Any) -> Cache:
    """An empty cache; before a prefill of T tokens set ``start_B`` to T less each row's length."""
    keys = (rows, config.kv_heads, config.head_width, slots)
    values = (rows, config.kv_heads, slots, config.head_width)
    layers = [(jnp.zeros(keys, dtype), jnp.zeros(values, dtype)) for _ in range(config.layers)]
    return Cache(layers, jnp.zeros(rows, jnp.int32), jnp.zeros((), jnp.int32))


def write(pair: Pair, k_BTKH: jax.Array, v_BTKH: jax.Array, slot: jax.Array) -> Pair:
    """One layer's keys and values with those of T new tokens at ``slot``."""
    keys, values = pair
    k = k_BTKH.transpose(0, 2, 3, 1).astype(keys.dtype)
    v = v_BTKH.transpose(0, 2, 1, 3).astype(values.dtype)
    return (
        jax.lax.dynamic_update_slice(keys, k, (0, 0, 0, slot)),
        jax.lax.dynamic_update_slice(values, v, (0, 0, slot, 0)),
    )


def relay(
    pair: Pair, source_B: jax.Array, shift: jax.Array, slots: int, prefix: Pair | None = None
) -> Pair:
    """One layer's keys and values with other rows, ``shift`` slots further down, in ``slots``.

    Row b of the result is row ``source_B[b]``: a row named G times is forked into G, one that is
    not named is dropped, -1 gives a row of zeros. A negative shift moves up. What has no slot any
    more is lost, and new slots are zero. Of a prefix each row gets a copy, in front of its own.
    """
    at = jnp.maximum(source_B, 0)

    def move(x, axis, shared):
        moved = x[at]
        if shared is not None:
            moved = jnp.concatenate([shared[at // (len(x) // len(shared))], moved], axis)
        moved = jnp.where((source_B >= 0)[:, None, None, None], moved, 0)
        spare = [(0, 0)] * 4
        spare[axis] = (slots, slots)
        return jax.lax.dynamic_slice_in_dim(jnp.pad(moved, spare), shift + slots, slots, axis)

    keys, values = prefix or (None, None)
    return move(pair[0], 3, keys), move(pair[1], 2, values)


def put(pair: Pair, fresh: Pair, source_B: jax.Array, slot: jax.Array) -> Pair:
    """One layer's keys and values with rows of a prefill in them, which end at ``slot``.

    Row b gets row ``source_B[b]`` of ``fresh``, a prefill filled to its last slot; -1 leaves it as
    it is. The slot must be at least the S of ``fresh``.
    """

    def one(old, new, axis):
        first = slot - new.shape[axis]
        there = jax.lax.dynamic_slice_in_dim(old, first, new.shape[axis], axis)
        there = jnp.where((source_B >= 0)[:, None, None, None], new[source_B], there)
        return jax.lax.dynamic_update_slice_in_dim(old, there, first, axis)

    return one(pair[0], fresh[0], 3), one(pair[1], fresh[1], 2)
