"""One step of a round: every phase collects and weighs, then the policy learns from all of it.

Phases that collect at every step use their rows and let go of them. Those that collect once or by
iteration weigh what they have collected once, keep it as files (`shards`), and pass over it in the
course of the steps until they collect again.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pruner_jax.learn.rows import rows_of
from pruner_jax.measure import guards
from pruner_jax.measure.chosen import kept_by_mode
from pruner_jax.objective.condition import Begin
from pruner_jax.objective.method import Phase, looks_at_tokens
from pruner_jax.objective.metrics import completions
from pruner_jax.objective.rows import first_prompts, together
from pruner_jax.objective.weigh import weigh
from pruner_jax.run import collect
from pruner_jax.run.checks import problems_of
from pruner_jax.run.learning import Work, finish
from pruner_jax.run.offers import context, log_probabilities
from pruner_jax.run.session import (
    PyTree,
    Session,
)
from pruner_jax.run.shards import write_shard
from pruner_jax.run.state import RunState
from pruner_jax.sample.sampler import SampleStats
from pruner_jax.types import Graded, Origin, Weighted, take_rows
from pruner_jax.verify.grade import counts


def train_step(run: Session, state: RunState) -> dict[str, Any]:
    """Collect, check, weigh, learn; the record of the step as it was written down.

    The state changes after the sampling only, so an ``Interrupted`` leaves it at the step before.
    """
    method_state, tables = state.method, state.tables
    try:
        work = []
        for phase in run.method.phases:
            done, state.method = prepare(run, state, phase)
            work += [done]
    except BaseException:
        state.method, state.tables = method_state, tables
        raise
    collected = any(done.problems for done in work)
    found: dict[str, Any] = {}
    for done in work:
        for name, value in {**done.metrics, **finish(run, state, done, collected)}.items():
            found[collect.metric_of(run, done.phase, name)] = value
    state.step += 1
    state.steps += 1
    for done in work:
        if done.weighted is not None and not without_tokens(done.phase):
            log_rollouts(run, state, done.phase, done.weighted, state.steps)
    return run.record(
        {
            "kind": "step",
            "round": state.round + 1,
            "step": state.steps,
            "limit": state.limit,
            **found,
            **{f"perf/verify_{name}": n for name, n in run.engine.verifier.stats.items()},
            **run.lap(),
        }
    )


# -- collect and weigh -----------------------------------------------------------------------------


def prepare(run: Session, state: RunState, phase: Phase) -> tuple[Work, dict[str, Any]]:
    """What a phase collects at this step, weighed, and the method state after it."""
    if not phase.collect.due(state.steps, state.store.since.get(phase.name)):
        return Work(phase, {}), state.method
    if phase.collect.every == "step":
        graded, perf = sampled(run, state, phase)
        metrics = {**outcome(graded, phase), **perf}
        problems = len(graded.rollouts.prompts)
    else:
        graded = collect.collect_table(run, state, phase)
        metrics = outcome(graded, phase)
        if collect.is_charged(run, phase):
            metrics[collect.GENERATED] = 0
        problems = problems_of(phase, run.settings, len(run.problems["train"]))
    if phase.loss is None:
        return Work(phase, metrics, problems), state.method
    told: Counter[str] = Counter()
    with run.clock.phase("weigh"):
        weighted, method_state, weighing = weigh(
            phase, graded, state.method, context(run, state, phase, told)
        )
    metrics |= weighing | kept_by_mode(weighted)
    metrics |= {name: metrics.get(name, 0) + value for name, value in told.items()}
    _say_what_cannot_train(run, state, phase, weighted)
    prepared = ready_in_parts if without_tokens(phase) else ready
    return prepared(run, state, Work(phase, metrics, problems, weighted), graded), method_state


def ready(run: Session, state: RunState, work: Work, graded: Graded) -> Work:
    """Weighed rows with the log-probabilities that the loss needs; in a file, if they last."""
    phase = work.phase
    if _is_broken(run, phase, graded):
        return _broken(work)
    writer = functools.partial(collect.parameters, run, state, phase.collect.policy)
    with run.clock.phase("learn"):
        weighted = with_log_probabilities(run, state, phase, work.weighted, writer)
    work = dataclasses.replace(work, weighted=weighted)
    if not phase.collect.lasts:
        return work
    shards = [_keep(run, state, phase, weighted)] if weighted.keep_B.any() else []
    return _lasting(state, work, shards, graded)


def ready_in_parts(run: Session, state: RunState, work: Work, graded: Graded) -> Work:
    """As `ready`, for rows that were weighed without tokens: those that count, read from the table
    some problems at a time, a file each."""
    phase, shards = work.phase, []
    writer = functools.cache(lambda: collect.parameters(run, state, phase.collect.policy))
    for number, part in enumerate(collect.that_count(run, state, phase, work.weighted)):
        if _is_broken(run, phase, part.graded):
            return _broken(work)
        with run.clock.phase("learn"):
            part = with_log_probabilities(run, state, phase, part, writer)
        shards.append(_keep(run, state, phase, part, number))
        log_rollouts(run, state, phase, part, state.steps + 1, number)
    return _lasting(state, work, shards, graded)


def _keep(run: Session, state: RunState, phase: Phase, weighted: Weighted, number: int = 0) -> str:
    """Write rows that are trained on later; the name of the file."""
    name = f"{phase.name}-{state.steps:05d}{_part(number)}.parquet"
    run.pod.lead(write_shard, run.folder.store / name, rows_of(weighted, phase.loss))
    return name


def _part(number: int) -> str:
    return f"-{number:05d}" if number else ""


def _lasting(state: RunState, work: Work, shards: Sequence[str], graded: Graded) -> Work:
    """The work with its files; there must be one, or an earlier one to go on with."""
    keeps = work.phase.collect.keep and state.store.shards.get(work.phase.name)
    if not shards and not keeps:
        raise ValueError(_nothing_kept(work.phase, graded))
    return dataclasses.replace(work, shards=tuple(shards))


def _broken(work: Work) -> Work:
    """Work that is not learnt from. A collection comes again at every later step, so the guard has
    to see it in the record."""
    metrics = {**work.metrics, "prune/sampled_logp": np.nan}
    return dataclasses.replace(work, metrics=metrics, broken=True)


def without_tokens(phase: Phase) -> bool:
    """Whether a phase's rows are weighed without their tokens, which are read from its table for
    those that count."""
    return phase.collect.every != "step" and not looks_at_tokens(phase)


def _is_broken(run: Session, phase: Phase, graded: Graded) -> bool:
    """Whether a token that the policy drew has no log-probability, which a guard watches over; a
    teacher's have none."""
    if not run.settings.guards.not_finite or phase.collect.policy == "teacher":
        return False
    drawn_BT = graded.rollouts.origin_BT == Origin.SAMPLED
    return not np.isfinite(graded.rollouts.logp_BT[drawn_BT]).all()


