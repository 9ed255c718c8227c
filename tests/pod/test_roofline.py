"""FLOPs, against XLA's own count of the forward pass, and sizes of known models."""

import math
import pathlib

import jax
import jax.numpy as jnp
import pytest

from pruner_jax.pod import chips, roofline
from pruner_jax.policy import hf, weights
from pruner_jax.policy.config import from_hf
from pruner_jax.policy.forward import forward, unembed

MODELS = pathlib.Path(__file__).parents[2] / "configs" / "models"


def small(layers=2):
    return from_hf(
        {
            "model_type": "qwen2",
            "architectures": ["Qwen2ForCausalLM"],
            "vocab_size": 512,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "tie_word_embeddings": False,
        }
    )


def test_flops_are_what_xla_counts():
    config, T = small(), 64

    def run(params, tokens, positions):
        return unembed(params, config, forward(params, config, tokens, positions)[0])

    params = weights.abstract(config, jnp.float32, stacked=False)  # a loop would be counted once
    tokens = jax.ShapeDtypeStruct((1, T), jnp.int32)
    counted = jax.jit(run).lower(params, tokens, tokens).compile().cost_analysis()["flops"]
    logits = 2 * T * config.vocab_size * config.width
    assert roofline.prefill_flops(config, T) + logits == pytest.approx(counted, rel=0.05)
    # A step of the decoder is a token of the same, its context being the cache.
    assert roofline.decode_flops(config, T, T) == roofline.prefill_flops(config, T) + logits
    # Forward and backward are three times the forward pass; half of the pairs are masked.
    learnt = roofline.learn_flops(config, 1, T - 1) / 3
    assert logits / 2 < learnt < roofline.prefill_flops(config, T) + logits


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("r1_distill_qwen_1p5b", 1_777_088_000),
        ("r1_distill_qwen_7b", 7_615_616_512),
        ("r1_distill_qwen_32b", 32_763_876_352),
        ("r1_distill_llama_8b", 8_030_261_248),
    ],
)
def test_the_descriptions_of_the_models_are_of_their_published_sizes(name, parameters):
    shapes = weights.abstract(hf.read_config(MODELS / name), jnp.bfloat16)
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == parameters


def test_traffic_is_of_the_part_that_a_device_has():
    chip = chips.find("v5e:4x4")  # 2e11 bytes a second one way
    alone = {"data": 1, "fsdp": 4, "tensor": 1}
    # 1e9 parameters, three times, two bytes each, of which each device has a quarter.
    assert roofline.gather_seconds(chip, 10**9, alone) == pytest.approx(4.5e9 / 2e11)
    shared = {**alone, "tensor": 4}
    assert roofline.gather_seconds(chip, 10**9, shared) == pytest.approx(4.5e9 / 4 / 2e11)
    assert roofline.sum_seconds(chip, 10**9, alone) == 0
    # Two replicas: half of a quarter, four bytes each, there and back.
    two = {**alone, "data": 2}
    assert roofline.sum_seconds(chip, 10**9, two) == pytest.approx(1e9 / 2e11)
    once = roofline.update_seconds(chip, 10**9, two, 3, together=False)
    assert once == pytest.approx((3 * 4.5e9 + 1e9) / 2e11)
    often = roofline.update_seconds(chip, 10**9, two, 3, together=True)
    assert often == pytest.approx(3 * (4.5e9 + 1e9) / 2e11)
