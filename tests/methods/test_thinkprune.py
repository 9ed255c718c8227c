"""ThinkPrune against the paper's formula, worked out by hand, and slot by slot against GRPO."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.objective.context import Context
from pruner_jax.objective.shape import Cut
from pruner_jax.objective.statistics import Limit
from pruner_jax.objective.weigh import weigh
from pruner_jax.verify.options import VerifyOptions

METHOD = methods.load("thinkprune")
PHASE = METHOD.phases[0]
GRPO = methods.load("grpo").phases[0]
ROWS = graded(
    [Row(30, True), Row(50, True), Row(20), Row(60, True)],
    [Row(40, True), Row(10, True), Row(41, True), Row(25)],
)
# At a limit of 40:
# a: 1, 0, 0, 0: mean 1/4, squares .5625 + 3 * .0625 = .75, / 3 = .25, std 1/2: 1.5 and -.5.
# b: 1, 1, 0, 0: mean 1/2, squares 4 * .25 = 1, / 3, std .57735: .8660254 and its opposite.
BY_HAND = [1.5, -0.5, -0.5, -0.5, 0.8660254, 0.8660254, -0.8660254, -0.8660254]
# Without a limit: three of four, .5 and -1.5, in both.
PLAIN = [0.5, 0.5, -1.5, 0.5, 0.5, 0.5, 0.5, -1.5]
LOOSE = {"answer": "anywhere", "after_thought": False, "unfinished_is_wrong": False}


def weighed(phase, limit=40):
    return weights(weigh(phase, ROWS, {}, Context(limit=limit, decode=str))[0])


def test_weights_by_hand():
    np.testing.assert_allclose(weighed(PHASE), BY_HAND, atol=5e-6)
    np.testing.assert_allclose(weighed(GRPO), PLAIN, atol=5e-6)


@pytest.mark.parametrize("limit", [60, 1000])
def test_a_limit_that_no_row_exceeds_leaves_grpo(limit):
    np.testing.assert_array_equal(weighed(PHASE, limit), weighed(GRPO, limit))


def test_the_cut_is_all_that_weighs():
    assert PHASE.shape == (Cut(at=(Limit(),)),)
    assert set(differing_slots(PHASE, GRPO)) == {"shape", "loss", "reset"}
    np.testing.assert_allclose(weighed(dataclasses.replace(PHASE, shape=())), PLAIN, atol=5e-6)
    assert PHASE.collect.samples == 16


def test_the_loss():
    loss = PHASE.loss
    assert (loss.clip_low, loss.clip_high, loss.kl, loss.entropy) == (0.2, 0.2, 1e-3, 1e-3)
    assert (loss.ratio, loss.aggregation, loss.epochs, loss.minibatches) == ("token", "token", 1, 1)
    reset = PHASE.reset
    assert (reset.optimiser, reset.reference, reset.parameters) == ("round", "round", "never")
    released = methods.load("thinkprune", {"subtract_kl": True}).phases[0].loss
    assert released.kl == -1e-3 and released.needs_reference


def test_what_it_asks_of_the_verifier():
    """Both ways are legal options of verification; the loose one is no matter of taste."""
    assert METHOD.wants == {
        "verify": {"answer": "last_boxed", "after_thought": True, "unfinished_is_wrong": True}
    }
    lenient = methods.load("thinkprune", {"lenient": True})
    assert (METHOD.requires, lenient.wants, lenient.requires) == ({}, {}, {"verify": LOOSE})
    assert lenient.phases[0].shape == ()
    VerifyOptions(**METHOD.wants["verify"])
    VerifyOptions(**LOOSE)