def sampled(run: Session, state: RunState, phase: Phase) -> tuple[Graded, dict[str, float]]:
    """The rows that a phase samples at this step, and metrics of the sampling.

    Where selection leaves fewer problems than were to be collected, more are drawn, as often as the
    phase allows. What was drawn beyond the last problem that is needed is let go of and comes again
    at the next step.
    """
    with run.clock.phase("rollout"):
        engine, params = collect.writer(run, state, phase)
    wanted = problems_of(phase, run.settings, len(run.problems["train"]))
    graded, stats, count = None, SampleStats(), wanted
    draws = 0
    while draws <= phase.collect.extra_draws:
        draws += 1
        ahead = len(graded.rollouts.prompts) if graded else 0
        problems, visit_P = collect.draw(run, state, phase, ahead, count)
        more, speed = collect.sample(
            run, state, phase, engine, params, problems, visit_P, state.limit
        )
        graded, stats = together(graded, more) if graded else more, stats + speed
        if not phase.collect.extra_draws:
            return graded, stats.metrics()
        useful = _useful(run, state, phase, graded)
        if len(useful) >= wanted:
            graded = first_prompts(graded, useful[wanted - 1] + 1)
            break
        count = _expected(wanted, wanted - len(useful), len(useful) / (ahead + count))
    generated = {collect.GENERATED: stats.tokens, "prune/draws": draws}
    return graded, {**stats.metrics(), **generated}


def _expected(wanted: int, lacking: int, share: float) -> int:
    """How many problems to draw where a share of them counts and so many are lacking: a quarter
    more than expected, as a whole, half, quarter... of a full draw, for each size is a program."""
    count = wanted
    while count > 1 and count // 2 * share >= 1.25 * lacking:
        count //= 2
    return count


def _useful(run: Session, state: RunState, phase: Phase, graded: Graded) -> np.ndarray:
    """Places of the prompts of which selection keeps a row."""
    with run.clock.phase("weigh"):
        weighted, _, _ = weigh(phase, graded, state.method, context(run, state, phase))
    return np.unique(weighted.graded.rollouts.group_B[weighted.keep_B])


