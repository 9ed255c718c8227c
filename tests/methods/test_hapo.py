"""HAPO against the paper's formula, worked out by hand, and slot by slot against GRPO."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.objective.context import Context
from pruner_jax.objective.length import ANY, Gate
from pruner_jax.objective.statistics import Stat
from pruner_jax.objective.weigh import weigh

PHASE = methods.load("hapo").phases[0]
GRPO = methods.load("grpo").phases[0]
CONTEXT = Context(limit=50)
VISIT = graded([Row(30, True), Row(20, True), Row(10)])  # h = 20; the wrong one does not count
ROWS = graded(
    [
        Row(10, True),
        Row(20, True),
        Row(40, True),
        Row(10),
        Row(30),
        Row(50, finished=False),
    ]
)
# f = cos(pi/2 * min(L / 20, 2)) of 10, 20, 40, 10, 30, 50 is .70710678, 0, -1, .70710678,
# -.70710678, -1. Rewards: 1.70710678, 1, 1 - .7 = .3, min(.707, 0) = 0, -.70710678, -1.
# mean 1.3/6 = .21666667; deviations 1.49044011, .78333333, .08333333, -.21666667, -.92377345,
# -1.21666667; squares 2.22141172 + .61361111 + .00694444 + .04694444 + .85335738 + 1.48027778
# = 5.22254688, / 5 = 1.04450938, std 1.02201242; divided by std + .0001 = 1.02211242
BY_HAND = [1.4581959, 0.7663867, 0.0815305, -0.2119793, -0.9037885, -1.1903453]


def second_visit(phase):
    _, state, _ = weigh(phase, VISIT, {}, CONTEXT)
    return weights(weigh(phase, ROWS, state, CONTEXT)[0])


def test_weights_by_hand():
    np.testing.assert_allclose(second_visit(PHASE), BY_HAND, atol=1e-6)
    # GRPO: 1, 1, 1, 0, 0, 0 have mean .5 and std .54772
    np.testing.assert_allclose(second_visit(GRPO), [0.912869] * 3 + [-0.912869] * 3, atol=1e-5)


def test_the_first_visit_has_no_length_term():
    weighted, _, metrics = weigh(PHASE, ROWS, {}, CONTEXT)
    assert metrics["prune/reward_length"] == 0
    # .5 / (.54772256 + .0001)
    np.testing.assert_allclose(np.abs(weights(weighted)), [0.9127042] * 6, atol=1e-6)


def test_the_history_falls_and_is_that_of_the_problem():
    _, state, _ = weigh(PHASE, VISIT, {}, CONTEXT)
    _, state, _ = weigh(PHASE, ROWS, state, CONTEXT)  # h = 10 from here on
    _, state, _ = weigh(PHASE, VISIT, state, CONTEXT)  # nothing shorter
    _, _, metrics = weigh(PHASE, graded([Row(10, True), Row(15)]), state, CONTEXT)
    # f = 0 at h, and cos(3/4 pi) = -.70710678 at 1.5 h
    assert metrics["prune/reward_length"] == pytest.approx(-0.70710678 / 2)
    _, _, metrics = weigh(PHASE, graded([Row(10, True), Row(15)], ids=["z"]), state, CONTEXT)
    assert metrics["prune/reward_length"] == 0


@pytest.mark.parametrize("slot", ["length", "advantage"])
def test_every_slot_that_weighs_does_something(slot):
    fallen = second_visit(dataclasses.replace(PHASE, **{slot: getattr(GRPO, slot)}))
    assert not np.allclose(fallen, BY_HAND, atol=2e-5)


def test_slots_that_differ_from_grpo():
    differing = set(differing_slots(PHASE, GRPO))
    assert differing == {"collect", "length", "advantage", "loss"}
    assert PHASE.collect.samples == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": 0.5},
        {"scale": Stat(reduce="mean", over="correct", source="history", times=2.0, empty=None)},
        {"scale": Stat(reduce="min", over="all", source="history", times=2.0, empty=None)},
        {"scale": Stat(reduce="min", over="correct", times=2.0, empty=None)},
        {"gate": Gate(wrong=(-np.inf, 0.0))},
        {"gate": Gate(correct=(-0.7, np.inf), wrong=ANY)},
        {"gate": Gate(correct=(-0.7, np.inf))},
    ],
    ids=["weight", "min", "correct", "history", "floor", "ceiling", "wrong"],
)
def test_every_part_of_the_length_term_does_something(changes):
    changed = dataclasses.replace(PHASE.length[0], **changes)
    fallen = second_visit(dataclasses.replace(PHASE, length=(changed,)))
    assert not np.allclose(fallen, BY_HAND, atol=1e-3)


def test_the_variant_with_the_mean():
    """h = 25: cos(pi/2 * 10/25) = .80901699 for a correct response of 10 tokens."""
    phase = methods.load("hapo", {"mean": True}).phases[0]
    _, state, _ = weigh(phase, VISIT, {}, CONTEXT)
    _, _, metrics = weigh(phase, graded([Row(10, True), Row(10)]), state, CONTEXT)
    assert metrics["prune/reward_length"] == pytest.approx(0.80901699 / 2)


def test_the_loss():
    loss = PHASE.loss
    assert (loss.clip_low, loss.clip_high, loss.kl, loss.entropy) == (0.2, 0.2, 0.04, 0.0)
    assert (loss.aggregation, loss.minibatches) == ("sequence", 1)
    assert GRPO.loss.kl == 0.0
