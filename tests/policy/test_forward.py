"""The forward pass against itself: every way to compute the same logits gives the same logits."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from pruner_jax.policy import attention
from pruner_jax.policy.cache import init_cache
from pruner_jax.policy.forward import forward, rms_norm, unembed
from pruner_jax.policy.weights import unstack

# Windows that differ by layer, q/k norms with an odd head width, one window for all.
MODELS = ("qwen2_layer_types", "qwen3", "mistral")
each_model = pytest.mark.parametrize("name", MODELS)

# Compiling is what these tests cost: they share their shapes, and so their programs.
ROWS, LENGTH, FIRST = 3, 20, 7
POSITIONS = jnp.broadcast_to(jnp.arange(LENGTH), (ROWS, LENGTH))
step = jax.jit(forward, static_argnames=("config", "remat"))


def full_logits(params, config, tokens, positions=POSITIONS, **kwargs) -> np.ndarray:
    hidden, _ = step(params, config, tokens, positions, **kwargs)
    return np.asarray(unembed(params, config, hidden))


def prefill(params, config, tokens, start_B=(0, 0, 0)):
    """Hidden states and cache of the first tokens, in a cache of LENGTH slots."""
    start = jnp.asarray(start_B, jnp.int32)
    cache = init_cache(config, ROWS, LENGTH, jnp.float32).replace(start_B=start)
    positions = jnp.arange(FIRST) - start[:, None]
    return step(params, config, tokens, positions, cache=cache)


@each_model
def test_cached_decode_is_the_full_forward(name):
    config, params = tiny.model(name)
    tokens = tiny.tokens(ROWS, LENGTH)
    decode = unstack(params, jnp.float32)
    hidden, cache = prefill(decode, config, tokens[:, :FIRST])
    found = [hidden]
    for t in range(FIRST, LENGTH):
        at = jnp.full((ROWS, 1), t)
        hidden, cache = step(decode, config, tokens[:, t : t + 1], at, cache=cache)
        found.append(hidden)
    assert int(cache.slot) == LENGTH
    logits = unembed(decode, config, jnp.concatenate(found, 1))
    assert tiny.relative(logits, full_logits(params, config, tokens)) < 1e-5


@each_model
def test_ragged_prompts_end_together(name):
    """Right-aligned prompts of three lengths, then decode: each row as if it were alone."""
    config, params = tiny.model(name)
    rows, lengths, more = tiny.tokens(ROWS, LENGTH), np.array([FIRST, 4, 1]), 5
    decode = unstack(params, jnp.float32)
    prompt = np.full((ROWS, FIRST), 60, np.int32)
    for b, n in enumerate(lengths):
        prompt[b, FIRST - n :] = rows[b, :n]
    hidden, cache = prefill(decode, config, prompt, FIRST - lengths)
    found = [hidden[:, -1]]
    for t in range(more):
        token = rows[np.arange(ROWS), lengths + t][:, None]
        at = (cache.slot - cache.start_B)[:, None]
        hidden, cache = step(decode, config, token, at, cache=cache)
        found.append(hidden[:, 0])
    logits = np.asarray(unembed(decode, config, jnp.stack(found, 1)))
    wanted = full_logits(params, config, rows)
    for b, n in enumerate(lengths):
        assert tiny.relative(logits[b], wanted[b, n - 1 : n + more]) < 1e-5


@each_model
def test_prefill_in_two_pieces_is_one_prefill(name):
    config, params = tiny.model(name)
    tokens = tiny.tokens(ROWS, LENGTH)
    decode = unstack(params, jnp.float32)
    _, cache = prefill(decode, config, tokens[:, :FIRST])
    hidden, _ = step(decode, config, tokens[:, FIRST:], POSITIONS[:, FIRST:], cache=cache)
    found = unembed(decode, config, hidden)
    assert tiny.relative(found, full_logits(params, config, tokens)[:, FIRST:]) < 1e-5


@each_model
def test_packed_is_unpacked(name):
    """Three sequences and two tokens of padding in a row, against each sequence alone."""
    config, params = tiny.model(name)
    tokens, lengths = tiny.tokens(ROWS, LENGTH), (7, 8, 3)
    alone = np.zeros((ROWS, LENGTH), np.int32)
    segments, positions = np.zeros((2, ROWS, LENGTH), np.int32)
    place = 0
    for number, n in enumerate(lengths):
        segments[:, place : place + n] = number + 1
        positions[:, place : place + n] = np.arange(n)
        alone[number, :n] = tokens[0, place : place + n]
        place += n
    packed = full_logits(params, config, tokens, positions, segments_BT=segments)
    wanted, place = full_logits(params, config, alone), 0
    for number, n in enumerate(lengths):
        assert tiny.relative(packed[0, place : place + n], wanted[number, :n]) < 1e-5
        place += n
    assert np.isfinite(packed).all()


@each_model
def test_a_scan_over_layers_is_a_loop_over_layers(name):
    config, params = tiny.model(name)
    tokens = tiny.tokens(ROWS, LENGTH)
    looped = full_logits(unstack(params, jnp.float32), config, tokens)
    assert tiny.relative(full_logits(params, config, tokens), looped) < 1e-6


def test_rematerialisation_changes_memory_but_neither_values_nor_gradients():
    config, params = tiny.model("qwen2_layer_types")
    tokens = tiny.tokens(ROWS, 64)
    positions = jnp.broadcast_to(jnp.arange(64), (ROWS, 64))

    def loss(params, remat, listed):
        tree = unstack(params, jnp.float32) if listed else params
        hidden, _ = forward(tree, config, tokens, positions, remat=remat)
        return jax.nn.logsumexp(unembed(params, config, hidden), axis=-1).mean()

    def run(remat, listed=False):
        grad = jax.jit(jax.value_and_grad(loss), static_argnums=(1, 2))
        compiled = grad.lower(params, remat, listed).compile()
        return *compiled(params), compiled.memory_analysis().temp_size_in_bytes

    value, gradients, most = run("none")
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradients))
    for remat, listed, share in (("dots", False, 1.0), ("full", False, 0.7), ("full", True, 1.0)):
        same_value, same_gradients, memory = run(remat, listed)
        assert abs(same_value - value) < 1e-6
        close = functools.partial(np.testing.assert_allclose, atol=1e-6)
        jax.tree.map(close, gradients, same_gradients)
        assert memory < share * most, (remat, memory, most)


def test_long_rows_in_chunks_are_dense_rows(monkeypatch):
    """Values and gradients; 37 queries in chunks of 8, the last not full, and some padding."""
    config, params = tiny.model("qwen2_layer_types")
    tokens = tiny.tokens(2, 37)
    segments = np.repeat([[1] * 20 + [2] * 14 + [0] * 3], 2, 0)
    at = np.concatenate([np.arange(20), np.arange(17)])[None].repeat(2, 0)

    def loss(params):
        hidden, _ = forward(params, config, tokens, at, segments_BT=segments)
        return jnp.square(hidden * (segments > 0)[..., None]).mean(), hidden

    def values_and_gradients():
        return jax.jit(jax.value_and_grad(lambda params: loss(params), has_aux=True))(params)

    (_, dense), wanted = values_and_gradients()
    monkeypatch.setattr(attention, "LONG", 16)
    monkeypatch.setattr(attention, "CHUNK", 8)
    (_, chunked), found = values_and_gradients()
    assert tiny.relative(chunked[segments > 0], dense[segments > 0]) < 1e-5
    close = functools.partial(np.testing.assert_allclose, atol=2e-6)
    jax.tree.map(close, found, wanted)


def test_long_rows_never_hold_all_scores():
    config, params = tiny.model("llama3_new")
    T = 4 * attention.LONG
    tokens = jax.ShapeDtypeStruct((1, T), jnp.int32)

    def loss(params, tokens):
        return forward(params, config, tokens, jnp.arange(T)[None], remat="full")[0].sum()

    compiled = jax.jit(jax.grad(loss)).lower(params, tokens).compile()
    scores = config.heads * T * T * 4
    assert compiled.memory_analysis().temp_size_in_bytes < scores / 2


def test_bfloat16_computes_norms_and_softmax_in_float32():
    config, params = tiny.model("qwen3")
    tokens = tiny.tokens(ROWS, LENGTH)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    logits = full_logits(half, config, tokens)
    assert logits.dtype == np.float32
    assert tiny.relative(logits, full_logits(params, config, tokens)) < 0.05
    # 300 equal values: their mean square is exact in float32 and far off if summed in bfloat16.
    x = jnp.full((1, 300), 3.0, jnp.bfloat16)
    assert np.allclose(rms_norm(x, jnp.ones(300, jnp.bfloat16), 0.0), 1.0)


def test_wrong_calls_say_what_is_allowed():
    config, params = tiny.model("qwen2")
    tokens = tiny.tokens(ROWS, LENGTH)
    with pytest.raises(ValueError, match="remat = 'some'; allowed: none, dots, full"):
        forward(params, config, tokens, POSITIONS, remat="some")
    cache = init_cache(config, ROWS, LENGTH, jnp.float32)
    with pytest.raises(ValueError, match="call unstack first"):
        forward(params, config, tokens, POSITIONS, cache=cache)
