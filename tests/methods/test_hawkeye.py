"""Hawkeye's options by hand; `test_contracts` has a group under the default ones."""

import dataclasses
import pathlib

import numpy as np
import pytest
import yaml
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.objective.context import Context
from pruner_jax.objective.groups import Groups
from pruner_jax.objective.method import looks_at_tokens, needs
from pruner_jax.objective.weigh import weigh

GRPO = methods.load("grpo").phases[0]
METHOD = methods.load("hawkeye")
PHASE = METHOD.phases[1]
# The start model thinks 60 tokens, so the target is 18: the chains exceed it by 22, 0 and 0.
ROWS = graded([Row(41, thinking=40), Row(11, True, thinking=10), Row(19, thinking=18)])
REFERENCE = Groups.of(graded([Row(51, thinking=50), Row(71, True, thinking=70)]))
EXPANDED = graded([Row(5, True), Row(5, False), Row(5, True)])


def weighed(phase=None, **options):
    """Weights, mean reward, and whether the expander saw masked answers (None: not asked)."""
    seen = [None]

    def expand(chains, mask_answers):
        seen.append(mask_answers)
        return EXPANDED

    context = Context(limit=100, reference=REFERENCE, expand=expand)
    phase = phase or methods.load("hawkeye", options).phases[1]
    weighted, _, metrics = weigh(phase, ROWS, {}, context)
    return weights(weighted), metrics["reward"], seen[-1]


def test_ten_tokens_too_many_cost_the_answer():
    """28 tokens against a target of 18: 1 - .01 * 10^2 = 0."""
    rows = graded([Row(29, thinking=28)])
    context = Context(limit=100, reference=REFERENCE, expand=lambda *_: graded([Row(5, True)]))
    assert weigh(PHASE, rows, {}, context)[2]["reward"] == pytest.approx(0.0)


def test_the_penalty_in_units_of_the_target():
    # 40 / 18 - 1 = 1.2222, squared 1.4938272: 1 - 1.4938272 = -.4938272, 0, 1; mean .1687243;
    # deviations -.6625514, -.1687243, .8312757; squares .4389744 + .0284679 + .6910193 = 1.1584616,
    # / 2 = .5792308, std .7610721
    found, reward, _ = weighed(normalised=True, weight=1.0)
    assert reward == pytest.approx(0.1687243)
    np.testing.assert_allclose(found, [-0.8705492, -0.2216929, 1.0922421], atol=2e-6)


@pytest.mark.parametrize("preset", ["hawkeye_tiny", "hawkeye_r1_distill_qwen_7b"])
@pytest.mark.parametrize("chain", [40, 480])
def test_under_the_presets_a_chain_of_the_start_model_costs_half_an_answer(preset, chain):
    """(1 / .3 - 1)^2 = 5.4444 times .1, at any length."""
    folder = pathlib.Path(__file__).parents[2] / "configs"
    options = yaml.safe_load((folder / f"{preset}.yaml").read_text())["method"]["options"]
    phase = methods.load("hawkeye", options).phases[1]
    rows = graded([Row(chain + 1, thinking=chain)])
    context = Context(
        limit=1024, reference=Groups.of(rows), expand=lambda *_: graded([Row(5, True)])
    )
    assert weigh(phase, rows, {}, context)[2]["reward"] == pytest.approx(1 - 0.54444, abs=1e-4)


def with_solution(rows, text):
    """The rows, with a text in column ``answer`` of their problem."""
    problem = dataclasses.replace(rows.rollouts.prompts.problems[0], columns={"answer": text})
    prompts = dataclasses.replace(rows.rollouts.prompts, problems=(problem,))
    return dataclasses.replace(rows, rollouts=dataclasses.replace(rows.rollouts, prompts=prompts))


