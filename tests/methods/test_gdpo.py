"""GDPO against weights worked out by hand from equations 4 to 7 of the paper."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.objective.advantage import Fused, Norm
from pruner_jax.objective.context import Context
from pruner_jax.objective.weigh import weigh

GRPO = methods.load("grpo").phases[0]
GDPO = methods.load("gdpo").phases[0]
MIXED = [Row(1000, True), Row(5000, True), Row(3000), Row(6000, finished=False)]
SOLVED = [Row(1000, True), Row(2000, True), Row(5000, True), Row(4000, True)]
AGREED = [Row(1000, True), Row(2000, True), Row(3000, True), Row(50, True)]


def learned(phase, *groups):
    weighted, _, _ = weigh(phase, graded(*(groups or (MIXED, SOLVED, AGREED))), {}, Context(8000))
    return weights(weighted), weighted.keep_B


def test_a_batch_by_hand():
    # MIXED: correct 1, 1, 0, 0: +-.5 / .5773503 = +-.8660254.
    #   within 4000 and correct 1, 0, 0, 0: .75 / .5 = 1.5 and -.25 / .5 = -.5.
    #   sums 2.3660254, .3660254, -1.3660254, -1.3660254
    # SOLVED: correct 1, 1, 1, 1: 0. Within 4000 1, 1, 0, 1: .5, .5, -1.5, .5.
    # AGREED: both rewards 1 throughout; left out.
    # Batch of eight: mean 0, squares 5.5980762 + .1339746 + 2 * 1.8660254 + 3 = 12.4641016,
    # over 7, std 1.3343860
    expected = [1.773119, 0.274302, -1.023711, -1.023711, 0.374704, 0.374704, -1.124113, 0.374704]
    found, keep_B = learned(GDPO)
    np.testing.assert_allclose(found, [*expected, *[0] * 4], atol=1e-5)
    np.testing.assert_array_equal(keep_B, [True] * 8 + [False] * 4)


def test_half_the_weight_by_hand():
    # Sums 1.6160254, .6160254, -1.1160254, -1.1160254 and .25, .25, -.75, .25; squares
    # 2.6115381 + .3794873 + 2 * 1.2455127 + .75 = 6.2320508, over 7, std .9435534
    phase = methods.load("gdpo", {"weight": 0.5}).phases[0]
    expected = [1.712702, 0.652878, -1.182790, -1.182790, 0.264956, 0.264956, -0.794868, 0.264956]
    np.testing.assert_allclose(learned(phase)[0][:8], expected, atol=1e-5)


def test_without_the_condition_by_hand():
    # MIXED: within 4000 1, 0, 1, 0: +-.8660254, so that the sums are 1.7320508, 0, 0, -1.7320508.
    # Squares 3 + 3 + 3 = 9, over 7, std 1.1338934
    phase = methods.load("gdpo", {"conditioned": False}).phases[0]
    expected = [1.527525, 0, 0, -1.527525, 0.440959, 0.440959, -1.322876, 0.440959]
    np.testing.assert_allclose(learned(phase)[0][:8], expected, atol=1e-5)


def test_pairs_of_rewards_that_grpo_cannot_tell_apart():
    # Two responses each: rewards (0, 0) and (1, 0) differ less than (0, 0) and (1, 1).
    # GDPO: +-.7071068 and +-1.4142136; GRPO on the sums: +-.7071068 for both.
    one, both = [Row(9), Row(5000, True)], [Row(9), Row(10, True)]
    bare = dataclasses.replace(GDPO, adjust=())
    found, _ = learned(bare, one, both)
    np.testing.assert_allclose(found, [-0.707107, 0.707107, -1.414214, 1.414214], atol=1e-5)
    fused = dataclasses.replace(bare, advantage=GRPO.advantage)
    np.testing.assert_allclose(learned(fused, one, both)[0], [-0.707107, 0.707107] * 2, atol=1e-5)


def test_the_loss_as_published():
    loss = GDPO.loss
    assert (loss.clip_low, loss.clip_high, loss.clip_dual) == (0.2, 0.28, None)
    assert (loss.aggregation, loss.kl, loss.entropy) == ("token", 5e-4, 0.0)
    assert loss.kl_estimator == "k2"
    assert (loss.ratio, loss.epochs, loss.minibatches) == ("token", 1, 8)
    assert GDPO.collect.samples == 16


def test_grpo_differs():
    found, keep_B = learned(GRPO)
    expected = [0.866025, 0.866025, -0.866025, -0.866025, *[0] * 8]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert keep_B.all()


NOT_GRPOS = ("collect", "length", "select", "advantage", "adjust", "loss")


def test_these_slots_are_not_grpos():
    assert set(differing_slots(GDPO, GRPO)) == set(NOT_GRPOS)


@pytest.mark.parametrize("slot", NOT_GRPOS)
def test_every_one_of_them_matters(slot):
    if slot == "collect":
        assert (GDPO.collect.extra_draws, GRPO.collect.extra_draws) == (9, 0)
        return
    fallen = dataclasses.replace(GDPO, **{slot: getattr(GRPO, slot)})
    if slot == "loss":
        differing = differing_slots(GDPO.loss, GRPO.loss)
        assert differing == ["clip_high", "aggregation", "kl", "kl_estimator", "minibatches"]
        return
    assert np.abs(learned(fallen)[0] - learned(GDPO)[0]).max() > 0.05


def test_groups_are_dropped_by_both_rewards_not_by_correctness_alone():
    by_task = dataclasses.replace(
        GDPO, select=(dataclasses.replace(GDPO.select[0], channel="task"),)
    )
    np.testing.assert_array_equal(learned(by_task)[1], [True] * 4 + [False] * 8)


def test_both_norms_divide_by_the_spread_of_the_group():
    assert GDPO.advantage.task == GDPO.advantage.length == Norm(baseline="group", scale="group")
    assert GRPO.advantage == Fused(norm=GDPO.advantage.task)
