"""Values as bytes and back, as one process sends them to another.

Plain data, numpy arrays, and the dataclasses and enumerations of this package; nothing else can be
sent, and what arrives can run no code of its own (unlike a pickle).
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
from collections.abc import Mapping
from typing import Any

from flax import serialization

_TYPE, _TUPLE, _DICT = "type", "tuple", "dict"
_PACKAGE = __name__.partition(".")[0]


def pack(value: Any) -> bytes:
    """The value as bytes.

    Raises:
      TypeError: a part of it cannot be sent.
    """
    return serialization.msgpack_serialize(_plain(value))


def unpack(data: bytes) -> Any:
    """The value again, of the same types; a mapping comes back as a dict."""
    return _restored(serialization.msgpack_restore(data))


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return {_TYPE: _name(type(value)), "value": value.value}
    if dataclasses.is_dataclass(value):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {_TYPE: _name(type(value)), "fields": fields}
    if isinstance(value, Mapping):  # keys may be of any type, and named as we name types
        return {_DICT: [[_plain(key), _plain(part)] for key, part in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [_plain(part) for part in value]}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _restored(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_restored(part) for part in plain]
    if not isinstance(plain, dict):
        return plain
    if _DICT in plain:
        return {_restored(key): _restored(part) for key, part in plain[_DICT]}
    if _TUPLE in plain:
        return tuple(_restored(part) for part in plain[_TUPLE])
    kind = _type(plain[_TYPE])
    if issubclass(kind, enum.Enum):
        return kind(plain["value"])
    return kind(**{name: _restored(part) for name, part in plain["fields"].items()})


def _name(kind: type) -> str:
    if kind.__module__.partition(".")[0] != _PACKAGE:
        raise TypeError(f"{kind.__module__}.{kind.__qualname__} cannot be sent to other processes")
    return f"{kind.__module__}:{kind.__qualname__}"


def _type(name: str) -> type:
    module, _, path = name.partition(":")
    if module.partition(".")[0] != _PACKAGE:
        raise TypeError(f"{name} is no type of {_PACKAGE}")
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    if not dataclasses.is_dataclass(found) and not issubclass(found, enum.Enum):
        raise TypeError(f"{name} is no dataclass and no enumeration")
    return found
