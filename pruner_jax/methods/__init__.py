"""One file = one published method, composed from objective/; the file's name is the method's name.

A method's file has a dataclass `Options` and a function ``compose(options) -> Method``. A file of
one's own has the same two and is given by its path. Nothing is imported until it is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
import typing
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pruner_jax import plugin
from pruner_jax.methods.options import MethodOptions
from pruner_jax.objective.method import Method, Phase
from pruner_jax.objective.overlay import overlay

__all__ = ["MethodOptions", "available", "build", "load"]


def available() -> list[str]:
    """Names of the methods that come with the package: the files of this folder."""
    folder = pathlib.Path(__file__).parent
    return sorted(f.stem for f in folder.glob("*.py") if f.stem not in ("__init__", "options"))


def load(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """The composition of a method, by its name or the path of its file.

    Raises:
      ValueError: no such method, or an option that it does not have.
    """
    module = _module(name)
    for part in ("Options", "compose"):
        if not hasattr(module, part):
            raise ValueError(
                f"method {name!r} lacks {part!r}; a method's file has a dataclass Options and a "
                "function compose(options) -> Method"
            )
    made = overlay(module.Options(), dict(options or {}), module.Options, "method.options")
    method = module.compose(made)
    if not isinstance(method, Method):
        raise ValueError(f"method {name!r}: compose gave {type(method).__name__}, not a Method")
    return method


def build(options: MethodOptions) -> Method:
    """The method that a configuration asks for: its composition with slots laid over it."""
    method = load(options.name, options.options)
    hints = typing.get_type_hints(Method)
    for slot, spec in options.slots.items():
        if slot == "merge":
            merge = overlay(method.merge, spec, hints["merge"], "method.merge")
            method = dataclasses.replace(method, merge=merge)
            continue
        phase, spec, path = _addressed(method, slot, spec)
        changed = overlay(phase, spec, Phase, path)
        phases = tuple(changed if p is phase else p for p in method.phases)
        method = dataclasses.replace(method, phases=phases)
    return method


def _addressed(method: Method, slot: str, spec: Any) -> tuple[Phase, dict[str, Any], str]:
    """The phase that an override means, what is laid over it, and its path in messages."""
    names = {phase.name: phase for phase in method.phases}
    if slot in names:
        if not isinstance(spec, Mapping):
            raise ValueError(f"method.{slot} is {spec!r}; allowed: slots of that phase")
        return names[slot], dict(spec), f"method.{slot}"
    slots = [field.name for field in dataclasses.fields(Phase) if field.name != "name"]
    if slot not in slots:
        allowed = ", ".join([*slots, "merge", *names])
        raise ValueError(f"method.{slot} is unknown; allowed: name, options, {allowed}")
    training = [phase for phase in method.phases if phase.loss is not None]
    if len(training) != 1:
        raise ValueError(
            f"method.{slot}: {method.name!r} has several training phases; say which, e.g. "
            f"method.{training[0].name if training else method.phases[0].name}.{slot}"
        )
    return training[0], {slot: spec}, "method"


def _module(name: str) -> ModuleType:
    if name in available():
        return importlib.import_module(f"pruner_jax.methods.{name}")
    path = pathlib.Path(name).expanduser()
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(
            f"method.name is {name!r}; allowed: {', '.join(available())}, or the path of a .py file"
        )
    return plugin.load(path, "method")
