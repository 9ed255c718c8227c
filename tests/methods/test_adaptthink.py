"""AdaptThink's modes and loss; `test_contracts` has its weights by hand."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.objective.condition import Begin
from pruner_jax.objective.context import Context
from pruner_jax.objective.groups import Groups
from pruner_jax.objective.weigh import weigh

GRPO = methods.load("grpo").phases[0]
METHOD = methods.load("adaptthink")
TABLE, PHASE = METHOD.phases
HALF = np.log(0.5)


def test_half_of_a_group_begins_by_closing_the_thought():
    think, no_think = PHASE.condition.modes
    assert no_think.force == Begin(text="{think_close}", logp=HALF, in_loss=True)
    assert think.force == Begin(text=None, logp=None)  # nothing: the policy begins by itself
    mode_PG = PHASE.condition.modes_of(["a", "b"], 16, seed=0, step=7)
    np.testing.assert_array_equal(mode_PG, [[0] * 8 + [1] * 8] * 2)


def test_thinking_can_have_a_first_word_as_in_the_original():
    phase = methods.load("adaptthink", {"think": "Alright"}).phases[1]
    assert phase.condition.modes[0].force == Begin(text="Alright", logp=HALF)


@pytest.mark.parametrize("delta", [0.0, 0.05, 0.1])
def test_delta_is_the_least_loss_of_accuracy_that_is_not_worth_it(delta):
    rows = graded([Row(50, True), Row(50, True), Row(9, True, mode=1), Row(9, mode=1)])
    context = Context(limit=99, reference=Groups.of(graded([Row(9, True)] * 3 + [Row(9)])))
    phase = methods.load("adaptthink", {"delta": delta}).phases[1]
    found = weights(weigh(phase, rows, {}, context)[0])
    np.testing.assert_allclose(found, [0.25, 0.25, 0.25 + delta, -0.75 + delta], atol=1e-6)


@pytest.mark.parametrize("slot", ["length", "advantage"])
def test_every_slot_that_weighs_does_something(slot):
    rows = graded([Row(50, True), Row(50), Row(9, True, mode=1), Row(9, mode=1)])
    context = Context(limit=99, reference=Groups.of(graded([Row(9, True)] * 3 + [Row(9)])))
    fallen = dataclasses.replace(PHASE, **{slot: getattr(GRPO, slot)})
    found, right = (weights(weigh(p, rows, {}, context)[0]) for p in (fallen, PHASE))
    assert np.abs(found - right).max() > 0.04


def test_the_loss_as_released():
    loss = PHASE.loss
    assert (loss.ratio, loss.aggregation) == ("sequence", "sequence")
    assert (loss.clip_low, loss.clip_high, loss.kl, loss.entropy) == (0.2, 0.2, 0.0, 0.0)
    assert set(differing_slots(PHASE, GRPO)) == {"condition", "length", "advantage", "loss"}
    assert differing_slots(loss, GRPO.loss) == ["ratio"]
    assert METHOD.wants == {
        "sample": {"temperature": 0.6},
        "optimizer": {"learning_rate": 2e-6},
    }


def test_the_table_is_of_the_start_model():
    collect = TABLE.collect
    assert (collect.policy, collect.every, collect.reference) == ("start", "once", True)
    assert collect.samples == 16 and TABLE.loss is None and TABLE.condition == GRPO.condition
