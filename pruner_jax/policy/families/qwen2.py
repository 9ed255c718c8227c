"""Qwen2 and Qwen2.5 (also DeepSeek-R1-Distill-Qwen, DeepScaleR, QwQ): biases on q, k and v."""

from __future__ import annotations

from typing import Any

from pruner_jax.policy.config import ModelConfig
from pruner_jax.policy.fields import Fields

ARCHITECTURE = "Qwen2ForCausalLM"


def read(raw: dict[str, Any]) -> ModelConfig:
    """ModelConfig from a Qwen2 ``config.json``."""
    fields = Fields(raw)
    common = fields.common(context=32768)
    sliding_window = fields.windows_by_layer(common["layers"])
    fields.finish()
    return ModelConfig(qkv_bias=True, sliding_window=sliding_window, **common)
