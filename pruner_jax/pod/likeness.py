"""What must be the same on every host before anything is computed: settings, program, data, folder.

Hosts that differ would compute different programs and wait for each other for ever, or learn from
different numbers without a word. Gives what is compared (`together.Pod.agree`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from pruner_jax import settings as reading
from pruner_jax.pod.together import Pod, Unlike
from pruner_jax.store.mirror import is_address
from pruner_jax.types import Problem

LIKE = "start all hosts with the same command, files and versions"

_APPEARS = 60.0  # seconds
_BEGINNING, _BLOCKS, _BLOCK = 1 << 20, 64, 4096

_PACKAGES = (
    *("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin"),
    *("flax", "optax", "numpy", "transformers", "tokenizers"),
)
_ENVIRONMENT = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION")


def likeness(settings: Any) -> dict[str, str]:
    """Settings by dotted name, the digest of this package's files and versions of others; without
    what tells processes apart. Of ``out`` an address: a path may be another one on each host."""
    found: dict[str, str] = {}

    def flatten(tree: Any, name: str) -> None:
        if isinstance(tree, Mapping) and tree:
            for key, branch in tree.items():
                flatten(branch, f"{name}.{key}" if name else str(key))
        else:
            found[name] = json.dumps(tree, sort_keys=True, default=str)

    plain = reading.plain(settings)
    flatten(plain, "")
    found.pop("pod.process", None)
    if "out" in found and not is_address(plain["out"]):
        found["out"] = "a path"  # which may differ, if only it is the same folder
    package = pathlib.Path(__file__).parents[1]
    found["program"] = digest(sorted(package.rglob("*.py")), package)
    found["version of Python"] = platform.python_version()
    found |= {f"version of {name}": _version(name) for name in _PACKAGES}
    return found | {name: os.environ.get(name, "") for name in _ENVIRONMENT}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def digest(files: Iterable[pathlib.Path], root: pathlib.Path) -> str:
    """Of what files hold, and of their names under a root."""
    total = hashlib.blake2b(digest_size=8)
    for path in files:
        total.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def digests_of_problems(problems: Mapping[str, Sequence[Problem]]) -> dict[str, str]:
    """Of the questions and answers of every set."""
    found = {}
    for name, some in problems.items():
        said = json.dumps([[p.id, p.question, p.answer, p.checker] for p in some])
        found[f"the set {name} ({len(some)} problems)"] = hashlib.blake2b(
            said.encode(), digest_size=8
        ).hexdigest()
    return found


def digests_of_model(folder: pathlib.Path) -> dict[str, str]:
    """Of a model's files; of its weights the header and some blocks, for they take long to read."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            found[path.name] = _digest_of_blocks(path)
        elif path.is_file() and path.suffix in (".json", ".jinja", ".txt", ".model"):
            found[path.name] = digest([path], folder)
    return found


def _digest_of_blocks(path: pathlib.Path) -> str:
    """Of the length, the beginning and evenly spread blocks of a large file."""
    size = path.stat().st_size
    total = hashlib.blake2b(str(size).encode(), digest_size=8)
    with path.open("rb") as file:
        total.update(file.read(_BEGINNING))
        for part in range(_BLOCKS):
            file.seek(size * part // _BLOCKS)
            total.update(file.read(_BLOCK))
    return total.hexdigest()


def check_shared(pod: Pod, folder: pathlib.PurePath) -> None:
    """Refuse a folder of checkpoints that is not one and the same on all hosts, for all write to
    it. The other files of a run are the first host's alone.

    Raises:
      Unlike: naming the processes that see another folder.
    """
    if pod.count == 1:
        return
    name = pod.lead(secrets.token_hex, 8)  # a new one, which no file system has in its memory
    note = epath.Path(folder) / f".shared-{name}"
    pod.lead(note.touch)
    seen = pod.each(_appears, note)
    pod.lead(note.unlink)
    blind = [index for index, sees in enumerate(seen) if not sees]
    if blind:
        raise Unlike(
            f"{str(folder)!r} is not the same folder on all hosts: processes {blind} do not see "
            "what process 0 wrote there; give an --out that all share (a network file system, or "
            "gs://BUCKET/FOLDER)"
        )


def _appears(path: epath.Path) -> bool:
    """Whether a file is seen, within the time that network file systems remember that it is not."""
    until = time.monotonic() + _APPEARS
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.5)
    return True
