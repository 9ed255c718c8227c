"""The key/value cache of the sampler: one shared slot, rows that end together.

All rows write their next token at the same ``slot``: one scalar slice update for the whole batch,
the cheapest write on every platform. Row b is live in the slots ``start_B[b] .. slot - 1``, so
prompts are right-aligned and a token's position is its slot minus its row's start. Keys and values
are separate arrays [B, K, S, H] per layer: see ``attention.py``. All functions are pure and meant
for inside ``jit``.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from pruner_jax.policy.config import ModelConfig


@flax.struct.dataclass
class Cache:
    """Keys and values of every layer, and which slots of which row are live."""

    layers: list[tuple[jax.Array, jax.Array]]  # per layer: k and v, each [B, K, S, H]
    start_B: jax.Array  # int32, the first live slot
    slot: jax.Array  # int32 scalar, the next slot to be written

    @property
    def slots(self) -> int:
        """S, how many slots there are."""
        return self.layers[0][0].shape[2]


def init_cache(config: ModelConfig, rows: int, slots: int, dtype: Any) -> Cache:
    """An empty cache; before a prefill of T tokens set ``start_B`` to T less each row's length."""
    shape = (rows, config.kv_heads, slots, config.head_width)
    layers = [(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(config.layers)]
    return Cache(layers, jnp.zeros(rows, jnp.int32), jnp.zeros((), jnp.int32))


def write(old_BKSH: jax.Array, new_BTKH: jax.Array, slot: jax.Array) -> jax.Array:
    """The old keys or values with T new tokens at ``slot``."""
    new = jnp.swapaxes(new_BTKH, 1, 2).astype(old_BKSH.dtype)
    return jax.lax.dynamic_update_slice(old_BKSH, new, (0, 0, slot, 0))


def take(cache: Cache, rows: jax.Array) -> Cache:
    """The given rows (int32 indices), in that order; a row given G times is forked into G."""
    layers = jax.tree.map(lambda x: x[rows], cache.layers)
    return cache.replace(layers=layers, start_B=cache.start_B[rows])


def view(cache: Cache, first: jax.Array | int, slots: int) -> Cache:
    """The slots ``first .. first + slots - 1`` as a cache of their own, empty past the old end.

    Grows a bucket (``first=0``) or moves all rows down (``first = min(start_B)`` of the live rows).
    Rows that start before ``first`` lose what lies before it; their start goes negative.
    """

    def cut(x):
        spare = max(slots, 0)
        padded = jnp.pad(x, ((0, 0), (0, 0), (0, spare), (0, 0)))
        return jax.lax.dynamic_slice_in_dim(padded, first, slots, axis=2)

    layers = jax.tree.map(cut, cache.layers)
    return cache.replace(layers=layers, start_B=cache.start_B - first, slot=cache.slot - first)


def insert(cache: Cache, new: Cache, rows: jax.Array) -> Cache:
    """The cache with the R rows of ``new``, a prefill filled to its last slot, at the given rows.

    They are moved so that they end at the cache's slot, which must be at least the S of ``new``.
    Indices past the last row are left out, so that R can be padded to a fixed size.
    """
    width = new.slots

    def put(old, fresh):
        size = (*old.shape[:2], width, old.shape[3])
        place = (0, 0, cache.slot - width, 0)
        part = jax.lax.dynamic_slice(old, place, size).at[rows].set(fresh, mode="drop")
        return jax.lax.dynamic_update_slice(old, part, place)

    layers = jax.tree.map(put, cache.layers, new.layers)
    start = cache.start_B.at[rows].set(new.start_B + cache.slot - width, mode="drop")
    return cache.replace(layers=layers, start_B=start)
