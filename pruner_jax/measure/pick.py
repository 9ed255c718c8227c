"""Which checkpoint a round hands on, and how far the limit can be tightened next.

The rule, which the ThinkPrune authors applied by hand (arXiv 2504.01296: validation accuracy stays
flat while the length keeps falling, so a late, short checkpoint is taken): *the shortest whose
accuracy lies within the allowed band of the start model*. "Within" is non-inferiority: with the
chosen confidence no more than the tolerance was lost, paired by problem. The band belongs to the
model the run started from, not to the round's start, so small losses cannot add up over rounds.
Everything here sees the monitor set only.

Among many candidates the luckiest passes more easily than one alone would; the reported numbers are
therefore taken afterwards, on the test set.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from pruner_jax import masked
from pruner_jax.measure.options import AutoOptions, PickOptions
from pruner_jax.measure.outcomes import Outcomes
from pruner_jax.measure.paired import accuracy_lower_bound, smallest_detectable_change
from pruner_jax.measure.stats import accuracy, mean_tokens

_HARDLY_LESS = 0.95  # a limit above this share of the last one is not worth a round


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A checkpoint and what it did on the monitor set."""

    step: int
    outcomes: Outcomes


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What the rule says of one candidate."""

    step: int
    accuracy: float
    mean_tokens: float
    accuracy_change: float  # against the start model, in accuracy
    lower_bound: float  # one-sided, of that change
    within: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class Pick:
    """The step the next round starts from, and why; ``kept`` when it is the round's own start."""

    step: int
    kept: bool
    reason: str
    judgements: tuple[Judgement, ...]


@dataclasses.dataclass(frozen=True)
class NextLimit:
    """The limit of the next round, or None when tightening ends here; and why."""

    limit: int | None
    reason: str


def check_tolerance(base: Outcomes, options: PickOptions) -> float:
    """The smallest detectable change on this monitor set; refuses a tolerance below it.

    Called once, with the start model's monitor evaluation, before anything is trained.
    """
    least = smallest_detectable_change(base, options.confidence)
    if options.tolerance < least:
        samples = int(base.samples_P.min())
        more = math.ceil(samples * (least / options.tolerance) ** 2)
        raise ValueError(
            f"pick.tolerance is {options.tolerance:g}, but {len(base)} monitor problems with "
            f"{samples} samples can tell a loss from noise only from {least:.4f} on "
            f"(confidence {options.confidence:g}). Set pick.tolerance to at least that, or sample "
            f"the monitor set about {more} times a problem, or give it more problems"
        )
    return least


def judge(base: Outcomes, candidate: Candidate, options: PickOptions) -> Judgement:
    """Is this checkpoint within the band of the start model?"""
    result = candidate.outcomes
    bound = accuracy_lower_bound(
        base, result, confidence=options.confidence, resamples=options.resamples
    )
    value, tokens = accuracy(result), mean_tokens(result)
    change = value - accuracy(base)
    within = bound >= -options.tolerance
    verdict = "within" if within else "outside"
    reason = (
        f"step {candidate.step}: accuracy {value:.4f} ({_points(change)}, not below "
        f"{_points(bound)} at {options.confidence:.0%} confidence), {tokens:,.1f} tokens: "
        f"{verdict} the band of {_points(-options.tolerance)}"
    )
    return Judgement(candidate.step, value, tokens, change, bound, within, reason)


def pick(
    base: Outcomes, start: Candidate, candidates: Sequence[Candidate], options: PickOptions
) -> Pick:
    """The checkpoint the next round starts from.

    ``base`` is the model the run began with, ``start`` the one the round began with. The start
    stays when no candidate is within the band, and when none of those within is shorter than the
    start. Equal lengths go to the more accurate, then to the earlier. With the rule ``last`` it is
    the last candidate, whatever it is like.
    """
    judgements = tuple(judge(base, candidate, options) for candidate in candidates)
    if options.rule == "last" and judgements:
        last = judgements[-1]
        reason = f"step {last.step} is picked: the last (pick.rule), {last.reason}"
        return Pick(last.step, False, reason, judgements)
    before = mean_tokens(start.outcomes)
    within = [j for j in judgements if j.within]
    shorter = [j for j in within if j.mean_tokens < before]
    if not shorter:
        why = (
            f"none of those within the band is shorter than its {before:,.1f} tokens"
            if within
            else f"no candidate out of {len(judgements)} is within the band"
        )
        return Pick(
            start.step, True, f"the round's start (step {start.step}) stays: {why}", judgements
        )
    best = min(shorter, key=_preference)
    reason = (
        f"step {best.step} is picked: the shortest of {len(within)} within the band, "
        f"{before:,.1f} to {best.mean_tokens:,.1f} tokens, {_points(best.accuracy_change)}"
    )
    return Pick(best.step, False, reason, judgements)


