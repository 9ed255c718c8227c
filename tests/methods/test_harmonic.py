"""Harmonic against weights by hand, its controller, and slot by slot against GRPO."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, differing_slots, graded, weights
from hypothesis import given
from hypothesis import strategies as st

from pruner_jax import methods
from pruner_jax.objective.context import Context
from pruner_jax.objective.selection import DropFlat
from pruner_jax.objective.statistics import Stat
from pruner_jax.objective.weigh import weigh
from pruner_jax.types import Verdict

PHASE = methods.load("harmonic").phases[0]
GRPO = methods.load("grpo").phases[0]
MIXED = [Row(10, True), Row(30, True), Row(20)]
RARE = [Row(15, True), Row(10), Row(12)]
SOLVED = [Row(10, True), Row(20, True), Row(30, True)]
ALIKE = [Row(25, True)] * 3
FAILED = [Row(10), Row(30), Row(99, finished=False)]
# Mean (15 * 40 + 840) / 16 = 90, std 200: the cut is at 690.
OUTLIER = [*[Row(40, True)] * 15, Row(840, True)]

# Task: MIXED 1/3, 1/3, -2/3, RARE 2/3, -1/3, -1/3. Squares 4/3, over 5, std .5163978:
#   .6454972, .6454972, -1.2909944 and 1.2909944, -.6454972 twice. SOLVED does not vary: 0.
# Length: MIXED: the correct ones have mean 20 and std 14.1421356, z -+.7071068, sigmoid .3302385
#   and .6697615, times 2/3: differences to the mean +-.1131744. RARE has one correct response: 0.
#   SOLVED: z -1, 0, 1, sigmoid .2689414, .5, .7310586: .2310586, 0, -.2310586.
#   Squares 2 * .0128084 + 2 * .0533881 = .1323931, over 4 of five rows, std .1819293:
#   +-.6220792, 1.2700461, 0, -1.2700461
TASK = np.array([0.6454972, 0.6454972, -1.2909944, 1.2909944, -0.6454972, -0.6454972, 0, 0, 0])
LENGTH = np.array([0.6220792, -0.6220792, 0, 0, 0, 0, 1.2700461, 0, -1.2700461])


def step(groups=(MIXED, RARE, SOLVED), state=None, phase=PHASE, **metrics):
    """Weights, and the state after the step; metrics are of the newest evaluation on monitor."""
    metrics = {f"monitor/{name}": value for name, value in metrics.items()}
    if metrics:  # every call brings a new evaluation
        heard = (state or {}).get("heard", {"": -10})
        metrics.setdefault("monitor/step", int(max(heard.values())) + 10)
    context = Context(limit=1000, metrics=metrics, decode=lambda tokens: f"{len(tokens)} tokens")
    weighted, state, _ = weigh(phase, graded(*groups), state or {}, context)
    return weighted, state


def beta_of(state):
    """The weight that the length advantage has after that state, read off the weights."""
    found = weights(step(state=state)[0])
    return float(found[6] / LENGTH[6])


def test_weights_by_hand():
    weighted, _ = step((MIXED, RARE, SOLVED, ALIKE, FAILED))
    np.testing.assert_allclose(weights(weighted)[:9], TASK + 0.2 * LENGTH, atol=1e-5)
    # Where neither channel varies nothing is to be learnt.
    np.testing.assert_array_equal(weighted.keep_B, [True] * 9 + [False] * 6)
    grpo = weights(step(phase=GRPO)[0])
    np.testing.assert_allclose(
        grpo, [0.577349, 0.577349, -1.154699, 1.154699, -0.577349, -0.577349, 0, 0, 0], atol=1e-5
    )


def test_the_outlier_of_a_solved_group_is_cut_and_wrong():
    weighted, _ = step((OUTLIER,))
    assert weighted.graded.rollouts.length_B[15] == 690
    assert weighted.graded.verdict_B[15] == Verdict.UNFINISHED
    # Task: 1/16 and -15/16 over the unbiased std 1/4. The others are equally long.
    np.testing.assert_allclose(weights(weighted), [*[0.25] * 15, -3.75], atol=2e-5)
    few = [*[Row(40, True)] * 9, Row(840, True)]
    assert step((few,))[0].graded.rollouts.length_B[9] == 840


def test_before_the_first_evaluation_beta_stays_at_its_start():
    state = {}
    for _ in range(5):
        weighted, state = step(state=state)
        np.testing.assert_allclose(weights(weighted), TASK + 0.2 * LENGTH, atol=1e-5)
    assert "controllers" not in state


def test_beta_falls_where_the_margin_is_negative_and_grows_where_it_is_not():
    _, lost = step(margin=-0.004)
    assert beta_of(lost) == pytest.approx(0.05, rel=1e-5)
    _, same = step(state=lost, margin=-0.004, step=0)  # the evaluation that it has followed
    assert beta_of(same) == pytest.approx(0.05, rel=1e-5)
    _, still_lost = step(state=lost, margin=-0.004)
    assert beta_of(still_lost) == pytest.approx(0.02, rel=1e-5)  # its lower bound
    _, regained = step(state=lost, margin=0.0)
    assert beta_of(regained) == pytest.approx(0.06, rel=1e-5)
    assert beta_of(step(margin=0.01)[1]) == pytest.approx(0.24, rel=1e-5)
    # Other numbers of the evaluation do not move it.
    assert beta_of(step(accuracy=0.1)[1]) == pytest.approx(0.2, rel=1e-5)


@given(st.lists(st.floats(-0.1, 0.1), max_size=40))
def test_beta_stays_within_its_bounds_and_moves_with_the_margin(margins):
    beta = PHASE.advantage.beta
    value = beta.start
    for margin in margins:
        after = beta.after(value, margin)
        assert (after >= value) == (margin >= 0 or value == beta.low)
        assert beta.low <= after <= beta.high
        value = after


def test_it_comes_back_from_its_lower_bound():
    state = {}
    for _ in range(60):
        _, state = step(state=state, margin=-1.0)
    assert beta_of(state) == pytest.approx(0.02, rel=1e-4)
    assert beta_of(step(state=state, margin=0.0)[1]) == pytest.approx(0.024, rel=1e-4)


def test_in_a_solved_group_the_pressure_is_what_beta_says():
    """A group's standard deviation would cancel it."""
    for beta in (0.02, 0.2, 1.0):
        phase = methods.load("harmonic", {"beta": beta}).phases[0]
        found = weights(step(phase=phase)[0])[6:]
        np.testing.assert_allclose(found, beta * LENGTH[6:], rtol=1e-4)


