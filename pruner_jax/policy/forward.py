"""The forward pass: tokens to hidden states to logits, for the learner and the sampler alike.

Takes a parameter tree (``weights.py``), its static ModelConfig, tokens and positions; computes in
the dtype of the parameters, with norms, rotations and softmax in float32. Stacked layers run as a
scan with rematerialisation by name; a list of layers runs as a Python loop, and that is the form
that takes a cache. Leaves out dropout and every loss.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruner_jax.mesh import ROWS, constrain
from pruner_jax.policy import rope
from pruner_jax.policy.attention import attend, score_bias
from pruner_jax.policy.cache import Cache, write
from pruner_jax.policy.config import ModelConfig
from pruner_jax.policy.product import product

# What the backward pass finds saved of each layer: everything, the outputs of the weight products,
# or only the layer's input.
_REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
# By what rows without a cache attend: XLA's products, or the kernel for TPUs, compiled for one or
# interpreted anywhere.
_ATTENTIONS = ("xla", "splash", "splash_interpreted")
_EVERYTHING = np.iinfo(np.int32).max  # the window of a layer without one


def forward(
    params: dict[str, Any],
    config: ModelConfig,
    tokens_BT: jax.Array,
    positions_BT: jax.Array,
    *,
    segments_BT: jax.Array | None = None,
    cache: Cache | None = None,
    remat: str | None = None,
    attention: str = "xla",
    rotation: tuple[jax.Array, jax.Array] | None = None,
) -> tuple[jax.Array, Cache | None]:
    """Hidden states [B, T, D] after the final norm, and the cache with T more tokens in it.

    ``segments_BT`` packs several sequences into a row: attention stays inside equal, non-zero ids,
    and is causal; positions must rise by 1 within a segment. With a cache, token t of every row
    goes to slot ``cache.slot + t``: T = 1 is a decode step, more is a prefill of right-aligned rows
    (slots before ``start_B`` are padding). ``attention``: without a cache, by XLA or by the kernel
    of ``splash.py``. ``rotation``: ``rope.rotation`` of the positions, where a loop has it at hand.
    """
    stacked = isinstance(params["layers"], dict)
    if cache is not None and (stacked or segments_BT is not None):
        raise ValueError(
            "forward: a cache needs params['layers'] as a list (call unstack first) and no "
            "segments_BT"
        )
    if (remat or "none") not in _REMAT:
        raise ValueError(f"forward: remat = {remat!r}; allowed: {', '.join(_REMAT)}")
    if attention not in _ATTENTIONS:
        raise ValueError(f"forward: attention = {attention!r}; allowed: {', '.join(_ATTENTIONS)}")
    table = constrain(params["embed"], "tensor")  # rows are looked up whole, not split over fsdp
    x = constrain(jnp.take(table, tokens_BT, axis=0), ROWS)
    if cache is None and attention != "xla":
        look = _look_by_kernel(config, segments_BT, attention == "splash_interpreted")
    else:
        look = _look(positions_BT, segments_BT, cache)
    rotation = rotation or rope.rotation(config, positions_BT)
    block = functools.partial(_block, config, rotation, look)
    if _REMAT[remat or "none"] is not None:
        block = jax.checkpoint(block, policy=_REMAT[remat or "none"])
    if stacked:
        x = _scan(block, x, params["layers"], config)
    else:
        nothing = [None] * config.layers
        old = nothing if cache is None else zip(cache.layers, cache.prefix or nothing)
        windows = config.sliding_window or (None,) * config.layers
        new = []
        for layer, window, keys_values in zip(params["layers"], windows, old, strict=True):
            x, keys_values = block(x, layer, window, keys_values)
            new.append(keys_values)
        if cache is not None:
            cache = cache.replace(layers=new, slot=cache.slot + tokens_BT.shape[1])
    return rms_norm(x, params["final_norm"], config.norm_eps), cache


def unembed(params: dict[str, Any], config: ModelConfig, hidden: jax.Array) -> jax.Array:
    """Logits of hidden states [..., D], float32 [..., V]."""
    table = params["embed"] if config.tied else params["unembed"]
    return jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / sqrt(mean(x^2) + eps) * scale over the last axis; statistics in float32."""
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(mean_square + eps)).astype(x.dtype) * scale


def _scan(block: Callable, x: jax.Array, layers: dict[str, jax.Array], config: ModelConfig):
    """The stacked layers, one after the other; windows that differ travel with their layer."""
    windows = set(config.sliding_window) or {None}
    if len(windows) == 1:
        (window,) = windows
        return jax.lax.scan(lambda x, layer: block(x, layer, window, None), x, layers)[0]
    each = np.array([_EVERYTHING if w is None else w for w in config.sliding_window], np.int32)
    return jax.lax.scan(lambda x, one: block(x, *one, None), x, (layers, each))[0]


