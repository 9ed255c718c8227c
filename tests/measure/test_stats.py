"""Statistics of one model against hand-made numbers, closed forms and simulation."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from pruner_jax.measure import stats
from pruner_jax.measure.bootstrap import interval, normal_quantile, resampled_means
from pruner_jax.measure.outcomes import at_limit


def test_means_are_taken_over_problems_first(evaluation):
    found = evaluation([[1, 0, 0, 0], [1]], [[10, 20, 30, 40], [5]])
    assert stats.accuracy(found) == pytest.approx((0.25 + 1.0) / 2)
    assert stats.mean_tokens(found) == pytest.approx((25 + 5) / 2)


def test_lengths_by_hand(evaluation):
    found = evaluation([[1, 0], [1, 0]], [[10, 20], [30, 100]], thinking=[[6, 10], [20, 100]])
    assert stats.truncated(found) == 0.25
    assert stats.mean_tokens(found) == 40.0
    assert stats.mean_tokens(at_limit(found, 25)) == pytest.approx((10 + 20 + 25 + 25) / 4)
    assert stats.macro(found.thinking_PG, found) == 34.0
    assert stats.mean_tokens_where(found, found.correct_PG) == 20.0
    assert stats.mean_tokens_where(found, ~found.correct_PG) == 60.0
    assert stats.percentile(found, 0.5) == 25.0


def test_mean_of_nothing_is_nan(evaluation):
    found = evaluation([[1, 1]], [[5, 6]])
    assert math.isnan(stats.mean_tokens_where(found, ~found.correct_PG))


def test_normal_quantiles():
    assert normal_quantile(0.975) == pytest.approx(1.959964, abs=1e-6)
    assert normal_quantile(0.95) == pytest.approx(1.644854, abs=1e-6)


def test_sampling_error_is_the_published_back_of_the_envelope(evaluation):
    """30 problems, 16 samples, p(1 - p) = 1/8 on average: 1.6 points (field practice for AIME)."""
    half, sure = [1, 0] * 8, [1] * 16
    found = evaluation([half] * 15 + [sure] * 15, [[5] * 16] * 30)
    biased = math.sqrt(15 * 0.25 / 16) / 30
    assert biased == pytest.approx(0.0161, abs=1e-4)
    assert stats.sampling_error(found) == pytest.approx(biased * math.sqrt(16 / 15))


def test_one_sample_says_nothing_of_its_noise(evaluation):
    found = stats.accuracy_on_these(evaluation([[1], [0]], [[5], [6]]))
    assert found.value == 0.5
    assert math.isnan(found.low) and math.isnan(found.high)


def test_sampling_error_against_simulation(simulated):
    many = [stats.accuracy(simulated(seed, problems=40)) for seed in range(400)]
    claimed = np.mean([stats.sampling_error(simulated(seed, problems=40)) for seed in range(100)])
    assert claimed == pytest.approx(np.std(many), rel=0.12)


def test_bootstrap_error_is_the_standard_error_of_a_mean():
    x = np.random.default_rng(3).normal(size=(150, 1))
    drawn = resampled_means(x, 10_000, seed=0)
    assert drawn.std() == pytest.approx(x.std() / math.sqrt(150), rel=0.03)
    assert drawn.mean() == pytest.approx(x.mean(), abs=3 * drawn.std() / 100)
    low, high = interval(drawn, 0.95)
    assert high[0] - low[0] == pytest.approx(2 * 1.96 * drawn.std(), rel=0.05)


def test_bootstrap_is_seeded_and_draws_columns_together():
    x = np.random.default_rng(3).normal(size=(20, 1))
    both = resampled_means(np.hstack([x, 2 * x]), 700, seed=5)
    np.testing.assert_allclose(both[:, 1], 2 * both[:, 0])
    np.testing.assert_array_equal(both, resampled_means(np.hstack([x, 2 * x]), 700, seed=5))
    assert (both != resampled_means(np.hstack([x, 2 * x]), 700, seed=6)).any()


def test_population_interval_covers_the_truth():
    """New problems each time; the nominal 95 % must hold within the simulation's own error."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        p_P1 = rng.binomial(4, rng.beta(4, 2, 60))[:, None] / 4
        low, high = interval(resampled_means(p_P1, 400, seed=1)[:, 0], 0.95)
        hits += low <= 4 / 6 <= high
    assert 0.90 <= hits / 300 <= 0.98


def test_fixed_interval_is_the_normal_one(simulated):
    found = simulated(0, samples=8)
    these = stats.accuracy_on_these(found, 0.9)
    assert these.high - these.value == pytest.approx(1.644854 * stats.sampling_error(found))
    assert these.value - these.low == pytest.approx(these.high - these.value)


