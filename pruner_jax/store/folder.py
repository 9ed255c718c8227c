"""A run's folder: who owns it, what settings it was made with, and where each file lives.

    OUT/config.yaml   OUT/inputs.json   OUT/metrics.jsonl   OUT/rollouts/   OUT/checkpoints/
    OUT/tables/       OUT/store/        OUT/rejects.jsonl  (of methods that collect for many steps)
    OUT/summary.json  OUT/report.html   OUT/export/     OUT/profile/

One process at a time writes to a folder (a lock that the system drops with the process). From its
first checkpoint on a folder belongs to one configuration: starting another one there is refused,
key by key, except for settings that only say how a machine is to be used.

OUT may be ``gs://BUCKET/FOLDER``: the files are then worked on in a local folder (`mirror`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import yaml

from pruner_jax.store.changes import changed, changes_refused
from pruner_jax.store.mirror import CHECKPOINTS, CONFIG, EXPORT, SUMMARY, FolderError, Mirror
from pruner_jax.store.mirror import is_address as is_address

_COMMIT = "commit"  # before that of a model, in the note of the inputs

DURABLE = "durable"  # a file in the folder of a checkpoint all of which would survive a power cut

# What a run has measured before its first step stays true under other rules of what follows.
UNTIL_THE_FIRST_STEP = ("auto", "guards", "pick")


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The paths of one run."""

    root: pathlib.Path
    changes: tuple[str, ...] = ()
    """Settings that differ from the previous start and were accepted, as ``key: was x, now y``."""
    mirror: Mirror | None = dataclasses.field(default=None, compare=False)
    """Of a run in a bucket, whose local folder ``root`` is on the first host."""

    @classmethod
    def at(cls, out: str | os.PathLike[str]) -> RunFolder:
        """That of a run by its path or address; nothing is looked at."""
        if not is_address(out):
            return cls(pathlib.Path(out))
        mirror = Mirror(out)
        return cls(mirror.root, mirror=mirror)

    def shown(self, path: pathlib.Path | None = None) -> str:
        """Where others find the run, or a file of it."""
        if self.mirror is None:
            return str(path or self.root)
        within = "" if path is None else f"/{path.relative_to(self.root).as_posix()}"
        return self.mirror.address + within

    def publish(self) -> None:
        """Bring the files into the bucket, where the run is in one."""
        if self.mirror is not None:
            with self.mirror.counting():
                pass

    @property
    def config(self) -> pathlib.Path:
        """Resolved configuration."""
        return self.root / CONFIG

    @property
    def inputs(self) -> pathlib.Path:
        """Digests of the files that the configuration names, and commits of the models."""
        return self.root / "inputs.json"

    @property
    def metrics(self) -> pathlib.Path:
        """One JSON object per step or evaluation."""
        return self.root / "metrics.jsonl"

    @property
    def rollouts(self) -> pathlib.Path:
        """Parquet files, one per logged step or evaluation."""
        return self.root / "rollouts"

    @property
    def profile(self) -> pathlib.Path:
        """Traces of steps, where they were asked for."""
        return self.root / "profile"

    @property
    def tables(self) -> pathlib.Path:
        """Rows that were collected once or by iteration, a folder each."""
        return self.root / "tables"

    @property
    def store(self) -> pathlib.Path:
        """Weighed rows that are trained on later, a Parquet file for each collection."""
        return self.root / "store"

    @property
    def checkpoints(self) -> pathlib.PurePath:
        """Orbax; of a run in a bucket an address that all hosts reach."""
        if self.mirror is None:
            return self.root / CHECKPOINTS
        from etils import epath

        return epath.Path(self.mirror.address) / CHECKPOINTS

    @property
    def summary(self) -> pathlib.Path:
        """Final numbers."""
        return self.root / SUMMARY

    @property
    def export(self) -> pathlib.Path:
        """Hugging Face folder of the picked model."""
        return self.root / EXPORT


