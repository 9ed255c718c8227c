"""Kimi k1.5's length reward against weights by hand, and slot by slot against GRPO."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.objective.context import Context
from pruner_jax.objective.length import EVERY_ROW
from pruner_jax.objective.statistics import Stat
from pruner_jax.objective.weigh import weigh

PHASE = methods.load("kimi_k15").phases[0]
GRPO = methods.load("grpo").phases[0]
ROWS = graded(
    [Row(100, True), Row(200, True), Row(300, True), Row(150), Row(500, finished=False)],
    [Row(70, True), Row(70, True), Row(70)],
    [Row(10), Row(30)],
)
# a: shortest 100, longest 500. Scores .5, .25, 0, .375, -.5; for wrong rows at most 0.
#    Rewards 1.2, 1.1, 1, 0, -.2; mean .62.
# b: all equally long: 1, 1, 0; mean 2/3.
# c: .5 becomes 0, -.5: rewards 0, -.2; mean -.1.
BY_HAND = [0.58, 0.48, 0.38, -0.62, -0.82, 1 / 3, 1 / 3, -2 / 3, 0.1, -0.1]


def learned(phase=PHASE, step=0):
    return weights(weigh(phase, ROWS, {}, Context(limit=500, step=step))[0])


def test_weights_by_hand():
    np.testing.assert_allclose(learned(), BY_HAND, atol=1e-6)
    grpo = [0.730296, 0.730296, 0.730296, -1.095443, -1.095443, 0.57735, 0.57735, -1.1547, 0, 0]
    np.testing.assert_allclose(learned(GRPO), grpo, atol=1e-5)


def test_the_term_sets_in_after_the_warm_up():
    phase = methods.load("kimi_k15", {"warmup": 20}).phases[0]
    before = [0.4, 0.4, 0.4, -0.6, -0.6, 1 / 3, 1 / 3, -2 / 3, 0, 0]
    np.testing.assert_allclose(learned(phase, step=19), before, atol=1e-6)
    np.testing.assert_allclose(learned(phase, step=20), BY_HAND, atol=1e-6)


@pytest.mark.parametrize("slot", ["length", "advantage"])
def test_every_slot_that_weighs_does_something(slot):
    fallen = learned(dataclasses.replace(PHASE, **{slot: getattr(GRPO, slot)}))
    assert np.abs(fallen - BY_HAND).max() > 0.05


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": 0.2},
        {"gate": EVERY_ROW},
        {"target": Stat(reduce="mean", over="all", empty=None)},
        {"scale": Stat(reduce="range", over="correct", empty=None)},
        {"scale": Stat(reduce="std", over="all", empty=None)},
    ],
    ids=str,
)
def test_every_part_of_the_length_term_does_something(changes):
    changed = dataclasses.replace(PHASE.length[0], **changes)
    assert np.abs(learned(dataclasses.replace(PHASE, length=(changed,))) - BY_HAND).max() > 0.01


def test_the_loss():
    assert set(differing_slots(PHASE, GRPO)) == {"collect", "length", "advantage", "loss"}
    loss = PHASE.loss
    assert (loss.clip_low, loss.clip_high, loss.kl, loss.entropy) == (None, None, 0.0, 0.0)
    assert (loss.ratio, loss.aggregation, loss.minibatches) == ("token", "constant", 1)
