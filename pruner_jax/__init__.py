"""The same answers in fewer tokens. Public names resolve lazily, so the import is quick."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "load": "pruner_jax.policy.handle",
    "logits": "pruner_jax.policy.handle",
    "save": "pruner_jax.policy.handle",
    "Policy": "pruner_jax.policy.handle",
    "generate": "pruner_jax.run.generate",
    "prune": "pruner_jax.run.prune",
}

__all__ = ["Policy", "generate", "load", "logits", "prune", "save"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pruner_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
