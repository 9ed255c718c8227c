"""TLMRE against the paper's formula, worked out by hand, and slot by slot against GRPO."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.objective.context import Context
from pruner_jax.objective.length import EVERY_ROW
from pruner_jax.objective.statistics import Stat
from pruner_jax.objective.weigh import weigh

PHASE = methods.load("tlmre").phases[0]
GRPO = methods.load("grpo").phases[0]
CONTEXT = Context(limit=60)
ROWS = graded(
    [Row(10, True), Row(20, True), Row(30, True), Row(15), Row(60, finished=False)],
    [Row(10, True), Row(30)],
    [Row(10), Row(30)],
    [Row(10, True), Row(20, True), Row(30, True)],
)
# a: the correct ones have mean 20 and unbiased std 10, so z = -1, 0, 1;
#    sigmoid .26894142, .5, .73105858; rewards .973105858, .95, .926894142, 0, 0 (sum 2.85).
#    Leave one out is 5/4 of the distance to the mean .57:
#    .403105858 * 1.25 = .50388232, .38 * 1.25 = .475, .356894142 * 1.25 = .44611768,
#    -.57 * 1.25 = -.7125 twice.
# b: one correct row, worth 1 - .1 / 2 = .95; the other one is 0, so +.95 and -.95.
# c: nobody is right: 0. d: as in a, mean .95, 3/2 of the distance: .03465879, 0, -.03465879.
BY_HAND = [0.50388232, 0.475, 0.44611768, -0.7125, -0.7125]
BY_HAND += [0.95, -0.95, 0, 0, 0.03465879, 0, -0.03465879]


def weighed(phase):
    return weights(weigh(phase, ROWS, {}, CONTEXT)[0])


def with_length(**changes):
    changed = dataclasses.replace(PHASE.length[0], **changes)
    return dataclasses.replace(PHASE, length=(changed,))


def test_weights_by_hand():
    np.testing.assert_allclose(weighed(PHASE), BY_HAND, atol=1e-7)
    # GRPO: 1, 1, 1, 0, 0 have mean .6 and std .54772
    np.testing.assert_allclose(
        weighed(GRPO)[:5], [0.730297, 0.730297, 0.730297, -1.095445, -1.095445], atol=1e-5
    )


@pytest.mark.parametrize("slot", ["length", "advantage"])
def test_every_slot_that_weighs_does_something(slot):
    fallen = weighed(dataclasses.replace(PHASE, **{slot: getattr(GRPO, slot)}))
    assert not np.isclose(fallen[:3], BY_HAND[:3], atol=1e-3).all()


def test_slots_that_differ_from_grpo():
    differing = set(differing_slots(PHASE, GRPO))
    assert differing == {"collect", "length", "advantage", "loss"}
    assert PHASE.collect.samples == 8


@pytest.mark.parametrize(
    "changes",
    [
        {"target": Stat(reduce="mean", over="all", empty=None)},
        {"scale": Stat(reduce="std", over="all", empty=0.0)},
        {"weight": 0.2},
        {"gate": EVERY_ROW},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_part_of_the_length_term_does_something(changes):
    assert not np.allclose(weighed(with_length(**changes)), BY_HAND, atol=1e-4)


def test_alpha_does_not_cancel_where_all_are_correct():
    """Twice the strength is twice the weight; a standard deviation would have hidden it."""
    phase = methods.load("tlmre", {"alpha": 0.2}).phases[0]
    np.testing.assert_allclose(weighed(phase)[-3:], [0.06931757, 0, -0.06931757], atol=1e-7)


def test_the_loss():
    loss = PHASE.loss
    assert (loss.clip_low, loss.clip_high, loss.kl, loss.entropy) == (0.2, 0.2, 1e-3, 0.0)
    assert (loss.aggregation, loss.ratio, loss.minibatches) == ("sequence", "token", 1)
    assert GRPO.loss.kl == 0.0