def test_the_gold_solution_can_set_the_target():
    """A solution of 20 tokens makes a target of 6; chains exceed it by 34, 4 and 12."""
    (phase,) = methods.load("hawkeye", {"solution": "answer"}).phases
    context = Context(limit=100, expand=lambda *_: EXPANDED, encode=str.split)
    expected = (1 - 11.56 + 0 - 0.16 + 1 - 1.44) / 3
    rows = with_solution(ROWS, "step " * 20)
    assert weigh(phase, rows, {}, context)[2]["reward"] == pytest.approx(expected)
    with pytest.raises(
        ValueError, match=r"text in column 'answer' of every problem, but .* has none"
    ):
        weigh(phase, ROWS, {}, context)


@pytest.mark.parametrize("gold", [60, 63])  # 0.3 of 63 is 18.9: rounded down
def test_in_words_the_penalty_is_that_of_the_code(gold):
    """40 words against int(0.3 * 60) = 18: 1 - .01 * 22^2 = -3.84; 18 words cost nothing."""
    (phase,) = methods.load("hawkeye", {"solution": "answer", "unit": "words"}).phases
    rows = graded([Row(99, thinking=98), Row(99, thinking=98)])
    rows = with_solution(rows, "word\n" * gold)
    context = Context(
        limit=100,
        expand=lambda *_: graded([Row(5, True), Row(5, True)]),
        thoughts=lambda rollouts: ["x=1,\n " * 40, "y " * 18],
    )
    weighted, _, metrics = weigh(phase, rows, {}, context)
    assert metrics["reward"] == pytest.approx((-3.84 + 1) / 2)
    # mean -1.42; deviations -2.42 and 2.42; unbiased std 2.42 * sqrt(2)
    np.testing.assert_allclose(weights(weighted), [-0.70711, 0.70711], atol=1e-5)
    assert looks_at_tokens(phase) and not looks_at_tokens(GRPO)


def test_words_are_counted_against_the_gold_solution_only():
    with pytest.raises(ValueError, match="unit is 'words' and solution is null"):
        methods.load("hawkeye", {"unit": "words"})


def test_without_the_expander_only_the_penalty_is_left():
    # -4.84, 0, 0: mean -1.6133333, unbiased std 2.7943753
    found, reward, asked = weighed(expander=False)
    assert asked is None and reward == pytest.approx(-4.84 / 3)
    np.testing.assert_allclose(found, [-1.1547, 0.57735, 0.57735], atol=1e-5)
    assert "expander" not in needs(methods.load("hawkeye", {"expander": False}).phases[1])


def test_masked_answers_are_asked_for():
    assert weighed()[2] is False and weighed(leak="mask")[2] is True


def test_the_answer_that_counts_is_the_expanders():
    grpo = weighed(dataclasses.replace(PHASE, task=GRPO.task))[1]
    # The own answers: the second is right. The chain of the first is too long as before.
    assert grpo == pytest.approx((-4.84 + 1 + 0) / 3)


@pytest.mark.parametrize("slot", ["task", "length"])
def test_every_slot_that_weighs_does_something(slot):
    fallen = weighed(dataclasses.replace(PHASE, **{slot: getattr(GRPO, slot)}))[0]
    assert np.abs(fallen - weighed()[0]).max() > 0.05


def test_slots_that_differ_from_grpo():
    assert set(differing_slots(PHASE, GRPO)) == {"collect", "task", "length", "loss"}
    loss = PHASE.loss
    assert (loss.clip_low, loss.clip_high, loss.kl, loss.aggregation) == (
        0.2,
        0.2,
        0.04,
        "sequence",
    )
    assert PHASE.collect.samples == 8 and METHOD.wants == {
        "sample": {"temperature": 0.9},
        "optimizer": {"learning_rate": 1e-5},
        "pick": {"rule": "last"},
        "guards": {"accuracy": None},
    }


def test_the_table_is_of_the_start_model():
    table = METHOD.phases[0].collect
    assert (table.policy, table.every, table.reference, table.samples) == ("start", "once", True, 1)
