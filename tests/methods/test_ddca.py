"""DDCA against weights worked out by hand from the paper's formula."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.methods import MethodOptions, build
from pruner_jax.objective.advantage import Norm
from pruner_jax.objective.context import Context
from pruner_jax.objective.length import EVERY_ROW
from pruner_jax.objective.statistics import Stat
from pruner_jax.objective.weigh import weigh

GRPO = methods.load("grpo").phases[0]
DDCA = methods.load("ddca").phases[0]
# Correct: 100, 200, 600; mean 300, population variance (200^2 + 100^2 + 300^2) / 3, std 216.02469.
# z -.9258201, -.4629100, 1.3887301; sigmoid .2837735, .3862957, .8003894, mean .4901529.
# Length advantages .2063794, .1038572, -.3102366; times 3/5.
MIXED = [Row(100, True), Row(200, True), Row(50), Row(600, True), Row(900, finished=False)]
SOLVED = [Row(100, True), Row(200, True), Row(600, True)]


def weighed(phase, *groups):
    weighted, _, _ = weigh(phase, graded(*groups), {}, Context(limit=1000))
    assert weighted.keep_B.all()
    return weights(weighted)


def test_a_mixed_group_by_hand():
    # Correctness: mean .6, population std sqrt(.24) = .4898979: .8164966 and -1.2247449.
    # Plus .2 * .6 * the length advantages: .0247655, .0124629, -.0372284.
    expected = [0.841262, 0.828959, -1.224745, 0.779268, -1.224745]
    np.testing.assert_allclose(weighed(DDCA, MIXED), expected, atol=2e-6)


def test_in_a_solved_group_the_weight_does_not_cancel():
    # Correctness says nothing; the share is 1: .2 times the length advantages, and .5 times them.
    expected = np.array([0.2063794, 0.1038572, -0.3102366])
    np.testing.assert_allclose(weighed(DDCA, SOLVED), 0.2 * expected, atol=2e-6)
    strong = methods.load("ddca", {"beta": 0.5}).phases[0]
    np.testing.assert_allclose(weighed(strong, SOLVED), 0.5 * expected, atol=2e-6)


def test_one_correct_response_or_none_or_equal_lengths():
    # 1 of 4: mean .25, population std .4330127: 1.7320508 and -.5773503; no length advantage.
    lone = [Row(700, True), Row(10), Row(20), Row(30, finished=False)]
    expected = [1.732051, -0.577350, -0.577350, -0.577350]
    np.testing.assert_allclose(weighed(DDCA, lone), expected, atol=2e-6)
    np.testing.assert_array_equal(weighed(DDCA, [Row(10), Row(20)]), 0)
    np.testing.assert_array_equal(weighed(DDCA, [Row(10, True)] * 3), 0)


def test_leave_one_out_by_hand():
    # Correctness minus the mean of the others: 1 - 2/4 and 0 - 3/4. The length advantage against
    # the other correct ones is 3/2 of the one above: .12 * 1.5 = .18 of it.
    slots = {
        "advantage": {
            "task": {"baseline": "leave_one_out", "scale": "none"},
            "length": {"baseline": "leave_one_out"},
        }
    }
    phase = build(MethodOptions("ddca", {}, slots)).phases[0]
    expected = [0.537148, 0.518694, -0.75, 0.444157, -0.75]
    np.testing.assert_allclose(weighed(phase, MIXED), expected, atol=2e-6)


def test_grpo_differs():
    # Unbiased: .4 / .5477226 and -.6 / .5477226
    expected = [0.730297, 0.730297, -1.095445, 0.730297, -1.095445]
    np.testing.assert_allclose(weighed(GRPO, MIXED), expected, atol=5e-6)


NOT_GRPOS = ("collect", "length", "advantage")


def test_these_slots_are_not_grpos():
    assert set(differing_slots(DDCA, GRPO)) == set(NOT_GRPOS)
    assert (DDCA.collect.samples, GRPO.collect.samples) == (8, 16)


@pytest.mark.parametrize("slot", ["length", "advantage"])
def test_both_of_them_matter(slot):
    fallen = dataclasses.replace(DDCA, **{slot: getattr(GRPO, slot)})
    assert np.abs(weighed(fallen, MIXED) - weighed(DDCA, MIXED)).max() > 1e-2


@pytest.mark.parametrize(
    "change",
    [
        {"target": Stat(reduce="mean", over="all", empty=None)},  # the wrong ones pull the mean
        {"scale": Stat(reduce="std", over="correct", ddof=1, empty=None)},
        {"times": 1.0},  # DCA
    ],
    ids=["target", "scale", "times"],
)
def test_every_part_of_the_score_matters(change):
    (score,) = DDCA.length
    other = dataclasses.replace(DDCA, length=(dataclasses.replace(score, **change),))
    assert np.abs(weighed(other, MIXED) - weighed(DDCA, MIXED)).max() > 1e-4


@pytest.mark.parametrize(
    "change",
    [
        {"task": Norm(baseline="group", scale="group")},
        {"length": Norm(baseline="group", scale="none")},  # the baseline is diluted
        {"length": Norm(baseline="group", scale="group", over="correct")},
        {"beta": 1.0},
    ],
    ids=["task", "length over all", "length scale", "beta"],
)
def test_every_part_of_the_advantage_matters(change):
    other = dataclasses.replace(DDCA, advantage=dataclasses.replace(DDCA.advantage, **change))
    assert np.abs(weighed(other, MIXED) - weighed(DDCA, MIXED)).max() > 1e-2


def test_wrong_responses_have_no_length_at_all():
    (score,) = DDCA.length
    everywhere = (dataclasses.replace(score, gate=EVERY_ROW),)
    wide = dataclasses.replace(DDCA.advantage, length=Norm(baseline="group", scale="none"))
    other = dataclasses.replace(DDCA, length=everywhere, advantage=wide)
    assert np.abs(weighed(other, MIXED)[[2, 4]] - weighed(DDCA, MIXED)[[2, 4]]).min() > 1e-3
    longer = [*MIXED[:4], Row(5000, finished=False)]
    np.testing.assert_array_equal(weighed(DDCA, longer), weighed(DDCA, MIXED))
