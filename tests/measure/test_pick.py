"""The checkpoint rule, the tolerance it refuses, and the next limit."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruner_jax.measure.options import AutoOptions, PickOptions
from pruner_jax.measure.outcomes import at_limit, from_rows
from pruner_jax.measure.pick import (
    Candidate,
    Judgement,
    check_tolerance,
    judge,
    next_limit,
    pick,
    recovers,
    still_possible,
)
from pruner_jax.measure.stats import mean_tokens

OPTIONS = PickOptions(tolerance=0.05, confidence=0.95, resamples=1000)


@pytest.fixture
def start(simulated):
    return Candidate(0, simulated(0, problems=300, tokens=60))


@pytest.fixture
def checkpoint(simulated):
    def make(step, tokens, rate=0.8):
        return Candidate(step, simulated(step, problems=300, tokens=tokens, rate=rate))

    return make


def test_the_shortest_within_the_band_is_picked(start, checkpoint):
    candidates = [
        checkpoint(20, 50),
        checkpoint(40, 40),
        checkpoint(60, 30),
        checkpoint(80, 20, 0.6),
    ]
    found = pick(start.outcomes, start, candidates, OPTIONS)
    assert (found.step, found.kept) == (60, False)
    assert [j.within for j in found.judgements] == [True, True, True, False]
    assert "outside the band of -5.0 points" in found.judgements[-1].reason
    assert "step 60 is picked" in found.reason


@given(
    st.lists(st.tuples(st.integers(20, 70), st.booleans()), min_size=1, max_size=12),
    st.integers(0, 30),
    st.integers(0, 12),
)
def test_what_is_picked_was_kept_all_along(simulated, found, window, dropped):
    """However the round goes on, and whichever late candidates a guard takes away."""
    start = Candidate(0, simulated(0, problems=4, tokens=60))
    judged = [
        Judgement(10 * (n + 1), 0.8, float(tokens), 0.0, 0.0, within, "")
        for n, (tokens, within) in enumerate(found)
    ]
    kept = {j.step for j in judged}
    for now in range(1, len(judged) + 1):
        step = judged[now - 1].step
        possible = still_possible(start, judged[:now], step - window, "shortest")
        kept &= possible | {j.step for j in judged[now:]}
    end = judged[-1].step + dropped
    for left in (judged, [j for j in judged if j.step <= end - window]):
        able = [j for j in left if j.within and j.mean_tokens < mean_tokens(start.outcomes)]
        if able:
            assert min(able, key=lambda j: (j.mean_tokens, -j.accuracy, j.step)).step in kept
    assert len(kept) <= 2 + window // 10


def test_the_last_is_picked_whatever_it_lost(start, checkpoint):
    rule = dataclasses.replace(OPTIONS, rule="last")
    found = pick(start.outcomes, start, [checkpoint(20, 30), checkpoint(40, 80, 0.4)], rule)
    assert (found.step, found.kept) == (40, False)
    assert "the last (pick.rule), step 40: accuracy 0." in found.reason
    judged = found.judgements
    assert still_possible(start, judged, 40, "last") == {40}
    assert still_possible(start, judged, 20, "last") == {20, 40}  # a guard may yet drop the 40
    with pytest.raises(ValueError, match="rule"):
        PickOptions(rule="best")


def test_what_recovers_is_short_and_on_its_way_back(start, checkpoint):
    def found(*candidates):
        judged = [judge(start.outcomes, c, OPTIONS) for c in candidates]
        return recovers(start, judged, OPTIONS.tolerance)

    dip, better = checkpoint(40, 30, 0.5), checkpoint(60, 31, 0.65)
    assert found(checkpoint(20, 50), dip, better)
    assert found(dip, better, checkpoint(80, 30, 0.6))  # not at every step
    assert not found(better) and not found(dip, checkpoint(60, 30, 0.4))  # one alone, and falling
    assert not found(checkpoint(20, 50), dip)  # the first after the fall
    assert not found(dip, checkpoint(60, 30))  # it is back
    assert not found(checkpoint(20, 25), dip, better)  # a shorter one can be picked
    assert not found(dip, checkpoint(60, 65, 0.65))  # longer than the start


def test_nothing_within_keeps_the_start_of_the_round(start, checkpoint):
    later = Candidate(100, start.outcomes)
    found = pick(start.outcomes, later, [checkpoint(120, 20, 0.5)], OPTIONS)
    assert (found.step, found.kept) == (100, True)
    assert "no candidate out of 1 is within" in found.reason


def test_a_longer_model_does_not_replace_the_start(start, checkpoint):
    found = pick(start.outcomes, start, [checkpoint(20, 70)], OPTIONS)
    assert (found.step, found.kept) == (0, True)
    assert "none of those within the band is shorter" in found.reason


def test_no_candidates_at_all(start):
    assert pick(start.outcomes, start, [], OPTIONS).kept


def test_the_band_belongs_to_the_start_of_the_run(start, checkpoint):
    """Small losses do not add up: a round that began 4 points down gets no 5 more."""
    worn = checkpoint(100, 40, 0.76)
    found = pick(start.outcomes, worn, [checkpoint(120, 30, 0.72)], OPTIONS)
    assert found.kept


def test_equal_lengths_go_to_the_more_accurate_then_the_earlier(evaluation):
    base = Candidate(0, evaluation([[1, 1, 1, 0]] * 40, [[50] * 4] * 40))
    good = evaluation([[1, 1, 1, 1]] * 40, [[20] * 4] * 40)
    fair = evaluation([[1, 1, 1, 0]] * 40, [[20] * 4] * 40)
    same = [Candidate(10, fair), Candidate(20, good), Candidate(30, good)]
    assert pick(base.outcomes, base, same, OPTIONS).step == 20


def test_confidence_matters(start, checkpoint):
    """The point estimate is inside the band; only the bound is not."""
    close = checkpoint(20, 30, 0.765)
    loose = PickOptions(tolerance=0.05, confidence=0.55, resamples=1000)
    assert not pick(start.outcomes, start, [close], loose).kept
    assert pick(start.outcomes, start, [close], OPTIONS).kept


def test_tolerance_below_what_can_be_seen_is_refused(start):
    least = check_tolerance(start.outcomes, PickOptions(tolerance=0.2))
    assert 0.01 < least < 0.05
    with pytest.raises(ValueError, match=r"pick\.tolerance is 0\.005.*300 monitor problems"):
        check_tolerance(start.outcomes, PickOptions(tolerance=0.005))


def test_the_advised_number_of_samples_is_enough(simulated):
    tight = PickOptions(tolerance=0.02)
    with pytest.raises(ValueError) as caught:
        check_tolerance(simulated(0), tight)
    advised = int(str(caught.value).split("about ")[1].split(" times")[0])
    assert check_tolerance(simulated(0, samples=int(1.15 * advised)), tight) <= 0.02


def test_next_limit_by_hand(evaluation):
    found = evaluation([[1] * 10], [[10, 20, 30, 40, 50, 60, 70, 80, 90, 99]])
    limit = next_limit(found, 100, AutoOptions(quantile=0.5, coverage=0.0))
    assert limit.limit == 55  # numpy's median
    assert "limit 100 -> 55" in limit.reason
    assert next_limit(found, 100, AutoOptions(quantile=0.5, floor=70)).limit == 70


def test_wrong_answers_have_no_say(evaluation):
    found = evaluation([[1, 0], [1, 0]], [[10, 90], [20, 95]])
    assert next_limit(found, 100, AutoOptions(quantile=1.0)).limit == 20


def test_coverage_protects_the_hard_problems(evaluation):
    """Nine easy problems with many short answers, one hard problem with a single long one."""
    easy, hard = [1] * 8, [1] + [0] * 7
    found = evaluation([easy] * 9 + [hard], [[10] * 8] * 9 + [[60] + [99] * 7])
    assert next_limit(found, 100, AutoOptions(quantile=0.9, coverage=0.0)).limit == 10
    assert next_limit(found, 100, AutoOptions(quantile=0.9, coverage=1.0)).limit == 60


def test_no_room_left_stops(evaluation):
    found = evaluation([[1, 1]], [[50, 50]], limit=100)
    stop = next_limit(found, 51, AutoOptions(floor=51))
    assert stop.limit is None and "no room below the current limit of 51" in stop.reason
    stop = next_limit(found, 51, AutoOptions())
    assert stop.limit is None and "25% into 50 (auto.least" in stop.reason


def test_a_model_that_fits_its_limit_is_pressed_on(evaluation):
    """Three problems whose shortest correct answers take 30, 40 and 49 tokens of 50."""
    found = evaluation([[1, 1]] * 3, [[30, 50], [40, 50], [49, 50]])
    assert next_limit(found, 50, AutoOptions()).limit == 40
    assert next_limit(found, 50, AutoOptions(least=0.7)).limit is None  # two of three
    assert next_limit(found, 60, AutoOptions(least=0.7)).limit == 49  # not a fifth less


def test_nothing_correct_stops(evaluation):
    assert next_limit(evaluation([[0, 0]], [[5, 6]]), 100, AutoOptions()).limit is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 64)), min_size=2, max_size=40),
    st.integers(2, 64),
    st.floats(0.05, 1.0),
)
def test_limits_only_ever_shrink_and_keep_their_promise(rows, current, quantile):
    right, length = (np.array(column) for column in zip(*rows))
    ids = [f"q{i // 4}" for i in range(len(rows))]
    found = from_rows(ids, np.zeros(len(ids)), right, length, length, length < 64, 64)
    auto = AutoOptions(quantile=quantile)
    limit = next_limit(found, current, auto).limit
    if limit is not None:
        assert limit < current
        cut = at_limit(found, limit)
        assert (cut.correct_PG.any(1)[found.correct_PG.any(1)]).mean() >= auto.least
        lower = at_limit(found, limit - 1) if limit > 1 else None
        fewer = lower and (lower.correct_PG.any(1)[found.correct_PG.any(1)]).mean() < auto.least
        kept = cut.correct_PG.sum() / found.correct_PG.sum()
        # numpy's quantile interpolates between order statistics, so at most one row less.
        wished = kept >= quantile - 1 / found.correct_PG.sum()
        assert wished or limit <= auto.shrink * current or fewer
