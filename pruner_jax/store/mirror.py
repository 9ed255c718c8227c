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
away leaves its note behind and must come back at once.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import secrets
import socket
import time
from collections.abc import Iterator
from typing import Any

CHECKPOINTS, EXPORT, CONFIG, SUMMARY = "checkpoints", "export", "config.yaml", "summary.json"
_LOCK, _NOTE = ".lock", ".owner"
_HALF_WRITTEN = re.compile(r"\..+\.[^.]+")  # .NAME.SUFFIX, until it gets its name
_PATIENCE = 600.0  # seconds that Google Cloud Storage may be away before a run gives up
_SETTLES = 2.0  # seconds, after which a run that saw its own note last has done what it would
_AT_ONCE = 8  # files that are fetched at a time

_Stamp = tuple[int, int, int]  # size, time of change in ns, inode


class FolderError(ValueError):
    """The run folder cannot be used: it is busy, it belongs to another configuration, or it cannot
    be reached."""


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
      FolderError: by any method, if the bucket cannot be used, saying what it needs.
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
        self._token = secrets.token_hex(8)
        self._there: dict[str, _Stamp | None] = {}  # in the bucket: as of which local file
        _prepare(os.fspath(out))

    def check(self) -> None:
        """Whether this host can open the bucket."""
        _ = self._bucket

    def text(self, name: str) -> str | None:
        """What a file in the bucket says; None where it is not there."""
        from google.api_core.exceptions import NotFound

        blob = self._blob(name)
        with self._asking("read"), contextlib.suppress(NotFound):
            return blob.download_as_bytes().decode()
        return None

    def pull(self) -> None:
        """Make the local folder equal to the bucket, but for checkpoints/ and export/, which no
        start reads here."""
        with self._asking("list"):
            blobs = self._blobs()
        wanted = {name: blob for name, blob in blobs.items() if not name.startswith(f"{EXPORT}/")}
        self.root.mkdir(parents=True, exist_ok=True)
        for path in self.root.rglob("*"):
            name = path.relative_to(self.root).as_posix()
            if name not in wanted and name != _LOCK and (path.is_symlink() or path.is_file()):
                path.unlink()
        with self._asking("read"), concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self._fetch, wanted, wanted.values()))
        self._there = dict.fromkeys(blobs) | self._here()

    def claim(self) -> None:
        """Make the folder this run's: an earlier one that still goes on stops at its next write."""
        note = {
            "token": self._token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        }
        before = self.text(_NOTE)
        trial = self._blob(f"{_NOTE}.{self._token}")
        with self._asking("write"):
            trial.upload_from_string("")
            trial.delete()  # a missing right shows now
            self._blob(_NOTE).upload_from_string(json.dumps(note))
        if before is not None:
            time.sleep(_SETTLES)

    def check_owner(self) -> None:
        """Stop where a later start has made the folder its own."""
        note = json.loads(self.text(_NOTE) or "{}")
        if note.get("token") == self._token:
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
            blob = self._blob(name)
            with self._asking("write"), contextlib.suppress(FileNotFoundError):
                blob.upload_from_filename(
                    self.root / name, timeout=_PATIENCE / 2, retry=_patient_retry()
                )
                self._there[name] = here[name]
        self.check_owner()

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Around the mark that makes a state count."""
        self.push()
        yield
        self._drop_vanished()

    def _drop_vanished(self) -> None:
        """Take from the bucket what is no more here; an export only if there is another one."""
        from google.api_core.exceptions import NotFound

        exported = (self.root / EXPORT).is_dir()
        for name in self._there.keys() - self._here().keys():
            if exported or not name.startswith(f"{EXPORT}/"):
                with self._asking("delete"), contextlib.suppress(NotFound):
                    self._blob(name).delete(retry=_patient_retry())
                del self._there[name]

    @functools.cached_property
    def _bucket(self) -> Any:
        """The bucket, which is there and may be looked at (as Orbax does, too)."""
        from google.api_core.exceptions import NotFound
        from google.cloud import storage

        with self._asking("open"):
            try:
                client = storage.Client()
            except OSError as error:
                raise FolderError(
                    f"out={self.address!r}: {error}; set GOOGLE_CLOUD_PROJECT to the project's id"
                ) from error
            try:
                return client.get_bucket(self._name)
            except NotFound as error:
                raise FolderError(
                    f"out={self.address!r}: there is no bucket {self._name!r} "
                    f"({_said(error)}); make it (gcloud storage buckets create "
                    f"gs://{self._name}), or give another --out"
                ) from error

    def _blob(self, name: str) -> Any:
        return self._bucket.blob(self._prefix + name)

    def _blobs(self) -> dict[str, Any]:
        """What lies in the bucket, by its name in the folder, without checkpoints."""
        top = self._bucket.list_blobs(prefix=self._prefix, delimiter="/")
        found, folders = list(top), top.prefixes
        names = {blob.name.removeprefix(self._prefix) for blob in found}
        if CONFIG not in names and (folders or any(name[:1] not in ("", ".") for name in names)):
            raise FolderError(
                f"out={self.address!r} holds objects but no {CONFIG}, so it is not a run of this "
                "program; choose an empty or new folder with --out"
            )
        for folder in folders - {f"{self._prefix}{CHECKPOINTS}/"}:
            found += self._bucket.list_blobs(prefix=folder)
        blobs = {blob.name.removeprefix(self._prefix): blob for blob in found}
        return {name: blob for name, blob in blobs.items() if _is_file_of_a_run(name)}

    def _fetch(self, name: str, blob: Any) -> None:
        """One file, unless it is here already."""
        path = self.root / name
        if path.is_file() and path.stat().st_size == blob.size and _crc32c(path) == blob.crc32c:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        blob.download_to_filename(part)
        os.replace(part, path)

    def _here(self) -> dict[str, _Stamp]:
        """The local files of the run, by name, as they are now."""
        found = {}
        for path in self.root.rglob("*"):
            name = path.relative_to(self.root).as_posix()
            if _is_file_of_a_run(name) and path.is_file() and not path.is_symlink():
                with contextlib.suppress(FileNotFoundError):
                    stat = path.stat()
                    found[name] = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
        return found

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Errors of the service as one of ours: what it said, and what is needed."""
        import requests
        from google.api_core import exceptions as answers
        from google.auth.exceptions import GoogleAuthError

        where = f"out={self.address!r}"
        try:
            yield
        except (answers.Forbidden, answers.Unauthorized) as error:
            raise FolderError(
                f"{where}: Google Cloud Storage does not let this account {what} there "
                f"({_said(error)}). It needs the roles Storage Object User and Storage Legacy "
                "Bucket Reader for the bucket; grant them, log in as another account (gcloud auth "
                "application-default login), or give another --out"
            ) from error
        except GoogleAuthError as error:
            raise FolderError(
                f"{where}: not logged in to Google Cloud ({_said(error)}); run gcloud auth "
                "application-default login, start on a machine with a service account, or give a "
                "path with --out"
            ) from error
        except (answers.GoogleAPIError, requests.RequestException) as error:
            raise FolderError(
                f"{where}: cannot {what} there ({_said(error)}); start the same command again once "
                "the bucket can be reached, or give another --out"
            ) from error


