"""One declaration: the abstract tree, the axes, random weights and the checkpoint names agree."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from pruner_jax.mesh import DECODE_RULES, LEARN_RULES, make_mesh
from pruner_jax.policy.config import from_hf
from pruner_jax.policy.weights import abstract, axes, init, tensors, unstack, weight_shardings


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_all_that_follows_from_the_declaration_has_one_shape(name):
    config, params = tiny.model(name)
    shapes = abstract(config, jnp.float32)
    jax.tree.map(lambda leaf, there: (leaf.shape == there.shape) or pytest.fail(), params, shapes)
    drawn = jax.eval_shape(lambda key: init(config, key, jnp.float32), jax.random.key(0))
    assert drawn == shapes
    assert jax.eval_shape(lambda p: unstack(p, jnp.bfloat16), params) == abstract(
        config, jnp.bfloat16, stacked=False
    )
    total = sum(np.prod(weight.hf_shape) for _, _, _, weight in tensors(config))
    assert total == sum(leaf.size for leaf in jax.tree.leaves(params))
    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    for stacked in (True, False):
        tree = abstract(config, jnp.float32, stacked=stacked)
        names = axes(config, stacked=stacked)
        jax.tree.map(lambda leaf, axes: len(axes) == leaf.ndim or pytest.fail(), tree, names)
        for rules in (LEARN_RULES, DECODE_RULES):
            placed = weight_shardings(config, mesh, rules, stacked=stacked)
            assert jax.tree.structure(placed) == jax.tree.structure(tree)


def test_the_real_size_of_a_real_model():
    """Qwen2.5-1.5B has 1,543,714,304 parameters, its unembedding not counted twice."""
    config = from_hf(
        {
            "model_type": "qwen2",
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
        }
    )
    shapes = jax.tree.leaves(abstract(config, jnp.bfloat16))
    assert sum(leaf.size for leaf in shapes) == 1_543_714_304


def test_random_weights():
    config = from_hf(tiny.CONFIGS["qwen2_new"] | {"initializer_range": 0.05, "hidden_size": 64})
    draw = jax.jit(init, static_argnums=(0, 2))
    params = draw(config, jax.random.key(0), jnp.float32)
    layers = params["layers"]
    assert float(jnp.std(layers["up"])) == pytest.approx(0.05, rel=0.05)
    assert (layers["attn_norm"] == 1).all() and (layers["q_bias"] == 0).all()
    assert not (layers["k"][0] == layers["k"][1]).any() and not (layers["k"] == layers["v"]).any()
    again = draw(config, jax.random.key(0), jnp.float32)
    jax.tree.map(np.testing.assert_array_equal, params, again)
    # A weight's numbers depend on its own path and shape alone.
    tied = from_hf(config.hf | {"tie_word_embeddings": True})
    tied = draw(tied, jax.random.key(0), jnp.float32)
    assert (tied["layers"]["o"] == layers["o"]).all() and "unembed" not in tied
