"""A user's own Python file as a module: a method, a source of problems, a checker, a scorer."""

from __future__ import annotations

import hashlib
import importlib.util
import pathlib
import sys
from types import ModuleType

_folders: list[str] = []  # of the files that were run, the newest first


def load(path: pathlib.Path, room: str) -> ModuleType:
    """Run a file anew, with its own folder open to its imports. ``room`` says what it is for."""
    path = path.expanduser().resolve()
    _open(path.parent)
    name = f"pruner_jax_{room}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their type hints up there
    spec.loader.exec_module(module)
    return module


def _open(folder: pathlib.Path) -> None:
    """Let imports find what stands in the folder, before files of the same name in the folders of
    other plugins; installed packages come first."""
    for other in _folders:
        sys.path.remove(other)
    _folders[:] = [str(folder), *(other for other in _folders if other != str(folder))]
    sys.path.extend(_folders)
    for file in folder.glob("*.py"):
        known = getattr(sys.modules.get(file.stem), "__file__", None)
        if known and str(pathlib.Path(known).parent) in _folders[1:]:
            del sys.modules[file.stem]
