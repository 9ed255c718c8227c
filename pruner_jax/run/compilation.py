"""Compiled programs are kept on disk, so that a second start does not wait for the compiler.

Under ``~/.cache/pruner_jax`` (``XDG_CACHE_HOME`` and ``JAX_COMPILATION_CACHE_DIR`` are honoured),
one folder per kind of processor: a program compiled for another one must never be loaded. The
folder has to be trusted, for what lies there is executed.
"""

from __future__ import annotations

import os
import pathlib
import platform
import re
import zlib

import jax


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
