"""Length kernels: literal values, monotony, finiteness."""

import dataclasses
import typing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruner_jax.objective import kernels as k

ALL = typing.get_args(k.Kernel)
PEAKED = (k.Distance, k.Triangle)
RISING = (k.Step(above=True), k.Cosine(start=0.0, end=10.0))

VALUES = [  # kernel, u, value worked by hand
    (k.One(), 3.0, 1.0),
    (k.Linear(), 2.5, -2.5),
    (k.Distance(), -2.0, -2.0),
    (k.Clipped(), 0.25, 0.25),  # Kimi k1.5: 1/2 - (L - min) / (max - min)
    (k.Clipped(), 2.0, -0.5),
    (k.Clipped(0.0, -1.0, 0.0), 0.75, -0.75),  # DAPO: soft overlong
    (k.Clipped(0.5, 0.0, 1.0), 0.2, 0.3),  # L1-Max
    (k.Sigmoid(), 0.0, -0.5),
    (k.Sigmoid(), np.log(3.0), -0.75),
    (k.Step(), 0.0, 1.0),
    (k.Step(), 0.01, 0.0),
    (k.Step(above=True), 0.01, 1.0),
    (k.Cosine(), 0.25, np.cos(np.pi / 4)),  # HAPO at half of its history: u = L / 2h
    (k.Cosine(), 0.5, 0.0),
    (k.Cosine(), 7.0, -1.0),
    (k.Cosine(2.0, 1.0), 0.5, 1.5),  # the cosine paper: correct answers 2 -> 1
    (k.Exponential(2.0), 0.5, np.exp(-1.0)),
    (k.Excess(), 3.0, -3.0),
    (k.Excess(), -3.0, 0.0),
    (k.Excess(2.0), 22.0, -484.0),  # Hawkeye: 22 over the target, times .01 = 4.84
    (k.Ratio(), 0.5, 1.0),  # O1-Pruner: L 500 against 1000
    (k.Ratio(), 2.0, -0.5),
    (k.Hyperbolic(0.33), 1.0, 1 / 1.33),  # GR3 at the mean
    (k.LogBudget(), 0.0, 1.0),  # Acoer
    (k.LogBudget(), 0.6, np.log(3.0) / np.log(6.0)),
    (k.LogBudget(), 1.5, 0.0),
    (k.Discount(), 3.0, 0.125),  # S-GRPO at rank 3
    (k.Triangle(), 0.25, 0.75),
    (k.Triangle(), -1.5, 0.0),
    (k.Log(), 49.0, -np.log(50.0)),  # RaM: 49 tokens
]


@pytest.mark.parametrize(("kernel", "u", "value"), VALUES, ids=lambda v: str(v)[:24])
def test_values(kernel, u, value):
    np.testing.assert_allclose(kernel(np.array([u])), [value], rtol=1e-12, atol=1e-15)


def test_every_kernel_has_a_literal_value():
    assert {type(kernel) for kernel, _, _ in VALUES} == set(ALL)


us = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20)


@pytest.mark.parametrize("kernel", ALL, ids=lambda cls: cls.__name__)
@given(us)
def test_never_rises_with_length_and_is_finite(kernel, u):
    u = np.sort(np.array(u))
    if kernel in PEAKED:  # from the peak on
        u = np.abs(u)
        u.sort()
    value = kernel()(u)
    assert np.isfinite(value).all()
    assert (np.diff(value) <= 1e-12).all()


@pytest.mark.parametrize("kernel", RISING)
@given(us)
def test_kernels_that_are_told_to_rise_do(kernel, u):
    assert (np.diff(kernel(np.sort(np.array(u)))) >= -1e-12).all()


@pytest.mark.parametrize("kernel", ALL, ids=lambda cls: cls.__name__)
def test_constants_matter(kernel):
    """Each field of a kernel changes its value somewhere: none is ignored."""
    u = np.linspace(-2, 3, 41)
    for field in dataclasses.fields(kernel):
        old = getattr(kernel(), field.name)
        new = (not old) if isinstance(old, bool) else old + 0.25
        other = dataclasses.replace(kernel(), **{field.name: new})
        assert (other(u) != kernel()(u)).any(), field.name
