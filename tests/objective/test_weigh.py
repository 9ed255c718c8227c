"""A phase applied from end to end: what the learner gets, metrics, state and errors."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, graded, weights

from pruner_jax import methods
from pruner_jax.methods import MethodOptions
from pruner_jax.objective.context import Context
from pruner_jax.objective.credit import ControlToken
from pruner_jax.objective.method import Collect, Phase, check
from pruner_jax.objective.weigh import weigh
from pruner_jax.types import Origin, Verdict

ROWS = graded(
    [Row(30, True), Row(10, True), Row(20), Row(40, finished=False)],
    [Row(30, True), Row(10, True)],
    [Row(50), Row(10)],
)
CONTEXT = Context(limit=100)


def grpo(**slots):
    return methods.build(MethodOptions("grpo", {"samples": 4}, slots)).phases[0]


KIMI = {
    "kind": "clipped",
    "weight": 0.5,
    "target": {"kind": "stat", "reduce": "min", "over": "all", "empty": None},
    "scale": 20.0,
}
NO_STD = {"scale": "none"}


def test_metrics_by_hand():
    phase = grpo(length=[KIMI], advantage=NO_STD)
    _, _, metrics = weigh(phase, ROWS, {}, CONTEXT)
    # a: phi(30) = 1/2 - 1 = -1/2, phi(10) = 1/2: rewards .75, 1.25, 0, 0; b: .75, 1.25; c: 0, 0
    r = [[0.75, 1.25, 0, 0], [0.75, 1.25], [0, 0]]
    stds = [np.std(group, ddof=1) for group in r]
    a = [np.array(group) - np.mean(group) for group in r]
    t = [np.array([0.5, 0.5, -0.5, -0.5]), np.zeros(2), np.zeros(2)]
    assert metrics == pytest.approx(
        {
            "completions/mean_length": 25.0,
            "completions/min_length": 10.0,
            "completions/max_length": 50.0,
            "completions/mean_terminated_length": 160 / 7,
            "completions/clipped_ratio": 1 / 8,
            "reward": 0.5,
            "reward_std": np.mean(stds),
            "frac_reward_zero_std": 1 / 3,
            "prune/reward_task": 0.5,
            "prune/reward_length": 0.0,
            "prune/all_correct": 1 / 3,
            "prune/all_wrong": 1 / 3,
            "prune/kept": 1.0,
            "prune/length_correct": 20.0,
            "prune/length_wrong": 30.0,
            "prune/correct_pushed_down": 1 / 4,  # .75 - 1 in the solved group
            "prune/wrong_pushed_up": 0.0,
            "prune/advantage_length_corr": -1.0,
            "prune/length_over_task": sum(np.abs(x - y).sum() for x, y in zip(a, t)) / 2.0,
        }
    )


def test_metrics_without_rows_behind_them_are_left_out():
    _, _, metrics = weigh(grpo(), graded([Row(5), Row(6)]), {}, CONTEXT)
    assert {"prune/length_correct", "prune/length_over_task"}.isdisjoint(metrics)
    assert metrics["prune/all_wrong"] == 1.0


def test_rows_that_do_not_count_have_no_weight():
    phase = grpo(select=[{"kind": "drop_flat"}])
    weighted, _, metrics = weigh(phase, ROWS, {}, CONTEXT)
    np.testing.assert_array_equal(weighted.keep_B, [1, 1, 1, 1, 0, 0, 0, 0])
    assert not weights(weighted)[4:].any() and metrics["prune/kept"] == 0.5
    later = grpo(adjust=[{"kind": "only", "over": "correct"}])
    np.testing.assert_allclose(
        weights(weigh(later, ROWS, {}, CONTEXT)[0]),
        weights(weigh(grpo(), ROWS, {}, CONTEXT)[0]) * ROWS.correct_B,
    )


def test_select_before_and_after_the_statistics():
    top = [{"kind": "top_k", "k": 2, "by": "short"}]
    rows = graded([Row(10, True), Row(20), Row(30), Row(40)])
    before = weights(weigh(grpo(select=top, advantage=NO_STD), rows, {}, CONTEXT)[0])
    after = weights(weigh(grpo(adjust=top, advantage=NO_STD), rows, {}, CONTEXT)[0])
    np.testing.assert_allclose(before, [0.5, -0.5, 0, 0])
    np.testing.assert_allclose(after, [0.75, -0.25, 0, 0])


def test_only_sampled_tokens_train_unless_the_phase_says_so():
    rows = graded([Row(5, True, forced=2), Row(4)])
    for train, count in ((["sampled"], [3, 4]), (["sampled", "forced"], [5, 4])):
        weighted, _, _ = weigh(grpo(train=train), rows, {}, CONTEXT)
        np.testing.assert_array_equal(weighted.train_BT.sum(1), count)
    assert rows.rollouts.origin_BT[0, 0] == Origin.FORCED


def test_a_control_token_has_a_weight_of_its_own():
    phase = dataclasses.replace(grpo(), credit=ControlToken(0.25))
    weighted, _, _ = weigh(phase, ROWS, {}, CONTEXT)
    plain = weights(weigh(grpo(), ROWS, {}, CONTEXT)[0])
    assert weighted.weight_BT.shape == ROWS.rollouts.tokens_BT.shape
    np.testing.assert_allclose(weighted.weight_BT[:, 0], plain * 0.25)
    np.testing.assert_allclose(weighted.weight_BT[:, 1], plain)


def test_values_of_failures():
    rows = graded([Row(5, True), Row(5), Row(5, verdict=Verdict.UNPARSED), Row(5, finished=False)])
    task = {"correct": 1.0, "wrong": -0.5, "unparsed": -1.0, "unfinished": -2.0}
    phase = grpo(task=task, advantage={"baseline": "none", "scale": "none"})
    weighted, _, _ = weigh(phase, rows, {}, CONTEXT)
    np.testing.assert_array_equal(weights(weighted), [1, -0.5, -1, -2])


def test_partial_credit_is_a_share():
    rows = dataclasses.replace(graded([Row(5), Row(5)]), score_B=np.float32([0.25, 1.0]))
    phase = grpo(task={"wrong": -1.0}, advantage={"baseline": "none", "scale": "none"})
    np.testing.assert_allclose(weights(weigh(phase, rows, {}, CONTEXT)[0]), [-0.5, 1.0])


def test_pairs_reach_the_learner():
    phase = grpo(advantage={"kind": "pairs"}, loss={"kind": "pairs", "clip_high": None})
    weighted, _, _ = weigh(phase, ROWS, {}, CONTEXT)
    np.testing.assert_array_equal(weighted.pair_B, [0, -1, -1, 0, -1, -1, -1, -1])
    np.testing.assert_array_equal(weights(weighted), [1, 0, 0, -1, 0, 0, 0, 0])
    assert weighted.loss == "pairs"


def test_state_is_threaded_and_never_changed_in_place():
    past = {"kind": "stat", "reduce": "min", "over": "correct", "source": "history", "empty": None}
    dual = {"kind": "dual", "metric": "reward", "target": 1.0, "start": 0.1, "rate": -1.0}
    phase = grpo(length=[{"kind": "ratio", "scale": past, "weight": dual}], advantage=NO_STD)
    weighted, first, metrics = weigh(phase, ROWS, {}, CONTEXT)
    np.testing.assert_array_equal(weights(weighted), [0.5, 0.5, -0.5, -0.5, 0, 0, 0, 0])
    assert metrics["reward"] == 0.5  # no history yet, so no length term
    assert first["controllers"]["prune-length-0-weight"] == pytest.approx(0.6)
    # the history of a and b is 10: 10/30 - 1 = -2/3, so the long correct rows are worth .6
    weighted, second, metrics = weigh(phase, ROWS, first, CONTEXT)
    expected = [0.2, 0.6, -0.4, -0.4, -0.2, 0.2, 0, 0]
    np.testing.assert_allclose(weights(weighted), expected, atol=1e-6)
    assert metrics["reward"] == pytest.approx(0.4)
    assert second["controllers"]["prune-length-0-weight"] == pytest.approx(1.2)
    assert first["controllers"]["prune-length-0-weight"] == pytest.approx(0.6)


def test_controllers_see_the_newest_evaluation():
    weight = {"kind": "feedback", "metric": "monitor/accuracy", "target": 0.8, "start": 0.1}
    phase = grpo(length=[{"kind": "linear", "weight": weight}])
    context = dataclasses.replace(CONTEXT, metrics={"monitor/accuracy": 0.7, "monitor/step": 0})
    _, state, _ = weigh(phase, ROWS, {}, context)
    assert state["controllers"]["prune-length-0-weight"] == pytest.approx(0.095)


def test_an_iteration_has_its_steps():
    collect = Collect(samples=2, every="iteration", steps=3)
    assert collect.due(7, since=None)
    assert [collect.due(step, since=7) for step in range(8, 12)] == [False, False, True, True]


def test_what_is_not_finite_is_refused_with_advice():
    phase = grpo(length=[{"kind": "linear", "times": float("inf")}])
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="not finite; bound the"):
        weigh(phase, ROWS, {}, CONTEXT)


def test_a_phase_that_only_collects_weighs_nothing():
    phase = Phase(name="table", collect=Collect(samples=4, reference=True), loss=None)
    with pytest.raises(ValueError, match="'table' has loss null"):
        weigh(phase, ROWS, {}, CONTEXT)


def test_needs_are_checked_before_anything_starts():
    monitor = {"kind": "stat", "reduce": "mean", "over": "all", "source": "monitor", "empty": 0.0}
    method = methods.build(
        MethodOptions("grpo", slots={"length": [{"kind": "linear", "scale": monitor}]})
    )
    with pytest.raises(ValueError, match=r"length\.0\.scale needs 'monitor'.*monitor problems"):
        check(method, offers=())
    check(method, offers={"monitor"})
    with pytest.raises(ValueError, match=r"samples is 1, but advantage\.norm compares"):
        methods.load("grpo", {"samples": 1})
    with pytest.raises(ValueError, match=r"loss\.kind is 'pg' but advantage is 'uniform'"):
        methods.build(MethodOptions("grpo", slots={"advantage": {"kind": "uniform"}}))
    with pytest.raises(ValueError, match=r"collect\.top_p is 0\.9.*on-policy"):
        methods.build(MethodOptions("grpo", slots={"collect": {"top_p": 0.9}}))
