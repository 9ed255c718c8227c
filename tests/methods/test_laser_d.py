"""LASER-D against the paper's formula, worked out by hand, and slot by slot against GRPO."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.config import PruneConfig
from pruner_jax.objective import memory
from pruner_jax.objective.context import Context
from pruner_jax.objective.groups import Groups
from pruner_jax.objective.kernels import Step
from pruner_jax.objective.length import EVERY_ROW, Gate
from pruner_jax.objective.method import check
from pruner_jax.objective.statistics import Stat
from pruner_jax.objective.task import Outcome
from pruner_jax.objective.weigh import weigh
from pruner_jax.types import Verdict

METHOD = methods.load("laser_d")
PHASE = METHOD.phases[0]
GRPO = methods.load("grpo").phases[0]
CONTEXT = Context(limit=60)


def rows_of(lengths, correct):
    return [Row(length, n < correct) for n, length in enumerate(lengths)]


# The monitor set. Easy (6 of 6): |C| = floor(16/3) = 5, and 12 is the first length that a fifth of
# the responses keep to (2 of 6). Medium (2 of 5): |C| = floor(8/3) = 2, and 30 is the first that
# half of them keep to (3 of 5). Hard (0 of 3): |C| = 1, so all of them: 35.
MONITOR = graded(
    rows_of([10, 12, 14, 16, 18, 20], 6),
    rows_of([50, 20, 30, 10, 40], 2),
    rows_of([15, 35, 25], 0),
)
STATE = memory.observe({}, Groups.of(MONITOR))
ROWS = graded(
    [Row(30, True), Row(31, True), Row(5), Row(60, finished=False)],
    [Row(12, True), Row(13, True), Row(35, True), Row(5, verdict=Verdict.UNPARSED)],
    [Row(35, True), Row(5), Row(6), Row(60, finished=False)],
)
# medium: 1.5, 1, -.5, -1: mean .25; deviations 1.25, .75, -.75, -1.25; squares add up to 4.25,
#   / 3 = 1.41666667, std 1.19023807
# easy: 1.5, 1, 1, -1: mean .625; deviations .875, .375, .375, -1.625; squares add up to 3.6875,
#   / 3 = 1.22916667, std 1.10867789
# hard: 1.5, -.5, -.5, -1: mean -.125; deviations 1.625, -.375, -.375, -.875: the same std
BY_HAND = [1.0502092, 0.6301255, -0.6301255, -1.0502092]
BY_HAND += [0.7892276, 0.3382404, 0.3382404, -1.4657084]
BY_HAND += [1.4657084, -0.3382404, -0.3382404, -0.7892276]


def weighed(phase):
    return weights(weigh(phase, ROWS, STATE, CONTEXT)[0])


def test_weights_by_hand():
    np.testing.assert_allclose(weighed(PHASE), BY_HAND, atol=2e-6)
    # GRPO: 1, 1, 0, 0; 1, 1, 1, 0; 1, 0, 0, 0
    plain = [0.8660239, 0.8660239, -0.8660239, -0.8660239, 0.499999, 0.499999, 0.499999, -1.499997]
    plain += [1.499997, -0.499999, -0.499999, -0.499999]
    np.testing.assert_allclose(weighed(GRPO), plain, atol=2e-6)


@pytest.mark.parametrize("slot", ["task", "length"])
def test_every_slot_that_weighs_does_something(slot):
    fallen = weighed(dataclasses.replace(PHASE, **{slot: getattr(GRPO, slot)}))
    assert not np.isclose(fallen, BY_HAND, atol=1e-4).all()


def test_slots_that_differ_from_grpo():
    differing = set(differing_slots(PHASE, GRPO))
    assert differing == {"collect", "task", "length", "loss"}
    assert PHASE.collect.samples == 8


@pytest.mark.parametrize(
    "task",
    [
        Outcome(unparsed=-1.0, unfinished=-1.0),
        Outcome(wrong=-0.5, unfinished=-1.0),
        Outcome(wrong=-0.5, unparsed=-1.0),
    ],
    ids=["wrong", "unparsed", "unfinished"],
)
def test_every_value_of_the_task_does_something(task):
    fallen = weighed(dataclasses.replace(PHASE, task=task))
    assert not np.allclose(fallen, BY_HAND, atol=1e-3)


@pytest.mark.parametrize("which", range(3), ids=["hard", "medium", "easy"])
@pytest.mark.parametrize(
    "changes",
    [
        None,
        {"kernel": Step(above=True)},
        {"weight": 0.25},
        {"gate": Gate(solve_rate=(0.99, 0.99))},
        {"target": Stat(reduce="min", over="all", source="monitor", empty=0.0)},
    ],
    ids=["term", "kernel", "weight", "gate", "target"],
)
def test_every_part_of_every_length_term_does_something(which, changes):
    terms = list(PHASE.length)
    terms[which : which + 1] = (
        [] if changes is None else [dataclasses.replace(terms[which], **changes)]
    )
    fallen = weighed(dataclasses.replace(PHASE, length=tuple(terms)))
    assert not np.allclose(fallen, BY_HAND, atol=1e-3)


def test_the_bonus_is_for_correct_rows_only():
    """LASER-DE and its like would move the wrong row of 5 tokens."""
    terms = tuple(
        dataclasses.replace(
            term, gate=dataclasses.replace(EVERY_ROW, solve_rate=term.gate.solve_rate)
        )
        for term in PHASE.length
    )
    fallen = weighed(dataclasses.replace(PHASE, length=terms))
    assert not np.allclose(fallen, BY_HAND, atol=1e-3)


@pytest.mark.parametrize("samples", [3, 6, 12])
def test_a_group_is_in_one_class(samples):
    """Also where the share is exactly 1/3 or 2/3: every correct row gets the bonus once."""
    phase = methods.load("laser_d", {"samples": samples}).phases[0]
    for correct in range(samples + 1):
        rows = graded(rows_of([5] * samples, correct))
        _, _, metrics = weigh(phase, rows, {}, CONTEXT)
        assert metrics["prune/reward_length"] == pytest.approx(0.5 * correct / samples)


def test_the_quantiles_are_the_reciprocals_of_the_least_counts():
    def quantiles(samples):
        return [t.target.q for t in methods.load("laser_d", {"samples": samples}).phases[0].length]

    assert quantiles(8) == [1, 1 / 2, 1 / 5]
    assert quantiles(16) == [1, 1 / 5, 1 / 10]
    assert quantiles(2) == [1, 1, 1]


def test_without_a_measurement_the_limit_is_the_target():
    _, _, metrics = weigh(PHASE, ROWS, {}, CONTEXT)
    assert metrics["prune/reward_length"] == pytest.approx(0.5 * 6 / 12)


def test_the_run_must_have_a_monitor_set_measured_every_20_steps():
    with pytest.raises(ValueError, match=r"'laser_d', phase 'prune'.*needs 'monitor'"):
        check(METHOD, offers=())
    check(METHOD, offers={"monitor"})
    assert METHOD.wants == {"sample": {"temperature": 0.6}, "rounds": {"evaluate_every": 20}}
    fields = {field.name: field for field in dataclasses.fields(PruneConfig)}
    assert hasattr(fields["rounds"].default_factory(), "evaluate_every")


def test_the_loss():
    loss = PHASE.loss
    assert (loss.clip_low, loss.clip_high, loss.kl, loss.entropy) == (0.2, 0.28, 1e-3, 1e-3)
    assert (loss.aggregation, loss.minibatches) == ("token", 2)
    assert (GRPO.loss.kl, GRPO.loss.aggregation) == (0.0, "sequence")
