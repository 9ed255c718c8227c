"""The responses that ``evaluate --out`` keeps, and the note of how they were made.

A folder is gone on with only under what its responses hang on: the model's weights and description,
the files that the settings name, and the settings themselves. A model from the hub is found by the
commit that it was begun with, for a branch may have moved on.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
from typing import Any

from pruner_jax.config import ConfigError, EvaluateConfig, plain
from pruner_jax.policy import hf
from pruner_jax.run.ahead import model_digest
from pruner_jax.run.checks import named_files
from pruner_jax.run.session import MACHINE
from pruner_jax.settings import Given, build
from pruner_jax.store.changes import changes_refused
from pruner_jax.store.folder import (
    FolderError,
    at_commit,
    digests,
    write_atomically,
)

# What the responses of a model hang on, and what of it may be another when they are gone on with.
_OF_THE_RESPONSES = ("problems", "split", "text", "verify", "sample", "test", "programs", "seed")
_FREE = (*MACHINE, "test.confidence", "test.resamples", "model")


def file_of(settings: EvaluateConfig, name: str) -> pathlib.Path:
    """Where the responses of a model ("model" or "against") are once all are there."""
    return pathlib.Path(settings.out) / f"{name}.parquet"


def take_file(settings: EvaluateConfig, name: str, model: str) -> str:
    """By what to find the model. Where responses of it are there already, they must be those that
    are asked for.

    Raises:
      FolderError: of another model, or sampled or checked in another way; what differs is named.
        Or there is no note of how they were made.
    """
    path = file_of(settings, name)
    note = path.with_suffix(".settings.json")
    kept = path.exists() or any(path.parent.glob(f"{name}.*-*.parquet"))
    if kept and not note.exists():
        raise FolderError(
            f"{path.parent} holds responses ({path.stem}*.parquet), but {note.name}, which "
            "would say how they were made, is not there: an older version made them, or it was "
            "taken away. Give another --out, or delete them to sample again."
        )
    written = json.loads(note.read_text()) if kept else {}
    begun = written.get("model", {})
    wanted = at_commit(model, begun["commit"]) if begun.get("name") == model else model
    place = hf.find_folder(wanted)
    described = hf.description_files(place)
    now = {
        "model": {"name": model, "commit": hf.commit_of(place)},
        "weights": model_digest(place),
        "described": dict(zip(described, digests(described.values()).values())),
        "files": digests(named_files(settings)),
        **{room: plain(getattr(settings, room)) for room in _OF_THE_RESPONSES},
    }
    if kept:
        old = _today(written, now)
        if changes := changes_refused(old, json.loads(json.dumps(now)), _FREE):
            raise FolderError(
                f"{path.parent} holds responses of another evaluation ({name}):\n"
                + "\n".join(f"  {change}" for change in changes)
                + "\nGive the same settings to continue it, or another --out."
            )
    write_atomically(note, json.dumps(now, indent=2) + "\n")
    return wanted


def _today(written: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """A note that an older version wrote, as this one would: settings that came since are at their
    defaults, and files of which it says nothing are taken as they are."""
    rooms = {room: written[room] for room in _OF_THE_RESPONSES if room in written}
    with contextlib.suppress(ConfigError):  # one of them is no more: they stay what they are
        then = build(EvaluateConfig, Given(None, {"model": "", **rooms}, ()))
        rooms = {room: plain(getattr(then, room)) for room in _OF_THE_RESPONSES}
    files = {path: written["files"].get(path, digest) for path, digest in now["files"].items()}
    return {**now, **written, **json.loads(json.dumps(rooms)), "files": files}
