"""Hugging Face folders, read: configuration and weights (``export.py`` writes them).

The safetensors are memory-mapped and read one shard of one weight at a time, only the shards that
this process holds; each is converted on the way, so no host ever has a whole weight that lies
split. A local folder never touches the network. Leaves out quantised and pickled weights.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruner_jax.policy.config import ModelConfig, from_hf
from pruner_jax.policy.tensorfile import DTYPES, read_tensors
from pruner_jax.policy.weights import Tree, tensors

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIG, GENERATION = "config.json", "generation_config.json"
# What belongs to the tokenizer; an export copies it byte by byte.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates",
)
# The field of config.json that sizes each logical axis, for messages.
_FIELDS = {
    "vocab": "vocab_size",
    "embed": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head": "head_dim",
    "mlp": "intermediate_size",
}
_DTYPE_NAMES = {dtype.name: dtype for dtype in DTYPES.values()}


def find_folder(name: str | os.PathLike[str], *, described: bool = False) -> Path:
    """The local folder of that name, or of that hub id (``owner/name``, or ``owner/name@revision``:
    a branch, a tag or a commit), fetched if need be; ``described``: only its description."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(
            f"{folder} is a file; allowed: a folder in Hugging Face format, or a hub id"
        )
    match = re.fullmatch(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([\w./-]+))?", str(name))
    if match is None:
        raise ValueError(
            f"{name}: no such folder, and no hub id of the form owner/name (owner/name@revision) "
            "either; from a bucket it has to be copied here first (gcloud storage cp --recursive)"
        )
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "model*.safetensors", *TOKENIZER_FILES, "additional_chat_templates/*"]
    wanted = [CONFIG] if described else wanted
    try:
        return Path(snapshot_download(match[1], revision=match[2], allow_patterns=wanted))
    except Exception as error:
        raise ValueError(
            f"{name}: no such folder here, and the hub did not give it: {error}"
        ) from error


def description_files(folder: Path) -> dict[str, Path]:
    """Files of a folder that say, beside its weights, what a model answers: its description, its
    end tokens, its tokenizer with the template. By their names there."""
    named = [folder / name for name in (CONFIG, GENERATION, *TOKENIZER_FILES)]
    files = [file for path in named for file in (path.rglob("*") if path.is_dir() else [path])]
    return {str(file.relative_to(folder)): file for file in sorted(files) if file.is_file()}


def commit_of(folder: Path) -> str | None:
    """The commit of a folder in the hub's cache, which is its name there; None of any other."""
    return folder.name if folder.parent.name == "snapshots" else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; the error names the file."""
    if not path.is_file():
        raise ValueError(f"{path}: missing; a Hugging Face folder needs it")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: found {type(value).__name__}; allowed: a JSON object")
    return value


def read_config(folder: Path) -> ModelConfig:
    """The description in the folder's ``config.json``."""
    try:
        return from_hf(read_json(folder / CONFIG))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None


def read_weights(
    folder: Path,
    config: ModelConfig,
    dtype: str = "float32",
    shardings: Tree | None = None,
    *,
    stacked: bool = True,
) -> Tree:
    """The parameters in ``dtype`` ("auto": as they lie in the folder), layers stacked (learner) or
    as a list (sampler).

    ``shardings`` (see ``weight_shardings``) places them; otherwise they go to the default device.
    """
    if dtype not in ("auto", *_DTYPE_NAMES):
        raise ValueError(f"dtype = {dtype!r}; allowed: auto, {', '.join(_DTYPE_NAMES)}")
    found = open_weights(folder, config)
    if dtype == "auto":
        wide = functools.reduce(jnp.promote_types, {view.dtype for view in found.values()})
    else:
        wide = _DTYPE_NAMES[dtype]
    sources: dict[tuple, Any] = {}  # way in the tree -> the view of a weight, or of each layer
    for hf_name, path, layer, weight in tensors(config):
        view = found[hf_name].reshape(weight.shape if layer is None else weight.shape[1:])
        if layer is None:
            sources[path] = view
        elif stacked:
            sources.setdefault(path, []).append(view)
        else:
            sources["layers", layer, path[-1]] = view
    tree: Tree = {"layers": {} if stacked else [{} for _ in range(config.layers)]}
    for (*above, name), views in sources.items():
        sharding = None if shardings is None else _at(shardings, (*above, name))
        _at(tree, above)[name] = _placed(views, wide, sharding)
    return tree


