"""Llama 2 and 3 (also DeepSeek-R1-Distill-Llama)."""

from __future__ import annotations

from typing import Any

from pruner_jax.policy.config import ModelConfig
from pruner_jax.policy.fields import Fields

ARCHITECTURE = "LlamaForCausalLM"


def read(raw: dict[str, Any]) -> ModelConfig:
    """ModelConfig from a Llama ``config.json``."""
    fields = Fields(raw)
    common = fields.common(context=2048, kv_heads=raw.get("num_attention_heads"))
    attention_bias = fields.flag("attention_bias")
    mlp_bias = fields.flag("mlp_bias")
    fields.finish()
    return ModelConfig(
        qkv_bias=attention_bias, out_bias=attention_bias, mlp_bias=mlp_bias, **common
    )