def _prepare(out: str) -> None:
    """What the libraries that reach a bucket have to know before their first use."""
    if importlib.util.find_spec("gcsfs") is None or not _has_storage():
        raise FolderError(
            f"out={out!r} is a bucket, which needs gcsfs and google-cloud-storage; "
            "pip install 'pruner-jax[gcs]', or give a path with --out"
        )
    import fsspec

    # Other hosts write there, too: what it listed once may not be so any more.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    # The plain interface, which every bucket has and nothing has to be asked about first.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    os.environ.setdefault("EPATH_USE_TF", "false")  # the same client with and without TensorFlow


def _has_storage() -> bool:
    try:
        return importlib.util.find_spec("google.cloud.storage") is not None
    except ModuleNotFoundError:
        return False


def _patient_retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(_PATIENCE)


def _is_file_of_a_run(name: str) -> bool:
    parts = name.split("/")
    own = parts[0] == CHECKPOINTS or name in (_LOCK, _NOTE)
    return not own and not any(p in ("", "..") or _HALF_WRITTEN.fullmatch(p) for p in parts)


def _crc32c(path: pathlib.Path) -> str:
    """As the service gives it."""
    import google_crc32c

    total = google_crc32c.Checksum()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return base64.b64encode(total.digest()).decode()


def _said(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", "") or error).split())
