"""Run by test_layouts.py in a process of its own: from the learner's layout to the sampler's."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np

from pruner_jax.mesh import DECODE_RULES, LEARN_RULES, make_mesh
from pruner_jax.policy.config import from_hf
from pruner_jax.policy.weights import init, unstack, weight_shardings
from pruner_jax.run import engine

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


def main() -> None:
    params = jax.jit(init, static_argnums=(0, 2))(CONFIG, jax.random.key(0), jnp.float32)
    for sizes in ((1, 8, 1), (2, 2, 2), (1, 2, 4)):
        mesh = make_mesh(*sizes)
        placed = jax.device_put(params, weight_shardings(CONFIG, mesh, LEARN_RULES))
        # In float16: what goes between CPU devices in bfloat16, XLA makes float32 for the way.
        compiled = engine._decode_params.lower(placed, CONFIG, "float16", mesh).compile()
        gathered = re.findall(r"= \(?(\w+)\[.*? all-gather(?:-start)?\(", compiled.as_text())
        assert len(gathered) > 12 and set(gathered) == {"f16"}, gathered
        memory = compiled.memory_analysis()
        assert memory.temp_size_in_bytes <= memory.output_size_in_bytes  # no whole float32 copy
        listed = engine._decode_params(placed, CONFIG, "bfloat16", mesh)
        jax.tree.map(np.testing.assert_array_equal, listed, unstack(params, jnp.bfloat16))
        places = weight_shardings(CONFIG, mesh, DECODE_RULES, stacked=False)
        jax.tree.map(
            lambda x, place: x.sharding.is_equivalent_to(place, x.ndim) or 1 / 0, listed, places
        )
        before = engine._decode_params._cache_size()
        engine._decode_params(placed, CONFIG, "bfloat16", mesh)
        assert engine._decode_params._cache_size() == before  # a step compiles nothing
    print("cast first")


if __name__ == "__main__":
    main()
