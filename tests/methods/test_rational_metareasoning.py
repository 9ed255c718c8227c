"""Rational Metareasoning's options by hand; `test_contracts` has a group under the default ones."""

import dataclasses

import numpy as np
import pytest
from handmade import END, Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.objective.context import Context
from pruner_jax.objective.method import needs
from pruner_jax.objective.schedules import at
from pruner_jax.objective.weigh import weigh

GRPO = methods.load("grpo").phases[0]
PHASE = methods.load("rational_metareasoning").phases[0]
# Two thoughts of 49 and 9 tokens and a wrong one of 9, then the empty one (appended). With
# log(1 + tokens) 3.912023 and 2.302585 and the likelihoods below:
#   ln(.5001 / .0501) - .3912023 = 2.300787 - .391202 = 1.909585
#   ln(.3001 / .0501) - .2302585 = 1.790195 - .230259 = 1.559836
#   ln(.0401 / .0501) - .2302585 = -.222645 - .230259 = -.452903
ROWS = graded([Row(60, True, thinking=49), Row(20, True, thinking=9), Row(12, thinking=9)])
LIKELIHOOD_B = [0.5, 0.3, 0.04, 0.05]
REWARDS = [1.909585, 1.559836, -0.452903, 0.0]


def ids(text):
    return np.array([ord(letter) for letter in text], np.int32)


def weighed(likelihood_B=LIKELIHOOD_B, rows=ROWS, step=1, hints=False, **options):
    def score(policy, wanted, what, template):
        assert (policy, what) == ("current", "answer")
        return np.log(np.array(likelihood_B, np.float32))

    phase = methods.load("rational_metareasoning", {"hints": hints, **options}).phases[0]
    offers = {"score": score, "encode": ids, "decode": lambda t: "".join(map(chr, t))}
    offers["closing"] = lambda rollouts: [ids("")] * len(rollouts)
    context = Context(limit=100, step=step, end_token=END, prompt=lambda _, text: ids(text))
    context = dataclasses.replace(context, **offers, resample=resample)
    return weigh(phase, rows, {}, context)


def resample(given, prompts):
    """With a hint the policy always gets it right, after 30 tokens of thought."""
    new = graded(*([Row(40, True, thinking=30)] for _ in given.verdict_B))
    rollouts = dataclasses.replace(
        new.rollouts,
        prompts=given.rollouts.prompts,
        group_B=given.rollouts.group_B,
        sample_B=given.rollouts.sample_B,
    )
    return dataclasses.replace(new, rollouts=rollouts)


def test_rewards_by_hand():
    weighted, _, metrics = weighed()
    assert metrics["reward"] == pytest.approx(np.mean(REWARDS), abs=1e-5)
    np.testing.assert_array_equal(weights(weighted), [1, 0, 0, 0])
    grpo = weights(weigh(GRPO, ROWS, {}, Context(limit=100))[0])
    np.testing.assert_allclose(grpo, [0.577349, 0.577349, -1.154699], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"gamma": 0.2}, [0]),  # 2.3008 - .7824 = 1.5184, 1.7901 - .4605 = 1.3296
        ({"gamma": 0.35}, [1]),  # 2.3008 - 1.3692 = .9316, 1.7901 - .8059 = .9842
        ({"gamma": 1.0}, [3]),  # no thought pays: the empty one
        ({"gamma": 1.0, "empty": False}, [1]),  # 1.7901 - 2.3026 < 0, but correct
        ({"cost": "linear", "gamma": 0.01}, [0]),  # 2.3008 - .49 = 1.8108, 1.7901 - .09 = 1.7001
        ({"cost": "linear", "gamma": 0.05}, [1]),  # 2.3008 - 2.45 < 0, 1.7901 - .45 = 1.34
        ({"cost": "none", "gamma": 9.0}, [0]),
        ({"select": "above_mean"}, [0, 1]),  # the mean of 1.91, 1.56 and 0 is 1.157
    ],
    ids=str,
)
def test_what_is_kept(options, kept):
    np.testing.assert_array_equal(np.flatnonzero(weighed(**options)[0].keep_B), kept)


