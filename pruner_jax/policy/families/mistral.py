"""Mistral: one sliding window for every layer, or none."""

from __future__ import annotations

from typing import Any

from pruner_jax.policy.config import ModelConfig
from pruner_jax.policy.fields import Fields

ARCHITECTURE = "MistralForCausalLM"


def read(raw: dict[str, Any]) -> ModelConfig:
    """ModelConfig from a Mistral ``config.json``; no ``sliding_window`` is 4096, null is none."""
    fields = Fields(raw)
    common = fields.common(context=131072, kv_heads=8)
    window = fields.window(missing=4096)
    fields.same_layer_types("full_attention" if window is None else "sliding_attention")
    fields.finish()
    layers = common["layers"]
    return ModelConfig(sliding_window=() if window is None else (window,) * layers, **common)
