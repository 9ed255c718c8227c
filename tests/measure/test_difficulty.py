"""Bins by difficulty and by independent base accuracy."""

import math

import numpy as np
import pytest

from pruner_jax.measure.difficulty import adaptation_ratio, by_base_accuracy, by_difficulty


def test_by_difficulty_by_hand(evaluation):
    levels = [2, 6, 2, math.nan]
    base = evaluation([[1], [0], [1], [1]], [[10], [60], [20], [99]], difficulty=levels)
    final = evaluation([[1], [1], [0], [1]], [[8], [30], [8], [99]], difficulty=levels)
    easy, hard = by_difficulty(base, final)
    assert (easy.label, easy.problems) == ("2", 2) and (hard.label, hard.problems) == ("6", 1)
    assert (easy.base_tokens, easy.final_tokens) == (15.0, 8.0)
    assert (easy.base_accuracy, easy.final_accuracy) == (1.0, 0.5)
    assert adaptation_ratio((easy, hard)) == (60 / 15, 30 / 8)


def test_no_difficulty_no_bins(evaluation):
    one = evaluation([[1], [0]], [[10], [60]])
    assert by_difficulty(one, one) == ()
    assert all(math.isnan(x) for x in adaptation_ratio(()))


def test_continuous_difficulty_becomes_fifths(evaluation):
    hard = np.linspace(0, 1, 50)
    one = evaluation([[1]] * 50, [[int(10 + 50 * d)] for d in hard], difficulty=hard)
    bins = by_difficulty(one, one)
    assert [b.problems for b in bins] == [10] * 5
    assert [b.base_tokens for b in bins] == sorted(b.base_tokens for b in bins)


def test_by_base_accuracy_uses_each_sample_once(evaluation):
    """Even samples choose the bin, odd samples give the base's numbers."""
    base = evaluation([[1, 0, 1, 0], [0, 1, 0, 1]], [[10, 30, 10, 30], [50, 70, 50, 70]])
    final = evaluation([[1] * 4, [0] * 4], [[9] * 4, [19] * 4])
    all_, none = by_base_accuracy(base, final)
    assert (all_.label, all_.base_accuracy, all_.base_tokens) == ("all", 0.0, 30.0)
    assert (none.label, none.base_accuracy, none.base_tokens) == ("none", 1.0, 70.0)
    assert (all_.final_accuracy, none.final_accuracy) == (1.0, 0.0)


def test_every_problem_is_in_one_bin(simulated):
    bins = by_base_accuracy(simulated(0, samples=12), simulated(1, samples=12))
    assert sum(b.problems for b in bins) == 80
    assert len({b.label for b in bins}) == len(bins)


def test_no_regression_to_the_mean_between_equal_models(simulated):
    """Two evaluations of one model: with shared samples the top bin would seem to lose."""
    gaps, naive = [], []
    for seed in range(40):
        base = simulated(2 * seed, problems=200, rate=0.6)
        final = simulated(2 * seed + 1, problems=200, rate=0.6)
        top = by_base_accuracy(base, final)[0]
        gaps.append(top.final_accuracy - top.base_accuracy)
        sure = base.correct_PG[:, ::2].all(1)
        naive.append(final.correct_PG[sure].mean() - base.correct_PG[sure, ::2].mean())
    assert abs(np.mean(gaps)) < 0.02
    assert np.mean(naive) < -0.2


def test_one_sample_is_refused(evaluation):
    one = evaluation([[1], [0]], [[10], [60]])
    with pytest.raises(ValueError, match="samples to 2 or more"):
        by_base_accuracy(one, one)
