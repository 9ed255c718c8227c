"""Which rows count."""

import numpy as np
import pytest
from handmade import Row, graded

from pruner_jax.objective import selection as s
from pruner_jax.objective.context import Context, Scene
from pruner_jax.objective.groups import Groups
from pruner_jax.objective.statistics import Stat
from pruner_jax.types import take_rows

ROWS = graded(
    [Row(30, True), Row(10, True), Row(20), Row(40, finished=False)],
    [Row(30, True), Row(10, True)],
    [Row(30), Row(10)],
)
ALL = [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]


def kept(select, rows=ROWS, length=None, seed=0, step=0):
    scene = Scene.of(rows, Context(limit=40, seed=seed, step=step), {})
    task_PG = scene.groups.measure("score")
    length_PG = np.zeros_like(task_PG) if length is None else np.array(length, float)
    return select(scene.replace(task_PG=task_PG, length_PG=length_PG)).keep_PG.astype(int).tolist()


NONE = [0, 0, 0, 0]
BONUS = [[0.1, 0.2, 0.9, 0], [0.1, 0.1, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        (s.DropFlat(), [ALL[0], NONE, NONE]),
        (s.DropAllWrong(), [ALL[0], ALL[1], NONE]),
        (s.SolveRate(high=0.9), [ALL[0], NONE, ALL[2]]),
        (s.SolveRate(low=1.0), [NONE, ALL[1], NONE]),
        (s.Only("correct"), [[1, 1, 0, 0], [1, 1, 0, 0], NONE]),
        (s.Only("finished"), [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]]),
        (s.Within(measure="length", low=20), [[1, 0, 1, 1], [1, 0, 0, 0], [1, 0, 0, 0]]),
        (s.Within(measure="thinking", high=19), [[0, 1, 1, 0], [0, 1, 0, 0], [0, 1, 0, 0]]),
        (s.TopK(1, "short"), [[0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]]),
        (s.TopK(2, "short"), [[0, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]]),
        (s.TopK(2, "efficient"), [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]),
        (s.TopK(1, "reward"), [[0, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]),
        (s.AtLeast(0.5), [[1, 1, 1, 0], [1, 1, 0, 0], NONE]),
        (s.AtLeast(1.15, or_correct=True), [[1, 1, 0, 0], [1, 1, 0, 0], NONE]),
        (s.AtLeast(mean=True), [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]]),
        (s.AtLeast(0.35, mean=True), [[0, 1, 0, 0], NONE, NONE]),
    ],
    ids=str,
)
def test_steps(select, expected):
    assert kept(select, length=BONUS) == expected


def test_how_many_are_kept_can_follow_the_solve_rate():
    """8 of 16 where nothing is solved to 4 where all is (GFPO): here 4 to 2, rounded down."""
    rate = Stat(reduce="mean", measure="correct", over="all", empty=0.0, times=-2.0, plus=4.0)
    rows = graded(*([Row(9 - g, g < n) for g in range(8)] for n in (0, 3, 4, 8)))
    keep_PG = np.array(kept(s.TopK(rate, "short"), rows))
    assert keep_PG.sum(axis=1).tolist() == [4, 3, 3, 2]  # 4, 3.25, 3, 2
    assert keep_PG[3].tolist() == [0, 0, 0, 0, 0, 0, 1, 1]
    unknown = Stat(reduce="mean", measure="length", over="correct", empty=None)
    assert sum(kept(s.TopK(unknown, "short"), rows)[0]) == 0


def test_equal_rewards_reach_their_mean_in_spite_of_rounding():
    rows = graded([Row(5)] * 3)
    assert kept(s.AtLeast(mean=True), rows, length=[[0.1, 0.1, 0.1]]) == [[1, 1, 1]]


def test_drop_flat_can_look_at_both_channels():
    length = [[0] * 4, [0.1, 0, 0, 0], [0] * 4]
    assert kept(s.DropFlat("reward"), length=length)[1] == ALL[1]
    assert kept(s.DropFlat(), length=length)[1] == NONE


def test_steps_only_narrow():
    scene = Scene.of(ROWS, Context(limit=40), {})
    keep = np.array(ALL, bool)
    keep[0, 1] = False
    scene = scene.replace(keep_PG=keep, task_PG=scene.groups.measure("score"))
    assert s.TopK(1, "short")(scene).keep_PG.tolist()[0] == [False, False, True, False]


def test_chance_hangs_on_seed_step_problem_and_sample_alone():
    rows = graded([Row(5)] * 8, [Row(5)] * 8)
    choose = s.TopK(3, "random")
    first = kept(choose, rows)
    assert [sum(row) for row in first] == [3, 3]
    assert first[0] != first[1]
    assert kept(choose, rows) == first
    assert kept(choose, rows, seed=1) != first and kept(choose, rows, step=1) != first
    alone = graded([Row(5)] * 8, ids=["b"])
    assert kept(choose, alone) == first[1:]
    order = np.r_[np.arange(8)[::-1], 8:16]
    turned = take_rows(rows, order)
    assert Groups.of(turned).sample_PG[0].tolist() == list(range(8))[::-1]
    assert kept(choose, turned)[0] == first[0][::-1]
