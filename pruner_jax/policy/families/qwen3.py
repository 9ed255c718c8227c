"""Qwen3 (dense): RMS norm of every query and key head; biases if ``attention_bias`` says so."""

from __future__ import annotations

from typing import Any

from pruner_jax.policy.config import ModelConfig
from pruner_jax.policy.fields import Fields

ARCHITECTURE = "Qwen3ForCausalLM"


def read(raw: dict[str, Any]) -> ModelConfig:
    """ModelConfig from a Qwen3 ``config.json``."""
    fields = Fields(raw)
    common = fields.common(context=32768, head_width=128)
    bias = fields.flag("attention_bias")
    sliding_window = fields.windows_by_layer(common["layers"])
    fields.finish()
    return ModelConfig(
        qk_norm=True, qkv_bias=bias, out_bias=bias, sliding_window=sliding_window, **common
    )