def flush_to_disk(path: pathlib.Path) -> None:
    """Return once a file's content, or a folder's list of names, would survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems know no such thing for folders.
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
    """An OSError from inside says which file it is about; a write to an open file does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Write a whole file or nothing: no reader sees half of it, a full disk leaves the old one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with naming(path), os.fdopen(handle, "w") as file:
            file.write(text)
        flush_to_disk(pathlib.Path(temporary))
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        flush_to_disk(path.parent)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def open_folder(
    out: str | os.PathLike[str],
    config: Mapping[str, Any],
    machine: Collection[str] = (),
    inputs: Iterable[pathlib.Path] = (),
    today: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    commits: Mapping[str, str] | None = None,
) -> Iterator[RunFolder]:
    """Take a run folder for this process, new or to be continued.

    Args:
      out: the folder, a path or an address in a bucket; made if it is not there.
      config: the resolved configuration, plain data. Its key ``out`` is not compared, so that a
        folder may be moved and continued.
      machine: settings that change no result (dotted keys, or the beginning of some, such as
        ``verify`` for ``verify.workers``). They may differ from start to start; what changed is in
        the folder's ``changes``, and config.yaml holds the new values. Until the first step the
        rules (``UNTIL_THE_FIRST_STEP``) may change as well.
      inputs: files that the settings name. One whose content is not what it was is a change.
      today: what an older version wrote as config.yaml, with the settings that came since.
      commits: of the models that the settings name, noted with the inputs.

    A run that has no checkpoint yet has nothing to lose: other settings take its folder over.

    Raises:
      FolderError: another process writes there, or the folder was begun with other settings (each
        is named with both values), or holds something that is not a run; the bucket cannot be used.
    """
    with _taken(out) as folder:
        folder = _accepted(folder, config, machine, today)
        if folder.mirror is not None:  # whoever had it stops, and may have written meanwhile
            folder.mirror.claim()
            folder.mirror.pull()
            folder = _accepted(folder, config, machine, today)
        if folder.changes or not folder.config.exists():
            write_atomically(folder.config, _text(config))
        folder = _with_inputs(folder, inputs, commits or {})
        folder.rollouts.mkdir(exist_ok=True)
        if folder.mirror is None:
            folder.checkpoints.mkdir(exist_ok=True)
        folder.publish()
        yield folder


