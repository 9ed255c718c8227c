"""Plain data becomes the dataclass that declares it: the settings of a source, checked.

Takes what a YAML file says, gives an instance; unknown keys and wrong types are errors that name
the setting. Text stays text: nothing is parsed a second time.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from pruner_jax.settings import describe

T = TypeVar("T")


def resolve(cls: type[T], given: Mapping[str, Any], where: str) -> T:
    """The settings as ``cls``; ``where`` is what messages call them, e.g. "problems.options"."""
    known = [field.name for field in dataclasses.fields(cls)]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(f"{where}.{unknown[0]} is unknown; allowed: {', '.join(sorted(known))}")
    hints = typing.get_type_hints(cls)
    values = {}
    for name, value in given.items():
        try:
            values[name] = as_type(value, hints[name])
        except TypeError:
            allowed = describe(hints[name])
            raise ValueError(f"{where}.{name} is {value!r}; allowed: {allowed}") from None
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def as_type(value: Any, hint: Any) -> Any:
    """The value, if it has the type; TypeError if not. Only numbers change: 1 and "1e-3" are floats
    where one is asked for (YAML 1.1 reads the latter as text)."""
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is Any or (kind is typing.Literal and value in inner):
        return value
    if kind in (typing.Union, types.UnionType):
        for member in inner:
            try:
                return as_type(value, member)
            except TypeError:
                continue
    elif kind is float:
        return _as_float(value)
    elif kind is int:
        if type(value) is int:
            return value
    elif kind in (dict, Mapping) and isinstance(value, Mapping):
        key, part = inner or (Any, Any)
        return {as_type(k, key): as_type(v, part) for k, v in value.items()}
    elif kind in (list, tuple) and isinstance(value, (list, tuple)):
        return kind(as_type(part, inner[0] if inner else Any) for part in value)
    elif isinstance(kind, type) and isinstance(value, kind):
        return value
    raise TypeError


def _as_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError
    try:
        return float(value)
    except ValueError:
        raise TypeError from None
