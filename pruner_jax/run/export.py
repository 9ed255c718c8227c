"""``export`` and ``report``: a Hugging Face folder, or the report, of a run that is there."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp

from pruner_jax import config, methods
from pruner_jax.config import ExportConfig, PruneConfig, ReportConfig
from pruner_jax.policy import handle, weights
from pruner_jax.policy.handle import Policy
from pruner_jax.policy.hf import CONFIG, GENERATION, find_folder, read_config, read_json
from pruner_jax.report import html
from pruner_jax.report.picture import write_picture
from pruner_jax.store.checkpoints import Checkpoints
from pruner_jax.store.folder import RunFolder
from pruner_jax.store.mirror import local
from pruner_jax.text import load_tokenizer


def export_verb(settings: ExportConfig) -> dict[str, Any]:
    """Write parameters of a run as a Hugging Face folder.

    Without a name those it picked last, merged with the start's if the method says so: of a
    finished run the same bytes as ``OUT/export``. With a name those of that checkpoint, unmerged.
    """
    local(settings.to, "to")
    folder = RunFolder(local(settings.run, "run"))
    if not folder.config.exists():
        raise ValueError(f"run={settings.run!r} is not the folder of a run: no config.yaml in it")
    run = config.load(PruneConfig, str(folder.config))
    source = _model_files(folder, run.model)
    model = read_config(source)
    like = _on_one_device(weights.abstract(model, jnp.float32))
    checkpoints = Checkpoints(folder.checkpoints, read_only=True)
    try:
        position = checkpoints.latest()
        if position is None:
            raise ValueError(f"run={settings.run!r} has no complete checkpoint yet")
        state = checkpoints.meta(position)["state"]
        name = settings.checkpoint or state["origin"]["parameters"]
        params = checkpoints.load_parameters(name, like)
        if settings.checkpoint is None:
            merge = methods.build(methods.MethodOptions.of(run.method)).merge
            if merge is not None:
                start = checkpoints.load_parameters(state["start"]["parameters"], like)
                params = jax.tree.map(merge, start, params)
    finally:
        checkpoints.close()
    generation = read_json(source / GENERATION) if (source / GENERATION).exists() else None
    policy = Policy(model, params, load_tokenizer(source), generation, source)
    handle.save(policy, settings.to, dtype=model.stored_dtype)
    return {"folder": str(settings.to), "checkpoint": name}


def _model_files(folder: RunFolder, model: str) -> pathlib.Path:
    """A folder with the run's config.json and tokenizer: its own export, or the model it began
    with, whose path may be relative to another folder than this process stands in."""
    if (folder.export / CONFIG).exists():
        return folder.export
    try:
        return find_folder(model)
    except ValueError as error:
        raise ValueError(
            f"run={str(folder.root)!r} has no export/ yet, and its model {model!r} is not found "
            f"from {pathlib.Path.cwd()} either ({error}); go to the folder that the run was "
            "started from"
        ) from error


def _on_one_device(tree: Any) -> Any:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)


def report_verb(settings: ReportConfig) -> dict[str, Any]:
    """Build report.html again, and the picture if one is asked for."""
    found = {"report": str(html.build(local(settings.run, "run")))}
    if settings.picture is not None:
        found["picture"] = str(write_picture(settings.run, settings.picture))
    for name, path in found.items():
        print(f"{name}: {path}", file=sys.stderr)
    return found
