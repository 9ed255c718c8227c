"""Numbers that change over the run."""

import dataclasses

import numpy as np
import pytest

from pruner_jax import methods
from pruner_jax.methods import MethodOptions
from pruner_jax.objective import schedules as s
from pruner_jax.objective.context import Context


def phase_with(weight):
    """GRPO with a length term of this weight."""
    phase = methods.build(
        MethodOptions("grpo", slots={"length": [{"kind": "linear", "weight": 0.0}]})
    ).phases[0]
    return dataclasses.replace(phase, length=(dataclasses.replace(phase.length[0], weight=weight),))


def weight_at(weight, state=None, **clock):
    return s.at(phase_with(weight), Context(limit=10, **clock), state or {}).length[0].weight


@pytest.mark.parametrize(
    ("schedule", "times", "expected"),
    [
        (s.Ramp(1.0, 3.0, length=4, begin=2), [0, 2, 3, 6, 99], [1, 1, 1.5, 3, 3]),
        (s.Stages((0, 10), (0.0, 0.4)), [0, 9, 10, 99], [0, 0, 0.4, 0.4]),
        (s.Decay(8.0, 0.5, every=3, floor=1.5), [0, 2, 3, 6, 99], [8, 8, 4, 2, 1.5]),
        (s.Alternate((1.0, 0.0), every=2), [0, 1, 2, 3, 4], [1, 1, 0, 0, 1]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_timed(schedule, times, expected):
    np.testing.assert_allclose([weight_at(schedule, step=t) for t in times], expected)


def test_clocks():
    for clock in ("step", "round_step", "round"):
        schedule = s.Ramp(0.0, 10.0, length=10, clock=clock)
        now = {"step": 7, "round_step": 3, "round": 1}
        assert weight_at(schedule, **now) == now[clock]


def after(schedule, metrics, state=None):
    return s.steer(phase_with(schedule), state or {}, metrics)


def test_dual_ascent_keeps_a_price_of_length():
    dual = s.Dual("completions/mean_length", target=100.0, start=0.2, rate=0.05)
    assert weight_at(dual) == 0.2
    state = after(dual, {"completions/mean_length": 300.0})
    assert weight_at(dual, state) == pytest.approx(0.3)
    state = after(dual, {"completions/mean_length": 0.0}, state)
    assert weight_at(dual, state) == pytest.approx(0.25)
    assert list(state["controllers"]) == ["prune-length-0-weight"]
    for _ in range(9):
        state = after(dual, {"completions/mean_length": 0.0}, state)
    assert weight_at(dual, state) == 0.0


def test_feedback_follows_accuracy():
    feedback = s.Feedback("accuracy", target=0.8, start=0.1, high=0.101)
    assert weight_at(feedback, after(feedback, {"accuracy": 0.8})) == 0.101
    state = after(feedback, {"accuracy": 0.7})
    assert weight_at(feedback, state) == pytest.approx(0.095)
    assert weight_at(feedback, after(feedback, {"accuracy": 0.7}, state)) == pytest.approx(0.09025)


def test_an_evaluation_moves_a_controller_once():
    feedback = s.Feedback("monitor/accuracy", target=0.8, start=0.1, down=0.5)
    state = {}
    for step, expected in [(0, 0.05), (0, 0.05), (10, 0.025), (10, 0.025), (20, 0.0125)]:
        state = after(feedback, {"monitor/accuracy": 0.7, "monitor/step": step}, state)
        assert weight_at(feedback, state) == pytest.approx(expected)


def test_without_its_metric_a_controller_waits():
    feedback = s.Feedback("monitor/accuracy", target=0.8, start=0.1)
    assert after(feedback, {"reward": 1.0}) == {}


def test_a_phase_without_schedules_comes_back_as_it_is():
    phase = phase_with(0.5)
    assert s.at(phase, Context(limit=10), {}) is phase


def test_stages_must_fit():
    with pytest.raises(ValueError, match="equally long, starts ascending"):
        s.Stages((5, 0), (1.0, 2.0))
