"""L1-Exact against the paper's formula, worked out by hand, and slot by slot against GRPO."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.objective.context import Context
from pruner_jax.objective.kernels import Excess
from pruner_jax.objective.length import Gate
from pruner_jax.objective.weigh import weigh

METHOD = methods.load("l1_exact")
PHASE = METHOD.phases[0]
GRPO = methods.load("grpo").phases[0]
CONTEXT = Context(limit=4096)


def told(budget):
    rows = [Row(600, True), Row(1000, True), Row(500), Row(2000, finished=False)]
    return [dataclasses.replace(row, budget=budget) for row in rows]


ROWS = graded(told(1000), told(600))
# b = 1000: 1 - .0003 * 400 = .88, 1 - 0 = 1, -.0003 * 500 = -.15, -.0003 * 1000 = -.3
#   mean 1.43/4 = .3575; deviations .5225, .6425, -.5075, -.6575; squares .27300625 + .41280625 +
#   .25755625 + .43230625 = 1.375675, / 3 = .45855833, std .67716935
# b = 600: 1, .88, -.03, -.42: mean 1.43/4 = .3575; deviations .6425, .5225, -.3875, -.7775;
#   squares .41280625 + .27300625 + .15015625 + .60450625 = 1.440475, / 3 = .48015833, std .69293458
BY_HAND = [0.7715931, 0.9488011, -0.7494421, -0.9709521]
BY_HAND += [0.9272147, 0.7540384, -0.5592151, -1.1220380]


def weighed(phase):
    return weights(weigh(phase, ROWS, {}, CONTEXT)[0])


def test_weights_by_hand():
    np.testing.assert_allclose(weighed(PHASE), BY_HAND, atol=2e-6)
    # GRPO: 1, 1, 0, 0
    half = [0.8660239, 0.8660239, -0.8660239, -0.8660239]
    np.testing.assert_allclose(weighed(GRPO), half * 2, atol=2e-6)


def test_slots_that_differ_from_grpo():
    differing = set(differing_slots(PHASE, GRPO))
    assert differing == {"condition", "length", "loss"}
    assert PHASE.collect.samples == 16


def test_every_slot_that_weighs_does_something():
    fallen = dataclasses.replace(PHASE, length=GRPO.length)
    assert not np.isclose(weighed(fallen), BY_HAND, atol=1e-3).any()


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel": Excess()},
        {"target": 700.0},
        {"weight": 1e-3},
        {"gate": Gate()},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_part_of_the_length_term_does_something(changes):
    changed = dataclasses.replace(PHASE.length[0], **changes)
    fallen = weighed(dataclasses.replace(PHASE, length=(changed,)))
    assert not np.allclose(fallen, BY_HAND, atol=1e-3)


def test_every_prompt_names_a_budget():
    problems = [str(number) for number in range(2000)]
    budget_P = PHASE.condition.budgets_of(problems, seed=0, step=3)
    assert budget_P.min() >= 100 and budget_P.max() <= 4000
    assert budget_P.mean() == pytest.approx(2050, abs=100)
    budget = PHASE.condition.budget
    assert (budget.low, budget.high) == (100, 4000)
    assert budget.sentence == "Think for {budget} tokens."
    assert (GRPO.condition.budgets_of(problems, seed=0, step=3) == -1).all()


def test_the_loss():
    loss = PHASE.loss
    assert (loss.clip_low, loss.clip_high, loss.kl, loss.aggregation) == (0.2, 0.2, 1e-3, "token")
    assert (GRPO.loss.kl, GRPO.loss.aggregation) == (0.0, "sequence")
    assert METHOD.wants == {"sample": {"temperature": 0.6}}
