"""Values as bytes: what comes back is what was sent, and nothing else can be sent or made."""

import pathlib

import numpy as np
import pytest
from flax import serialization
from handmade import Row, graded

from pruner_jax.pod import wire
from pruner_jax.types import Graded, Purpose, Verdict


def same(a, b):
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            same(x, y)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif hasattr(a, "__dataclass_fields__"):
        for name in a.__dataclass_fields__:
            same(getattr(a, name), getattr(b, name))
    else:
        assert a == b or (a != a and b != b)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [1, 2.5, "é", True, b"x", None, float("nan")],
        (1, (2, [3])),
        {"a": (1,), 2: "b", "type": "text", "tuple": {}},
        np.array([], np.int32),
        np.array([[True, False]]),
        np.float32(3),
        Purpose.MONITOR,
        Verdict.TIMEOUT,
    ],
    ids=str,
)
def test_what_comes_back_is_what_was_sent(value):
    same(wire.unpack(wire.pack(value)), value)


def test_graded_rows():
    value = graded([Row(3, correct=True), Row(5)], [Row(2, thinking=1, verdict=Verdict.ERROR)])
    back = wire.unpack(wire.pack(value))
    assert isinstance(back, Graded)
    same(back, value)


UNSENDABLE = {"path": pathlib.Path("x"), "object": object(), "set": {"a": {1, 2}}}


@pytest.mark.parametrize("value", UNSENDABLE.values(), ids=UNSENDABLE)
def test_what_cannot_be_sent_is_an_error(value):
    with pytest.raises(TypeError):
        wire.pack(value)


@pytest.mark.parametrize(
    "plain",
    [
        {"type": "os:system", "fields": {}},
        {"type": "pruner_jax.store.folder:write_atomically", "fields": {}},
        {"type": "subprocess:Popen", "fields": {"args": ["true"]}},
    ],
    ids=str,
)
def test_nothing_but_our_own_values_is_made(plain):
    with pytest.raises(TypeError):
        wire.unpack(serialization.msgpack_serialize(plain))
