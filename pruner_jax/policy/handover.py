"""The learner's weights handed over to the sampler.

From stacked layers in float32, split over ``fsdp``, to a list of layers in the sampler's precision,
whole on every replica (`mesh.LEARN_RULES`, `mesh.DECODE_RULES`). `hand_over` does it;
`hand_over_layer` and `hand_over_rest` are its two programs, which a plan compiles for devices that
are not there. The same numbers without a mesh in mind, in one expression: `weights.unstack`.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import Mesh

from pruner_jax.mesh import DECODE_RULES, LEARN_RULES
from pruner_jax.policy.config import ModelConfig
from pruner_jax.policy.weights import Tree, weight_shardings


def hand_over(params: Tree, config: ModelConfig, dtype: str, mesh: Mesh | None) -> Tree:
    """Parameters for decoding: the learner's, cast, as a list of layers in the sampler's layout.

    A call for each layer, not one for all: before it moves a weight the compiler lays it out
    anew, and in one program all these copies lie there at a time. For Llama-8B on a v6e:4x8 that
    is 14.98 GiB of temporaries beside results of 14.96 GiB; a layer's program has 0.34 GiB beside
    its 0.41. Each is waited for, lest the temporaries of several be set aside. The rest, the
    largest weights of all (1.96 GiB and as much of temporaries), goes first, while there is room.

    Args:
      params: stacked, in any precision, where `LEARN_RULES` put them.
      config: of the model.
      dtype: of the sampler.
      mesh: that ``params`` lie on, several processes' or one's; None: one device.
    """
    rest = {name: x for name, x in params.items() if name != "layers"}
    rest = jax.block_until_ready(hand_over_rest(rest, config, dtype, mesh))
    layers = [
        jax.block_until_ready(hand_over_layer(params["layers"], layer, config, dtype, mesh))
        for layer in range(config.layers)
    ]
    return {**rest, "layers": layers}


@jax.jit(static_argnames=("config", "dtype", "mesh"))
def hand_over_layer(
    layers: Tree, layer: int | jax.Array, config: ModelConfig, dtype: str, mesh: Mesh | None
) -> Tree:
    """One layer of the stacked ones. Which, is an argument, so that one program serves them all;
    no device has a part of the layers only, so that each takes its own shards from its memory.

    To compile it for a mesh that is not there:
    ``hand_over_layer.lower(layers, 0, config, dtype, mesh)`` with the shapes and places of
    ``layers``.
    """
    one = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, layer, keepdims=False), layers)
    if mesh is None:
        return _cast(one, dtype)
    here, there = (
        weight_shardings(config, mesh, rules, stacked=False)["layers"][0]
        for rules in (LEARN_RULES, DECODE_RULES)
    )
    return _moved(one, dtype, here, there)


@jax.jit(static_argnames=("config", "dtype", "mesh"))
def hand_over_rest(rest: Tree, config: ModelConfig, dtype: str, mesh: Mesh | None) -> Tree:
    """All weights that are in no layer; it is lowered like `hand_over_layer`."""
    if mesh is None:
        return _cast(rest, dtype)
    here, there = (
        {name: weight_shardings(config, mesh, rules)[name] for name in rest}
        for rules in (LEARN_RULES, DECODE_RULES)
    )
    return _moved(rest, dtype, here, there)


def _cast(tree: Tree, dtype: str) -> Tree:
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def _moved(tree: Tree, dtype: str, here: Any, there: Any) -> Tree:
    """From one place to the other: every device casts the shards that it has, and what it gathers
    from others has half the bytes."""
    # Both places are said: with the second alone the compiler may gather first and cast then.
    cast = jax.lax.with_sharding_constraint(_cast(tree, dtype), here)
    return jax.lax.with_sharding_constraint(cast, there)
