"""What a model is, apart from its numbers: a frozen, hashable description, static under jit.

Takes the dictionary of a Hugging Face ``config.json`` (old and new spellings) through one file of
``families/`` per ``model_type`` and gives a ``ModelConfig``; keeps the dictionary's text for
export. Leaves out everything that does not change the mathematics of a forward pass. Needs no JAX.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
from types import ModuleType
from typing import Any


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Rotary positions; fields that a kind (one of ``KINDS``) does not use keep their default."""

    theta: float
    kind: str = "default"
    factor: float = 1.0  # by how much the context was stretched
    original_context: int = 0  # llama3, yarn: positions seen before it was stretched
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    truncate: bool = True  # yarn: round the bounds of the ramp to whole dimensions
    attention_factor: float = 1.0  # yarn: multiplies cos and sin

    KINDS = ("default", "linear", "llama3", "yarn")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder: pre-norm blocks, grouped-query attention, rotary positions, gated MLP."""

    model_type: str
    vocab_size: int  # V
    width: int  # D
    layers: int  # L
    heads: int  # N
    kv_heads: int  # K
    head_width: int  # H, not always D / N
    mlp_width: int  # F
    context: int  # most positions the model was made for
    rope: RopeConfig
    norm_eps: float
    tied: bool  # the unembedding is the embedding
    qkv_bias: bool = False
    out_bias: bool = False  # on the projection that closes attention
    mlp_bias: bool = False
    qk_norm: bool = False  # RMS norm of each query and key head before the rotation
    sliding_window: tuple[int | None, ...] = ()  # per layer; () = every layer attends to everything
    init_std: float = 0.02
    hf_json: str = dataclasses.field(default="", compare=False, repr=False)  # config.json as found

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(
                f"config: {self.heads} query heads (num_attention_heads) cannot share "
                f"{self.kv_heads} key/value heads (num_key_value_heads); the first must be a "
                "multiple of the second"
            )
        if self.head_width % 2:
            raise ValueError(
                f"config: head width {self.head_width} (head_dim) is odd; rotary positions need an "
                "even one"
            )
        if self.sliding_window and len(self.sliding_window) != self.layers:
            raise ValueError(
                f"config: sliding_window names {len(self.sliding_window)} layers, the model has "
                f"{self.layers}"
            )

    @property
    def hf(self) -> dict[str, Any]:
        """The Hugging Face dictionary this was read from; empty if it was made by hand."""
        return json.loads(self.hf_json) if self.hf_json else {}

    @property
    def stored_dtype(self) -> str:
        """The precision that the folder's config.json names; float32 where it names none."""
        return str(self.hf.get("dtype") or self.hf.get("torch_dtype") or "float32")


def families() -> dict[str, ModuleType]:
    """The supported families by ``model_type``: one module each, named after it."""
    package = importlib.import_module("pruner_jax.policy.families")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return {name: importlib.import_module(f"{package.__name__}.{name}") for name in names}


def from_hf(raw: dict[str, Any]) -> ModelConfig:
    """The description in a ``config.json``; a ValueError for whatever is not supported."""
    known = families()
    model_type = raw.get("model_type")
    family = known.get(model_type)
    found = raw.get("architectures") or ([family.ARCHITECTURE] if family else [None])
    if family is None or list(found) != [family.ARCHITECTURE]:
        supported = ", ".join(f"{module.ARCHITECTURE} ({name})" for name, module in known.items())
        raise ValueError(
            f"config.json: architecture {', '.join(map(str, found))} (model_type {model_type!r}) "
            f"is not supported; take a model of one of these: {supported}"
        )
    return dataclasses.replace(family.read(raw), hf_json=json.dumps(raw))
