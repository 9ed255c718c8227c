"""Rows that are written again with a hint."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, graded

from pruner_jax.objective.context import Context, NotOffered, Scene
from pruner_jax.objective.hint import Hint
from pruner_jax.objective.method import Collect, Phase, needs
from pruner_jax.types import take_rows

ROWS = graded(
    [Row(4, True), Row(9), Row(6, finished=False)],
    [Row(3), Row(8, True)],
    [Row(5, True)],
)


def run(rows=ROWS, right=(True, False, True)):
    """A policy that writes 12, 13 and 14 tokens when it is asked again; and what it was asked."""
    asked = []

    def prompt(problem, text):
        return np.array([ord(letter) for letter in text], np.int32)

    def resample(given, prompts):
        asked.append((given, ["".join(map(chr, tokens)) for tokens in prompts]))
        new = graded(*([Row(12 + i, right[i])] for i in range(len(given))))
        rollouts = dataclasses.replace(
            new.rollouts,
            prompts=given.rollouts.prompts,
            group_B=given.rollouts.group_B,
            sample_B=given.rollouts.sample_B,
        )
        return dataclasses.replace(new, rollouts=rollouts)

    context = Context(limit=100, prompt=prompt, resample=resample)
    return Hint("{question} It is {answer}.")(rows, Scene.of(rows, context, {})), asked


def test_wrong_rows_are_replaced_where_they_stand():
    rows, [(given, prompts)] = run()
    np.testing.assert_array_equal(given.rollouts.length_B, [9, 6, 3])
    assert prompts == ["question a? It is gold a."] * 2 + ["question b? It is gold b."]
    np.testing.assert_array_equal(rows.rollouts.length_B, [4, 12, 13, 14, 8, 5])
    np.testing.assert_array_equal(rows.rollouts.group_B, [0, 0, 0, 1, 1, 2])
    np.testing.assert_array_equal(rows.rollouts.sample_B, [0, 1, 2, 0, 1, 0])
    np.testing.assert_array_equal(rows.correct_B, [1, 1, 0, 1, 1, 1])  # the third is wrong again


def test_they_are_trained_under_the_plain_prompt():
    assert run()[0].rollouts.train_tokens is None


def test_rows_with_a_prompt_of_their_own_and_their_parents_stay():
    tokens = (None, np.array([1], np.int32), None, None, None, None)
    parent_B = np.array([-1, 0, 1, -1, 3, -1], np.int32)
    rollouts = dataclasses.replace(ROWS.rollouts, train_tokens=tokens, parent_B=parent_B)
    rows, [(given, _)] = run(dataclasses.replace(ROWS, rollouts=rollouts))
    np.testing.assert_array_equal(given.rollouts.length_B, [6, 3])
    np.testing.assert_array_equal(rows.rollouts.length_B, [4, 9, 12, 13, 8, 5])
    np.testing.assert_array_equal(rows.rollouts.parent_B, [-1, 0, -1, -1, 3, -1])
    assert [p is None for p in rows.rollouts.train_tokens] == [True, False] + [True] * 4


def test_where_all_are_right_nobody_is_asked():
    rows = take_rows(ROWS, ROWS.correct_B)
    again, asked = run(rows)
    assert again is rows and not asked


def test_it_needs_a_policy_to_ask():
    phase = Phase(name="p", collect=Collect(samples=1), shape=(Hint(),), loss=None)
    assert set(needs(phase)) == {"resample"}
    with pytest.raises(NotOffered, match="asks the run for a policy to ask again"):
        Hint()(ROWS, Scene.of(ROWS, Context(limit=9, prompt=lambda *_: np.zeros(1)), {}))
