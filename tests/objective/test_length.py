"""The length channel: published rewards worked by hand, gates, and how terms combine."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, graded

from pruner_jax.objective import statistics
from pruner_jax.objective.context import Context, Scene
from pruner_jax.objective.kernels import (
    Clipped,
    Cosine,
    Discount,
    Distance,
    Hyperbolic,
    Linear,
    Log,
    One,
    Sigmoid,
    Step,
)
from pruner_jax.objective.length import ANY, EVERY_ROW, Gate, Length, length_channel
from pruner_jax.objective.statistics import Budget, Limit, Stat, Words
from pruner_jax.objective.task import Outcome

MIXED = graded([Row(100, True), Row(200, True), Row(300, True), Row(400)])
ALL_WRONG = graded([Row(100), Row(200)])


def of(reduce, over="all", empty=None, **fields):
    return Stat(reduce=reduce, over=over, empty=empty, **fields)


def reward(terms, rows=MIXED, task=None, state=None):
    """Both channels of the only group; the task channel must not be touched."""
    terms = terms if isinstance(terms, tuple) else (terms,)
    scene = Scene.of(rows, Context(limit=400), state or {})
    scene = scene.replace(task_PG=(task or Outcome())(scene))
    before = scene.task_PG.copy()
    length_PG = length_channel(terms, scene)
    np.testing.assert_array_equal(scene.task_PG, before)
    return (scene.task_PG + length_PG)[0]


Z = {"target": of("mean", "correct"), "scale": of("std", "correct")}
KIMI = Length(
    kernel=Clipped(),
    target=of("min"),
    scale=Stat(reduce="max", over="all", empty=None),
    gate=Gate(wrong=(-np.inf, 0.0)),
)


def test_kimi_pays_short_correct_rows_and_never_wrong_ones():
    # lambda = 1/2 - (L - min) / (max - min); here min is 0 by an extra row, so the scale is max
    rows = graded([Row(0), Row(100, True), Row(300, True), Row(400)])
    np.testing.assert_allclose(reward(KIMI, rows), [0.0, 1.25, 0.75, -0.5])


def test_tlmre_is_one_minus_alpha_sigmoid_of_the_z_score():
    # correct lengths 100, 200, 300: mean 200, unbiased std 100
    term = Length(kernel=Sigmoid(), weight=0.4, **Z)
    s = 1 / (1 + np.exp(1.0))
    np.testing.assert_allclose(reward(term), [1 - 0.4 * s, 0.8, 1 - 0.4 * (1 - s), 0.0])


def test_l1_exact_and_max():
    rows = graded([Row(600, True, budget=1000), Row(1400, True, budget=1000), Row(100, budget=400)])
    exact = Length(kernel=Distance(), weight=3e-4, target=Budget(), gate=EVERY_ROW)
    np.testing.assert_allclose(reward(exact, rows), [0.88, 0.88, -0.09])
    most = Length(
        kernel=Clipped(0.5, 0.0, 1.0), target=Budget(), scale=1 / 3e-4, combine="multiply"
    )
    np.testing.assert_allclose(reward(most, rows), [0.62, 0.38, 0.0])


def test_shorter_better_falls_back_where_nothing_is_correct():
    target = of("min", "correct", empty=of("mean"))
    term = Length(kernel=Distance(), weight=1e-3, target=target, gate=EVERY_ROW)
    np.testing.assert_allclose(reward(term, task=Outcome(2.0)), [2.0, 1.9, 1.8, -0.3])
    np.testing.assert_allclose(reward(term, ALL_WRONG), [-0.05, -0.05])


def test_hapo_against_the_history_of_the_problem():
    past = of("min", "correct", source="history", times=2.0)
    gate = Gate(correct=(-0.7, np.inf), wrong=(-np.inf, 0.0))
    term = Length(kernel=Cosine(), scale=past, gate=gate)
    np.testing.assert_array_equal(reward(term), [1, 1, 1, 0])  # no history: no term
    state = statistics.after({}, (term,), Scene.of(MIXED, Context(limit=1), {}).groups)
    # h = 100: cos(pi/2 min(L/h, 2)) is 0 at 100, -1 from 200 on; -.7 at least where correct
    np.testing.assert_allclose(reward(term, state=state), [1, 0.3, 0.3, -1], atol=1e-12)


def test_dapo_soft_overlong():
    # N 400, cache 200: the ramp begins at 200
    term = Length(
        kernel=Clipped(0.0, -1.0, 0.0), target=Limit(plus=-200.0), scale=200.0, gate=EVERY_ROW
    )
    np.testing.assert_allclose(reward(term), [1, 1, 0.5, -1])


def test_alp_weighs_by_the_share_of_correct_rows():
    rate = of("mean", measure="correct", low=1 / 4)
    term = Length(kernel=Linear(), weight=1e-3, times=rate, gate=EVERY_ROW)
    np.testing.assert_allclose(reward(term), [0.925, 0.85, 0.775, -0.3])
    np.testing.assert_allclose(reward(term, ALL_WRONG), [-0.025, -0.05])


def test_gr3_multiplies():
    term = Length(
        kernel=Hyperbolic(1.0), scale=of("mean"), gate=EVERY_ROW, combine="multiply"
    )  # mean 250
    np.testing.assert_allclose(reward(term), [1 / 1.4, 1 / 1.8, 1 / 2.2, 0])


def test_s_grpo_replaces_by_rank_among_correct():
    term = Length(kernel=Discount(0.5), measure="rank", combine="replace")
    np.testing.assert_array_equal(reward(term), [1, 0.5, 0.25, 0])


def test_laser_de_rewards_long_wrong_rows_too():
    terms = (
        Length(kernel=Step(), weight=0.5, target=250.0),
        Length(kernel=Step(above=True), weight=0.5, target=250.0, gate=Gate(None, ANY)),
    )
    np.testing.assert_array_equal(reward(terms, task=Outcome(1.0, -0.5)), [1.5, 1.5, 1, 0])


def test_a_cap_as_a_term_is_the_step_kernel():
    term = Length(kernel=Step(), target=200.0, combine="multiply")
    np.testing.assert_array_equal(reward(term), [1, 1, 0, 0])


def test_multiply_goes_part_of_the_way_by_its_weight():
    term = Length(kernel=Step(), target=200.0, weight=0.25, combine="multiply")
    np.testing.assert_array_equal(reward(term), [1, 1, 0.75, 0])


@pytest.mark.parametrize(
    ("gate", "acts"),
    [
        (Gate(), [1, 1, 0, 0, 1, 0, 0, 0]),
        (Gate(correct=None, wrong=ANY), [0, 0, 1, 1, 0, 1, 1, 1]),
        (EVERY_ROW, [1] * 8),
        (Gate(wrong=ANY, finished=True), [1, 1, 1, 0, 1, 1, 1, 1]),
        (Gate(wrong=ANY, modes=(2,)), [0, 1, 0, 0, 0, 0, 0, 0]),
        (Gate(wrong=ANY, solve_rate=(0.5, 1.0)), [1, 1, 1, 1, 0, 0, 0, 0]),
        (Gate(wrong=ANY, top=0.5), [1, 1, 1, 1, 0, 0, 0, 0]),
    ],
    ids=str,
)
def test_gates(gate, acts):
    """Solve rates are 1/2 and 1/4; the second row of the first group is of mode 2."""
    rows = graded(
        [Row(10, True), Row(10, True, mode=2), Row(10), Row(10, finished=False)],
        [Row(10, True), Row(10), Row(10), Row(10)],
    )
    scene = Scene.of(rows, Context(limit=50), {})
    scene = scene.replace(task_PG=np.zeros((2, 4)))
    got = length_channel((Length(kernel=One(), gate=gate),), scene)
    np.testing.assert_array_equal(got.ravel(), acts)


def test_every_field_of_a_term_counts():
    """Changing any one field of a term changes the reward."""
    term = Length(kernel=Sigmoid(), weight=0.4, **Z)
    other = {
        "kernel": Linear(),
        "weight": 0.5,
        "target": 0.0,
        "scale": 1.0,
        "times": 2.0,
        "gate": EVERY_ROW,
        "combine": "multiply",
        "measure": "thinking",
        "epsilon": 1e3,
    }
    assert set(other) == {field.name for field in dataclasses.fields(Length)}
    for field, value in other.items():
        changed = dataclasses.replace(term, **{field: value})
        assert (reward(changed) != reward(term)).any(), field


def test_a_penalty_on_words_of_reflection():
    """K17: -log(1 + 2), 0 and -log(1 + 1) for as many of them."""
    scene = Scene.of(
        graded([Row(9, True), Row(5, True), Row(7)]),
        Context(limit=9, thoughts=lambda rollouts: ["wait. Hmm, 7", "waiter 8", "8 WAIT"]),
        {},
    )
    scene = scene.replace(task_PG=Outcome()(scene))
    term = Length(kernel=Log(), measure=Words(r"(?i)\b(?:wait|hmm)\b"), gate=EVERY_ROW)
    np.testing.assert_allclose(length_channel((term,), scene), [[-1.098612, 0, -0.693147]], 1e-6)
    every = dataclasses.replace(term, measure=Words(), kernel=Linear())
    np.testing.assert_array_equal(length_channel((every,), scene), [[-3, -2, -2]])


def test_where_there_is_nothing_to_measure_the_term_is_off():
    for term in (
        Length(kernel=Linear(), target=of("min", "correct"), gate=EVERY_ROW),
        Length(kernel=Linear(), scale=of("std", "correct"), gate=EVERY_ROW),
        Length(kernel=Linear(), times=of("mean", "correct"), gate=EVERY_ROW),
    ):
        np.testing.assert_array_equal(reward(term, ALL_WRONG), [0, 0])
