"""The handle of a model: description, parameters, tokenizer and where they came from.

``load`` and ``save`` are the doors for folders; ``logits`` is the plain forward pass for anyone
who wants to look. Training and sampling take the parts, not the handle.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruner_jax.mesh import LEARN_RULES, Rules
from pruner_jax.policy import export, hf
from pruner_jax.policy.config import ModelConfig
from pruner_jax.policy.forward import forward, unembed
from pruner_jax.policy.weights import Tree, weight_shardings
from pruner_jax.text import load_tokenizer


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no one truth value to compare by
class Policy:
    """A model in hand. ``generation`` is its ``generation_config.json``, if it has one."""

    config: ModelConfig
    params: Tree | None  # layers stacked; None: not loaded
    tokenizer: Any  # None: the folder had none, so the policy knows token ids only
    generation: dict[str, Any] | None = None
    folder: Path | None = None  # where the tokenizer's files are


def load(
    name_or_folder: str | os.PathLike[str],
    dtype: str = "float32",
    *,
    mesh: jax.sharding.Mesh | None = None,
    rules: Rules = LEARN_RULES,
) -> Policy:
    """A policy from a Hugging Face folder or hub id.

    ``dtype`` is float32, bfloat16, float16, or auto (as in the folder). With a mesh and a table of
    rules (``mesh.py``) every weight goes straight to its place, and only what this process holds of
    it is read.
    """
    return with_weights(describe(name_or_folder), dtype, mesh=mesh, rules=rules)


def with_weights(
    policy: Policy,
    dtype: str = "float32",
    *,
    mesh: jax.sharding.Mesh | None = None,
    rules: Rules = LEARN_RULES,
) -> Policy:
    """A described policy with its parameters, read as by ``load``."""
    shardings = None if mesh is None else weight_shardings(policy.config, mesh, rules)
    params = hf.read_weights(policy.folder, policy.config, dtype, shardings)
    return dataclasses.replace(policy, params=params)


def describe(name_or_folder: str | os.PathLike[str]) -> Policy:
    """A policy without its parameters: what can be checked in a second."""
    folder = hf.find_folder(name_or_folder)
    config = hf.read_config(folder)
    tokenizer = None
    if any((folder / name).exists() for name in hf.TOKENIZER_FILES):
        tokenizer = load_tokenizer(folder)
        _check_ids(folder, tokenizer, config)
    path = folder / hf.GENERATION
    generation = hf.read_json(path) if path.exists() else None
    return Policy(config, None, tokenizer, generation, folder)


def _check_ids(folder: Path, tokenizer: Any, config: ModelConfig) -> None:
    token, largest = max(tokenizer.get_vocab().items(), key=lambda pair: pair[1], default=("", 0))
    if largest >= config.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has the id {largest} ({token!r}), but the embedding has only "
            f"{config.vocab_size} rows (vocab_size in config.json); put the tokenizer there that "
            "the model was trained with, or a model that has a row for every id"
        )


def save(
    policy: Policy,
    folder: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    each: Callable[[Callable[[], None]], Any] | None = None,
) -> Path:
    """Writes the policy as a Hugging Face folder; ``dtype`` None keeps that of the parameters.
    Where there are several processes, all call it and the first one writes; by ``each``
    (`Pod.each`) all learn how it went."""
    return export.write_folder(
        folder,
        policy.config,
        policy.params,
        source=policy.folder,
        tokenizer=policy.tokenizer,
        generation=policy.generation,
        dtype=dtype,
        each=each,
    )


def logits(policy: Policy, tokens_BT: Any) -> jax.Array:
    """Logits of plain rows of token ids, float32 [B, T, V]."""
    tokens = np.asarray(tokens_BT)
    if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer) or not tokens.size:
        raise ValueError(
            f"tokens_BT has shape {tokens.shape} and dtype {tokens.dtype}; allowed: whole numbers "
            "of shape [B, T]"
        )
    if tokens.min() < 0 or tokens.max() >= policy.config.vocab_size:
        raise ValueError(
            f"tokens_BT holds ids from {tokens.min()} to {tokens.max()}; allowed: 0 to "
            f"{policy.config.vocab_size - 1}"
        )
    return _logits(policy.params, tokens.astype(np.int32), config=policy.config)


@jax.jit(static_argnames="config")
def _logits(params: Tree, tokens_BT: jax.Array, config: ModelConfig) -> jax.Array:
    positions = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    hidden, _ = forward(params, config, tokens_BT, positions)
    return unembed(params, config, hidden)
