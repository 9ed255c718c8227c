"""What all slots of a method share: they are frozen dataclasses, and this file walks trees of them.

A slot may hold other slots, tuples of them, and numbers. Walking such a tree is how the algebra
finds what a method needs, which schedules drive it and what it must remember, without any slot
having to register itself anywhere. A slot of one's own is any frozen dataclass that is called like
those of its place; only YAML cannot name its kind.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
import typing
from collections.abc import Callable, Iterator
from typing import Any, Literal


def is_slot(value: Any) -> bool:
    """A frozen dataclass instance."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def kind_of(cls: type) -> str:
    """The name by which YAML asks for a class: ``TopK`` is ``top_k``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every slot of a tree with its dotted path, outermost first."""
    if is_slot(value):
        yield path, value
        for field in dataclasses.fields(value):
            yield from walk(
                getattr(value, field.name), f"{path}.{field.name}" if path else field.name
            )
    elif isinstance(value, tuple):
        for i, part in enumerate(value):
            yield from walk(part, f"{path}.{i}")


def transform(value: Any, change: Callable[[str, Any], Any], path: str = "") -> Any:
    """The same tree with ``change(path, slot)`` in place of every slot, innermost first."""
    if is_slot(value):
        changes = {}
        for field in dataclasses.fields(value):
            old = getattr(value, field.name)
            new = transform(old, change, f"{path}.{field.name}" if path else field.name)
            if new is not old:
                changes[field.name] = new
        return change(path, dataclasses.replace(value, **changes) if changes else value)
    if isinstance(value, tuple):
        new = tuple(transform(part, change, f"{path}.{i}") for i, part in enumerate(value))
        return new if any(a is not b for a, b in zip(new, value)) else value
    return value


@functools.cache
def choices(cls: type) -> dict[str, tuple[Any, ...]]:
    """Fields of a slot that are one of a few words, and the words (its ``Literal`` hints)."""
    hints = typing.get_type_hints(cls)
    return {
        name: typing.get_args(hint)
        for name, hint in hints.items()
        if typing.get_origin(hint) is Literal
    }


def check_choices(slot: Any) -> None:
    """Refuse a word that the field does not know; called by slots that have such fields."""
    for name, allowed in choices(type(slot)).items():
        if getattr(slot, name) not in allowed:
            raise ValueError(
                f"{kind_of(type(slot))}.{name} is {getattr(slot, name)!r}; "
                f"allowed: {', '.join(map(repr, allowed))}"
            )


def uniform(*parts: object) -> float:
    """A number in [0, 1) that depends on ``parts`` alone: not on the machine, the order or the rows
    beside it."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
