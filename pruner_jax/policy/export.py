"""Hugging Face folders, written: weights, config.json, generation config, tokenizer files.

A hidden folder beside the target is filled and then renamed, so a folder is whole or not there.
What is written loads in ``transformers`` 4 and 5 and in servers that read its format. Weights come
from their shards one tensor at a time, narrowed where they lie; of several processes the first one
writes, and the others help to gather.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from pruner_jax.policy.config import ModelConfig, families
from pruner_jax.policy.hf import (
    CONFIG,
    DTYPES,
    GENERATION,
    INDEX,
    SINGLE,
    TOKENIZER_FILES,
    read_json,
)
from pruner_jax.policy.tensorfile import write_tensors
from pruner_jax.policy.weights import Tree, abstract, tensors

SHARD_BYTES = 5_000_000_000


def write_folder(
    folder: str | os.PathLike[str],
    config: ModelConfig,
    params: Tree,
    *,
    source: Path | None = None,
    tokenizer: Any = None,
    generation: dict[str, Any] | None = None,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    each: Callable[[Callable[[], None]], Any] | None = None,
) -> Path:
    """Writes the folder, whole or not at all, and gives its path.

    Tokenizer files come from the folder ``source`` byte by byte, or from ``tokenizer`` if that is
    None. ``dtype`` None keeps that of the parameters. Weights of more than ``shard_bytes`` are
    split. A folder that is there already is replaced if it holds nothing but such a model. Where
    there are several processes, all call it, and the first needs the folder; what it fails with all
    fail with by ``each`` (`Pod.each`).
    """
    target = Path(folder).expanduser().absolute()
    _check(config, params, dtype)
    kind = jnp.dtype(dtype or params["embed"].dtype)
    gathered, failed = _gathered(config, params, kind), None
    try:
        if jax.process_index() == 0:
            check_target(target)
            _fill(target, config, gathered, kind, shard_bytes, (source, tokenizer, generation))
    except jax.errors.JaxRuntimeError:  # in the midst of what all do together
        raise
    except Exception as error:
        failed = error
    if jax.process_count() > 1:
        for _ in gathered:  # the others come to the end only if the first one does
            pass

    def tell() -> None:
        if failed is not None:
            raise failed

    tell() if each is None else each(tell)
    return target


def _fill(
    target: Path,
    config: ModelConfig,
    gathered: Iterator[jax.Array | np.ndarray],
    kind: np.dtype,
    shard_bytes: int,
    small: tuple[Path | None, Any, dict[str, Any] | None],
) -> None:
    """Makes the folder from what cannot be refused any more; ``small`` as in ``_write_small``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        partial.mkdir()
        _write_small(partial, _hf_config(config, kind), *small)
        _write_weights(partial, config, gathered, kind, shard_bytes)
        _swap(partial, target)
    except OSError as error:
        free = f"{shutil.disk_usage(target.parent).free / 1e9:.2f} GB are free there"
        what = f"not written and nothing left behind: {error.strerror or error} ({free})"
        if error.errno == errno.ENOSPC:
            raise OSError(errno.ENOSPC, what, str(target)) from error
        raise OSError(f"{target}: {what}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check(config: ModelConfig, params: Tree, dtype: str | None) -> None:
    """What every process refuses alike."""
    names = [kind.name for kind in DTYPES.values()]
    if dtype is not None and dtype not in names:
        raise ValueError(f"dtype = {dtype!r}; allowed: {', '.join(names)}, or None to keep it")
    if not config.hf_json:
        raise ValueError("this ModelConfig was made by hand; make it with from_hf to write it")
    expected = jax.tree.map(lambda leaf: leaf.shape, abstract(config, jnp.float32))
    found = jax.tree.map(lambda leaf: leaf.shape, params)
    if found != expected:
        raise ValueError(
            "the parameters do not have the shapes of their config with layers stacked (an "
            "unstacked tree is for decoding only)"
        )


def check_target(folder: str | os.PathLike[str]) -> None:
    """Refuses a folder that a model cannot be written to without losing something.

    Raises:
      ValueError: it is a file, or holds what is no part of a model.
      OSError: it, or the folder it would lie in, is not writable.
    """
    target = Path(folder).expanduser().absolute()
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file; allowed: a new folder, or one that holds a model")
    ours = {CONFIG, GENERATION, INDEX, *TOKENIZER_FILES}
    for entry in sorted(target.iterdir()) if target.exists() else ():
        if entry.name not in ours and not re.fullmatch(r"model[\w-]*\.safetensors", entry.name):
            raise ValueError(
                f"{target} holds {entry.name}, which is no part of a model folder and would be "
                "lost; choose another folder or move it away"
            )
    above = next(parent for parent in target.parents if parent.exists())
    if not above.is_dir():
        raise ValueError(f"{target} cannot be made: {above} is a file")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "no permission to write here", str(above))


