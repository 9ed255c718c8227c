"""Run by test_layouts.py in a process of its own: from the learner's layout to the sampler's."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np

from pruner_jax.mesh import DECODE_RULES, LEARN_RULES, make_mesh
from pruner_jax.policy import handover
from pruner_jax.policy.config import from_hf
from pruner_jax.policy.weights import init, unstack, weight_shardings

CONFIG = from_hf(
    {
        "model_type": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 128,
        "tie_word_embeddings": False,
    }
)


def programs(params, dtype, mesh):
    """The programs of the way, compiled: of a layer, and of the rest."""
    rest = {name: x for name, x in params.items() if name != "layers"}
    return (
        handover.hand_over_layer.lower(params["layers"], 0, CONFIG, dtype, mesh).compile(),
        handover.hand_over_rest.lower(rest, CONFIG, dtype, mesh).compile(),
    )


def main() -> None:
    params = jax.jit(init, static_argnums=(0, 2))(CONFIG, jax.random.key(0), jnp.float32)
    for sizes in ((1, 8, 1), (2, 2, 2), (1, 2, 4)):
        mesh = make_mesh(*sizes)
        placed = jax.device_put(params, weight_shardings(CONFIG, mesh, LEARN_RULES))
        # In float16: what goes between CPU devices in bfloat16, XLA makes float32 for the way.
        for program, matrices in zip(programs(placed, "float16", mesh), (7, 2), strict=True):
            gathered = re.findall(r"= \(?(\w+)\[.*? all-gather(?:-start)?\(", program.as_text())
            assert len(gathered) >= matrices and set(gathered) == {"f16"}, gathered
            memory = program.memory_analysis()  # that has no whole float32 copy
            assert memory.temp_size_in_bytes <= memory.output_size_in_bytes
        listed = handover.hand_over(placed, CONFIG, "bfloat16", mesh)
        jax.tree.map(np.testing.assert_array_equal, listed, unstack(params, jnp.bfloat16))
        places = weight_shardings(CONFIG, mesh, DECODE_RULES, stacked=False)
        jax.tree.map(
            lambda x, place: x.sharding.is_equivalent_to(place, x.ndim) or 1 / 0, listed, places
        )
        both = handover.hand_over_layer, handover.hand_over_rest
        before = [program._cache_size() for program in both]
        handover.hand_over(placed, CONFIG, "bfloat16", mesh)
        assert [program._cache_size() for program in both] == before  # a step compiles nothing
    assert before == [3, 3]  # one of each for a mesh, however many layers
    print("cast first")


if __name__ == "__main__":
    main()