def _nothing_kept(phase: Phase, graded: Graded) -> str:
    verdicts = ", ".join(
        f"{n} {name.rpartition('/')[2]}" for name, n in counts(graded).items() if n
    )
    return (
        f"phase {phase.name!r}: of {len(graded)} rows none is kept ({verdicts}), so there is "
        "nothing to learn from. Take a model that solves some of the problems, more samples "
        "(method.options.samples), or easier problems"
    )


def _say_what_cannot_train(run: Session, state: RunState, phase: Phase, weighted: Weighted) -> None:
    """A collection without any signal is told, once in a round."""
    train_BT = True if without_tokens(phase) else weighted.train_BT
    if (train_BT & weighted.keep_B[:, None] & (weighted.weight_BT != 0)).any():
        return
    said = {(r.get("round"), r.get("phase")) for r in run.history if r["kind"] == "no_signal"}
    if (state.round + 1, phase.name) in said:
        return
    reason = (
        f"phase {phase.name!r}: no row of step {state.steps + 1} has a weight: the samples of "
        "every problem are worth the same (all correct, all wrong), or none was selected"
    )
    run.progress.log(reason)
    run.record(
        {
            "kind": "no_signal",
            "round": state.round + 1,
            "step": state.steps + 1,
            "phase": phase.name,
            "reason": reason,
        }
    )


def with_log_probabilities(
    run: Session, state: RunState, phase: Phase, weighted: Weighted, writer: Callable[[], PyTree]
) -> Weighted:
    """The rows with the log-probabilities that the loss needs: of the policy that wrote them, where
    the sampler's will not do, and of the reference policy. ``writer`` gives the parameters of the
    first, which may have to be read."""
    spec, rollouts = phase.loss, weighted.graded.rollouts
    temperature = spec.temperature_of(rollouts.temperature)
    trained_BT = weighted.train_BT & weighted.keep_B[:, None]
    unlike = (
        temperature != rollouts.temperature
        or phase.condition.examples > 0
        or np.isnan(rollouts.logp_BT[trained_BT]).any()
    )
    kept = np.flatnonzero(weighted.keep_B)

    def scored(params: PyTree, into_BT: np.ndarray) -> np.ndarray:
        # A step that is on its way to its update is not given up for a signal.
        check = {} if phase.collect.every == "step" else {"check": run.interrupts.check_together}
        rows = take_rows(rollouts, kept)
        into_BT[kept] = log_probabilities(run, params, rows, temperature, **check)
        return into_BT

    if spec.kind == "pg" and unlike:
        logp_BT = scored(writer(), rollouts.logp_BT.copy())
        graded = dataclasses.replace(
            weighted.graded, rollouts=dataclasses.replace(rollouts, logp_BT=logp_BT)
        )
        weighted = dataclasses.replace(weighted, graded=graded)
    if not spec.needs_reference:
        return weighted
    nothing_BT = np.full(rollouts.logp_BT.shape, np.nan, np.float32)
    return dataclasses.replace(weighted, ref_logp_BT=scored(state.reference, nothing_BT))


# -- what is written down --------------------------------------------------------------------------


def outcome(graded: Graded, phase: Phase) -> dict[str, float]:
    """Accuracy and verdicts of the rows of a step; of rows that nothing weighs, their lengths too.
    What the guards watch leaves out rows that were made to begin in a certain way."""
    return {
        "prune/accuracy": float(graded.correct_B.mean()),
        **(completions(graded.rollouts) if phase.loss is None else {}),
        **guards.diagnose(take_rows(graded, ~_made_to_begin(graded, phase))),
        **counts(graded),
        collect.GENERATED: int(graded.rollouts.length_B.sum()),
    }


def _made_to_begin(graded: Graded, phase: Phase) -> np.ndarray:
    """Rows of modes that write a beginning in the policy's place, bool [B]."""
    modes = [
        number
        for number, mode in enumerate(phase.condition.modes)
        if isinstance(mode.force, Begin) and mode.force.text is not None
    ]
    return np.isin(graded.rollouts.mode_B, modes)


def log_rollouts(
    run: Session, state: RunState, phase: Phase, weighted: Weighted, step: int, number: int = 0
) -> None:
    """Every so many steps the rows go to a file of their own, or a part of them if they come in
    parts."""
    every = run.settings.rounds.log_rollouts_every
    if every and step % every == 0:
        name = f"round-{state.round + 1:02d}-step-{step:05d}"
        if phase is not run.training[0]:
            name += f"-{phase.name}"
        run.write_rollouts(
            name + _part(number),
            weighted.graded,
            round=state.round + 1,
            step=step,
            weighted=weighted,
        )
