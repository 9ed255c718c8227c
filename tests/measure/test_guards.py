"""Each guard fires on what it is for, and not without it."""

import dataclasses
import math

import numpy as np
import pytest

from pruner_jax.measure import guards
from pruner_jax.measure.guards import diagnose, repeated_ngrams, watch
from pruner_jax.measure.options import GuardOptions
from pruner_jax.types import Verdict

OPTIONS = GuardOptions(window=3)
HEALTHY = {
    "entropy": 0.4,
    "prune/thinking_tokens": 50.0,
    "prune/answer_tokens": 8.0,
    "prune/empty_thinking": 0.02,
    "prune/repetition": 0.05,
}


def run(steps=12, **final):
    """A history whose metrics drift linearly from healthy to the given values."""
    share = np.linspace(0, 1, steps)
    return [
        {
            "kind": "step",
            "step": i,
            **{k: float(v + t * (final.get(k, v) - v)) for k, v in HEALTHY.items()},
        }
        for i, t in enumerate(share)
    ]


CASES = {
    "empty_thinking": {"prune/empty_thinking": 0.9, "prune/thinking_tokens": 3.0},
    "moved_reasoning": {"prune/answer_tokens": 45.0, "prune/thinking_tokens": 10.0},
    "repetition": {"prune/repetition": 0.8},
    "entropy": {"entropy": 0.0},
}


@pytest.mark.parametrize("name", CASES)
def test_each_guard_fires_alone(name):
    history = run(100, **CASES[name])
    (alarm,) = watch(history, OPTIONS)
    assert alarm.guard == name
    assert "guards." in alarm.reason and all(math.isfinite(v) for v in alarm.values.values())


@pytest.mark.parametrize("name", [*CASES, "accuracy"])
def test_each_guard_can_be_switched_off(name):
    field = {"moved_reasoning": "answer_growth"}.get(name, name)
    history = run(100, **CASES.get(name, {})) + [
        {"kind": "evaluate", "step": 0, "accuracy": 0.9},
        {"kind": "evaluate", "step": 30, "accuracy": 0.9 if name in CASES else 0.1},
    ]
    assert len(watch(history, OPTIONS)) == 1
    assert watch(history, GuardOptions(window=3, **{field: None})) == []


def test_a_healthy_run_is_left_alone():
    assert watch(run(30), OPTIONS) == []
    assert watch([], OPTIONS) == []


def test_pruning_itself_is_no_alarm():
    """Thoughts a third as long, answers as before, entropy halved: what the run is for."""
    assert watch(run(30, **{"prune/thinking_tokens": 16.0, "entropy": 0.2}), OPTIONS) == []


def test_guards_are_silent_until_two_windows_have_passed():
    assert watch(run(5, **CASES["repetition"]), OPTIONS) == []


def test_a_model_that_never_thought_is_no_alarm():
    history = [{**record, "prune/empty_thinking": 0.98} for record in run(30)]
    assert watch(history, OPTIONS) == []


def test_longer_answers_with_longer_thoughts_are_no_alarm():
    history = run(30, **{"prune/answer_tokens": 45.0, "prune/thinking_tokens": 90.0})
    assert watch(history, OPTIONS) == []


def test_accuracy_collapse_compares_with_the_first_evaluation():
    def seen(*values):
        return [{"kind": "evaluate", "step": i, "accuracy": v} for i, v in enumerate(values)]

    assert guards.accuracy_collapse(seen(0.8, 0.7, 0.66), OPTIONS) is None
    alarm = guards.accuracy_collapse(seen(0.8, 0.75, 0.6), OPTIONS)
    assert alarm.values == {"start": 0.8, "now": 0.6}
    assert guards.accuracy_collapse(seen(0.8, 0.1, 0.8), OPTIONS) is None  # it came back


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_finite_fires_at_once(value):
    (alarm,) = watch([{"kind": "step", "step": 7, "loss": value, "kl": None}], OPTIONS)
    assert alarm.guard == "not_finite" and "step 7: loss" in alarm.reason
    assert watch([{"kind": "step", "step": 7, "loss": value}, {"loss": 1.0}], OPTIONS) == []


def naive_repeats(tokens, n):
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


@pytest.mark.parametrize("n", [1, 3, 8])
def test_repeated_ngrams_equal_sets_of_tuples(n):
    rng = np.random.default_rng(0)
    tokens_BT = rng.integers(0, 3, (20, 40))
    length_B = rng.integers(0, 41, 20)
    expected = [naive_repeats(row[:length], n) for row, length in zip(tokens_BT, length_B)]
    np.testing.assert_allclose(repeated_ngrams(tokens_BT, length_B, n), expected)


def test_repeated_ngrams_of_a_loop_and_of_short_rows():
    loop = np.tile([5, 6, 7], 40)[None]
    assert repeated_ngrams(loop, np.array([120]), 8)[0] == pytest.approx(1 - 3 / 113)
    assert repeated_ngrams(np.arange(120)[None], np.array([120]), 8)[0] == 0.0
    assert repeated_ngrams(np.ones((2, 4), int), np.array([4, 0]), 8).tolist() == [0.0, 0.0]


def test_padding_does_not_count_as_repetition():
    tokens = np.concatenate([np.arange(20), np.zeros(80, int)])[None]
    assert repeated_ngrams(tokens, np.array([20]), 4)[0] == 0.0


def test_diagnosis_looks_at_finished_rows(graded_rows):
    graded = graded_rows(
        group_B=[0, 0, 1, 1],
        verdict_B=[Verdict.CORRECT, Verdict.WRONG, Verdict.UNFINISHED, Verdict.CORRECT],
        length_B=[8, 6, 9, 7],
        thinking_B=[5, 3, 9, 4],
        finished_B=[True, True, False, True],
    )
    found = diagnose(graded)
    assert found["prune/thinking_tokens"] == 4.0
    assert found["prune/answer_tokens"] == 3.0
    assert found["prune/empty_thinking"] == pytest.approx(2 / 3)
    assert found["prune/repetition"] == 0.0
    bare = graded.rollouts.tokens_BT[:, :0]  # only lengths were read
    bare = dataclasses.replace(graded.rollouts, tokens_BT=bare)
    found.pop("prune/repetition")
    assert diagnose(dataclasses.replace(graded, rollouts=bare)) == found