def check_folder(
    out: str | os.PathLike[str],
    config: Mapping[str, Any],
    machine: Collection[str] = (),
    today: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> RunFolder:
    """The folder as ``open_folder`` would take it, with the same errors; nothing is written.

    For the beginning of a start, before what takes minutes to load.
    """
    folder = RunFolder.at(out)
    if folder.mirror is None:
        _check_root(folder)
        if not folder.config.exists():
            return folder
    with _taken(out) as folder:
        return _accepted(folder, config, machine, today)


@contextlib.contextmanager
def _taken(out: str | os.PathLike[str]) -> Iterator[RunFolder]:
    """A folder that holds a run or nothing, locked; its files as they are in the bucket."""
    folder = RunFolder.at(out)
    if folder.mirror is None:
        _check_root(folder)
    folder.root.mkdir(parents=True, exist_ok=True)
    with lock(folder.root, folder.shown()):
        if folder.mirror is not None:
            folder.mirror.pull()
        yield folder


def _check_root(folder: RunFolder) -> None:
    out = str(folder.root)
    if folder.root.exists() and not folder.root.is_dir():
        raise FolderError(f"out={out!r} is a file; give a folder with --out")
    if folder.root.is_dir() and not folder.config.exists() and _foreign(folder.root):
        raise FolderError(
            f"out={out!r} holds files but no config.yaml, so it is not a run of this program; "
            "choose an empty or new folder with --out"
        )


def _accepted(
    folder: RunFolder,
    config: Mapping[str, Any],
    machine: Collection[str],
    today: Callable[[dict[str, Any]], dict[str, Any]],
) -> RunFolder:
    """The folder with what changed since its last start, if all of that may change."""
    if not folder.config.exists():
        return folder
    old, new = _read_config(folder), yaml.safe_load(_text(config))
    if changed(old, new):
        old = today(old)
    if not steps_made(folder.root):
        machine = (*machine, *UNTIL_THE_FIRST_STEP)
    refused = changes_refused(old, new, machine)
    # The same sections: no config.yaml of another program is ever replaced.
    if refused and not (old.keys() == new.keys() and _is_empty_run(folder)):
        raise _belongs_to_another(folder, refused)
    return dataclasses.replace(folder, changes=tuple(changed(old, new).values()))


def _with_inputs(
    folder: RunFolder, inputs: Iterable[pathlib.Path], commits: Mapping[str, str]
) -> RunFolder:
    """The folder with the inputs that changed since its last start; notes what they are now."""
    note = folder.inputs
    old = json.loads(note.read_text()) if note.exists() else {}
    new = digests(inputs) | {model: f"{_COMMIT} {commit}" for model, commit in commits.items()}
    if new != old:
        write_atomically(note, json.dumps(new, indent=2) + "\n")
    others = [
        f"{path}: its content" for path in sorted(new) if old.get(path, new[path]) != new[path]
    ]
    return dataclasses.replace(folder, changes=(*folder.changes, *others))


def begun_with(out: str | os.PathLike[str], model: str) -> str:
    """The name under which a run goes on with the model that it was begun with: of one from the hub
    the commit that its folder notes, for a branch may have moved on."""
    known = json.loads(_text_in(out, "inputs.json") or "{}")
    word, _, commit = known.get(model, "").partition(" ")
    return at_commit(model, commit if word == _COMMIT else None)


def at_commit(model: str, commit: str | None) -> str:
    """The name of a model from the hub at a commit; of a folder, or where it is None, as it is."""
    here = pathlib.Path(model).expanduser().is_dir()
    return model if commit is None or here else f"{model.partition('@')[0]}@{commit}"


def digests(files: Iterable[pathlib.Path]) -> dict[str, str]:
    """Of what files hold, by their paths."""
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _text(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False)


def steps_made(out: str | os.PathLike[str]) -> int:
    """How many steps the run in a folder has made, by its metrics; 0 where there is none."""
    return (_text_in(out, "metrics.jsonl") or "").count('"kind": "step"')


def _text_in(out: str | os.PathLike[str], name: str) -> str | None:
    """What a file of a run says, on this machine or in a bucket; None where it is not there."""
    if is_address(out):
        return Mirror(out).text(name)
    path = pathlib.Path(out) / name
    return path.read_text() if path.exists() else None


def _foreign(root: pathlib.Path) -> bool:
    return any(
        path.name != ".lock" and not path.name.startswith(".config") for path in root.iterdir()
    )


@contextlib.contextmanager
def lock(root: pathlib.Path, shown: str | None = None) -> Iterator[None]:
    """Take a folder for this process; FolderError where another one has it. ``shown``: the name by
    which it is known."""
    with open(root / ".lock", "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise FolderError(
                f"another process (pid {owner}) is writing to {shown or str(root)!r}; "
                "wait for it, stop it, or choose another --out"
            ) from None
        with naming(root / ".lock"):
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        yield


def _read_config(folder: RunFolder) -> dict[str, Any]:
    try:
        found = yaml.safe_load(folder.config.read_text()) or {}
        if isinstance(found, dict):
            return found
        problem = f"holds {found!r}"
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
    raise FolderError(
        f"{folder.config} is no configuration ({problem}); it was changed from outside: restore "
        "it, or choose another --out"
    )


def _is_empty_run(folder: RunFolder) -> bool:
    """Whether this is a run of ours that was stopped before its first checkpoint was complete."""
    parts = (folder.config, folder.inputs, folder.metrics, folder.rollouts, folder.checkpoints)
    ours = {"tensorboard", "wandb", *(part.name for part in parts)}  # trackers write there too
    if any(path.name not in ours and path.name[0] != "." for path in folder.root.iterdir()):
        return False
    states = folder.checkpoints / "states"
    return not any(states.glob(f"*/{DURABLE}"))


def _belongs_to_another(folder: RunFolder, changes: Iterable[str]) -> FolderError:
    return FolderError(
        f"out={folder.shown()!r} belongs to a run with other settings:\n"
        + "\n".join(f"  {change}" for change in changes)
        + "\nGive the same settings to continue it, or another --out to start a new run."
    )
