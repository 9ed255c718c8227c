"""Advantages: published normalisations worked by hand, and preference pairs."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, graded

from pruner_jax.objective.advantage import (
    Boost,
    Clip,
    Decoupled,
    Fused,
    Guard,
    Norm,
    Pairs,
    Uniform,
    Whiten,
)
from pruner_jax.objective.context import Context, NotOffered, Scene
from pruner_jax.objective.groups import Groups
from pruner_jax.objective.task import Outcome, Utility


def scene_of(task, length=None, correct=None, **changes):
    """A scene with these channels (lists of lists; None: no row), lengths 1, 2, 3..."""
    correct = correct or [[t is not None and t > 0 for t in row] for row in task]
    groups = [
        [Row(g + 1, bool(c)) for g, (t, c) in enumerate(zip(row, marks)) if t is not None]
        for row, marks in zip(task, correct)
    ]
    scene = Scene.of(graded(*groups), Context(limit=10), {})
    task_PG = np.array([[t or 0.0 for t in row] for row in task])
    length_PG = np.zeros_like(task_PG) if length is None else np.array(length, float)
    return scene.replace(task_PG=task_PG, length_PG=length_PG, **changes)


def norm(baseline, scale, **fields):
    return Norm(baseline=baseline, scale=scale, **{"epsilon": 0.0, **fields})


def fused(scene, *args, **fields):
    return Fused(norm=norm(*args, **fields))(scene, Outcome()).advantage_PG


ONE_RIGHT = scene_of([[1, 0, 0, 0]])


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("none", "none"), [1, 0, 0, 0]),
        (("group", "none"), [0.75, -0.25, -0.25, -0.25]),  # Dr. GRPO
        (("group", "group"), [1.5, -0.5, -0.5, -0.5]),  # GRPO: mean .25, unbiased std .5
        (("leave_one_out", "none"), [1.0, -1 / 3, -1 / 3, -1 / 3]),  # RLOO
        (("leave_one_out", "group"), [2.0, -2 / 3, -2 / 3, -2 / 3]),
    ],
    ids=str,
)
def test_within_a_group(args, expected):
    np.testing.assert_allclose(fused(ONE_RIGHT, *args)[0], expected)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (0.5, [0.25, 0.25, -0.75, 0.25]),  # both halves weigh alike: 1 and 1/2
        (1.0, [0.5, 0.5, -1.0, 0.0]),  # short ones against 1/2, long ones against 1
        (0.0, [0.0, 0.0, -0.5, 0.5]),
    ],
)
def test_canon_compares_with_the_other_half_of_the_group(other, expected):
    """R - mu * mean(other half) - (1 - mu) * mean(own half), halves by length."""
    a_PG = fused(scene_of([[1, 1, 0, 1]]), "halves", "none", other=other)
    np.testing.assert_allclose(a_PG, [expected])


def test_halves_of_odd_ragged_and_single_groups():
    # Lengths 1, 2, 3: the median row is long. A group of one has no other half: its own mean.
    scene = scene_of([[1, 0, 0], [1, None, None]])
    np.testing.assert_allclose(fused(scene, "halves", "none", other=1.0), [[1, -1, -1], [0, 0, 0]])
    # A row that does not count is in no half: 1 against 0 is left.
    keep_PG = np.array([[True, True, False], [False, True, True]])
    scene = scene_of([[1, 0, 1], [1, 1, 0]], keep_PG=keep_PG)
    a_PG = fused(scene, "halves", "none", other=1.0)
    np.testing.assert_allclose(a_PG, [[1, -1, 0], [0, 1, -1]])


def test_halves_among_equal_lengths_go_by_sample_number():
    scene = Scene.of(graded([Row(5, True), Row(5), Row(5)]), Context(limit=10), {})
    scene = scene.replace(task_PG=np.array([[1.0, 0, 0]]), length_PG=np.zeros((1, 3)))
    np.testing.assert_allclose(fused(scene, "halves", "none", other=0.0), [[0, 0, 0]])
    np.testing.assert_allclose(fused(scene, "halves", "none", other=1.0), [[1, -1, -1]])
    assert norm("halves", "none").needs == ("group",)


def test_population_std_and_epsilon_are_said():
    a_PG = fused(ONE_RIGHT, "group", "group", ddof=0)
    np.testing.assert_allclose(a_PG[0, 0], 0.75 / np.sqrt(3 / 16))
    a_PG = fused(ONE_RIGHT, "group", "group", epsilon=1.0)
    np.testing.assert_allclose(a_PG[0, 0], 0.75 / 1.5)


def test_batch_scale_is_of_the_centred_rewards():
    """DLER: reward minus group mean, then the standard deviation of the whole batch."""
    scene = scene_of([[1, 0, 0, 0], [1, 1, 1, 1]])
    centred = np.array([0.75, -0.25, -0.25, -0.25, 0, 0, 0, 0])
    expected = centred / centred.std(ddof=1)
    np.testing.assert_allclose(fused(scene, "group", "batch").ravel(), expected)


def test_batch_baseline():
    a_PG = fused(scene_of([[1, 0, 0, 0], [1, 1, 1, 1]]), "batch", "none")
    np.testing.assert_allclose(a_PG, [[0.375, -0.625, -0.625, -0.625], [0.375] * 4])


def test_reference_baseline_uses_the_same_task_channel():
    table = Groups.of(graded([Row(5, True), Row(5), Row(5), Row(5)]))
    scene = scene_of([[1, -1]])
    scene = scene.replace(context=dataclasses.replace(scene.context, reference=table))
    task = Outcome(correct=1.0, wrong=-1.0)
    a_PG = Fused(norm=norm("reference", "none"))(scene, task).advantage_PG
    np.testing.assert_allclose(a_PG, [[1.5, -0.5]])  # the start model earns -1/2 here
    with pytest.raises(ValueError, match="has no value on the reference table"):
        Fused(norm=norm("reference", "none"))(scene, Utility())
    with pytest.raises(NotOffered, match=r"collect\.reference"):
        fused(scene_of([[1, 0]]), "reference", "none")
    missing = dataclasses.replace(scene.context, reference=table.at(["z"]))
    with pytest.raises(ValueError, match=r"no rows for 1 problems: \['a'\]"):
        Fused(norm=norm("reference", "none"))(scene.replace(context=missing), task)


def test_rows_that_do_not_count_are_in_no_statistic():
    keep = np.array([[True, True, False, False]])
    np.testing.assert_allclose(
        fused(scene_of([[1, 0, 0, 0]], keep_PG=keep), "group", "none"), [[0.5, -0.5, 0, 0]]
    )


def test_ragged_groups():
    a_PG = fused(scene_of([[1, 0, 0], [1, 0, None], [1, None, None]]), "group", "none")
    np.testing.assert_allclose(a_PG, [[2 / 3, -1 / 3, -1 / 3], [0.5, -0.5, 0], [0, 0, 0]])


def test_a_group_of_one_gets_nothing_from_its_group():
    for baseline in ("group", "leave_one_out"):
        np.testing.assert_array_equal(fused(scene_of([[1.0]]), baseline, "none"), [[0.0]])


def test_ddca_gives_length_only_to_correct_rows():
    """Decoupled: the length channel has its own baseline, within the correct rows."""
    scene = scene_of([[1, 1, 0, 0]], length=[[-0.2, -0.6, 0, 0]])
    advantage = Decoupled(
        task=norm("group", "none"), length=norm("group", "none", over="correct"), beta=0.5
    )
    a_PG = advantage(scene, Outcome()).advantage_PG
    np.testing.assert_allclose(a_PG, [[0.5 + 0.1, 0.5 - 0.1, -0.5, -0.5]])


def test_gdpo_scales_each_channel_and_then_whitens():
    scene = scene_of([[1, 1, 0, 0]], length=[[-1, -3, -2, -2]])
    advantage = Decoupled(task=norm("group", "group"), length=norm("group", "group"))
    scene = advantage(scene, Outcome())
    t = 0.5 / np.sqrt(1 / 3)
    s = 1 / np.sqrt(2 / 3)
    np.testing.assert_allclose(scene.advantage_PG, [[t + s, t - s, -t, -t]])
    white = Whiten(epsilon=0.0)(scene).advantage_PG
    np.testing.assert_allclose([white.mean(), white.std(ddof=1)], [0, 1], atol=1e-12)


def test_uniform_is_one_for_rows_that_count():
    keep = np.array([[True, False, True]])
    scene = Uniform()(scene_of([[1, 1, 0]], keep_PG=keep), Outcome())
    np.testing.assert_array_equal(scene.advantage_PG, [[1, 0, 1]])


def test_pairs_match_the_best_with_the_worst():
    scene = scene_of([[3.0, 1.0, 2.0, 0.0], [1.0, 1.0, None, None]])
    scene = Pairs(count=2)(scene, Outcome())
    np.testing.assert_array_equal(scene.advantage_PG, [[1, -1, 1, -1], [0, 0, 0, 0]])
    np.testing.assert_array_equal(scene.pair_PG, [[0, 1, 1, 0], [-1] * 4])
    np.testing.assert_array_equal(scene.keep_PG, scene.pair_PG >= 0)
    one = Pairs()(scene_of([[3.0, 1.0, 2.0, 0.0]]), Outcome())
    np.testing.assert_array_equal(one.pair_PG, [[0, -1, -1, 0]])


def test_clip_and_guard():
    scene = scene_of([[1, 1, 0, 0]]).replace(advantage_PG=np.array([[9.0, -0.5, -3.0, 0.2]]))
    np.testing.assert_array_equal(Clip(-2.0, 4.0)(scene).advantage_PG, [[4, -0.5, -2, 0.2]])
    np.testing.assert_array_equal(Guard()(scene).advantage_PG, [[9, 0, -3, 0.2]])
    np.testing.assert_array_equal(Guard(over="wrong")(scene).advantage_PG, [[9, -0.5, -3, 0]])


def test_gains_can_weigh_more_than_losses():
    scene = scene_of([[1, 0, 0, 1]]).replace(advantage_PG=np.array([[2.0, -1.0, 0.0, 0.5]]))
    boosted = Boost(above=1.5, below=0.5)(scene).advantage_PG
    np.testing.assert_allclose(boosted, [[3, -0.5, 0, 0.75]])


def test_the_scale_of_the_batch_with_and_without_groups_that_do_not_vary():
    scene = scene_of([[1, 0, 0], [1, 1, 1], [0, 1, 0]])
    centred = np.array([[2, -1, -1], [0, 0, 0], [-1, 2, -1]]) / 3
    # Squares 2/3 + 0 + 2/3: over 8 of nine rows, or over 5 of the six that vary.
    for scale, variance in (("batch", 4 / 3 / 8), ("varying", 4 / 3 / 5)):
        found = norm("group", scale)(scene.task_PG, scene)
        np.testing.assert_allclose(found, centred / np.sqrt(variance))
    correct = norm("group", "varying", over="correct")
    np.testing.assert_array_equal(correct(scene.task_PG, scene), np.zeros((3, 3)))


def test_whitening_over_each_group_sees_only_its_rows_that_count():
    keep = np.array([[True, True, False], [True, True, True]])
    scene = scene_of([[1, 1, 0], [0, 0, 0]], keep_PG=keep)
    scene = scene.replace(advantage_PG=np.array([[3.0, 1.0, 50.0], [2.0, 2.0, 2.0]]))
    white = Whiten(over="group", ddof=0)(scene).advantage_PG
    np.testing.assert_allclose(white[0, :2], [1, -1], atol=1e-5)
    np.testing.assert_array_equal(white[1], [0, 0, 0])
    assert Whiten(over="group").needs == ("group",) and Whiten().needs == ()


def test_baseline_and_scale_have_no_default():
    with pytest.raises(TypeError, match="scale"):
        Norm(baseline="group")
    with pytest.raises(ValueError, match=r"norm\.scale is 'std'; allowed: 'none', 'group'"):
        Norm(baseline="group", scale="std")
