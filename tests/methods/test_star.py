"""STaR: the first correct response, with a hint where there is none."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.objective.context import Context
from pruner_jax.objective.method import needs
from pruner_jax.objective.weigh import weigh

GRPO = methods.load("grpo").phases[0]
PHASE = methods.load("star").phases[0]
ROWS = graded(
    [Row(9), Row(30, True), Row(20, True)],  # the second is the first correct one, not the shortest
    [Row(9), Row(30), Row(20)],
    [Row(9, True), Row(30), Row(20, finished=False)],
)


def resample(given, prompts):
    """With a hint, responses of up to 25 tokens come out right; each is 1 token longer."""
    length_B = given.rollouts.length_B + 1
    right = [length <= 26 for length in length_B]
    new = graded(*([Row(int(n), ok)] for n, ok in zip(length_B, right)))
    rollouts = dataclasses.replace(
        new.rollouts,
        prompts=given.rollouts.prompts,
        group_B=given.rollouts.group_B,
        sample_B=given.rollouts.sample_B,
    )
    return dataclasses.replace(new, rollouts=rollouts)


def learned(phase):
    context = Context(limit=100, prompt=lambda *_: np.zeros(1, np.int32), resample=resample)
    return weigh(phase, ROWS, {}, context)[0]


def test_the_first_correct_response_of_every_problem():
    without = learned(methods.load("star", {"hints": False}).phases[0])
    np.testing.assert_array_equal(weights(without), [0, 1, 0, 0, 0, 0, 1, 0, 0])
    assert without.loss == "ce" and without.train_BT[1].sum() == 30


def test_with_hints_other_responses_are_right_and_earlier():
    weighted = learned(PHASE)
    np.testing.assert_array_equal(weights(weighted), [1, 0, 0, 1, 0, 0, 1, 0, 0])
    np.testing.assert_array_equal(
        weighted.graded.rollouts.length_B, [10, 30, 20, 10, 31, 21, 9, 31, 21]
    )


def test_there_is_no_pressure_on_length():
    assert PHASE.length == () and set(needs(PHASE)) == {"resample"}


@pytest.mark.parametrize("slot", ["shape", "select", "advantage"])
def test_every_slot_that_weighs_does_something(slot):
    fallen = dataclasses.replace(PHASE, **{slot: getattr(GRPO, slot)})
    assert (weights(learned(fallen)) != weights(learned(PHASE))).any()


def test_iterations_start_from_the_start_model_with_all_rows_so_far():
    assert set(differing_slots(PHASE, GRPO)) == {
        *("name", "collect", "shape", "select", "advantage", "loss", "reset")
    }
    assert PHASE.collect.keep and PHASE.collect.every == "iteration"
    assert PHASE.reset.parameters == "iteration"
    assert (PHASE.loss.kind, PHASE.loss.update_rows) == ("ce", 16)
