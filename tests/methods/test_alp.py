"""ALP against weights worked out by hand from the paper's reward."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.methods import MethodOptions, build
from pruner_jax.objective.context import Context
from pruner_jax.objective.length import Gate
from pruner_jax.objective.weigh import weigh

GRPO = methods.load("grpo").phases[0]
ALP = methods.load("alp").phases[0]
STEEP = methods.load("alp", {"beta": 1e-4}).phases[0]

MIXED = [Row(1000, True), Row(3000, True), Row(2000), Row(4000, finished=False)]
SOLVED = [Row(1000, True), Row(2000, True), Row(6000, True)]
NEVER = [Row(1000), Row(2000), Row(6000, finished=False)]


def weighed(phase, *groups):
    weighted, _, _ = weigh(phase, graded(*groups), {}, Context(limit=8000))
    assert weighted.keep_B.all()
    return weights(weighted)


def test_a_mixed_group_by_hand():
    # beta 1e-4, solve rate 2/4: a token costs 5e-5.
    # rewards 1 - .05 = .95, 1 - .15 = .85, 0 - .1 = -.1, 0 - .2 = -.2; mean .375;
    # deviations .575, .475, -.475, -.575; variance 1.1125 / 3; std .6089609
    expected = [0.944231, 0.780017, -0.780017, -0.944231]
    np.testing.assert_allclose(weighed(STEEP, MIXED), expected, atol=1e-5)


def test_published_prices_press_solved_groups_at_full_size():
    # 1e-7 a token: rewards 1 - 1e-4, 1 - 2e-4, 1 - 6e-4; deviations 2e-4, 1e-4, -3e-4;
    # std sqrt(14e-8 / 2) = 2.645751e-4, and 1e-6 more: divided by 2.655751e-4
    expected = [0.753083, 0.376541, -1.129624]
    np.testing.assert_allclose(weighed(ALP, SOLVED), expected, atol=1e-5)


def test_a_problem_that_is_never_solved_pays_the_least_price():
    # Solve rate 0, so 1/16 of the price: std 1.653594e-5, divided by 1.753594e-5
    expected = [0.712822, 0.356411, -1.069232]
    np.testing.assert_allclose(weighed(ALP, NEVER), expected, atol=1e-5)


def test_the_floor_goes_by_the_samples():
    # 1/32 of the price: std 8.26797e-6, divided by 9.26797e-6: .892101 of the bare z-scores
    # .7559289, .3779645, -1.1338934
    phase = methods.load("alp", {"samples": 32}).phases[0]
    expected = [0.674365, 0.337183, -1.011548]
    np.testing.assert_allclose(weighed(phase, NEVER), expected, atol=1e-5)


def test_grpo_sees_no_length():
    # Two of four: .5 / .5773503. Where all agree: nothing.
    np.testing.assert_allclose(
        weighed(GRPO, MIXED), [0.866025, 0.866025, -0.866025, -0.866025], atol=1e-5
    )
    np.testing.assert_array_equal(weighed(GRPO, SOLVED), 0)


def test_only_the_length_slot_is_not_grpos():
    assert set(differing_slots(ALP, GRPO)) == {"length"}
    bare = dataclasses.replace(STEEP, length=())
    np.testing.assert_array_equal(weighed(bare, MIXED), weighed(GRPO, MIXED))


@pytest.mark.parametrize(
    "change",
    [
        {"weight": 1e-7},
        {"times": 1.0},  # the same price for every problem
        {"gate": Gate()},  # wrong responses go free
        {"gate": Gate(wrong=(-np.inf, np.inf), finished=True)},
    ],
    ids=str,
)
def test_every_part_of_the_price_matters(change):
    (price,) = STEEP.length
    other = dataclasses.replace(STEEP, length=(dataclasses.replace(price, **change),))
    assert np.abs(weighed(other, MIXED) - weighed(STEEP, MIXED)).max() > 1e-2


def test_the_division_is_what_gives_the_price_its_size():
    plain = build(MethodOptions("alp", {}, {"advantage": {"scale": "none"}})).phases[0]
    np.testing.assert_allclose(weighed(plain, SOLVED), [2e-4, 1e-4, -3e-4], atol=1e-9)
