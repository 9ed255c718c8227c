"""DAPO against the paper's formula, worked out by hand, and slot by slot against GRPO."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.objective.context import Context
from pruner_jax.objective.length import Gate
from pruner_jax.objective.selection import Only
from pruner_jax.objective.weigh import weigh

PHASE = methods.load("dapo").phases[0]
GRPO = methods.load("grpo").phases[0]
CONTEXT = Context(limit=100)
ROWS = graded(
    [Row(50, True), Row(90, True), Row(95), Row(100, finished=False)],
    [Row(50, True), Row(90, True)],
    [Row(50), Row(100, finished=False)],
)
# The penalty runs from 0 at 80 tokens to -1 at 100. Rewards of the first group:
#   1, 1 - 10/20 = .5, -1 - 15/20 = -1.75, -1 - 20/20 = -2
# mean -2.25/4 = -.5625; deviations 1.5625, 1.0625, -1.1875, -1.4375; their squares add up to
# 2.44140625 + 1.12890625 + 1.41015625 + 2.06640625 = 7.046875, / 3 = 2.34895833, std 1.53263117
#   1.5625 / 1.53263217 = 1.0194879, 1.0625 / ... = .6932518, -1.1875 / ... = -.7748108
# The unfinished row counts for mean and std but is masked. The second group is all right and the
# third all wrong: both are dropped, although their rewards differ.
BY_HAND = [1.0194879, 0.6932518, -0.7748108, 0, 0, 0, 0, 0]
KEPT = [True, True, True, False, False, False, False, False]


def weighed(phase):
    return weigh(phase, ROWS, {}, CONTEXT)[0]


def test_weights_by_hand():
    weighted = weighed(PHASE)
    np.testing.assert_allclose(weights(weighted), BY_HAND, atol=2e-6)
    np.testing.assert_array_equal(weighted.keep_B, KEPT)
    # GRPO: rewards 1, 1, 0, 0
    np.testing.assert_allclose(
        weights(weighed(GRPO))[:4], [0.8660239, 0.8660239, -0.8660239, -0.8660239], atol=2e-6
    )


@pytest.mark.parametrize("slot", ["task", "length", "select", "adjust"])
def test_every_slot_that_weighs_does_something(slot):
    fallen = weighed(dataclasses.replace(PHASE, **{slot: getattr(GRPO, slot)}))
    same = np.allclose(weights(fallen), BY_HAND, atol=1e-3)
    assert not (same and fallen.keep_B.tolist() == KEPT)


def test_slots_that_differ_from_grpo():
    differing = set(differing_slots(PHASE, GRPO))
    assert differing == {"collect", "task", "length", "select", "adjust", "loss"}
    assert (PHASE.collect.samples, PHASE.collect.extra_draws) == (16, 9)


def test_the_penalty_is_for_wrong_rows_too():
    only_right = dataclasses.replace(PHASE.length[0], gate=Gate())
    fallen = weighed(dataclasses.replace(PHASE, length=(only_right,)))
    assert not np.isclose(weights(fallen)[:3], BY_HAND[:3], atol=1e-3).any()


def test_masked_rows_count_for_the_statistics():
    """With the filter ahead of the advantage: 1, .5 and -1.75 have another mean."""
    early = dataclasses.replace(PHASE, select=(*PHASE.select, Only("finished")), adjust=())
    assert not np.isclose(weights(weighed(early))[:3], BY_HAND[:3], atol=1e-3).any()


def test_the_filter_can_be_turned_off():
    phase = methods.load("dapo", {"overlong_filter": False}).phases[0]
    weighted = weighed(phase)
    # -1.4375 / 1.53263217 = -.9379289
    assert weights(weighted)[3] == pytest.approx(-0.9379289, abs=2e-6)
    assert weighted.keep_B[:4].all()


def test_the_cache_is_a_share_of_the_limit():
    """Published: penalties begin at 16384 of 20480 tokens."""
    rows = graded([Row(16384, True), Row(18432, True), Row(20480, finished=False)])
    context = Context(limit=20480)
    _, _, metrics = weigh(PHASE, rows, {}, context)
    assert metrics["prune/reward_length"] == pytest.approx((0 - 0.5 - 1) / 3)


def test_the_loss():
    loss = PHASE.loss
    assert (loss.clip_low, loss.clip_high) == (0.2, 0.28)
    assert (loss.aggregation, loss.minibatches, loss.epochs) == ("token", 16, 1)
    assert (loss.kl, loss.entropy, loss.needs_reference) == (0.0, 0.0, False)