def test_an_interval_of_an_accuracy_stays_between_0_and_1(evaluation):
    sure = stats.accuracy_on_these(evaluation([[1, 1, 1, 0]] * 2, [[5] * 4] * 2))
    assert sure.high == 1.0 and sure.low > 0.0


def test_fixed_interval_is_inside_the_population_interval(simulated):
    found = simulated(0, samples=8)
    these, general = (
        stats.accuracy_on_these(found),
        stats.in_general(found, {"": found.correct_PG})[""],
    )
    assert these.value == general.value
    assert these.high - these.low < general.high - general.low


@pytest.mark.parametrize(
    ("n", "c", "k", "value"),
    [(10, 3, 1, 0.3), (4, 2, 2, 5 / 6), (5, 1, 3, 0.6), (6, 4, 3, 1.0), (8, 0, 4, 0.0)],
)
def test_pass_at_k_literals(evaluation, n, c, k, value):
    found = evaluation([[1] * c + [0] * (n - c)], [[5] * n])
    assert stats.pass_at_k(found, k) == pytest.approx(value)


def test_pass_at_k_is_the_mean_over_all_subsets(evaluation):
    right = [1, 0, 0, 1, 0, 0]
    subsets = [max(chosen) for chosen in itertools.combinations(right, 3)]
    assert stats.pass_at_k(evaluation([right], [[5] * 6]), 3) == pytest.approx(np.mean(subsets))


def test_pass_at_k_grows_with_k_and_needs_k_samples(simulated):
    found = simulated(0, samples=8)
    values = [stats.pass_at_k(found, k) for k in range(1, 9)]
    assert values[0] == pytest.approx(stats.accuracy(found))
    assert values == sorted(values)
    with pytest.raises(ValueError, match="the fewest are 8"):
        stats.pass_at_k(found, 9)


def test_description_has_what_is_promised(simulated):
    found = stats.describe(simulated(0, samples=8), resamples=200)
    assert {
        "accuracy",
        "mean_tokens",
        "mean_thinking_tokens",
        "median_tokens",
        "truncated",
        "n_problems",
        "samples_per_problem",
    } <= set(found)
    assert found["samples_per_problem"] == 8 and found["n_problems"] == 80
    assert list(found["pass_at_k"]) == ["2", "4"]
    total = found["mean_thinking_tokens"] + found["mean_answer_tokens"]
    assert total == pytest.approx(found["mean_tokens"])


def test_means_have_the_interval_of_the_accuracy_s_resampling(simulated):
    found = simulated(0, samples=8)
    told = stats.describe(found, resamples=300, seed=3)
    for name, x_PG in {
        "accuracy": found.correct_PG,
        "mean_tokens": found.length_PG,
        "mean_thinking_tokens": found.thinking_PG,
        "mean_answer_tokens": found.answer_PG,
        "truncated": ~found.finished_PG,
    }.items():
        draws = resampled_means(stats.per_problem(x_PG, found)[:, None], 300, 3)[:, 0]
        low, high = interval(draws, 0.95)
        assert told[f"{name}_in_general"] == pytest.approx({"low": low, "high": high})
        assert told[name] == pytest.approx(stats.macro(x_PG, found))
        assert low <= told[name] <= high


def test_adherence_by_hand(evaluation):
    found = evaluation([[1, 0], [1]], [[20, 40], [33]])
    kept = stats.describe(found, resamples=200, budget=30)["budget"]
    assert kept["tokens"] == 30
    assert kept["distance"]["value"] == (10 + 3) / 2
    assert kept["within"]["value"] == 0.25 and kept["over"]["value"] == 0.75
    assert (kept["distance"]["low"], kept["distance"]["high"]) == (3, 10)
    assert "budget" not in stats.describe(found, resamples=200)


def test_a_response_that_was_cut_is_not_within_its_budget(evaluation):
    found = evaluation([[1, 0]], [[20, 20]])
    found = dataclasses.replace(found, finished_PG=np.array([[True, False]]))
    kept = stats.describe(found, resamples=200, budget=20)["budget"]
    assert kept["within"]["value"] == 0.5 and kept["over"]["value"] == 0.0
    kept = stats.describe(found, resamples=200, budget=19)["budget"]
    assert kept["within"]["value"] == 0.0 and kept["over"]["value"] == 1.0


def test_ragged_samples_are_told_as_a_mean(evaluation):
    found = stats.describe(evaluation([[1, 0, 1], [1]], [[5, 6, 7], [8]]), resamples=200)
    assert found["samples_per_problem"] == 2.0
