"""Dr. GRPO against the paper's formula, worked out by hand, and slot by slot against GRPO."""

import dataclasses

import numpy as np
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.objective.context import Context
from pruner_jax.objective.weigh import weigh

PHASE = methods.load("dr_grpo").phases[0]
GRPO = methods.load("grpo").phases[0]
CONTEXT = Context(limit=40)
ROWS = graded(
    [Row(10, True), Row(20), Row(30), Row(40, finished=False)],
    [Row(15, True), Row(35, True), Row(25, True), Row(40, finished=False)],
)
# a: rewards 1, 0, 0, 0, mean 1/4: the right one 3/4, the others -1/4 (GRPO: 1.5 and -.5).
# b: rewards 1, 1, 1, 0, mean 3/4: the right ones 1/4, the other -3/4 (GRPO: .5 and -1.5).
BY_HAND = [0.75, -0.25, -0.25, -0.25, 0.25, 0.25, 0.25, -0.75]


def weighed(phase):
    return weights(weigh(phase, ROWS, {}, CONTEXT)[0])


def test_weights_by_hand():
    np.testing.assert_allclose(weighed(PHASE), BY_HAND, atol=1e-7)
    assert not np.isclose(weighed(GRPO), BY_HAND).any()


def test_the_advantage_and_the_loss_are_all_that_differs():
    differing = set(differing_slots(PHASE, GRPO))
    assert differing == {"collect", "advantage", "loss"}
    fallen = dataclasses.replace(PHASE, advantage=GRPO.advantage)
    assert not np.isclose(weighed(fallen), BY_HAND).any()
    assert PHASE.collect.samples == 8


def test_the_loss_divides_by_a_constant():
    loss = PHASE.loss
    assert (loss.aggregation, loss.constant) == ("constant", None)
    assert GRPO.loss.aggregation == "sequence"
    assert (loss.clip_low, loss.clip_high, loss.kl, loss.entropy) == (0.2, 0.2, 0.0, 0.0)
    assert methods.load("dr_grpo", {"constant": 3000}).phases[0].loss.constant == 3000
