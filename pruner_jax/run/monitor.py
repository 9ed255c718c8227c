"""Watching a run: evaluations, the candidates they make, guards, and sampler against learner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pruner_jax.learn.rows import rows_of_rollouts
from pruner_jax.learn.step import score
from pruner_jax.measure import guards, stats
from pruner_jax.measure.outcomes import outcomes
from pruner_jax.measure.pick import Candidate, Judgement, judge, recovers, still_possible
from pruner_jax.objective import memory
from pruner_jax.objective.groups import Groups
from pruner_jax.pod.likeness import check_rows
from pruner_jax.run.measuring import as_told, measure
from pruner_jax.run.session import PyTree, Session
from pruner_jax.run.state import Mark, RunState
from pruner_jax.types import Graded, Purpose
from pruner_jax.verify.grade import counts


def evaluate(
    run: Session, params: PyTree, name: str, title: str, part: slice = slice(None)
) -> Graded:
    """The set of that name (monitor or test), or a part, under the parameters of the learner."""
    with run.clock.phase("evaluate"):
        return measure(
            run.engine,
            run.engine.decode_params(params),
            run.set(name)[part],
            as_told(getattr(run.settings, name), run.method),
            limit=run.cap(name),
            purpose=Purpose(name),
            progress=run.progress,
            title=title,
            check=run.interrupts.check,
        )


def record_evaluation(
    run: Session, state: RunState, graded: Graded, name: str, parameters: str
) -> Mark:
    """Write an evaluation down; what to find it by."""
    result, margin, adherence = outcomes(graded), {}, {}
    run.write_rollouts(name, graded, round=state.current_round, step=state.steps)
    if state.start is not None:
        base, options = run.outcomes(state.start), run.settings.pick
        lower = judge(base, Candidate(state.steps, result), options).lower_bound
        margin = {"margin": lower + options.tolerance}
    how = run.settings.monitor
    if how.budget is not None:
        kept = stats.adherence(result, how.budget, how.confidence, how.resamples)
        adherence["budget/tokens"] = kept.pop("tokens")
        for part, estimate in kept.items():
            adherence[f"budget/{part}"] = estimate["value"]
            adherence |= {f"budget/{part}_{end}": estimate[end] for end in ("low", "high")}
    run.record(
        {
            "kind": "evaluate",
            "round": state.current_round,
            "step": state.steps,
            "limit": state.limit,
            "accuracy": stats.accuracy(result),
            "mean_tokens": stats.mean_tokens(result),
            "truncated": stats.truncated(result),
            **margin,
            **adherence,
            "parameters": parameters,
            **counts(graded),
            **run.lap(),
        }
    )
    if run.needs_monitor:
        state.method = memory.observe(state.method, Groups.of(graded))
    return state.mark(Mark(state.steps, parameters, f"{name}.parquet"))


def evaluation_due(run: Session, state: RunState) -> bool:
    """Whether this step's parameters are to be measured and have not been yet."""
    every = run.settings.rounds.evaluate_every
    at_place = state.step % every == 0 or state.step == state.length
    measured = any(mark.step == state.steps for mark in state.candidates)
    new = state.step > 0 and state.steps > state.fresh  # not rolled back since they were learnt
    return new and at_place and not measured


def add_candidate(run: Session, state: RunState) -> None:
    """Measure the parameters of this step; keep them while the round's pick may want them."""
    name = f"round-{state.round + 1:02d}-step-{state.steps:05d}"
    graded = evaluate(run, state.learn.params, "monitor", f"monitor after step {state.steps}")
    state.candidates.append(record_evaluation(run, state, graded, f"{name}-monitor", name))
    with run.clock.phase("pick"):
        base, options = run.outcomes(state.start), run.settings.pick
        judgements = [judge(base, run.candidate(mark), options) for mark in state.candidates]
        run.progress.log(judgements[-1].reason)
        sound = state.steps - run.settings.guards.window
        possible = still_possible(run.candidate(state.origin), judgements, sound, options.rule)
        state.candidates = [
            mark if mark.step in possible else mark.without_parameters()
            for mark in state.candidates
        ]
        if state.candidates[-1].kept:
            run.checkpoints.save_parameters(name, state.learn.params)
        if state.step == state.length:
            _prolong(run, state, judgements)