def _write_small(
    partial: Path,
    raw: dict[str, Any],
    source: Path | None,
    tokenizer: Any,
    generation: dict[str, Any] | None,
) -> None:
    """Everything but the weights."""
    (partial / CONFIG).write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    if source is None and tokenizer is not None:
        tokenizer.save_pretrained(partial)
    for name in TOKENIZER_FILES if source is not None else ():
        if (source / name).is_dir():
            shutil.copytree(source / name, partial / name)
        elif (source / name).exists():
            shutil.copyfile(source / name, partial / name)
    if generation is None:
        return
    before = source / GENERATION if source is not None else partial / GENERATION
    if before.exists() and read_json(before) == generation:
        shutil.copyfile(before, partial / GENERATION)
    else:
        text = json.dumps(generation, indent=2) + "\n"
        (partial / GENERATION).write_text(text, encoding="utf-8")


def _hf_config(config: ModelConfig, kind: np.dtype) -> dict[str, Any]:
    """The dictionary as it was read, with the dtype of what is written.

    ``transformers`` 4 knows neither ``dtype`` nor ``rope_parameters``, and would take its default
    rope without a word; so the old spellings are added where they are missing.
    """
    raw = config.hf
    raw.setdefault("architectures", [families()[config.model_type].ARCHITECTURE])
    raw["torch_dtype"] = kind.name
    if "dtype" in raw:
        raw["dtype"] = kind.name
    new = raw.get("rope_parameters")
    if new:
        raw.setdefault("rope_theta", config.rope.theta)
        if config.rope.kind != "default":
            old = {name: value for name, value in new.items() if name != "rope_theta"}
            raw.setdefault("rope_scaling", old)
    return raw


@dataclasses.dataclass(frozen=True)
class _Shard:
    """The tensors of one file: name -> (shape, dtype)."""

    tensors: dict[str, tuple[tuple[int, ...], np.dtype]] = dataclasses.field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.tensors.values())


def _gathered(
    config: ModelConfig, params: Tree, kind: np.dtype
) -> Iterator[jax.Array | np.ndarray]:
    """Every tensor of the checkpoint in its order, whole on every device of a mesh. Only what all
    processes do together is done here, so that none can fail in it alone.

    One layer at a time comes from its shards, wherever they lie, and nothing of it is kept: so a
    host and a device have one tensor beside what they hold anyway. What is written in fewer bytes
    travels in fewer.
    """
    for _, path, layer, _ in tensors(config):
        weight = functools.reduce(lambda tree, key: tree[key], path, params)
        if not isinstance(weight, jax.Array):
            yield weight if layer is None else weight[layer]
            continue
        place = None  # where it lies
        if not weight.is_fully_addressable:
            place = NamedSharding(weight.sharding.mesh, PartitionSpec())
        narrow = kind if kind.itemsize < weight.dtype.itemsize else weight.dtype
        yield jax.block_until_ready(_one(weight, layer, narrow, place))


def _on_host(tensor: jax.Array | np.ndarray) -> np.ndarray:
    here = isinstance(tensor, np.ndarray) or tensor.is_fully_addressable
    return np.asarray(tensor if here else tensor.addressable_data(0))


@functools.partial(jax.jit, static_argnames=("kind", "place"))
def _one(
    weight: jax.Array, layer: int | None, kind: np.dtype, place: NamedSharding | None
) -> jax.Array:
    """One layer, or a copy of what has none: an array remembers what the host asked of it."""
    one = (jnp.copy(weight) if layer is None else weight[layer]).astype(kind)
    return one if place is None else jax.lax.with_sharding_constraint(one, place)


def _write_weights(
    partial: Path,
    config: ModelConfig,
    gathered: Iterator[jax.Array | np.ndarray],
    kind: np.dtype,
    shard_bytes: int,
) -> None:
    """The safetensors, tensor by tensor as they come."""
    shards = [_Shard()]
    for name, _, _, weight in tensors(config):
        size = math.prod(weight.hf_shape) * kind.itemsize
        if shards[-1].tensors and shards[-1].bytes + size > shard_bytes:
            shards.append(_Shard())
        shards[-1].tensors[name] = (weight.hf_shape, kind)
    total, needed = len(shards), sum(shard.bytes for shard in shards)
    if needed > shutil.disk_usage(partial).free:
        raise OSError(errno.ENOSPC, f"the weights need {needed / 1e9:.2f} GB")
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = SINGLE if total == 1 else f"model-{number:05d}-of-{total:05d}.safetensors"
        write_tensors(partial / file, shard.tensors, lambda name: _on_host(next(gathered)))
        weight_map |= dict.fromkeys(shard.tensors, file)
    if total > 1:
        index = {"metadata": {"total_size": needed}, "weight_map": weight_map}
        (partial / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _swap(partial: Path, target: Path) -> None:
    """Puts the finished folder in the place of whatever was there."""
    if not target.exists():
        partial.rename(target)
        return
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    target.rename(old)
    try:
        partial.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)
