"""What must be the same on every host: settings, program, machine, data and folder before anything
is computed, and rows before they reach the devices.

Hosts that differ would compute different programs and wait for each other for ever, or learn from
different numbers without a word. Gives what is compared (`together.Pod.agree`).
"""

from __future__ import annotations

import dataclasses
import enum
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

import jax
import numpy as np
from etils import epath

from pruner_jax import settings as reading
from pruner_jax.learn.rows import Rows
from pruner_jax.pod.together import Pod, Unlike
from pruner_jax.store.mirror import is_address
from pruner_jax.types import Problem

LIKE = "start all hosts with the same command, files and versions, on like machines"
_COMPUTED = (
    "what each host works out for itself must not depend on the clock, on random numbers, on the "
    "order of a set or on the machine: look at your own methods, sources and hooks"
)

_APPEARS = 60.0  # seconds
_BEGINNING, _BLOCKS, _BLOCK = 1 << 20, 64, 4096

_PACKAGES = (
    *("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin"),
    *("flax", "optax", "numpy", "orbax-checkpoint", "tensorstore"),
    *("transformers", "tokenizers", "jinja2"),  # prompts
    *("math-verify", "pydantic-monty", "reasoning-gym"),  # verdicts
)
_ENVIRONMENT = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")

# In names of JAX's settings: where a host keeps, finds and tells things, which changes no number.
_OF_A_HOST = (
    *("cache", "dump", "log", "traceback", "source", "pprint"),
    *("platform", "backend", "visible_devices", "default_device", "num_cpu_devices", "client"),
    *("address", "timeout", "mock"),
)


def likeness(settings: Any) -> dict[str, str]:
    """Settings by dotted name, the digest of this package's files, versions of others, JAX's own
    settings and the devices; without what tells processes apart. Of ``out`` an address: a path may
    be another one on each host."""
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
    found |= {name: _flags(os.environ.get(name, "")) for name in _ENVIRONMENT}
    return found | _settings_of_jax() | _devices()


def _flags(said: str) -> str:
    """Without those that say where a host keeps things."""
    return " ".join(flag for flag in said.split() if "dump" not in flag and "cache" not in flag)


def _settings_of_jax() -> dict[str, str]:
    """Those that may change a program or its numbers, however they were set."""
    plain = (bool, int, float, str, enum.Enum, type(None))
    return {
        name: str(value)
        for name, value in jax.config.values.items()
        if isinstance(value, plain) and not any(word in name for word in _OF_A_HOST)
    }


def _devices() -> dict[str, str]:
    """What this process computes on. As many as the others have, for JAX's collectives between
    processes (`jax.experimental.multihost_utils`) need that, though a mesh would not."""
    devices = jax.local_devices()
    kinds = sorted({device.device_kind for device in devices})
    return {"number of devices": str(len(devices)), "kind of the devices": ", ".join(kinds)}


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
    """Of all that every set holds."""
    fields = [field.name for field in dataclasses.fields(Problem)]
    found = {}
    for name, some in problems.items():
        total = hashlib.blake2b(digest_size=8)
        for problem in some:
            total.update(repr([_plain(getattr(problem, field)) for field in fields]).encode())
        found[f"the set {name} ({len(some)} problems)"] = total.hexdigest()
    return found


def _plain(value: Any) -> Any:
    """The value as `repr` gives it in full, and alike on every host: without the addresses of
    objects, mappings and sets in one order, arrays whole."""
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if isinstance(value, Mapping):
        return [(key, _plain(value[key])) for key in sorted(value, key=repr)]
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(_plain(part)) for part in value)
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    return type(value).__qualname__ if type(value).__repr__ is object.__repr__ else repr(value)


def digests_of_rows(rows: Rows) -> dict[str, str]:
    """Of each part of rows that are learnt from or scored; of numbers by token, those of trained
    tokens. 2.8 million tokens with three numbers each took 0.07 s (``benchmarks/pod.py``)."""
    found = {"rows": str(len(rows))}
    for field in dataclasses.fields(rows):
        name, value = field.name, getattr(rows, field.name)
        if isinstance(value, tuple):  # ragged
            lengths = np.array([len(part) for part in value])
            value = _digest_of_arrays(lengths, np.concatenate([np.zeros(0, np.int32), *value]))
        elif isinstance(value, np.ndarray):
            of_tokens = name.endswith("_BT") and name != "train_BT"
            value = _digest_of_arrays(value[rows.train_BT] if of_tokens else value)
        found[name.removesuffix("_BT").removesuffix("_B").replace("_", " ")] = str(value)
    return found


def _digest_of_arrays(*arrays: np.ndarray) -> str:
    total = hashlib.blake2b(digest_size=8)
    for array in arrays:
        total.update(f"{array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array))
    return total.hexdigest()


def check_rows(pod: Pod, what: str, rows: Rows | None, **numbers: Any) -> None:
    """Refuse rows, and numbers that go with them, that are not the same on all processes. Each
    packs all of them for itself: where they are unlike, the devices of one do more micro-batches
    than those of another, and all wait for ever; or all learn from a mixture of both.

    Args:
      pod: the processes.
      what: the rows, and when, as the error names them.
      rows: None where all have read the same.
      numbers: what else decides what is computed with them.

    Raises:
      Unlike: naming what differs, and a process.
    """

    def described() -> dict[str, Any]:
        return numbers | (digests_of_rows(rows) if rows is not None else {})

    pod.agree(what, described, _COMPUTED)


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
