"""A run's folder: who owns it, what settings it was made with, and where each file lives.

    OUT/config.yaml   OUT/metrics.jsonl   OUT/rollouts/   OUT/checkpoints/
    OUT/summary.json  OUT/report.html     OUT/export/

One process at a time writes to a folder (a lock that the system drops with the process), and a
folder belongs to one configuration: starting another one there is refused, key by key.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import yaml


class FolderError(ValueError):
    """The run folder cannot be used: it is busy, or it belongs to another configuration."""


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    root: pathlib.Path

    @property
    def config(self) -> pathlib.Path:
        """Resolved configuration."""
        return self.root / "config.yaml"

    @property
    def metrics(self) -> pathlib.Path:
        """One JSON object per step or evaluation."""
        return self.root / "metrics.jsonl"

    @property
    def rollouts(self) -> pathlib.Path:
        """Parquet files, one per logged step or evaluation."""
        return self.root / "rollouts"

    @property
    def checkpoints(self) -> pathlib.Path:
        """Orbax."""
        return self.root / "checkpoints"

    @property
    def summary(self) -> pathlib.Path:
        """Final numbers."""
        return self.root / "summary.json"

    @property
    def export(self) -> pathlib.Path:
        """Hugging Face folder of the picked model."""
        return self.root / "export"


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Write a whole file or nothing: no reader sees half of it, a full disk leaves the old one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def open_folder(out: str | os.PathLike[str], config: Mapping[str, Any]) -> Iterator[RunFolder]:
    """Take a run folder for this process, new or to be continued.

    Args:
      out: the folder; made if it is not there.
      config: the resolved configuration, plain data. Its key ``out`` is not compared, so that a
        folder may be moved and continued.

    Raises:
      FolderError: another process writes there, or the folder was begun with other settings (each
        is named with both values), or holds something that is not a run.
    """
    folder = RunFolder(pathlib.Path(out))
    if folder.root.exists() and not folder.root.is_dir():
        raise FolderError(f"out={str(out)!r} is a file; give a folder with --out")
    if folder.root.is_dir() and not folder.config.exists() and _foreign(folder.root):
        raise FolderError(
            f"out={str(out)!r} holds files but no config.yaml, so it is not a run of this program; "
            "choose an empty or new folder with --out"
        )
    folder.root.mkdir(parents=True, exist_ok=True)
    with _lock(folder.root):
        if folder.config.exists():
            _refuse_other_config(folder, config)
        else:
            write_atomically(folder.config, yaml.safe_dump(dict(config), sort_keys=False))
        folder.rollouts.mkdir(exist_ok=True)
        folder.checkpoints.mkdir(exist_ok=True)
        yield folder


def _foreign(root: pathlib.Path) -> bool:
    return any(
        path.name != ".lock" and not path.name.startswith(".config") for path in root.iterdir()
    )


@contextlib.contextmanager
def _lock(root: pathlib.Path) -> Iterator[None]:
    with open(root / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise FolderError(
                f"another process (pid {owner}) is writing to {str(root)!r}; "
                "wait for it, stop it, or choose another --out"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, Mapping) and tree:
        return {
            name: value
            for key, branch in tree.items()
            for name, value in _flatten(branch, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    return {prefix: tree}


def _refuse_other_config(folder: RunFolder, config: Mapping[str, Any]) -> None:
    old = _flatten(yaml.safe_load(folder.config.read_text()) or {})
    new = _flatten(yaml.safe_load(yaml.safe_dump(dict(config))))
    changed = [
        f"  {key}: was {old.get(key, '(not set)')!r}, now {new.get(key, '(not set)')!r}"
        for key in sorted(old.keys() | new.keys())
        if key != "out" and old.get(key, "(not set)") != new.get(key, "(not set)")
    ]
    if changed:
        raise FolderError(
            f"out={str(folder.root)!r} belongs to a run with other settings:\n"
            + "\n".join(changed)
            + "\nGive the same settings to continue it, or another --out to start a new run."
        )
