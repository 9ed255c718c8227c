"""The device side: the loop copies no cache, and layers are re-laid one at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from pruner_jax.policy.cache import init_cache
from pruner_jax.policy.config import ModelConfig, RopeConfig
from pruner_jax.policy.weights import abstract
from pruner_jax.run.compilation import Compiled
from pruner_jax.sample import decode as device
from pruner_jax.sample.force import noise
from pruner_jax.sample.pick import Picking

CONFIG = ModelConfig(
    model_type="qwen2",
    vocab_size=64,
    width=32,
    layers=3,
    heads=4,
    kv_heads=2,
    head_width=32,
    mlp_width=48,
    context=4096,
    rope=RopeConfig(theta=10000.0),
    norm_eps=1e-6,
    tied=True,
)
B, S = 32, 1024


def lowered(hook=None, group=1):
    prefix = None
    if group > 1:
        prefix = jax.eval_shape(lambda: init_cache(CONFIG, B // group, S, jnp.float32)).layers
    layers = jax.eval_shape(lambda: init_cache(CONFIG, B, S, jnp.float32)).layers
    key = jax.eval_shape(lambda: jax.random.key(0))
    program = device.Program(CONFIG, Picking(), (1, 2), 16, hook)
    params = abstract(CONFIG, jnp.float32, stacked=False)
    slot_s, limits = np.zeros(1, np.int32), np.zeros(2, np.int32)
    rows = small.rows(B, hook)
    arguments = (params, layers, prefix, rows, slot_s, limits, key)
    return device.decode.lower(*arguments, program=program)


@pytest.mark.parametrize(
    "hook, group", [(None, 1), (noise(0.1, (3, 4), after=(5,), until=(6,)), 1), (None, 8)]
)
def test_a_block_needs_less_memory_than_one_layer_of_cache(hook, group):
    compiled = lowered(hook, group).compile()
    one_layer = 2 * B * CONFIG.kv_heads * S * CONFIG.head_width * 4
    memory = compiled.memory_analysis()
    assert memory.temp_size_in_bytes < one_layer
    assert memory.alias_size_in_bytes >= CONFIG.layers * one_layer  # the whole cache is donated


def test_programs_are_counted_by_name():
    compiled = Compiled()
    pair = (np.zeros((3, 2, 32, 8), np.float32), np.zeros((3, 2, 8, 32), np.float32))
    for shift in (1, 2):  # the second call finds its program
        moved = device.relay_layer(
            pair, np.array([0, -1], np.int32), np.array([shift], np.int32), slots=5
        )
    assert compiled.lap() == {"perf/compiled": 1, "perf/compiled/relay_layer": 1}
    assert compiled.lap() == {"perf/compiled": 0}
    assert moved[0].shape == (2, 2, 32, 5) and moved[1].shape == (2, 2, 5, 32)