def test_without_smoothing():
    # ln 10 - .3912023, ln 6 - .2302585, ln .8 - .2302585, 0
    _, _, metrics = weighed(floor=0.0)
    expected = np.mean([2.3025851 - 0.3912023, 1.7917595 - 0.2302585, -0.2231436 - 0.2302585, 0])
    assert metrics["reward"] == pytest.approx(expected, abs=1e-5)


def test_in_the_first_iteration_the_empty_thought_cannot_be_chosen():
    costly = {"gamma": 1.0}
    for step, steps, kept in ((0, 1, 1), (1, 1, 3), (1, 2, 1), (2, 2, 3)):
        found = weighed(**costly, step=step, steps=steps)[0]
        np.testing.assert_array_equal(np.flatnonzero(found.keep_B), [kept])


def test_a_wrong_thought_can_win_and_is_trained_with_the_gold_answer():
    weighted = weighed([0.06, 0.06, 0.9, 0.05], answer=" {answer}")[0]
    np.testing.assert_array_equal(np.flatnonzero(weighted.keep_B), [2])
    row = weighted.graded.rollouts
    np.testing.assert_array_equal(row.tokens_BT[2, :9], 100 + np.arange(9))
    np.testing.assert_array_equal(row.tokens_BT[2, 9 : row.length_B[2]], [*ids(" gold a"), END])
    assert weighted.train_BT[2].sum() == 9 + 8


def test_thoughts_that_did_not_end_are_not_kept():
    rows = graded([Row(60, thinking=60, finished=False), Row(20, True, thinking=9)])
    weighted = weighed([0.9, 0.1, 0.09], rows)[0]
    np.testing.assert_array_equal(np.flatnonzero(weighted.keep_B), [2])


def test_with_a_hint_wrong_rows_are_replaced_first():
    weighted = weighed([0.5, 0.3, 0.9, 0.05], hints=True)[0]
    # ln(.9001 / .0501) - .1 ln 31 = 2.8886 - .3434 = 2.5452 beats 1.9096
    np.testing.assert_array_equal(np.flatnonzero(weighted.keep_B), [2])
    rollouts = weighted.graded.rollouts
    assert rollouts.thinking_B[2] == 30 and rollouts.train_tokens is None
    nobody = graded([Row(60, thinking=49), Row(20, thinking=9), Row(12, thinking=9)])
    assert weighed([0.9, 0.9, 0.9, 0.05], nobody, hints=True)[0].keep_B.any()
    assert not weighed([0.9, 0.9, 0.9, 0.05], nobody)[0].keep_B.any()


def test_what_it_needs():
    assert set(needs(PHASE)) == {"resample", "answers"}
    assert set(needs(methods.load("rational_metareasoning", {"hints": False}).phases[0])) == {
        "answers"
    }


def test_iterations_as_published():
    collect, reset = PHASE.collect, PHASE.reset
    assert (collect.policy, collect.every, collect.samples) == ("current", "iteration", 3)
    assert (collect.problems, collect.keep, collect.steps) == (512, True, 1)
    assert (collect.temperature, collect.top_p) == (0.5, 0.9)
    assert (reset.parameters, reset.optimiser) == ("iteration", "iteration")
    assert (PHASE.loss.kind, PHASE.loss.update_rows, PHASE.loss.epochs) == ("ce", 16, 1)
    other = {"cumulative": False, "reset": False, "examples": 5}
    phase = methods.load("rational_metareasoning", other).phases[0]
    assert not phase.collect.keep and phase.reset.parameters == "never"
    assert (phase.condition.examples, PHASE.condition.examples) == (5, 0)


def test_slots_that_differ_from_grpo():
    assert set(differing_slots(PHASE, GRPO)) == {
        *("name", "collect", "shape", "task", "length", "select", "advantage", "finish"),
        *("train", "loss", "reset"),
    }


def test_the_schedule_is_gone_when_the_phase_is_weighed():
    lows = [at(PHASE, Context(limit=9, step=step), {}).select[2].low for step in range(3)]
    assert lows == [1.0, 0.0, 0.0]
