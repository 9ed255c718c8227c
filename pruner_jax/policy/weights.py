"""Every weight declared once: shape, logical axes, initialiser, Hugging Face name.

The abstract tree, the shardings, random initialisation and the checkpoint mapping follow from
``declare``. Matrices keep the orientation of Hugging Face (output before input), with the heads
split out: so a tensor of a checkpoint is one layer of ours by a reshape alone. Layers are stacked
on a leading axis ("layers") for the learner; ``unstack`` makes the list of layers that the sampler
wants.
"""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import initializers
from jax.sharding import Mesh

from pruner_jax.mesh import Rules, shardings
from pruner_jax.policy.config import ModelConfig

Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Weight:
    """One weight; under "layers" the shape has a leading L and the name a ``{}``."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    init: Callable[..., jax.Array]
    hf_name: str
    hf_shape: tuple[int, ...]  # of one tensor of the checkpoint, so of one layer


def declare(config: ModelConfig) -> dict[str, Any]:
    """All weights of the model as a tree of ``Weight``; the layout of ``params``."""
    c = config
    sizes = {
        "vocab": c.vocab_size, "embed": c.width, "heads": c.heads, "kv_heads": c.kv_heads,
        "head": c.head_width, "mlp": c.mlp_width, "layers": c.layers,
    }  # fmt: skip
    kinds = {
        "matrix": initializers.normal(c.init_std),
        "bias": initializers.zeros,
        "norm": initializers.ones,
    }

    def weight(kind: str, hf_name: str, out: str, into: str = "") -> Weight:
        """``out`` and ``into`` list the axes that Hugging Face merges into rows and columns."""
        axes = tuple(out.split() + into.split())
        shape = tuple(sizes[axis] for axis in axes)
        merged = (math.prod(sizes[axis] for axis in side.split()) for side in (out, into) if side)
        if "{}" in hf_name:
            axes, shape = ("layers", *axes), (c.layers, *shape)
        return Weight(shape, axes, kinds[kind], hf_name, tuple(merged))

    def linear(hf_name: str, out: str, into: str, bias: bool) -> Iterator[tuple[str, Weight]]:
        yield "", weight("matrix", f"model.layers.{{}}.{hf_name}.weight", out, into)
        if bias:
            yield "_bias", weight("bias", f"model.layers.{{}}.{hf_name}.bias", out)

    layers = {"attn_norm": weight("norm", "model.layers.{}.input_layernorm.weight", "embed")}
    for name, hf_name, out, into, bias in (
        ("q", "self_attn.q_proj", "heads head", "embed", c.qkv_bias),
        ("k", "self_attn.k_proj", "kv_heads head", "embed", c.qkv_bias),
        ("v", "self_attn.v_proj", "kv_heads head", "embed", c.qkv_bias),
        ("o", "self_attn.o_proj", "embed", "heads head", c.out_bias),
        ("gate", "mlp.gate_proj", "mlp", "embed", c.mlp_bias),
        ("up", "mlp.up_proj", "mlp", "embed", c.mlp_bias),
        ("down", "mlp.down_proj", "embed", "mlp", c.mlp_bias),
    ):
        layers |= {name + end: w for end, w in linear(hf_name, out, into, bias)}
    if c.qk_norm:
        for name in ("q", "k"):
            hf_name = f"model.layers.{{}}.self_attn.{name}_norm.weight"
            layers[f"{name}_norm"] = weight("norm", hf_name, "head")
    layers["mlp_norm"] = weight("norm", "model.layers.{}.post_attention_layernorm.weight", "embed")
    tree = {
        "embed": weight("matrix", "model.embed_tokens.weight", "vocab", "embed"),
        "layers": layers,
        "final_norm": weight("norm", "model.norm.weight", "embed"),
    }
    if not c.tied:
        tree["unembed"] = weight("matrix", "lm_head.weight", "vocab", "embed")
    return tree


def tensors(config: ModelConfig) -> Iterator[tuple[str, tuple[str, ...], int | None, Weight]]:
    """Every tensor of the checkpoint: its name, path in the tree, layer (or None) and Weight."""
    for path, weight in _flat(declare(config)):
        for layer in range(config.layers) if path[0] == "layers" else (None,):
            yield weight.hf_name.format(layer), path, layer, weight


def abstract(config: ModelConfig, dtype: Any, *, stacked: bool = True) -> Tree:
    """Shapes and dtypes without numbers, stacked (learner) or as a list of layers (sampler)."""
    tree = _map(lambda w: jax.ShapeDtypeStruct(w.shape, jnp.dtype(dtype)), declare(config))
    return tree if stacked else jax.eval_shape(lambda t: unstack(t, dtype), tree)


def axes(config: ModelConfig, *, stacked: bool = True) -> Tree:
    """The logical axes of every weight, in the layout of ``abstract``."""
    tree = _map(lambda w: w.axes, declare(config))
    if stacked:
        return tree
    one = {name: names[1:] for name, names in tree["layers"].items()}
    return {**tree, "layers": [one] * config.layers}


def weight_shardings(
    config: ModelConfig, mesh: Mesh, rules: Rules, *, stacked: bool = True
) -> Tree:
    """Where every weight lies on the mesh; an error names the axis that cannot be split."""
    return shardings(
        axes(config, stacked=stacked), mesh, rules, abstract(config, jnp.float32, stacked=stacked)
    )


def init(config: ModelConfig, key: jax.Array, dtype: Any) -> Tree:
    """Random parameters; every weight's key comes from its path, so none depends on another."""
    tree: Tree = {"layers": {}}
    for path, weight in _flat(declare(config)):
        own = jax.random.fold_in(key, zlib.crc32("/".join(path).encode()))
        place = tree["layers"] if path[0] == "layers" else tree
        place[path[-1]] = weight.init(own, weight.shape, jnp.dtype(dtype))
    return tree


def unstack(params: Tree, dtype: Any) -> Tree:
    """Parameters for decoding: a list of layers in the compute dtype.

    Call it inside ``jit`` (with ``out_shardings`` of the decode rules), once per change of the
    weights: slicing stacked weights inside the decode loop would copy them at every step.
    """
    cast = jax.tree.map(lambda w: w.astype(dtype), params)
    stacked = cast["layers"]
    count = len(stacked["attn_norm"])
    return {**cast, "layers": [{n: w[i] for n, w in stacked.items()} for i in range(count)]}


def _map(function: Callable[[Weight], Any], tree: dict[str, Any]) -> Tree:
    return jax.tree.map(function, tree, is_leaf=lambda leaf: isinstance(leaf, Weight))


def _flat(
    tree: dict[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Weight]]:
    for name, value in tree.items():
        if isinstance(value, Weight):
            yield (*path, name), value
        else:
            yield from _flat(value, (*path, name))
