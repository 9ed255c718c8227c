"""GFPO against weights worked out by hand from equation 2 of the paper."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.objective.context import Context
from pruner_jax.objective.selection import TopK
from pruner_jax.objective.weigh import weigh

GRPO = methods.load("grpo").phases[0]
GFPO = methods.load("gfpo", {"keep": 3}).phases[0]
GROUP = [
    Row(300, True),
    Row(900, True),
    Row(100),
    Row(400, finished=False),
    Row(500, True),
    Row(1000),
]


def weighed(phase, *groups):
    weighted, _, _ = weigh(phase, graded(*groups), {}, Context(limit=1000))
    return weights(weighted), weighted.keep_B.tolist()


def test_the_three_shortest_by_hand():
    # Kept: 100 wrong, 300 right, 400 unfinished. Rewards 0, 1, 0: mean 1/3, population variance
    # (4/9 + 1/9 + 1/9) / 3 = 2/9, std .4714045: (2/3) / std = 1.414214, (-1/3) / std = -.707107.
    found, keep = weighed(GFPO, GROUP)
    assert keep == [True, False, True, True, False, False]
    expected = [1.414214, 0, -0.707107, -0.707107, 0, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_four_with_the_most_reward_per_token_by_hand():
    # 1/300, 1/500, 1/900, and of the three that are worth nothing the first, of 100 tokens.
    # Rewards 1, 1, 1, 0: mean 3/4, population std .4330127: .25 / std = .577350, -.75 / std.
    phase = methods.load("gfpo", {"keep": 4, "by": "efficient"}).phases[0]
    found, keep = weighed(phase, GROUP)
    assert keep == [True, True, True, False, True, False]
    expected = [0.577350, 0.577350, -1.732051, 0, 0.577350, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_eight_of_sixteen_as_published():
    method = methods.load("gfpo")
    (phase,) = method.phases
    assert phase.collect.samples == 16 and phase.select == (TopK(8, by="short"),)
    found, keep = weighed(phase, [Row(10 * n, n % 2 == 0) for n in range(1, 17)])
    assert keep == [True] * 8 + [False] * 8
    np.testing.assert_allclose(found, [-1, 1] * 4 + [0] * 8, atol=1e-5)
    loss = phase.loss
    assert (loss.kl, loss.entropy, loss.aggregation) == (1e-3, 1e-3, "token")
    assert (loss.clip_low, loss.clip_high, loss.ratio, loss.minibatches) == (0.2, 0.2, "token", 1)


def test_kept_rows_that_agree_teach_nothing():
    found, _ = weighed(GFPO, [Row(1, True), Row(2, True), Row(3, True), Row(4), Row(5)])
    np.testing.assert_array_equal(found, 0)


def test_grpo_learns_from_all():
    # Three of six: .5 over the unbiased std sqrt(1.5 / 5) = .5477226
    found, keep = weighed(GRPO, GROUP)
    assert all(keep)
    expected = [0.912871, 0.912871, -0.912871, -0.912871, 0.912871, -0.912871]
    np.testing.assert_allclose(found, expected, atol=1e-5)


NOT_GRPOS = ("select", "advantage", "loss")


def test_these_slots_are_not_grpos():
    assert set(differing_slots(GFPO, GRPO)) == set(NOT_GRPOS)


@pytest.mark.parametrize("slot", NOT_GRPOS)
def test_every_one_of_them_matters(slot):
    fallen = dataclasses.replace(GFPO, **{slot: getattr(GRPO, slot)})
    if slot == "loss":
        assert not fallen.loss.needs_reference and GFPO.loss.needs_reference
        return
    assert np.abs(weighed(fallen, GROUP)[0] - weighed(GFPO, GROUP)[0]).max() > 0.1


def test_only_two_words_for_the_choice():
    with pytest.raises(ValueError, match=r"method\.options\.by is 'long'; allowed: 'short', 'eff"):
        methods.load("gfpo", {"by": "long"})
