"""Elastic Reasoning: two budgets, by hand, and slot by slot against GRPO."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.objective.condition import EndThought
from pruner_jax.objective.context import Context
from pruner_jax.objective.weigh import weigh
from pruner_jax.types import Verdict

METHOD = methods.load("elastic", {"thinking": 100, "answer": 50})
PHASE = METHOD.phases[0]
GRPO = methods.load("grpo").phases[0]
# Answers of 20, 50, 51 and 90 tokens: the last two are too long, whatever they say.
ROWS = graded(
    [
        Row(120, True, thinking=100),
        Row(60, True, thinking=10),
        Row(61, True, thinking=10),
        Row(190, thinking=100),
    ]
)


def learned(phase=PHASE):
    context = Context(limit=400, decode=lambda tokens: f"{len(tokens)} tokens")
    return weigh(phase, ROWS, {}, context)[0]


def test_an_answer_beyond_its_budget_is_cut_off_and_wrong():
    weighted = learned()
    # 1, 1, 0, 0: +-.5 / .5773503
    expected = [0.866025, 0.866025, -0.866025, -0.866025]
    np.testing.assert_allclose(weights(weighted), expected, atol=2e-6)
    np.testing.assert_array_equal(weighted.graded.rollouts.length_B, [120, 60, 60, 150])
    assert weighted.graded.verdict_B[2] == weighted.graded.verdict_B[3] == Verdict.UNFINISHED
    # GRPO: 1, 1, 1, 0
    np.testing.assert_allclose(weights(learned(GRPO)), [0.5, 0.5, 0.5, -1.5], atol=1e-5)


def test_the_thought_is_ended_where_its_budget_is_used_up():
    assert PHASE.condition.force == EndThought(after=100, text="{think_close}")
    assert PHASE.train == ("sampled",)  # what is written in the model's place is not trained
    force = methods.load("elastic", {"close": "\n{think_close}\n\n"}).phases[0].condition.force
    assert force == EndThought(after=1024, text="\n{think_close}\n\n")


def test_the_shape_is_what_weighs():
    fallen = dataclasses.replace(PHASE, shape=GRPO.shape)
    assert np.abs(weights(learned(fallen)) - weights(learned())).max() > 0.05
    longer = methods.load("elastic", {"answer": 51}).phases[0]
    np.testing.assert_allclose(weights(learned(longer)), [0.5, 0.5, 0.5, -1.5], atol=1e-5)


def test_slots_that_differ_from_grpo():
    assert set(differing_slots(PHASE, GRPO)) == {"collect", "condition", "shape", "loss"}


def test_the_loss_as_released():
    loss = PHASE.loss
    assert (loss.clip_low, loss.clip_high, loss.kl, loss.entropy) == (0.2, 0.2, 1e-3, 1e-3)
    assert (loss.aggregation, loss.minibatches, PHASE.collect.samples) == ("token", 2, 8)
    assert METHOD.wants == {"sample": {"temperature": 0.6}}


def test_a_text_that_leaves_the_thought_open_is_refused():
    with pytest.raises(ValueError, match=r"end_thought\.text lacks \{think_close\}"):
        methods.load("elastic", {"close": "Enough."})