def _look(positions_BT: jax.Array, segments_BT: jax.Array | None, cache: Cache | None) -> Callable:
    """How queries of these rows attend: ``look(q, k, v, window, old) -> (mixed, kept)``."""
    if cache is None:
        place = {"q_position_BT": positions_BT, "k_position_BS": positions_BT}
        if segments_BT is not None:
            place |= {"q_segment_BT": segments_BT, "k_segment_BS": segments_BT}
        bias_BTS = score_bias(**place)

        def look(q, k, v, window, old):
            k, v = k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)
            return attend(q, k, v, window=window, bias_BTS=bias_BTS, **place), None

        return look
    start = cache.start_B[:, None]
    q_position = cache.slot + jnp.arange(positions_BT.shape[1], dtype=jnp.int32) - start
    k_position = jnp.arange(cache.slots, dtype=jnp.int32) - start
    place = {"q_position_BT": q_position, "k_position_BS": k_position}
    bias_BTS = score_bias(**place)

    def look(q, k, v, window, old):
        # Write first, then read only what was written: reading the old value as well would copy it.
        own, prefix = old
        k, v = write(own, k, v, cache.slot - cache.prefix_slots)
        seen = {"prefix": prefix, "window": window, "bias_BTS": bias_BTS}
        return attend(q, k, v, **seen, **place), (k, v)

    return look


def _look_by_kernel(
    config: ModelConfig, segments_BT: jax.Array | None, interpret: bool
) -> Callable:
    """The same for rows without a cache, by the kernel. It is made for one window, but a window
    comes with its layer as a number of the program, which picks among the kernels."""
    from pruner_jax.policy.splash import splash  # experimental in JAX; no other path needs it

    windows = sorted({_EVERYTHING if w is None else w for w in config.sliding_window or (None,)})
    kernels = [
        functools.partial(splash, window=None if w == _EVERYTHING else w, interpret=interpret)
        for w in windows
    ]

    def look(q, k, v, window, old):
        window = _EVERYTHING if window is None else window
        which = jnp.searchsorted(np.array(windows, np.int32), window)
        return jax.lax.switch(which, kernels, q, k, v, segments_BT), None

    return look


def _block(config, rotation, look, x, layer, window, old):
    """One layer: x + attention, then + MLP, and the keys and values it leaves behind."""
    with jax.named_scope("attention"):
        normed = rms_norm(x, layer["attn_norm"], config.norm_eps)
        q, k, v = (_project(layer, name, normed) for name in "qkv")
        if config.qk_norm:
            q = rms_norm(q, layer["q_norm"], config.norm_eps)
            k = rms_norm(k, layer["k_norm"], config.norm_eps)
        q, k = rope.rotate(q, *rotation), rope.rotate(k, *rotation)
        mixed, kept = look(q, k, v, window, old)
        x = x + _join(layer, mixed)
    with jax.named_scope("mlp"):
        normed = rms_norm(x, layer["mlp_norm"], config.norm_eps)
        gate, up = _dense(layer, "gate", normed), _dense(layer, "up", normed)
        x = x + _dense(layer, "down", jax.nn.silu(gate) * up)
    return constrain(x, ROWS), kept


def _project(layer: dict[str, jax.Array], name: str, x: jax.Array) -> jax.Array:
    """[B, T, D] to heads [B, T, N, H]."""
    heads = layer[name].shape[:2]
    # A weight of three axes XLA:CPU would write out anew, as a matrix, at every step of a decode.
    flat = product("btd,fd->btf", x, layer[name].reshape(-1, x.shape[-1]))
    return _bias(layer, name, flat.reshape(*x.shape[:2], *heads))


def _join(layer: dict[str, jax.Array], mixed: jax.Array) -> jax.Array:
    """Heads [B, T, N, H] to [B, T, D]."""
    flat = mixed.reshape(*mixed.shape[:2], -1)
    out = product("btf,df->btd", flat, layer["o"].reshape(-1, flat.shape[-1]))
    return _bias(layer, "o", out)


def _dense(layer: dict[str, jax.Array], name: str, x: jax.Array) -> jax.Array:
    return _bias(layer, name, product("btd,fd->btf", x, layer[name]))


def _bias(layer: dict[str, jax.Array], name: str, x: jax.Array) -> jax.Array:
    return x + layer[f"{name}_bias"] if f"{name}_bias" in layer else x