def _prolong(run: Session, state: RunState, judgements: Sequence[Judgement]) -> None:
    """Let a round that is over go on while its newest checkpoint recovers."""
    rounds = run.settings.rounds
    more = min(rounds.evaluate_every, rounds.steps + rounds.patience - state.length)
    tolerance = run.settings.pick.tolerance
    if more > 0 and recovers(run.candidate(state.origin), judgements, tolerance):
        state.length += more
        run.progress.log(f"it recovers: {more} more steps (rounds.patience {rounds.patience})")


def heed_guards(run: Session, state: RunState) -> bool:
    """Whether the round may go on after the latest record."""
    alarms = guards.watch(run.history, run.settings.guards)
    if not alarms:
        check_agreement(run, run.history[-1])
        return True
    action = run.settings.guards.action
    if action == "warn":  # once in a round
        said = {r.get("guard") for r in run.history if r["round"] == state.round + 1}
        alarms = [alarm for alarm in alarms if alarm.guard not in said]
    else:
        run.progress.finish()
    for alarm in alarms:
        run.progress.log(f"guard {alarm.guard} ({action}): {alarm.reason}")
        run.record(
            {
                "kind": "alarm",
                "round": state.round + 1,
                "step": state.steps,
                "guard": alarm.guard,
                "reason": alarm.reason,
                "action": action,
            }
        )
    if action == "warn":
        return True
    if action == "stop":
        state.ended = f"guard {alarms[0].guard}: {alarms[0].reason}"
    state.alarmed = True
    # Candidates from before the steps that rang are sound; the others go.
    sound = state.steps - run.settings.guards.window
    state.candidates = [mark for mark in state.candidates if mark.step <= sound]
    return False


def compare_sampler_with_learner(run: Session, state: RunState) -> None:
    """Self-test before anything is measured: both must give the same log-probabilities."""
    limit = min(64, run.cap("monitor"))
    prompts = run.engine.prompts(run.problems["monitor"][:8], purpose=Purpose.MONITOR, limit=limit)
    params = run.engine.decode_params(state.learn.params)
    graded, _ = run.engine.rollout(params, prompts, samples=4, limit=limit)
    few = graded.rollouts
    rows = rows_of_rollouts(few, few.temperature or 1.0)
    check_rows(run.pod, "the hosts' rows of the self-test", rows)
    logp_BT = score(
        state.learn.params,
        run.engine.config,
        rows,
        options=run.settings.learn,
        mesh=run.mesh,
    )
    inside = np.arange(logp_BT.shape[1]) < few.length_B[:, None]
    difference = float(np.abs(logp_BT - few.logp_BT)[inside].mean())
    run.progress.log(f"sampler and learner differ by {difference:.2e} in log-probability")
    check_agreement(run, {"sampling/sampling_logp_difference/mean": difference})


def check_agreement(run: Session, record: dict[str, Any]) -> None:
    """Stop when sampler and learner are not the same model any more."""
    difference = record.get("sampling/sampling_logp_difference/mean")
    if difference is None or difference <= run.logp_tolerance:
        return
    if math.isnan(difference):
        raise ValueError(
            "the learner's log-probabilities are not numbers (NaN): the model's weights or its "
            "precision (learn.dtype, sample.dtype) cannot be right"
        )
    raise ValueError(
        f"sampler and learner differ by {difference:.3g} in log-probability on average, allowed is "
        f"{run.logp_tolerance:g} (rounds.logp_tolerance): the rows are not what the learner takes "
        "them for. Compute both in the same precision (sample.dtype, learn.dtype), or raise the "
        "tolerance if the difference is the precision's"
    )
