"""``export`` and ``report``: a Hugging Face folder, or the report, of a run that is there."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp

from pruner_jax import config
from pruner_jax.config import ExportConfig, PruneConfig, ReportConfig
from pruner_jax.policy import handle, weights
from pruner_jax.policy.handle import Policy
from pruner_jax.policy.hf import GENERATION, find_folder, read_config, read_json
from pruner_jax.report import html
from pruner_jax.report.picture import write_picture
from pruner_jax.store.checkpoints import Checkpoints
from pruner_jax.store.folder import RunFolder
from pruner_jax.text import load_tokenizer


def export_verb(settings: ExportConfig) -> dict[str, Any]:
    """Write parameters of a run as a Hugging Face folder: those it picked last, or named ones."""
    folder = RunFolder(pathlib.Path(settings.run))
    if not folder.config.exists():
        raise ValueError(f"run={settings.run!r} is not the folder of a run: no config.yaml in it")
    run = config.load(PruneConfig, str(folder.config))
    checkpoints = Checkpoints(folder.checkpoints)
    try:
        position = checkpoints.latest()
        if position is None:
            raise ValueError(f"run={settings.run!r} has no complete checkpoint yet")
        state = checkpoints.meta(position)["state"]
        name = settings.checkpoint or state["origin"]["parameters"]
        source = find_folder(run.model)
        model = read_config(source)
        params = checkpoints.load_parameters(
            name, _on_one_device(weights.abstract(model, jnp.float32))
        )
    finally:
        checkpoints.close()
    generation = read_json(source / GENERATION) if (source / GENERATION).exists() else None
    policy = Policy(model, params, load_tokenizer(source), generation, source)
    handle.save(policy, settings.to, dtype=model.stored_dtype)
    return {"folder": str(settings.to), "checkpoint": name}


def _on_one_device(tree: Any) -> Any:
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)


def report_verb(settings: ReportConfig) -> dict[str, Any]:
    """Build report.html again, and the picture if one is asked for."""
    found = {"report": str(html.build(settings.run))}
    if settings.picture is not None:
        found["picture"] = str(write_picture(settings.run, settings.picture))
    for name, path in found.items():
        print(f"{name}: {path}", file=sys.stderr)
    return found
