"""Checkers by name: one file here is one checker, and its name is the file's.

Such a file defines ``check(problem, text, answer, **settings)``, exactly as a user's own file does,
and besides, as it needs:

    BY_ANSWER = True   the verdict follows from gold and extracted answer alone: it is cached, and
                       the checker is given nothing else
    extract(text)      what counts as the answer, instead of the rule of the options
    prepare()          heavy imports, run in the worker before the clock of an item starts

`plan` is what the main process must know of a checker, `load` makes it callable in a worker.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import pathlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from pruner_jax import plugin
from pruner_jax.verify.adapters import ADAPTERS, Check


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known of a checker without running it."""

    spec: str  # as given, paths made absolute
    by_answer: bool  # depends on gold and extracted answer alone
    needs_answer: bool  # no answer means UNPARSED; user functions are asked all the same
    needs_tokens: bool
    extract: Callable[[str], str | None] | None


def names() -> list[str]:
    """The checkers that come with the package."""
    folder = pathlib.Path(__file__).parent
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


@functools.cache
def plan(spec: str) -> Plan:
    """Look a checker up. Errors: ValueError if there is no such checker or file."""
    adapter, path, function = _parse(spec)
    if path is None:
        module = _built_in(function)
        by_answer = getattr(module, "BY_ANSWER", False)
        return Plan(spec, by_answer, True, False, getattr(module, "extract", None))
    spec = ":".join(part for part in (adapter, str(path), function) if part)
    return Plan(spec, False, False, adapter.startswith("trl"), None)


def load(spec: str, settings: Mapping[str, Any]) -> Check:
    """Import a checker (in a worker: this runs the user's file) and make it a function of a Job."""
    adapter, path, name = _parse(spec)
    module = _built_in(name) if path is None else plugin.load(path, "checker")
    function = getattr(module, "check" if path is None else name, None)
    if not callable(function):
        raise ValueError(f"{path} has no function {name!r}")
    known = inspect.signature(function).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known):
        allowed = [p.name for p in known if p.kind is p.KEYWORD_ONLY]
        unknown = sorted(set(settings) - set(allowed))
        if unknown:
            raise ValueError(
                f"verify.settings[{spec!r}] has {', '.join(unknown)}; allowed: "
                f"{', '.join(allowed) or 'none'}"
            )
    if path is None and hasattr(module, "prepare"):
        module.prepare()
    return ADAPTERS[adapter](function, settings)


def _parse(spec: str) -> tuple[str, pathlib.Path | None, str]:
    """(adapter, file, function), or ("", None, name of a built-in)."""
    head, colon, rest = spec.partition(":")
    adapter = head if colon and head in ADAPTERS else ""
    place, colon, function = (rest if adapter else spec).rpartition(":")
    if not colon:
        if adapter or spec not in names():
            raise ValueError(
                f"checker {spec!r} is not known; allowed: {', '.join(names())}, or "
                "path/to/file.py:function, also with trl:, trl-chat: or verl: before it"
            )
        return "", None, spec
    path = pathlib.Path(place).expanduser().resolve()
    if not path.is_file():
        raise ValueError(f"checker {spec!r}: there is no file {path}")
    return adapter, path, function


def _built_in(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
