"""DLER and DA-DLER against weights worked out by hand from the paper's formula."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.methods import MethodOptions, build
from pruner_jax.objective.context import Context
from pruner_jax.objective.merge import TopDelta
from pruner_jax.objective.weigh import weigh

GRPO = methods.load("grpo").phases[0]
DLER = methods.load("dler").phases[0]
HARD = [Row(400, True), Row(1500, True), Row(300), Row(1000, finished=False)]
EASY = [Row(200, True), Row(900, True), Row(700, True), Row(500)]
SOLVED = [Row(100, True)] * 4
CONTEXT = Context(limit=1000, decode=lambda tokens: f"{len(tokens)} tokens")


def learned(phase):
    weighted, _, _ = weigh(phase, graded(HARD, EASY, SOLVED), {}, CONTEXT)
    return weights(weighted), weighted.keep_B, weighted.train_BT.sum(1)


def test_a_batch_by_hand():
    # Within 1000 tokens: 1, 0, 0, 0 and 1, 1, 1, 0; the third group agrees and is left out.
    # Minus the means 1/4 and 3/4: .75, -.25, -.25, -.25 and .25, .25, .25, -.75. Over the eight:
    # squares 2 (.5625 + 3 * .0625) = 1.5, variance 1.5 / 7, std .4629100.
    # .75 / std = 1.620185, .25 / std = .540062
    found, keep_B, tokens_B = learned(DLER)
    high, low = 1.620185, 0.540062
    np.testing.assert_allclose(found, [high, *[-low] * 3, *[low] * 3, -high, *[0] * 4], atol=1e-5)
    np.testing.assert_array_equal(keep_B, [True] * 8 + [False] * 4)
    np.testing.assert_array_equal(tokens_B, [400, 1000, 300, 1000, 200, 900, 700, 500, *[100] * 4])


def test_the_limit_is_halved_where_half_are_solved():
    # DA-DLER: the second group is at 3/4, so 900 and 700 tokens are beyond 500: 1, 0, 0, 0 as well.
    # The first is at 1/4 within the limit, though at 1/2 without it.
    phase = methods.load("dler", {"easy": 0.5}).phases[0]
    found, _, tokens_B = learned(phase)
    high, low = 1.620185, 0.540062
    group = [high, -low, -low, -low]
    np.testing.assert_allclose(found, [*group, *group, *[0] * 4], atol=1e-5)
    np.testing.assert_array_equal(tokens_B, [400, 1000, 300, 1000, 200, *[500] * 3, *[100] * 4])


def test_the_loss_as_published():
    loss = DLER.loss
    assert (loss.clip_low, loss.clip_high, loss.clip_dual) == (0.2, 0.28, 10.0)
    assert (loss.aggregation, loss.kl, loss.entropy) == ("token", 5e-4, 0.0)
    assert (loss.ratio, loss.epochs, loss.minibatches) == ("token", 1, 8)
    assert DLER.collect.samples == 16


def test_grpo_differs():
    # Without the limit two of the first four are right: .5 / .5773503 = .866025; of the second
    # three of four: .25 / .5 and -.75 / .5.
    found, keep_B, _ = learned(GRPO)
    expected = [0.866025, 0.866025, -0.866025, -0.866025, 0.5, 0.5, 0.5, -1.5, *[0] * 4]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert keep_B.all()


NOT_GRPOS = ("collect", "shape", "select", "advantage", "loss")


def test_these_slots_are_not_grpos():
    assert set(differing_slots(DLER, GRPO)) == set(NOT_GRPOS)


@pytest.mark.parametrize("slot", NOT_GRPOS)
def test_every_one_of_them_matters(slot):
    if slot == "collect":
        assert (DLER.collect.extra_draws, GRPO.collect.extra_draws) == (9, 0)
        return
    fallen = dataclasses.replace(DLER, **{slot: getattr(GRPO, slot)})
    if slot == "loss":
        differing = differing_slots(DLER.loss, GRPO.loss)
        published = ["clip_high", "clip_dual", "aggregation", "kl", "kl_estimator", "minibatches"]
        assert differing == published
        return
    assert np.abs(learned(fallen)[0] - learned(DLER)[0]).max() > 0.1


def test_the_merge_is_one_more_slot():
    merged = build(MethodOptions("dler", {}, {"merge": {"kind": "top_delta"}}))
    assert merged.merge == TopDelta(share=0.25, times=0.7) and methods.load("dler").merge is None
