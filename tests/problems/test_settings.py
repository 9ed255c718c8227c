"""settings: plain data becomes the dataclass that declares it."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pytest

from pruner_jax.problems.settings import as_type, resolve


@dataclasses.dataclass(frozen=True)
class Options:
    size: int = 1
    rate: float = 0.5
    name: str | None = None
    kind: Literal["a", "b"] = "a"
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    free: dict[str, Any] = dataclasses.field(default_factory=dict)
    limits: list[int] | Literal["auto"] = "auto"

    def __post_init__(self):
        if self.size < 0:
            raise ValueError("size is negative")


def test_what_is_given_arrives_unchanged():
    text = "#### *(.+): {x}"  # as YAML this would be a comment, hence null
    free = {"pattern": text, "seven": "7", "deep": {"list": ["y: 1", 3]}}
    made = resolve(Options, {"free": free, "limits": [4, 3], "kind": "b", "name": None}, "o")
    assert made == Options(free=free, limits=[4, 3], kind="b")
    assert made.free["deep"] is not None and made.free == free


@pytest.mark.parametrize(
    ("value", "hint", "result"),
    [
        (1, float, 1.0),
        ("1e-3", float, 1e-3),
        ("7", str, "7"),
        (None, str | None, None),
        ([1, 2], tuple[float, ...], (1.0, 2.0)),
        ([1], list, [1]),
        ({"a": 1}, dict, {"a": 1}),
        (True, bool, True),
        (3, int | str, 3),
    ],
)
def test_types(value, hint, result):
    found = as_type(value, hint)
    assert found == result and type(found) is type(result)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sise": 1, "rate": 1}, r"^o\.sise is unknown; allowed: columns, free, kind, "),
        ({"size": "1"}, r"^o\.size is '1'; allowed: a whole number$"),
        ({"size": True}, r"^o\.size is True"),
        ({"rate": "fast"}, r"^o\.rate is 'fast'; allowed: a number$"),
        ({"rate": True}, r"^o\.rate is True"),
        ({"name": 3}, r"^o\.name is 3; allowed: text or null$"),
        ({"kind": "c"}, r"^o\.kind is 'c'; allowed: a, b$"),
        ({"columns": {"a": 1}}, r"^o\.columns is \{'a': 1\}; allowed: a mapping \{name: text\}$"),
        ({"free": []}, r"^o\.free is \[\]"),
        ({"limits": ["x"]}, r"allowed: a list \[a whole number, \.\.\.\] or auto$"),
        ({"size": -1}, "^o: size is negative$"),
    ],
)
def test_errors(given, message):
    with pytest.raises(ValueError, match=message):
        resolve(Options, given, "o")