def read_part(
    views: np.ndarray | Sequence[np.ndarray], index: tuple[slice, ...], dtype: np.dtype
) -> np.ndarray:
    """A part of a tensor, or of a stack of layers, in ``dtype``; the rest is not read."""
    if isinstance(views, np.ndarray):
        return views[index].astype(dtype)
    layers, *within = index
    parts = [view[tuple(within)] for view in views[layers]]
    read = np.empty((len(parts), *parts[0].shape), dtype)
    for out, part in zip(read, parts):
        out[...] = part
    return read


def _placed(
    views: np.ndarray | Sequence[np.ndarray],
    dtype: np.dtype,
    sharding: jax.sharding.Sharding | None,
) -> jax.Array:
    """The views as an array on its devices. Each shard is read once, however many of them hold it.

    (``jax.make_array_from_callback`` reads it again for each, and has all shards at once.)
    """
    shape = views.shape if isinstance(views, np.ndarray) else (len(views), *views[0].shape)
    if sharding is None:
        return jax.device_put(read_part(views, (slice(None),) * len(shape), dtype))
    holders: dict[tuple, list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        holders.setdefault(tuple((part.start, part.stop) for part in index), []).append(device)
    shards = []
    for bounds, devices in holders.items():
        part = read_part(views, tuple(slice(*bound) for bound in bounds), dtype)
        shards += [jax.device_put(part, device) for device in devices]
        jax.block_until_ready(shards)  # so that host copies do not pile up behind the transfers
    return jax.make_array_from_single_device_arrays(shape, sharding, shards)


def _at(tree: Tree, way: Sequence[str | int]) -> Any:
    return functools.reduce(lambda branch, key: branch[key], way, tree)


def open_weights(folder: Path, config: ModelConfig) -> dict[str, np.ndarray]:
    """Views of exactly the tensors that the config asks for; nothing is copied."""
    found: dict[str, np.ndarray] = {}
    for path in _weight_files(folder):
        found |= read_tensors(path)
    expected = {hf_name: weight for hf_name, _, _, weight in tensors(config)}
    # Old Llama folders carry the rotary frequencies, which follow from the config.
    found = {name: view for name, view in found.items() if not name.endswith("rotary_emb.inv_freq")}
    if config.tied and "lm_head.weight" in found and expected.keys() <= found.keys():
        head, embed = found.pop("lm_head.weight"), found["model.embed_tokens.weight"]
        if head.shape != embed.shape or not all(map(_same_bytes, head, embed)):
            raise ValueError(
                f"{folder}: lm_head.weight differs from model.embed_tokens.weight, but config.json "
                "says tie_word_embeddings = true"
            )
    for what, names in (
        ("missing", expected.keys() - found.keys()),
        ("unexpected", found.keys() - expected.keys()),
    ):
        if names:
            few = ", ".join(sorted(names)[:3])
            raise ValueError(
                f"{folder}: {len(names)} {what} tensor(s) for the {config.model_type} of its "
                f"config.json: {few}{', ...' if len(names) > 3 else ''}; put config.json and "
                "weights of one model there, or correct the field (num_hidden_layers, "
                "tie_word_embeddings, or one that says which biases there are)"
            )
    for name, weight in expected.items():
        if found[name].shape != weight.hf_shape:
            fields = ", ".join(_FIELDS[axis] for axis in weight.axes if axis in _FIELDS)
            raise ValueError(
                f"{folder}: tensor {name} has shape {found[name].shape}, but config.json asks for "
                f"{weight.hf_shape}; put config.json and weights of one model there, or correct "
                f"the field ({fields})"
            )
    return found


def _same_bytes(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a.view("u1"), b.view("u1"))


def _weight_files(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        names = sorted(set(read_json(folder / INDEX).get("weight_map", {}).values()))
        for name in names:
            if not (folder / name).is_file():
                raise ValueError(
                    f"{folder / name}: missing; {INDEX} lists it; copy or download it again"
                )
        return [folder / name for name in names]
    if not (folder / SINGLE).is_file():
        raise ValueError(
            f"{folder}: no weights; allowed: {SINGLE}, or {INDEX} with the files it lists "
            "(pickled .bin weights are not read); copy them there, or give another folder"
        )
    return [folder / SINGLE]
