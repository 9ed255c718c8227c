"""A user's own Python file as a module: a method, a source of problems, a checker, a scorer."""

from __future__ import annotations

import importlib.util
import pathlib
import re
import sys
from types import ModuleType


def load(path: pathlib.Path, room: str) -> ModuleType:
    """Run a file anew, with its own folder open to its imports.

    ``room`` says what it is for, and keeps modules of the same file name apart.
    """
    path = path.expanduser().resolve()
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    name = f"pruner_jax_{room}_" + re.sub(r"\W", "_", path.stem)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their type hints up there
    spec.loader.exec_module(module)
    return module
