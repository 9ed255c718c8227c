"""Compiled programs: kept on disk, so that a second start does not wait, and counted by name.

JAX itself tells of every program that it makes ready, so none is forgotten: also the small one of
an operation on arrays outside any ``jit``, and one that was found on disk. A program is the name of
its function and the shapes that it was made for.

They lie under ``~/.cache/pruner_jax`` (``XDG_CACHE_HOME`` and ``JAX_COMPILATION_CACHE_DIR`` are
honoured), one folder per kind of processor: a program compiled for another one must never be
loaded. The folder has to be trusted, for what lies there is executed.
"""

from __future__ import annotations

import collections
import os
import pathlib
import platform
import re
import zlib

import jax

COMPILED: collections.Counter[str] = collections.Counter()  # made ready so far, by name

_READY = "/jax/core/compile/backend_compile_duration"  # also where it came from disk


def _count(event: str, _: float, **about: str | int) -> None:
    if event == _READY:  # the function's name comes as jit(name)
        name = str(about.get("fun_name", "unnamed"))
        COMPILED[re.sub(r"^\w+\((.*)\)$", r"\1", name).lstrip("_")] += 1


jax.monitoring.register_event_duration_secs_listener(_count)


class Compiled:
    """Tells which programs were made ready between one look and the next."""

    def __init__(self) -> None:
        self._seen = COMPILED.copy()

    def lap(self) -> dict[str, float]:
        """How many since the last lap, in all and by name, as metrics."""
        fresh, self._seen = COMPILED - self._seen, COMPILED.copy()
        named = {f"perf/compiled/{name}": float(n) for name, n in sorted(fresh.items())}
        return {"perf/compiled": float(fresh.total()), **named}


def keep_compiled_programs() -> None:
    """Switch the cache on, unless the environment set one up (an empty name: switched off)."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(home) / "pruner_jax" / f"{platform.machine()}-{_processor():08x}"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _processor() -> int:
    """A number for what this processor can do."""
    try:
        found = re.search(
            r"^(flags|Features)\s*:.*$", pathlib.Path("/proc/cpuinfo").read_text(), re.M
        )
    except OSError:
        found = None
    return zlib.crc32((found[0] if found else platform.processor()).encode())
