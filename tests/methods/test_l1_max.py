"""L1-Max against the paper's formula, worked out by hand, and slot by slot against GRPO."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.objective.context import Context
from pruner_jax.objective.kernels import Clipped, Excess
from pruner_jax.objective.length import EVERY_ROW, Gate
from pruner_jax.objective.weigh import weigh

METHOD = methods.load("l1_max")
PHASE = METHOD.phases[0]
GRPO = methods.load("grpo").phases[0]
CONTEXT = Context(limit=4096)
LENGTHS = [(600, True), (1500, True), (3000, True), (500, False)]


def told(budget, mode=0):
    rows = [Row(length, right) for length, right in LENGTHS]
    rows.append(Row(4000, finished=False))
    return [dataclasses.replace(row, budget=budget, mode=mode) for row in rows]


ROWS = graded(told(1000), told(3000), told(1000, mode=1))
# b = 1000: .0003 * 400 + .5 = .62, -.0003 * 500 + .5 = .35, -.0003 * 2000 + .5 < 0, so 0; 0, 0
#   mean .97/5 = .194; deviations .426, .156, -.194 three times; squares .181476 + .024336 +
#   3 * .037636 = .31872, / 4 = .07968, std .28227646
# b = 3000: .72 + .5 > 1, so 1; .45 + .5 = .95; 0 + .5 = .5; 0, 0: mean 2.45/5 = .49; deviations
#   .51, .46, .01, -.49, -.49; squares .2601 + .2116 + .0001 + .4802 = .952, / 4 = .238,
#   std .48785244
# b = 1000, exactly: 1 - .0003 * 400 = .88, 1 - .15 = .85, 1 - .6 = .4; 0 - .15, 0 - .9:
#   mean 1.08/5 = .216; deviations .664, .634, .184, -.366, -1.116; squares .440896 + .401956 +
#   .033856 + .133956 + 1.245456 = 2.25612, / 4 = .56403, std .75101931
BY_HAND = [1.5091534, 0.5526477, -0.6872671, -0.6872671, -0.6872671]
BY_HAND += [1.0453960, 0.9429062, 0.0204980, -1.0044001, -1.0044001]
BY_HAND += [0.8841307, 0.8441850, 0.2450000, -0.4873370, -1.4859787]


def weighed(phase):
    return weights(weigh(phase, ROWS, {}, CONTEXT)[0])


def test_weights_by_hand():
    np.testing.assert_allclose(weighed(PHASE), BY_HAND, atol=2e-6)
    # GRPO: 1, 1, 1, 0, 0 have mean .6 and std .54772
    same = [0.730296, 0.730296, 0.730296, -1.095443, -1.095443]
    np.testing.assert_allclose(weighed(GRPO), same * 3, atol=1e-5)


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
        {"kernel": Clipped()},
        {"target": 1500.0},
        {"scale": 1000.0},
        {"weight": 0.5},
        {"combine": "add"},
        {"combine": "replace", "gate": EVERY_ROW},
        {"gate": Gate()},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_every_part_of_the_length_term_does_something(changes):
    changed = dataclasses.replace(PHASE.length[0], **changes)
    fallen = weighed(dataclasses.replace(PHASE, length=(changed, PHASE.length[1])))
    assert not np.allclose(fallen, BY_HAND, atol=1e-3)


@pytest.mark.parametrize(
    "changes",
    [{"kernel": Excess()}, {"target": 1500.0}, {"weight": 1e-3}, {"gate": Gate(modes=(1,))}],
    ids=lambda changes: "-".join(changes),
)
def test_every_part_of_the_other_term_does_something(changes):
    changed = dataclasses.replace(PHASE.length[1], **changes)
    fallen = weighed(dataclasses.replace(PHASE, length=(PHASE.length[0], changed)))
    assert not np.allclose(fallen, BY_HAND, atol=1e-3)


def test_every_group_is_scored_as_its_prompt_was_worded():
    condition, problems = PHASE.condition, [str(number) for number in range(400)]
    mode_P = condition.modes_of(problems, 1, seed=0, step=3)[:, 0]
    assert np.mean(mode_P) == pytest.approx(0.5, abs=0.1)
    for mode, told_p in zip(mode_P, condition.sentences_of(problems, seed=0, step=3)):
        assert told_p.startswith("Think for maximum ") == (mode == 0)
    only = methods.load("l1_max", {"exact": 0.0}).phases[0].condition
    assert not only.modes_of(problems, 1, seed=0, step=3).any()


def test_the_slope_of_the_code():
    """clip((b - L) / 1000 + .5, 0, 1) of 600, 1500 and 3000 tokens under 1000: .9, 0, 0."""
    phase = methods.load("l1_max", {"alpha": 1e-3}).phases[0]
    _, _, metrics = weigh(phase, graded(told(1000)), {}, CONTEXT)
    assert metrics["reward"] == pytest.approx(0.9 / 5)


def test_every_prompt_names_a_maximum():
    budget_P = PHASE.condition.budgets_of(["a", "b", "c"], seed=0, step=3)
    assert budget_P.min() >= 100 and budget_P.max() <= 4000
    budget = PHASE.condition.budget
    assert (budget.low, budget.high) == (100, 4000)
    assert budget.sentence == "Think for maximum {budget} tokens."
    assert GRPO.condition.budget is None


def test_the_loss():
    loss = PHASE.loss
    assert (loss.clip_low, loss.clip_high, loss.kl, loss.aggregation) == (0.2, 0.2, 1e-3, "token")
    assert (GRPO.loss.kl, GRPO.loss.aggregation) == (0.0, "sequence")
    assert METHOD.wants == {"sample": {"temperature": 0.6}}
