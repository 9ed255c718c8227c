"""What is known to go wrong with length rewards, as properties of the algebra."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, graded, weights
from hypothesis import assume, given
from hypothesis import strategies as st

from pruner_jax.objective.advantage import Decoupled, Fused, Norm
from pruner_jax.objective.context import Context
from pruner_jax.objective.kernels import Clipped, Sigmoid
from pruner_jax.objective.length import Length
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Phase
from pruner_jax.objective.statistics import Stat
from pruner_jax.objective.weigh import weigh

MEAN = Stat(reduce="mean", over="correct", empty=None)
STD = Stat(reduce="std", over="correct", empty=None)
TLMRE = Length(kernel=Sigmoid(), weight=0.1, target=MEAN, scale=STD)
EXACT = {"epsilon": 0.0}
lengths = st.lists(st.integers(1, 5000), min_size=2, max_size=12)
alphas = st.floats(1e-3, 10.0)


def phase(advantage, *terms):
    return Phase(
        name="prune",
        collect=Collect(samples=8),
        length=terms,
        advantage=advantage,
        loss=LossSpec(),
    )


def fused(alpha, scale, term=TLMRE):
    norm = Norm(baseline="group", scale=scale, **EXACT)
    return phase(Fused(norm=norm), dataclasses.replace(term, weight=alpha))


def decoupled(beta, over="correct"):
    task = Norm(baseline="group", scale="group")
    length = Norm(baseline="group", scale="none", over=over)
    return phase(Decoupled(task=task, length=length, beta=beta), TLMRE)


def advantage(made, rows):
    return weights(weigh(made, rows, {}, Context(limit=10_000))[0])


def solved(lengths):
    return graded([Row(length, True) for length in lengths])


@given(lengths, alphas)
def test_std_cancels_the_weight_of_the_length_term_in_solved_groups(lengths, alpha):
    assume(np.std(lengths) > 1)
    rows = solved(lengths)
    one = advantage(fused(1.0, "group"), rows)
    np.testing.assert_allclose(advantage(fused(alpha, "group"), rows), one, rtol=1e-4, atol=1e-6)
    assert np.abs(one).max() > 0.5


@given(lengths, alphas)
def test_without_std_the_weight_is_a_real_knob(lengths, alpha):
    rows = solved(lengths)
    one = advantage(fused(1.0, "none"), rows)
    np.testing.assert_allclose(advantage(fused(alpha, "none"), rows), alpha * one, atol=1e-6)


@given(lengths, alphas)
def test_decoupled_is_linear_in_beta(lengths, beta):
    rows = graded([Row(length, g % 3 > 0) for g, length in enumerate(lengths)])
    zero, one = advantage(decoupled(0.0), rows), advantage(decoupled(1.0), rows)
    expected = zero + beta * (one - zero)
    np.testing.assert_allclose(advantage(decoupled(beta), rows), expected, atol=1e-5)


PENALTY = Length(kernel=Clipped(0.0, -1.0, 0.0), scale=1000.0)  # -min(L / 1000, 1)


@given(
    st.lists(st.tuples(st.integers(1, 3000), st.booleans()), min_size=2, max_size=12),
    st.floats(0.0, 1.0),
)
def test_correct_rows_are_never_pushed_down_by_a_small_bounded_penalty(rows, share):
    """r = c (1 - alpha f), f in [0, 1]: alpha <= 1 / (G - 1) suffices in every mixed group."""
    correct = np.array([c for _, c in rows])
    assume(0 < correct.sum() < len(rows))
    alpha = share / (len(rows) - 1)
    made = graded([Row(length, c) for length, c in rows])
    assert (advantage(fused(alpha, "none", PENALTY), made)[correct] >= -1e-7).all()


@pytest.mark.parametrize("G", [2, 4, 8, 16])
def test_and_the_bound_is_sharp(G):
    """One wrong row, one long correct one, the rest short: just above the bound it is negative."""
    rows = graded([Row(1), Row(5000, True)] + [Row(1, True)] * (G - 2))
    free = dataclasses.replace(PENALTY, target=1.0)
    at = advantage(fused(1 / (G - 1), "none", free), rows)[1]
    above = advantage(fused(1.01 / (G - 1), "none", free), rows)[1]
    assert at == pytest.approx(0, abs=1e-6) and above < 0


@given(st.integers(1, 5000), st.integers(1, 8), st.integers(0, 8))
def test_equal_lengths_give_no_length_advantage(length, right, wrong):
    rows = graded([Row(length, True)] * right + [Row(length)] * wrong)
    with_term, without = decoupled(1.0), decoupled(0.0)
    np.testing.assert_allclose(advantage(with_term, rows), advantage(without, rows), atol=1e-6)
    np.testing.assert_allclose(
        advantage(fused(1.0, "none"), solved([length] * (right + 1))), 0, atol=1e-6
    )


groups = st.lists(
    st.lists(st.tuples(st.integers(1, 5000), st.booleans(), st.booleans()), max_size=6),
    min_size=1,
    max_size=4,
).filter(lambda groups: any(groups))


@given(groups, st.sampled_from(["group", "batch", "none"]))
def test_empty_subsets_give_finite_numbers(groups, scale):
    rows = graded(*([Row(n, c, finished=f) for n, c, f in group] for group in groups))
    for made in (fused(0.5, scale), decoupled(0.5)):
        weighted, _, metrics = weigh(made, rows, {}, Context(limit=5000))
        assert np.isfinite(weighted.weight_BT).all()
        assert all(np.isfinite(value) for value in metrics.values())
