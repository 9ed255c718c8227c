"""Tiny models for the tests: config dictionaries with every odd shape, and weights made from names.

The weights come from numpy alone, seeded by the tensor's name, so that a golden file needs to hold
only a config and logits, and anyone can make the same model again without torch.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pruner_jax.policy.config import ModelConfig, from_hf
from pruner_jax.policy.weights import tensors

# 61 is no multiple of 128; three layers so that windows can differ between first, middle and last.
_BASE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
}
_QWEN2 = {**_BASE, "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
_QWEN3 = {**_BASE, "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
_LLAMA = {**_BASE, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}
_MISTRAL = {**_BASE, "model_type": "mistral", "architectures": ["MistralForCausalLM"]}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_YARN = {"factor": 4.0, "original_max_position_embeddings": 16}

CONFIGS: dict[str, dict] = {
    # Spelled as transformers 4 does, tied, with the window that is there but not used.
    "qwen2": _QWEN2
    | {
        "tie_word_embeddings": True,
        "rope_theta": 1000000.0,
        "torch_dtype": "float32",
        "use_sliding_window": False,
        "sliding_window": 8,
        "max_window_layers": 1,
    },
    # Spelled as transformers 5 does, untied.
    "qwen2_new": _QWEN2
    | {
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0},
        "dtype": "float32",
        "layer_types": ["full_attention"] * 3,
        "sliding_window": None,
    },
    "qwen2_window": _QWEN2
    | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "qwen2_layer_types": _QWEN2
    | {
        "use_sliding_window": True,
        "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "qwen2_yarn": _QWEN2 | {"rope_scaling": {"type": "yarn", **_YARN}},
    "qwen3": _QWEN3 | {"head_dim": 12, "tie_word_embeddings": True, "rope_theta": 1000000.0},
    "qwen3_bias": _QWEN3 | {"head_dim": 16, "attention_bias": True},
    "qwen3_yarn_mscale": _QWEN3
    | {
        "head_dim": 32,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            **_YARN,
            "mscale": 1.0,
            "mscale_all_dim": 0.7,
            "truncate": False,
        },
    },
    # No num_key_value_heads: as many as query heads.
    "llama": {k: v for k, v in _LLAMA.items() if k != "num_key_value_heads"}
    | {"attention_bias": True, "mlp_bias": True, "rms_norm_eps": 1e-5},
    "llama3": _LLAMA | {"rope_theta": 500000.0, "rope_scaling": _LLAMA3_ROPE},
    "llama3_new": _LLAMA
    | {"tie_word_embeddings": True, "rope_parameters": _LLAMA3_ROPE | {"rope_theta": 10000.0}},
    "llama_linear": _LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.5}, "head_dim": 10},
    "mistral": _MISTRAL | {"sliding_window": 6, "rope_theta": 10000.0},
    "mistral_full": _MISTRAL | {"sliding_window": None, "head_dim": 20, "num_key_value_heads": 1},
}


def numbers(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 numbers of a checkpoint tensor, from its name alone; norms lie around one."""
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    return (1 + 0.2 * draw if "norm" in name else 0.2 * draw).astype(np.float32)


def params(config: ModelConfig) -> dict:
    """The parameter tree of those numbers, layers stacked."""
    tree: dict = {"layers": {}}
    for name, path, layer, weight in tensors(config):
        part = numbers(name, weight.hf_shape)
        if layer is None:
            tree[path[0]] = jnp.asarray(part.reshape(weight.shape))
        else:
            tree["layers"].setdefault(path[1], []).append(part.reshape(weight.shape[1:]))
    tree["layers"] = {name: jnp.asarray(np.stack(parts)) for name, parts in tree["layers"].items()}
    return tree


def model(name: str) -> tuple[ModelConfig, dict]:
    """Config and parameters of one of ``CONFIGS``."""
    config = from_hf(CONFIGS[name])
    return config, params(config)


def tokens(rows: int, length: int, seed: int = 0) -> np.ndarray:
    """Random token ids, int32 [rows, length]."""
    return np.random.default_rng(seed).integers(0, _BASE["vocab_size"], (rows, length), np.int32)


def write_json(path: Path, value: dict) -> None:
    """A JSON file."""
    path.write_text(json.dumps(value))


def relative(found: jax.Array, wanted: jax.Array) -> float:
    """Largest difference, relative to the largest wanted value."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape and np.isfinite(found).all()
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
