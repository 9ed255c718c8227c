"""A run's files between a folder of the first host and a bucket (``gs://``).

The first host works in a local folder, the mirror's ``root``, as any run does. All but checkpoints/
is brought from the bucket at a start (``pull``: the bucket is the truth) and into it before a state
is counted and at the end (``push``); arrays go straight to the bucket, by Orbax (`checkpoints`).

A crash at any moment leaves a bucket that holds a state with everything it speaks of. Up to its
mark a new state counts for nothing, and the one before it finds all its files: others came since,
in the order in which they were written, so they are those of some moment of the local folder, from
which a run goes on as after a crash there; of those that are written again, metrics.jsonl is cut
back and trackers begin a file of their own. The mark comes after all files of the new state. What
has vanished here is taken from the bucket only after the mark; of what a crash leaves of it a start
drops what its state does not know. summary.json, which says that a run is complete, comes last.

A bucket knows no lock. A start leaves a note of itself there; a run that finds another's note where
its own was stops before it writes: a later start stops an earlier one, for a pod that was taken
away leaves its note behind and must come back at once. What is under way meanwhile writes over what
it knows (the generation of each object) and nothing else, so over none of the later run's files.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import functools
import hashlib
import json
import os
import pathlib
import re
import secrets
import socket
import time
from collections.abc import Iterator
from typing import Any

from pruner_jax.store import service
from pruner_jax.store.service import FolderError

CHECKPOINTS, EXPORT, CONFIG, SUMMARY = "checkpoints", "export", "config.yaml", "summary.json"
_LOCK, _NOTE = ".lock", ".owner"
_HALF_WRITTEN = re.compile(r"\..+\.[^.]+")  # .NAME.SUFFIX, until it gets its name
_SETTLES = 2.0  # seconds, after which a run that saw its own note last has done what it would
_AT_ONCE = 8  # files that are fetched at a time
_TRIES = 4  # of what fails because somebody writes there meanwhile

_Stamp = tuple[int, int, int]  # size, time of change in ns, inode


def is_address(out: str | os.PathLike[str]) -> bool:
    """Whether it names a place on the network and not a path."""
    return ":/" in os.fspath(out)


def local(path: str | os.PathLike[str], setting: str) -> pathlib.Path:
    """A folder that has to be on this machine."""
    if is_address(path):
        raise FolderError(
            f"{setting}={os.fspath(path)!r} is an address; allowed: a path (an address is for "
            "--out of prune alone). Copy what is needed (gcloud storage cp --recursive), or mount "
            "the bucket as a folder"
        )
    return pathlib.Path(path)


class Mirror:
    """A folder in a bucket, and the local one that stands for it on the first host.

    Nothing is asked of the bucket until a method is called; by other hosts than the first only
    ``check``.

    Attributes:
      address: of the folder, ``gs://BUCKET/FOLDER``.
      root: the local folder, under ``$XDG_CACHE_HOME/pruner_jax/runs``.

    Raises:
      FolderError: by any method, if the bucket cannot be used, saying what it needs; Away if the
        service cannot be reached.
    """

    def __init__(self, out: str | os.PathLike[str]):
        # Of other characters some mean something to one of the libraries that reach a bucket.
        match = re.fullmatch(r"gs:/+([\w.-]+)((?:/+[\w.,=+@~-]+)+)/*", os.fspath(out))
        parts = match[2].split("/") if match else []
        if match is None or {".", ".."} & set(parts):
            raise FolderError(
                f"out={os.fspath(out)!r} is no address of a folder in a bucket; allowed: a path, "
                "or gs://BUCKET/FOLDER (letters, digits and .,=+@~_-). Other buckets have to be "
                "mounted as a folder, the same on all hosts"
            )
        within = "/".join(filter(None, parts))
        self._name, self._prefix = match[1], within + "/"
        self.address = f"gs://{match[1]}/{within}"
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        short = hashlib.sha256(self.address.encode()).hexdigest()[:8]
        runs = cache / "pruner_jax" / "runs"
        self.root = runs / f"{match[1]}-{short}" / parts[-1]
        self._token: str | None = None  # of the note, once the folder was claimed
        self._there: dict[str, _Stamp | None] = {}  # in the bucket: as of which local file
        self._generations: dict[str, int] = {}  # of what is in the bucket, as far as is known
        service.prepare(os.fspath(out))

    def check(self) -> None:
        """Whether this host can open the bucket, write there and delete."""
        from google.api_core.exceptions import NotFound

        trial = self._blob(f"{_NOTE}.{secrets.token_hex(8)}")
        with self._asking("write"):
            trial.upload_from_string("", retry=service.patient())
        # What is suppressed stands inside, here and below: asking makes another error of it.
        with self._asking("delete"), contextlib.suppress(NotFound):
            trial.delete(retry=service.patient())

    def text(self, name: str) -> str | None:
        """What a file in the bucket says; None where it is not there."""
        from google.api_core.exceptions import NotFound

        blob = self._blob(name)
        with self._asking("read"), contextlib.suppress(NotFound):
            return blob.download_as_bytes(retry=service.patient()).decode()
        return None

    def pull(self) -> None:
        """Make the local folder equal to the bucket, but for checkpoints/ and export/, which no
        start reads here."""
        from google.api_core.exceptions import NotFound

        with self._asking("read"):
            for _ in range(_TRIES - 1):
                with contextlib.suppress(NotFound):  # what was listed is overwritten, or gone
                    return self._bring()
            self._bring()

    def _bring(self) -> None:
        blobs = self._blobs()
        wanted = {name: blob for name, blob in blobs.items() if not name.startswith(f"{EXPORT}/")}
        self.root.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.root.rglob("*"), reverse=True):  # what a folder holds before it
            name = path.relative_to(self.root).as_posix()
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()):
                    path.rmdir()
            elif name not in wanted and name != _LOCK:
                path.unlink()
        with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self._fetch, wanted, wanted.values()))
        self._there = dict.fromkeys(blobs) | self._here()
        self._generations = {name: blob.generation for name, blob in blobs.items()}

    def claim(self) -> None:
        """Make the folder this run's: an earlier one that still goes on stops at its next write."""
        token = secrets.token_hex(8)
        note = {
            "token": token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        }
        before = self.text(_NOTE)
        with self._asking("write"):
            self._blob(_NOTE).upload_from_string(json.dumps(note), retry=service.patient())
        self._token = token
        if before is not None:
            time.sleep(_SETTLES)

    def check_owner(self) -> None:
        """Stop where a later start has made the folder its own. On hosts that have claimed nothing
        (all but the first) it shows only whether the bucket can be reached."""
        note = json.loads(self.text(_NOTE) or "{}")
        if self._token in (None, note.get("token")):
            return
        who = (
            f"by another start of the run (host {note.get('host')}, pid {note.get('pid')}, since "
            f"{note.get('since')})"
            if note
            else "by somebody who deleted its .owner"
        )
        raise FolderError(
            f"{self.address} was taken over {who}, so this one stops; it has overwritten nothing "
            "of the other. One run at a time works in a folder: choose another --out for a second"
        )

    def push(self) -> None:
        """Bring files that are new or changed into the bucket, in the order of their changes."""
        self.check_owner()
        here = self._here()
        changed = [name for name, stamp in here.items() if self._there.get(name) != stamp]
        for name in sorted(changed, key=lambda name: (name == SUMMARY, here[name][1], name)):
            with contextlib.suppress(FileNotFoundError):
                self._upload(name)
                self._there[name] = here[name]
        self.check_owner()

    def _upload(self, name: str) -> None:
        """Over the object that this run knows (a generation of 0: over none), or after a look at
        the one that is there."""
        from google.api_core.exceptions import PreconditionFailed

        def upload() -> None:
            blob = self._blob(name)
            blob.upload_from_filename(
                self.root / name,
                if_generation_match=self._generations.get(name, 0),
                timeout=service.PATIENCE / 2,
                retry=service.patient(),
            )
            self._generations[name] = blob.generation

        with self._asking("write"):
            for _ in range(_TRIES - 1):
                try:
                    return upload()
                except PreconditionFailed:
                    self._look(name)
            upload()

    def _look(self, name: str) -> None:
        """What is there, where it is not what this run knew: its own, where an answer was lost, or
        of an earlier run. The owner is asked for after it: whatever a later one writes is not it.
        """
        blob = self._bucket.get_blob(self._prefix + name, retry=service.patient())
        self._generations[name] = blob.generation if blob else 0
        self.check_owner()

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Around the mark that makes a state count."""
        self.push()
        yield
        self._drop_vanished()

    def _drop_vanished(self) -> None:
        """Take from the bucket what is no more here; an export only if there is another one."""
        here = self._here()
        exported = any(name.startswith(f"{EXPORT}/") for name in here)
        for name in self._there.keys() - here.keys():
            if exported or not name.startswith(f"{EXPORT}/"):
                self.check_owner()  # a later run may need a file that it does not write again
                self._delete(name)
                del self._there[name]

    def _delete(self, name: str) -> None:
        from google.api_core.exceptions import NotFound, PreconditionFailed

        with self._asking("delete"), contextlib.suppress(NotFound):
            for _ in range(_TRIES):  # what is still there then a start drops
                if not (generation := self._generations.pop(name, 0)):
                    return
                try:
                    self._blob(name).delete(if_generation_match=generation, retry=service.patient())
                except PreconditionFailed:
                    self._look(name)

    @property
    def _bucket(self) -> Any:
        return service.bucket(self._name, self.address)

    def _blob(self, name: str) -> Any:
        return self._bucket.blob(self._prefix + name)

    def _blobs(self) -> dict[str, Any]:
        """What lies in the bucket, by its name in the folder, without checkpoints."""
        ask = functools.partial(self._bucket.list_blobs, retry=service.patient())
        top = ask(prefix=self._prefix, delimiter="/")
        found, folders = list(top), top.prefixes
        names = {blob.name.removeprefix(self._prefix) for blob in found}
        if CONFIG not in names and (folders or any(name[:1] not in ("", ".") for name in names)):
            raise FolderError(
                f"out={self.address!r} holds objects but no {CONFIG}, so it is not a run of this "
                "program; choose an empty or new folder with --out"
            )
        for folder in folders - {f"{self._prefix}{CHECKPOINTS}/"}:
            found += ask(prefix=folder)
        blobs = {blob.name.removeprefix(self._prefix): blob for blob in found}
        return {name: blob for name, blob in blobs.items() if _is_file_of_a_run(name)}

    def _fetch(self, name: str, blob: Any) -> None:
        """One file, unless it is here already."""
        path = self.root / name
        same_size = path.is_file() and path.stat().st_size == blob.size
        if same_size and _crc32c(path, _stamp(path)) == blob.crc32c:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        blob.download_to_filename(part, retry=service.patient())
        os.replace(part, path)

    def _here(self) -> dict[str, _Stamp]:
        """The local files of the run, by name, as they are now."""
        found = {}
        for path in self.root.rglob("*"):
            name = path.relative_to(self.root).as_posix()
            if _is_file_of_a_run(name) and path.is_file() and not path.is_symlink():
                with contextlib.suppress(FileNotFoundError):
                    found[name] = _stamp(path)
        return found

    def _asking(self, what: str) -> contextlib.AbstractContextManager[None]:
        return service.asking(self.address, what)


def _is_file_of_a_run(name: str) -> bool:
    parts = name.split("/")
    own = parts[0] == CHECKPOINTS or name in (_LOCK, _NOTE)
    return not own and not any(p in ("", "..") or _HALF_WRITTEN.fullmatch(p) for p in parts)


def _stamp(path: pathlib.Path) -> _Stamp:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


@functools.lru_cache(maxsize=100_000)
def _crc32c(path: pathlib.Path, _: _Stamp) -> str:
    """As the service gives it; worked out once for a file that stays what it is."""
    import google_crc32c

    total = google_crc32c.Checksum()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return base64.b64encode(total.digest()).decode()