def test_solved_problems_do_not_blow_up_what_is_left_of_the_task():
    """The only failure among many solved problems weighs what it weighs without them."""
    alone = weights(step((MIXED,))[0])
    np.testing.assert_allclose(alone[2], -1.1547, atol=1e-4)  # -2/3 over .5773503
    among = weights(step((MIXED, *[SOLVED] * 30))[0])
    np.testing.assert_allclose(among[2], alone[2], rtol=1e-6)


def test_wrong_rows_have_no_length_term():
    short, long = [Row(1), *SOLVED], [Row(900), *SOLVED]
    found, other = (weights(step((group,))[0]) for group in (short, long))
    np.testing.assert_array_equal(found, other)


def test_solved_problems_stay_as_long_as_their_lengths_differ():
    by_task = dataclasses.replace(PHASE, select=(DropFlat(channel="task"),))
    groups = (MIXED, SOLVED, ALIKE)
    assert step(groups)[0].keep_B.tolist() == [True] * 6 + [False] * 3
    assert step(groups, phase=by_task)[0].keep_B.tolist() == [True] * 3 + [False] * 6


@pytest.mark.parametrize(
    ("slot", "groups"),
    [
        ("shape", (OUTLIER,)),
        ("length", (MIXED, RARE, SOLVED)),
        ("select", (MIXED, SOLVED, FAILED)),
        ("advantage", (MIXED, RARE, SOLVED)),
    ],
)
def test_every_slot_that_weighs_does_something(slot, groups):
    fallen = dataclasses.replace(PHASE, **{slot: getattr(GRPO, slot)})
    found, right = (step(groups, phase=phase)[0] for phase in (fallen, PHASE))
    apart = np.abs(weights(found) - weights(right)).max() > 0.05
    # A row without a weight that is kept still counts in the mean over tokens.
    assert apart or (found.keep_B != right.keep_B).any()


@pytest.mark.parametrize(
    "changes",
    [
        {"times": 1.0},
        {"scale": Stat(reduce="std", over="all", empty=None)},
        {"target": Stat(reduce="min", over="correct", empty=None)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_part_of_the_length_term_does_something(changes):
    changed = dataclasses.replace(PHASE.length[0], **changes)
    found = weights(step(phase=dataclasses.replace(PHASE, length=(changed,)))[0])
    assert np.abs(found - (TASK + 0.2 * LENGTH)).max() > 1e-3


def test_the_loss():
    not_grpos = {"collect", "shape", "length", "select", "advantage", "loss"}
    assert set(differing_slots(PHASE, GRPO)) == not_grpos and PHASE.collect.extra_draws == 3
    loss = PHASE.loss
    assert (loss.clip_low, loss.clip_high, loss.aggregation) == (0.2, 0.28, "token")
    assert (loss.kl, loss.entropy, loss.minibatches) == (0.0, 0.0, 1)
    assert not loss.needs_reference
