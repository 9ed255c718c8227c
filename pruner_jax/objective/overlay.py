"""Slots overridden by plain data: YAML and dotted command-line words laid over a composition.

    {weight: 0.1}                   fields of the slot that is there
    {kind: fused, baseline: ...}    a new slot of that kind, its other fields at their defaults
    [{...}, {...}]                  a whole new list
    {0: {weight: 0.1}}              one entry of the list that is there; the number may be left out
                                    where there is a single entry

Where a slot has an ``INNER`` one (the kernel of a length term, the norm of a fused advantage), its
fields stand beside those of the slot itself, so ``{kind: sigmoid, weight: 0.1}`` is a length term.
Kinds, fields and types are read off the type hints of the slots: a new one needs no registration.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pruner_jax.objective.slots import is_slot, kind_of


def overlay(old: Any, spec: Any, hint: Any, path: str) -> Any:
    """The value of a field typed ``hint`` after laying ``spec`` over ``old``.

    Raises:
      ValueError: naming the path, what was found and what is allowed.
    """
    members = _members(hint)
    for member in members:
        if typing.get_origin(member) is tuple and isinstance(spec, (list, tuple, Mapping)):
            return _tuple(old, spec, typing.get_args(member), path)
        if _fits(spec, member):
            return float(spec) if member is float else spec
    classes = [member for member in members if dataclasses.is_dataclass(member)]
    if classes and isinstance(spec, Mapping):
        return _slot(old, dict(spec), classes, path)
    raise ValueError(f"{path} is {spec!r}; allowed: {', '.join(map(_describe, members))}")


def _slot(old: Any, spec: dict[str, Any], classes: list[type], path: str) -> Any:
    """A slot with some fields overlaid, or a new one of the kind that the spec names."""
    keep = is_slot(old)
    if len(classes) == 1:
        (cls,) = classes
    elif "kind" in spec:
        kind, kinds = spec.pop("kind"), {kind_of(cls): cls for cls in classes}
        if kind not in kinds:
            raise ValueError(f"{path}.kind is {kind!r}; allowed: {', '.join(kinds)}")
        cls, keep = kinds[kind], False
    elif keep:
        cls = type(old)
    else:
        raise ValueError(f"{path} lacks kind; allowed: {', '.join(map(kind_of, classes))}")

    hints = _hints(cls)
    values = {name: getattr(old, name) for name in hints} if keep else {}
    for name, part in _unfold(cls, values, spec, path).items():
        values[name] = overlay(values.get(name), part, hints[name], f"{path}.{name}")
    missing = [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is field.default_factory is dataclasses.MISSING
        and field.name not in values
    ]
    if missing:
        raise ValueError(f"{path} ({kind_of(cls)}) lacks {', '.join(missing)}; there is no default")
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _unfold(
    cls: type, values: Mapping[str, Any], spec: Mapping[str, Any], path: str
) -> dict[str, Any]:
    """The spec with the fields of the inner slot in a spec of their own; unknown fields refused."""
    hints, inner = _hints(cls), getattr(cls, "INNER", None)
    if inner is None:
        allowed: Iterable[str] = hints
        unfolded = dict(spec)
    else:
        kinds = {kind_of(member): member for member in _members(hints[inner])}
        there = [type(values[inner])] if inner in values else []
        chosen = [kinds[spec["kind"]]] if spec.get("kind") in kinds else there
        fields = ["kind"] * (len(kinds) > 1)
        fields += [name for member in chosen or kinds.values() for name in _hints(member)]
        unfolded = {name: part for name, part in spec.items() if name not in fields}
        nested = {name: part for name, part in spec.items() if name in fields}
        if nested:
            unfolded[inner] = nested
        allowed = [*(name for name in hints if name != inner), *dict.fromkeys(fields)]
    for name in unfolded:
        if name not in hints:
            raise ValueError(f"{path}.{name} is unknown; allowed: {', '.join(allowed)}")
    return unfolded


def _tuple(old: Any, spec: Any, args: tuple[Any, ...], path: str) -> tuple[Any, ...]:
    """A list in place of a tuple, or some entries of the tuple that is there."""
    if not isinstance(spec, Mapping):
        hints = args[:1] * len(spec) if Ellipsis in args else args
        if len(spec) != len(hints):
            raise ValueError(f"{path} is {list(spec)!r}; allowed: {len(hints)} values")
        pairs = enumerate(zip(spec, hints))
        return tuple(overlay(None, part, hint, f"{path}.{i}") for i, (part, hint) in pairs)
    new = list(old or ())
    if not all(str(key).isdigit() for key in spec):
        if len(new) != 1:
            there = ", ".join(kind_of(type(part)) for part in new) or "nothing"
            raise ValueError(
                f"{path}.{next(iter(spec))} overrides the single entry of a list, but there is "
                f"{there}; write {path}.0... to say which, or give a whole list, [{{...}}]"
            )
        spec = {0: spec}
    for key, part in spec.items():
        i = int(key)
        if i >= len(new):
            raise ValueError(f"{path}.{i} does not exist; the list has {len(new)} entries")
        new[i] = overlay(new[i], part, args[0], f"{path}.{i}")
    return tuple(new)


def _fits(spec: Any, member: Any) -> bool:
    """Whether plain data is of the type: a word of a Literal, a number, null..."""
    if typing.get_origin(member) is Literal:
        return spec in typing.get_args(member)
    if member is float:
        return type(spec) in (int, float)
    if typing.get_origin(member) in (dict, Mapping):
        return isinstance(spec, Mapping)
    return isinstance(member, type) and type(spec) is member


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Types of the fields of a slot, in order."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _describe(member: Any) -> str:
    """A type in the words of an error message."""
    if typing.get_origin(member) is Literal:
        return ", ".join(map(repr, typing.get_args(member)))
    if dataclasses.is_dataclass(member):
        return f"{{{kind_of(member)}: {', '.join(_hints(member))}}}"
    if typing.get_origin(member) is tuple:
        return "a list"
    words = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
    return words.get(member, "null" if member is type(None) else str(member))