def recovers(start: Candidate, judgements: Sequence[Judgement], tolerance: float) -> bool:
    """Whether the newest checkpoint is shorter than all that could be picked, not within the band,
    but above the lowest of the round by more than the tolerance: a little later it may be the one
    to pick."""
    if not judgements:
        return False
    *before, newest = judgements
    risen = any(newest.accuracy > j.accuracy + tolerance for j in before)
    within = [j.mean_tokens for j in judgements if j.within]
    shorter = newest.mean_tokens < min([mean_tokens(start.outcomes), *within])
    return shorter and risen and not newest.within


def _preference(judgement: Judgement) -> tuple[float, float, int]:
    return judgement.mean_tokens, -judgement.accuracy, judgement.step


def still_possible(
    start: Candidate, judgements: Sequence[Judgement], sound: int, rule: str
) -> set[int]:
    """Steps that the rule may still pick, whatever comes later: the others' parameters can go.

    ``judgements``: of the round so far, oldest first. Those after step ``sound`` may yet be dropped
    by a guard, so the best one up to there stays, and every one that beat all before it since.
    """
    best: list[Judgement] = []
    for j in judgements:
        shorter = j.within and j.mean_tokens < mean_tokens(start.outcomes)
        if rule == "last" or (shorter and (not best or _preference(j) < _preference(best[-1]))):
            best.append(j)
    until = sum(j.step <= sound for j in best)
    return {j.step for j in best[max(0, until - 1) :]}


def next_limit(outcomes: Outcomes, current: int, options: AutoOptions) -> NextLimit:
    """The next round's token limit from the correct answers of the model that was picked.

    Two wishes, the larger decides. *Pressure*: the ``quantile`` of all correct lengths fits, so
    that share of what the model can do is still rewarded at first (a limit below nearly all of
    them gives groups without a single success and no gradient: about half the prompts in DLER,
    arXiv 2510.15110, at first). *Coverage*: of the problems it solves at all, the ``coverage``
    share keeps at least one correct sample within the limit (LASER-D, arXiv 2505.15612, sets its
    lengths by the same wish: at least one expected correct answer retained).

    A model that has learnt to fit its limit would so keep it for ever; but the round had a
    checkpoint in the band, so the limit falls to the ``shrink`` share of the last one at least
    (ThinkPrune's 4000, 3000, 2000, chosen by hand, are 0.75 and 0.67). It falls less far where
    fewer than the ``least`` share of the solvable problems would keep a correct answer. It ends
    where that, or ``floor``, is within 5 % of the last limit.
    """
    solved_PG = outcomes.correct_PG & outcomes.mask_PG
    if not solved_PG.any():
        return NextLimit(None, "no correct answer on the monitor set to take a limit from")
    lengths_PG = outcomes.length_PG.astype(np.float64)
    pressure = float(masked.quantile(lengths_PG, solved_PG, options.quantile, empty=np.nan))
    shortest_P = masked.min(lengths_PG, solved_PG, 1, empty=np.nan)
    solvable_P = solved_PG.any(axis=1)
    coverage = float(masked.quantile(shortest_P, solvable_P, options.coverage, empty=np.nan))
    wished = max(math.ceil(pressure), math.ceil(coverage))
    enough = math.ceil(options.least * np.count_nonzero(solvable_P))  # problems
    reachable = math.ceil(np.sort(shortest_P[solvable_P])[enough - 1])
    lowest = max(reachable, options.floor)
    limit = max(min(wished, math.floor(options.shrink * current)), lowest)
    basis = (
        f"{options.quantile:.0%} of the correct answers fit into {math.ceil(pressure)} tokens, "
        f"{options.coverage:.0%} of the solvable problems into {math.ceil(coverage)}"
    )
    if limit > _HARDLY_LESS * current:
        return NextLimit(
            None,
            f"{basis}, {options.least:.0%} into {reachable} (auto.least; auto.floor is "
            f"{options.floor}): no room below the current limit of {current}",
        )
    return NextLimit(limit, f"{basis}: limit {current} -> {limit}")


def _points(change: float) -> str:
    return f"{100 * change:+.1f} points"
