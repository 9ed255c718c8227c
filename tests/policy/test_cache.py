"""The cache: forked, moved and refilled rows decode as if alone, and nothing copies the cache."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from pruner_jax.policy import cache as caches
from pruner_jax.policy.cache import init_cache
from pruner_jax.policy.config import from_hf
from pruner_jax.policy.forward import forward, unembed
from pruner_jax.policy.weights import init, unstack

step = jax.jit(forward, static_argnames="config")


@functools.cache
def model():
    config, params = tiny.model("qwen2_layer_types")
    return config, unstack(params, jnp.float32)


def prefill(rows: list[np.ndarray], width: int) -> caches.Cache:
    """A cache of exactly ``width`` slots, filled with right-aligned rows."""
    config, params = model()
    start = jnp.asarray([width - len(row) for row in rows], jnp.int32)
    tokens = np.stack([np.pad(row, (width - len(row), 0), constant_values=60) for row in rows])
    cache = init_cache(config, len(rows), width, jnp.float32).replace(start_B=start)
    return step(params, config, tokens, jnp.arange(width) - start[:, None], cache=cache)[1]


def decode(cache: caches.Cache, tokens_BT: np.ndarray) -> tuple[np.ndarray, caches.Cache]:
    """Hidden states [B, T, D] of further tokens, one step at a time."""
    config, params = model()
    found = []
    for t in range(tokens_BT.shape[1]):
        at = (cache.slot - cache.start_B)[:, None]
        hidden, cache = step(params, config, tokens_BT[:, t : t + 1], at, cache=cache)
        found.append(hidden[:, 0])
    return np.stack(found, 1), cache


def alone(*parts: np.ndarray) -> np.ndarray:
    """Hidden states of the last part when the whole row is computed at once."""
    config, params = model()
    row = np.concatenate(parts)
    filled = np.pad(row, (0, 24 - len(row)))[None]  # one shape, so one compilation
    hidden, _ = step(params, config, filled, np.arange(24)[None])
    return np.asarray(hidden[0, len(row) - len(parts[-1]) : len(row)])


def relay(cache: caches.Cache, source_B: list[int], shift: int, slots: int) -> caches.Cache:
    """The cache with other rows, moved ``shift`` slots down, in ``slots`` slots."""
    source = jnp.asarray(source_B, jnp.int32)
    move = jax.jit(caches.relay, static_argnums=3)
    prefix = cache.prefix or [None] * len(cache.layers)
    layers = [move(p, source, jnp.int32(shift), slots, f) for p, f in zip(cache.layers, prefix)]
    return caches.Cache(layers, cache.start_B[source] - shift, cache.slot - shift)


def test_a_fork_is_a_prefill_of_each():
    rows, more = tiny.tokens(2, 6), tiny.tokens(4, 5, seed=1)
    cache = relay(prefill([rows[0], rows[1][:3]], 6), [0, 0, 1, 0], 0, 12)
    found, _ = decode(cache, more)
    for b, prompt in enumerate((rows[0], rows[0], rows[1][:3], rows[0])):
        assert tiny.relative(found[b], alone(prompt, more[b])) < 1e-5


@pytest.mark.parametrize("shift", [3, -2])
def test_growing_and_moving_rows_changes_nothing(shift):
    """Down by the three slots that no row uses, or up by two; the second row is dropped."""
    rows, more = tiny.tokens(3, 4), tiny.tokens(3, 9, seed=1)
    cache = prefill([rows[0], rows[1][:1], rows[2][:2]], 7)
    _, cache = decode(relay(cache, [0, 1, 2], 0, 10), more[:, :3])
    assert int(cache.slot) == cache.slots == 10
    moved = relay(cache, [0, 2], shift, 18)
    assert int(moved.slot) == 10 - shift
    assert np.array_equal(moved.start_B, np.array([3, 5]) - shift)
    found, _ = decode(moved, more[[0, 2], 3:])
    for b, (row, n) in enumerate(((0, 4), (2, 2))):
        wanted = alone(rows[row][:n], more[row, :3], more[row, 3:])
        assert tiny.relative(found[b], wanted) < 1e-5


def test_refilled_rows_and_their_neighbours_decode_as_if_alone():
    rows, more = tiny.tokens(3, 8), tiny.tokens(3, 8, seed=1)
    new, after = tiny.tokens(2, 5, seed=2), tiny.tokens(3, 4, seed=3)
    _, cache = decode(relay(prefill(list(rows), 8), [0, 1, 2], 0, 24), more)
    fresh = prefill([new[0], new[1][:2]], 5)
    source = jnp.array([1, -1, 0])  # row 1 goes on
    put = jax.jit(caches.put)
    layers = [put(*pairs, source, cache.slot) for pairs in zip(cache.layers, fresh.layers)]
    start = jnp.where(source >= 0, (fresh.start_B + cache.slot - 5)[source], cache.start_B)
    found, _ = decode(cache.replace(layers=layers, start_B=start), after)
    assert tiny.relative(found[0], alone(new[1][:2], after[0])) < 1e-5
    assert tiny.relative(found[1], alone(rows[1], more[1], after[1])) < 1e-5
    assert tiny.relative(found[2], alone(new[0], after[2])) < 1e-5


def test_a_group_reads_its_prefix_and_later_gets_copies_of_it():
    rows, more = tiny.tokens(2, 6), tiny.tokens(4, 9, seed=1)
    begun = prefill([rows[0], rows[1][:3]], 6)
    own = init_cache(model()[0], 4, 5, jnp.float32).layers
    cache = caches.Cache(own, jnp.array([0, 0, 3, 3]), begun.slot, begun.layers)
    assert (cache.prefix_slots, cache.slots) == (6, 11)
    found, cache = decode(cache, more[:, :5])
    prompts = (rows[0], rows[0], rows[1][:3], rows[1][:3])
    for b, prompt in enumerate(prompts):
        assert tiny.relative(found[b], alone(prompt, more[b, :5])) < 1e-5
    kept = [3, 0]
    moved = relay(cache, kept, -2, 20)
    assert (moved.prefix_slots, int(moved.slot)) == (0, 13)
    found, _ = decode(moved, more[kept, 5:])
    for i, b in enumerate(kept):
        assert tiny.relative(found[i], alone(prompts[b], more[b, :5], more[b, 5:])) < 1e-5


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("group", [1, 4])
def test_a_decode_loop_copies_no_cache(windows, group):
    """Temporary memory below one layer's cache, and no copy of its shape in the program."""
    raw = tiny.CONFIGS["qwen2_window" if windows else "qwen2"] | {"head_dim": 16}
    config = from_hf(raw)
    rows, slots, steps = 16, 512, 8
    params = jax.eval_shape(
        lambda key: unstack(init(config, key, jnp.float32), jnp.float32), jax.random.key(0)
    )
    cache = jax.eval_shape(lambda: init_cache(config, rows, slots, jnp.float32))
    prefix = jax.eval_shape(lambda: init_cache(config, rows // group, slots, jnp.float32)).layers

    def block(params, cache, prefix, token_B):
        def one(_, carry):
            cache, token = carry
            at = (cache.slot - cache.start_B)[:, None]
            whole = cache.replace(prefix=prefix if group > 1 else None)
            hidden, found = forward(params, config, token[:, None], at, cache=whole)
            cache = found.replace(prefix=None)
            return cache, jnp.argmax(unembed(params, config, hidden[:, 0]), -1).astype(jnp.int32)

        return jax.lax.fori_loop(0, steps, one, (cache, token_B))

    token = jax.ShapeDtypeStruct((rows,), jnp.int32)
    compiled = jax.jit(block, donate_argnums=1).lower(params, cache, prefix, token).compile()
    one_layer = 2 * rows * config.kv_heads * slots * config.head_width * 4
    assert compiled.memory_analysis().temp_size_in_bytes < one_layer
    body = compiled.as_text().split("ENTRY")[0]
    sizes = r"f32\[(?:\d+,)*512(?:,\d+)*\]"
    copies = [
        line for line in body.splitlines() if re.search(rf"= {sizes}\S* (copy|transpose)\(", line)
    ]
    big = [line for line in copies if np.prod(shape_of(line)) >= one_layer // 8]
    assert "dynamic-update-slice" in body and not big, big


def shape_of(line: str) -> list[int]:
    return [int(size) for size in re.search(r"f32\[([\d,]+)\]", line)[1].split(",")]
