"""What selection made of the rows that were added or made to begin otherwise."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, graded

from pruner_jax.measure.chosen import kept_by_mode
from pruner_jax.types import Weighted


def weighted(difficulty_P, modes_PG, keep_PG):
    rows = graded(*([Row(5, mode=mode) for mode in modes] for modes in modes_PG))
    prompts = rows.rollouts.prompts
    problems = tuple(
        dataclasses.replace(problem, difficulty=difficulty)
        for problem, difficulty in zip(prompts.problems, difficulty_P)
    )
    rollouts = dataclasses.replace(
        rows.rollouts, prompts=dataclasses.replace(prompts, problems=problems)
    )
    keep_B = np.concatenate(keep_PG).astype(bool)
    ones = np.ones((len(rows), 1))
    rows = dataclasses.replace(rows, rollouts=rollouts)
    return Weighted(rows, ones, ones.astype(bool), keep_B)


MODES = [[0, -1], [0, -1], [0, 2, -1], [0, -1]]
KEEP = [[0, 1], [1, 1], [1, 0, 0], [1, 1]]


def test_the_kept_share_of_every_mode_by_difficulty():
    found = kept_by_mode(weighted([2.0, 2.0, 6.0, 4.0], MODES, KEEP))
    assert found == pytest.approx(
        {
            "prune/kept_mode/-1": 3 / 4,
            "prune/kept_mode/-1/easy": 1.0,
            "prune/kept_mode/-1/hard": 0.0,
            "prune/kept_mode/2": 0.0,
            "prune/kept_mode/2/hard": 0.0,  # no easy problem has such a row
        }
    )


def test_without_difficulties_there_are_no_ends_and_plain_rows_are_not_told():
    for difficulty in (None, 3.0):
        found = kept_by_mode(weighted([difficulty] * 4, MODES, KEEP))
        assert found == pytest.approx({"prune/kept_mode/-1": 3 / 4, "prune/kept_mode/2": 0.0})
    assert kept_by_mode(weighted([1.0, 2.0], [[0], [0, 0]], [[1], [0, 1]])) == {}
