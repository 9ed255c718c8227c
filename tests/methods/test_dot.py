"""DOT against cuts and weights worked out by hand from the paper's rule."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.methods import MethodOptions, build
from pruner_jax.objective.context import Context
from pruner_jax.objective.statistics import Stat
from pruner_jax.objective.weigh import weigh
from pruner_jax.types import Verdict

GRPO = methods.load("grpo").phases[0]
DOT = methods.load("dot").phases[0]
# Mean (15 * 40 + 840) / 16 = 90; variance (15 * 50^2 + 750^2) / 15 = 40000, std 200: the cut is at
# 690, and 840 exceeds it by 150.
OUTLIER = [*[Row(40, True)] * 15, Row(840, True)]
# Mean 110, variance (15 * 10^2 + 150^2) / 15 = 1600, std 40: the cut would be at 230, but 260
# exceeds it by 30 only.
NEAR = [*[Row(100, True)] * 15, Row(260, True)]
# As long as the first, but not all right: no cut.
MIXED = [*[Row(40, True)] * 14, Row(40), Row(840, True)]
SMALL = [Row(40, True), Row(50, True), Row(840, True), Row(60), Row(900, finished=False)]
CONTEXT = Context(limit=1000, decode=lambda tokens: f"{len(tokens)} tokens")


def learned(phase, *groups):
    weighted, _, _ = weigh(phase, graded(*groups), {}, CONTEXT)
    return weights(weighted), weighted.keep_B, weighted


def test_an_outlier_of_a_solved_group_by_hand():
    # 15 of 16 are right after the cut: mean 15/16, variance (15/256 + 225/256) / 15 = 1/16,
    # (1/16) / (1/4) = .25 and (-15/16) / (1/4) = -3.75
    found, keep_B, weighted = learned(DOT, OUTLIER)
    np.testing.assert_allclose(found, [*[0.25] * 15, -3.75], atol=2e-5)
    rollouts = weighted.graded.rollouts
    assert keep_B.all() and rollouts.length_B[15] == 690 and not rollouts.finished_B[15]
    assert weighted.graded.verdict_B[15] == Verdict.UNFINISHED
    assert rollouts.text[15] == "690 tokens" and weighted.train_BT[15].sum() == 690


def test_thirty_tokens_too_many_are_let_be_and_the_group_is_left_out():
    found, keep_B, weighted = learned(DOT, NEAR)
    assert not keep_B.any() and not found.any()
    assert weighted.graded.rollouts.length_B[15] == 260


def test_groups_that_are_failed_at_times_stay_as_they_are():
    # MIXED: the wrong one is -3.75, the long one is as good as the others.
    # SMALL: mean 3/5, variance (3 * .16 + 2 * .36) / 4 = .3: .4 / .5477226 = .730297, -.6 / ...
    found, keep_B, weighted = learned(DOT, MIXED, SMALL)
    small = [0.730297, 0.730297, 0.730297, -1.095445, -1.095445]
    np.testing.assert_allclose(found, [*[0.25] * 14, -3.75, 0.25, *small], atol=2e-5)
    assert keep_B.all()
    np.testing.assert_array_equal(weighted.graded.rollouts.length_B[[15, 20]], [840, 900])


def test_in_a_group_of_ten_nothing_can_be_cut():
    # (n - 1) / sqrt(n) is 2.85 for 10 and 3.02 for 11.
    for others, cut in ((9, False), (10, True)):
        rows = [*[Row(1, True)] * others, Row(30_000, True)]
        length_B = learned(DOT, rows)[2].graded.rollouts.length_B
        assert (length_B[-1] < 30_000) == cut


def test_the_loss_as_released():
    loss = DOT.loss
    assert (loss.clip_low, loss.clip_high, loss.clip_dual) == (0.2, 0.2, 10.0)
    assert (loss.aggregation, loss.kl, loss.entropy) == ("sequence", 0.0, 0.0)
    assert (loss.ratio, loss.epochs, loss.minibatches) == ("token", 1, 4)
    assert DOT.collect.samples == 32


def test_grpo_learns_nothing_from_a_solved_group():
    found, keep_B, weighted = learned(GRPO, OUTLIER)
    assert keep_B.all() and not found.any() and weighted.train_BT[15].sum() == 840


NOT_GRPOS = ("collect", "shape", "select", "loss")


def test_these_slots_are_not_grpos():
    assert set(differing_slots(DOT, GRPO)) == set(NOT_GRPOS)
    differing = [
        field.name
        for field in dataclasses.fields(DOT.loss)
        if getattr(DOT.loss, field.name) != getattr(GRPO.loss, field.name)
    ]
    assert differing == ["clip_dual", "minibatches"]


def test_shape_and_select_matter():
    no_cut = dataclasses.replace(DOT, shape=())
    assert not learned(no_cut, OUTLIER)[0].any()
    no_choice = dataclasses.replace(DOT, select=())
    assert learned(no_choice, NEAR)[1].all()


@pytest.mark.parametrize(
    ("change", "group", "length"),
    [
        ({"slack": 1}, NEAR, 230),
        ({"solve_rate": (0.0, 1.0)}, MIXED, 690),
        ({"at": (Stat(reduce="mean", over="all", empty=None),)}, OUTLIER, 90),
    ],
    ids=str,
)
def test_every_part_of_the_cut_matters(change, group, length):
    (cut,) = DOT.shape
    other = dataclasses.replace(DOT, shape=(dataclasses.replace(cut, **change),))
    assert learned(other, group)[2].graded.rollouts.length_B[15] == length
    assert learned(DOT, group)[2].graded.rollouts.length_B[15] != length


def test_options_reach_the_cut():
    # Two standard deviations of 40 above 110 are 190, an excess of 70.
    phase = build(MethodOptions("dot", {"deviations": 2, "slack": 70}, {})).phases[0]
    assert learned(phase, NEAR)[2].graded.rollouts.length_B[15] == 190
