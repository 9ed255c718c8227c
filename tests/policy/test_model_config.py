"""Reading config.json: both spellings mean the same, nothing that changes the model is ignored."""

from __future__ import annotations

import subprocess
import sys

import pytest
import tiny

from pruner_jax.policy.config import ModelConfig, RopeConfig, families, from_hf


def test_a_config_as_published():
    """The fields of DeepSeek-R1-Distill-Qwen-1.5B."""
    config = from_hf(
        {
            "architectures": ["Qwen2ForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": 151643,
            "eos_token_id": 151643,
            "hidden_act": "silu",
            "hidden_size": 1536,
            "initializer_range": 0.02,
            "intermediate_size": 8960,
            "max_position_embeddings": 131072,
            "max_window_layers": 21,
            "model_type": "qwen2",
            "num_attention_heads": 12,
            "num_hidden_layers": 28,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-06,
            "rope_theta": 10000,
            "sliding_window": 4096,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "transformers_version": "4.44.0",
            "use_cache": True,
            "use_mrope": False,
            "use_sliding_window": False,
            "vocab_size": 151936,
        }
    )
    assert config == ModelConfig(
        model_type="qwen2",
        vocab_size=151936,
        width=1536,
        layers=28,
        heads=12,
        kv_heads=2,
        head_width=128,
        mlp_width=8960,
        context=131072,
        rope=RopeConfig(theta=10000.0),
        norm_eps=1e-6,
        tied=False,
        qkv_bias=True,
    )
    assert config.hf["use_mrope"] is False and hash(config) == hash(from_hf(config.hf))


def test_old_and_new_rope_spelling_are_the_same():
    raw = {key: value for key, value in tiny.CONFIGS["llama3"].items() if "rope" not in key}
    scaling = tiny.CONFIGS["llama3"]["rope_scaling"]
    old = from_hf(raw | {"rope_theta": 500000.0, "rope_scaling": scaling})
    new = from_hf(raw | {"rope_parameters": scaling | {"rope_theta": 500000.0}})
    assert old == new and old.rope.kind == "llama3" and old.rope.theta == 500000.0


def test_windows_by_layer():
    assert from_hf(tiny.CONFIGS["qwen2"]).sliding_window == ()  # there, but switched off
    assert from_hf(tiny.CONFIGS["qwen2_window"]).sliding_window == (None, 5, 5)
    assert from_hf(tiny.CONFIGS["qwen2_layer_types"]).sliding_window == (4, None, 4)
    assert from_hf(tiny.CONFIGS["mistral"]).sliding_window == (6, 6, 6)
    absent = {k: v for k, v in tiny.CONFIGS["mistral"].items() if k != "sliding_window"}
    assert from_hf(absent).sliding_window == (4096,) * 3  # the family's default


def test_what_is_missing_takes_the_family_s_default():
    llama = from_hf(tiny.CONFIGS["llama"])
    assert llama.kv_heads == 4 and llama.head_width == 8 and llama.rope.theta == 10000.0
    qwen3 = {k: v for k, v in tiny.CONFIGS["qwen3"].items() if k != "head_dim"}
    assert from_hf(qwen3).head_width == 128


@pytest.mark.parametrize(
    "raw",
    [
        {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"]},
        {"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]},
        tiny.CONFIGS["qwen2"] | {"architectures": ["Qwen2ForSequenceClassification"]},
        {},
    ],
)
def test_an_architecture_that_is_not_supported_is_refused_by_name(raw):
    with pytest.raises(ValueError) as caught:
        from_hf(raw)
    message = str(caught.value)
    assert str(raw.get("architectures", [None])[0]) in message
    for name, family in families().items():
        assert f"{family.ARCHITECTURE} ({name})" in message
    assert list(families()) == ["llama", "mistral", "qwen2", "qwen3"]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("qwen2", {"hidden_act": "gelu"}, "hidden_act = 'gelu'; allowed: 'silu'"),
        ("qwen2", {"attention_dropout": 0.1}, "attention_dropout = 0.1; allowed: 0"),
        ("qwen2", {"attention_bias": True}, "'attention_bias' = True is not known"),
        ("llama", {"sliding_window": 5}, "'sliding_window' = 5 is not known"),
        (
            "llama",
            {"final_logit_softcapping": 30.0},
            "'final_logit_softcapping' = 30.0 is not known",
        ),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("llama", {"auto_map": {"AutoModelForCausalLM": "m.M"}}, "'auto_map'"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5; allowed: 1"),
        ("llama", {"mlp_bias": "yes"}, "mlp_bias = 'yes'; allowed: true, false"),
        ("llama", {"hidden_size": None}, "field 'hidden_size' is missing"),
        ("llama", {"vocab_size": -3}, "vocab_size = -3; allowed: a positive whole number"),
        ("llama", {"rms_norm_eps": 0}, "rms_norm_eps = 0; allowed: a positive number"),
        ("llama", {"num_attention_heads": 4, "num_key_value_heads": 3}, "a multiple of the second"),
        ("llama", {"head_dim": 7}, "head width 7"),
        ("qwen3", {"num_key_value_heads": None}, "field 'num_key_value_heads' is missing"),
        ("qwen2", {"layer_types": ["full_attention"]}, "for each of the 3 layers"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 3}, "chunked_attention"),
        ("qwen2", {"layer_types": ["sliding_attention"] * 3}, "needs use_sliding_window = true"),
        ("mistral", {"layer_types": ["full_attention"] * 3}, "only 'sliding_attention'"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            "'dynamic' is not supp",
        ),
        (
            "llama",
            {"rope_scaling": {"type": "longrope"}},
            "supported: default, linear, llama3, yarn",
        ),
        ("llama", {"rope_scaling": {"type": "linear"}}, "'linear' needs the field 'factor'"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": -1}}, "rope factor = -1"),
        ("llama3", {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "'low_freq_factor'"),
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.0, "x": 1}}, "rope field 'x' = 1"),
        ("llama3", {"rope_parameters": {"rope_theta": 10000.0}}, "must agree"),
        ("llama3", {"rope_parameters": {"rope_type": "llama3", "factor": 4.0}}, "must agree"),
    ],
)
def test_what_changes_the_model_is_honoured_or_refused(name, change, message):
    with pytest.raises(ValueError) as caught:
        from_hf(tiny.CONFIGS[name] | change)
    assert message in str(caught.value)


def test_what_does_not_change_the_model_is_let_through():
    plain = from_hf(tiny.CONFIGS["llama"])
    extra = {
        "_name_or_path": "somewhere",
        "unsloth_version": "2025.1",
        "temperature": 0.6,
        "eos_token_id": [1, 2],
        "logits_scaling": None,
        "tie_encoder_decoder": False,
        "pruned_heads": {},
    }
    assert from_hf(tiny.CONFIGS["llama"] | extra) == plain


def test_reading_a_config_needs_no_jax():
    code = f"""
import sys
from pruner_jax.policy.config import from_hf
from_hf({tiny.CONFIGS["qwen3"]!r})
assert not {{"jax", "flax", "torch", "transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
