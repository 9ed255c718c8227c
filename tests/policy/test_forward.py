"""The forward pass against itself: every way to compute the same logits gives the same logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from pruner_jax.policy import attention
from pruner_jax.policy.cache import init_cache
from pruner_jax.policy.forward import forward, rms_norm, unembed
from pruner_jax.policy.weights import unstack

# Windows on some layers, q/k norms with an odd head width, scaled rope with tied weights.
MODELS = ("qwen2_layer_types", "qwen3", "llama3_new", "mistral")
each_model = pytest.mark.parametrize("name", MODELS)

step = jax.jit(forward, static_argnames=("config", "remat"))


def positions(rows: int, length: int) -> jax.Array:
    return jnp.broadcast_to(jnp.arange(length), (rows, length))


def full_logits(params, config, tokens, **kwargs) -> np.ndarray:
    hidden, _ = step(params, config, tokens, positions(*tokens.shape), **kwargs)
    return np.asarray(unembed(params, config, hidden))


@each_model
def test_cached_decode_is_the_full_forward(name):
    config, params = tiny.model(name)
    tokens = tiny.tokens(3, 20)
    decode = unstack(params, jnp.float32)
    cache = init_cache(config, 3, 20, jnp.float32)
    hidden, cache = step(decode, config, tokens[:, :7], positions(3, 7), cache=cache)
    found = [hidden]
    for t in range(7, 20):
        at = jnp.full((3, 1), t)
        hidden, cache = step(decode, config, tokens[:, t : t + 1], at, cache=cache)
        found.append(hidden)
    assert int(cache.slot) == 20
    logits = unembed(decode, config, jnp.concatenate(found, 1))
    assert tiny.relative(logits, full_logits(params, config, tokens)) < 1e-5


@each_model
def test_ragged_prompts_end_together(name):
    """Right-aligned prompts of three lengths, then decode: each row as if it were alone."""
    config, params = tiny.model(name)
    rows, lengths, width, more = tiny.tokens(3, 16), np.array([9, 4, 1]), 9, 5
    decode = unstack(params, jnp.float32)
    start = jnp.asarray(width - lengths, jnp.int32)
    prompt = np.full((3, width), 60, np.int32)
    for b, n in enumerate(lengths):
        prompt[b, width - n :] = rows[b, :n]
    cache = init_cache(config, 3, width + more, jnp.float32).replace(start_B=start)
    hidden, cache = step(decode, config, prompt, jnp.arange(width) - start[:, None], cache=cache)
    found = [hidden[:, -1]]
    for t in range(more):
        token = rows[np.arange(3), lengths + t][:, None]
        at = (cache.slot - start)[:, None]
        hidden, cache = step(decode, config, token, at, cache=cache)
        found.append(hidden[:, 0])
    logits = np.asarray(unembed(decode, config, jnp.stack(found, 1)))
    for b, n in enumerate(lengths):
        alone = full_logits(params, config, rows[b : b + 1, : n + more])[0, n - 1 :]
        assert tiny.relative(logits[b], alone) < 1e-5


@each_model
def test_prefill_in_two_pieces_is_one_prefill(name):
    config, params = tiny.model(name)
    tokens = tiny.tokens(2, 15)
    decode = unstack(params, jnp.float32)
    cache = init_cache(config, 2, 18, jnp.float32)
    _, cache = step(decode, config, tokens[:, :6], positions(2, 6), cache=cache)
    hidden, _ = step(decode, config, tokens[:, 6:], positions(2, 15)[:, 6:], cache=cache)
    found = unembed(decode, config, hidden)
    assert tiny.relative(found, full_logits(params, config, tokens)[:, 6:]) < 1e-5


@each_model
def test_packed_is_unpacked(name):
    config, params = tiny.model(name)
    tokens = tiny.tokens(1, 24)
    lengths = (7, 11, 3)  # and three tokens of padding
    segments, at, place = np.zeros((1, 24), np.int32), np.zeros((1, 24), np.int32), 0
    for number, n in enumerate(lengths, start=1):
        segments[0, place : place + n] = number
        at[0, place : place + n] = np.arange(n)
        place += n
    hidden, _ = step(params, config, tokens, at, segments_BT=segments)
    packed, place = np.asarray(unembed(params, config, hidden)), 0
    for n in lengths:
        alone = full_logits(params, config, tokens[:, place : place + n])
        assert tiny.relative(packed[:, place : place + n], alone) < 1e-5
        place += n
    assert np.isfinite(packed).all()


@each_model
def test_a_scan_over_layers_is_a_loop_over_layers(name):
    config, params = tiny.model(name)
    tokens = tiny.tokens(2, 13)
    looped = full_logits(unstack(params, jnp.float32), config, tokens)
    assert tiny.relative(full_logits(params, config, tokens), looped) < 1e-6


@pytest.mark.parametrize(("listed", "names"), [(False, ("dots", "full")), (True, ("full",))])
def test_rematerialisation_changes_neither_values_nor_gradients(listed, names):
    config, params = tiny.model("qwen2_layer_types")
    tokens = tiny.tokens(2, 13)

    def loss(params, remat):
        tree = unstack(params, jnp.float32) if listed else params
        hidden, _ = forward(tree, config, tokens, positions(2, 13), remat=remat)
        return jax.nn.logsumexp(unembed(params, config, hidden), axis=-1).mean()

    grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    value, gradients = grad(params, None)
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(gradients))
    for remat in names:
        same_value, same_gradients = grad(params, remat)
        assert abs(same_value - value) < 1e-6
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradients, same_gradients
        )


def test_full_rematerialisation_saves_memory():
    config, params = tiny.model("llama3_new")
    tokens = jax.ShapeDtypeStruct((8, 256), jnp.int32)

    def loss(params, tokens, remat):
        hidden, _ = forward(params, config, tokens, positions(8, 256), remat=remat)
        return hidden.sum()

    def temporary(remat):
        lowered = jax.jit(jax.grad(loss), static_argnums=2).lower(params, tokens, remat)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporary("full") < 0.6 * temporary("none")


@pytest.mark.parametrize("name", MODELS[:2])
def test_long_rows_in_chunks_are_dense_rows(name, monkeypatch):
    """Values and gradients; 37 queries in chunks of 8, the last not full, and some padding."""
    config, params = tiny.model(name)
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
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), found, wanted)


def test_long_rows_never_hold_all_scores():
    config, params = tiny.model("llama3_new")
    T = 4 * attention.LONG
    tokens = jax.ShapeDtypeStruct((1, T), jnp.int32)

    def loss(params, tokens):
        return forward(params, config, tokens, positions(1, T), remat="full")[0].sum()

    compiled = jax.jit(jax.grad(loss)).lower(params, tokens).compile()
    scores = config.heads * T * T * 4
    assert compiled.memory_analysis().temp_size_in_bytes < scores / 2


def test_bfloat16_computes_norms_and_softmax_in_float32():
    config, params = tiny.model("qwen3")
    tokens = tiny.tokens(2, 13)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    logits = full_logits(half, config, tokens)
    assert logits.dtype == np.float32
    assert tiny.relative(logits, full_logits(params, config, tokens)) < 0.05
    # 300 equal values: their mean square is exact in float32 and far off if summed in bfloat16.
    x = jnp.full((1, 300), 3.0, jnp.bfloat16)
    assert np.allclose(rms_norm(x, jnp.ones(300, jnp.bfloat16), 0.0), 1.0)


def test_wrong_calls_say_what_is_allowed():
    config, params = tiny.model("qwen2")
    tokens = tiny.tokens(1, 4)
    with pytest.raises(ValueError, match="remat = 'some'; allowed: none, dots, full"):
        forward(params, config, tokens, positions(1, 4), remat="some")
    cache = init_cache(config, 1, 4, jnp.float32)
    with pytest.raises(ValueError, match="call unstack first"):
        forward(params, config, tokens, positions(1, 4), cache=cache)
