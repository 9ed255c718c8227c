"""The main job, to be read from top to bottom: rounds under token limits, then the test.

    start or resume -> [ begin a round -> steps, evaluations, guards -> pick ] ... -> test, export

Three disjoint sets: steps sample *train*; evaluations, guards, the pick and ``auto`` limits see
*monitor* only; *test* is sampled once, at the end, for the model that came and the one that goes.
Everything between two steps is one ``RunState``; ``run/session.py`` holds what stays the same,
``run/step.py`` makes a step, ``run/monitor.py`` watches.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from typing import Any

import jax

from pruner_jax import config
from pruner_jax.config import PruneConfig
from pruner_jax.learn.step import init_state
from pruner_jax.measure import stats
from pruner_jax.measure.outcomes import Outcomes
from pruner_jax.measure.pick import check_tolerance, next_limit, pick
from pruner_jax.measure.summary import Round, summary, versions
from pruner_jax.pod.start import start as start_pod
from pruner_jax.pod.together import Pod
from pruner_jax.policy import handle
from pruner_jax.report import html
from pruner_jax.report.progress import Progress
from pruner_jax.run.checks import check_thoughts, heeds_tolerance
from pruner_jax.run.interrupts import Interrupted
from pruner_jax.run.learning import back_to_start, wants_reference
from pruner_jax.run.measuring import keep_parts, read_outcomes
from pruner_jax.run.monitor import (
    add_candidate,
    compare_sampler_with_learner,
    evaluate,
    evaluation_due,
    heed_guards,
    record_evaluation,
)
from pruner_jax.run.processors import use_processors
from pruner_jax.run.session import PyTree, Session, finished_folder, open_session
from pruner_jax.run.state import (
    RunState,
    meta_of,
    parameters_in_use,
    position,
    shards_in_use,
    state_of,
)
from pruner_jax.run.step import train_step
from pruner_jax.run.surroundings import check_hosts
from pruner_jax.store.folder import RunFolder, write_atomically
from pruner_jax.store.records import keep_only
from pruner_jax.types import Graded

_TEST_FILES = ("base-test.*", "final-test.*")


def prune_verb(settings: PruneConfig) -> dict[str, Any]:
    """The verb ``prune``."""
    return prune(settings)


def prune(settings: PruneConfig | str | os.PathLike[str], out: str | None = None) -> dict[str, Any]:
    """Shorten a model's thinking; the summary, which is also written to ``OUT/summary.json``.

    Args:
      settings: a configuration, or the YAML file of one.
      out: folder of the run, where it is not the configuration's own.

    Raises:
      ValueError: a setting, the model, the problems or the folder cannot be used as asked.
    """
    if not isinstance(settings, PruneConfig):
        settings = config.load(PruneConfig, os.fspath(settings), [f"--out={out}"] if out else [])
    elif out:
        settings = dataclasses.replace(settings, out=out)
    models = (settings.model, settings.expander.model, settings.teacher.model)
    use_processors(models, settings.mesh, settings.pod)
    with start_pod(settings.pod) as pod:
        check_hosts(settings, pod)
        if not settings.dry_run and (found := pod.lead(_finished, settings)) is not None:
            return found
        return _play(settings, pod)


def _finished(settings: PruneConfig) -> dict[str, Any] | None:
    """The summary of a run that is complete, shown again."""
    folder = finished_folder(settings)
    if folder is None:
        return None
    with Progress() as progress:
        return show_finished(folder, progress)


def _play(settings: PruneConfig, pod: Pod) -> dict[str, Any]:
    """The run from where it is to its end."""
    with open_session(settings, pod) as run:
        if settings.dry_run:
            return run.describe()
        state = resume(run) or start(run)
        say_what_can_be_told(run, state)
        while (limit := limit_of_next_round(run, state)) is not None:
            begin_round(run, state, limit)
            try:
                play_round(run, state)
            except Interrupted as stop:
                if run.saved != position(state):
                    save(run, state)
                state.learn = state.reference = None  # a notebook keeps the frames of an error
                raise stop.with_traceback(None) from None
            end_round(run, state)
        return finish(run, state)


# -- start and resume ------------------------------------------------------------------------------


def start(run: Session) -> RunState:
    """A new run: keep and measure the model that came."""
    run.pod.lead(_clear, run)
    params = run.load_parameters()
    state = RunState(
        learn=init_state(params, run.engine.config, run.optimizer, run.mesh),
        reference=None,
    )
    del params
    run.checkpoints.save_parameters("start", state.learn.params)
    compare_sampler_with_learner(run, state)
    graded = evaluate(run, state.learn.params, "monitor", "monitor, start model")
    check_thoughts(run.method, graded)
    state.start = state.origin = record_evaluation(run, state, graded, "base-monitor", "start")
    save(run, state)
    return state


def _clear(run: Session) -> None:
    """Take away what a start before the first checkpoint has left."""
    keep_only(run.folder.rollouts, [])
    keep_only(run.folder.store, [])
    run.metrics.cut(0)
    run.tracker.open(0)


def say_what_can_be_told(run: Session, state: RunState) -> None:
    """Refuse a tolerance that the monitor set cannot tell from noise, before training."""
    if not heeds_tolerance(run.settings, run.method):
        return
    least = check_tolerance(run.outcomes(state.start), run.settings.pick)
    run.progress.log(
        f"smallest loss of accuracy the monitor set can tell from none: {least:.4f} "
        f"(tolerance {run.settings.pick.tolerance:g})"
    )


def resume(run: Session) -> RunState | None:
    """The run as its newest complete checkpoint knew it, or None where there is none."""
    newest = run.checkpoints.latest()
    if newest is None:
        return None
    meta = run.checkpoints.meta(newest)
    state = state_of(meta["state"], run.checkpoints.arrays(newest, run.learn_like), reference=None)
    run.history[:] = run.pod.lead(_cut_back, run, state, meta)
    run.rollout_files[:] = meta["rollouts"]
    run.clock.total.update(meta["seconds"])
    if state.in_round and wants_reference(run, state):
        state.reference = reference_of(run, state)
    run.saved = position(state)
    run.progress.log(f"continuing {run.folder.shown()} after step {state.steps}")
    return state


def _cut_back(run: Session, state: RunState, meta: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The files as the checkpoint knew them; the records that are left."""
    run.metrics.cut(meta["lines"])
    # Files of the test are whole, and only written once the rounds are over: they stay.
    keep_only(run.folder.rollouts, [*meta["rollouts"], *_TEST_FILES])
    keep_only(run.folder.store, shards_in_use(state))
    history = run.metrics.read()
    run.history[:] = history
    between = state.in_round and evaluation_due(run, state)  # a step and its evaluation
    run.tracker.open(state.steps if between else state.steps + 1)
    return history


def save(run: Session, state: RunState) -> None:
    """A checkpoint from which the run goes on exactly as it would have."""
    run.saved = position(state)
    with run.clock.phase("save"):
        run.pod.lead(run.metrics.sync)
        run.checkpoints.save(
            state.learn,
            {
                "state": meta_of(state),
                "parameters": parameters_in_use(state),
                "lines": run.metrics.count,
                "rollouts": list(run.rollout_files),
                "seconds": dict(run.clock.total),
            },
        )


# -- rounds ----------------------------------------------------------------------------------------


def limit_of_next_round(run: Session, state: RunState) -> int | None:
    """Token limit of the round to be played, the one that runs included; None when all are done."""
    if state.ended is not None:
        return None
    if state.in_round:
        return state.limit
    rounds = run.settings.rounds
    if rounds.limits != "auto":
        return rounds.limits[state.round] if state.round < len(rounds.limits) else None
    if state.round >= rounds.most:
        state.ended = f"{rounds.most} rounds were played (rounds.most)"
        return None
    current = state.rounds[-1]["limit"] if state.rounds else run.cap("monitor")
    found = next_limit(run.outcomes(state.origin), current, run.settings.auto)
    run.progress.log(f"auto limit: {found.reason}")
    if found.limit is None:
        state.ended = found.reason
    return found.limit


def begin_round(run: Session, state: RunState, limit: int) -> None:
    """Set the limit and the reference. Nothing to do in a resumed round."""
    if state.in_round:
        return
    state.limit = limit
    state.step, state.length = 0, run.settings.rounds.steps
    state.candidates = []
    state.alarmed = False
    if run.resets("parameters", "round"):
        back_to_start(run, state)
    if run.needs_reference:
        fresh = run.resets("reference", "round")
        if state.reference_parameters is None or fresh:
            state.reference_parameters = (state.origin if fresh else state.start).parameters
        if wants_reference(run, state):
            state.reference = reference_of(run, state)
    state.origin = state.mark(state.origin)
    run.progress.log(f"round {state.round + 1}: limit {limit} tokens")


def reference_of(run: Session, state: RunState) -> PyTree:
    """The parameters that the method measures its KL against."""
    return run.checkpoints.load_parameters(state.reference_parameters, run.parameters_like)


def play_round(run: Session, state: RunState) -> None:
    """Steps of one round, with evaluations, guards and saves in between."""
    rounds = run.settings.rounds
    title = f"round {state.round + 1}, limit {state.limit}"
    store = state.store
    run.progress.start(state.length, title, done=state.step)
    while state.step < state.length or evaluation_due(run, state):
        if not evaluation_due(run, state):  # it is where the run was interrupted in one
            store = state.store
            with run.profile.step(state.steps + 1, lambda: state.learn.params):
                record = train_step(run, state)
            if not run.progress.running:  # a collection had a bar of its own
                run.progress.start(state.length, title, done=state.step)
            run.progress.update(
                state.step,
                accuracy=record.get("prune/accuracy"),
                mean_tokens=record.get("completions/mean_length"),
                truncated=record.get("completions/clipped_ratio"),
                loss=None if "prune/accuracy" in record else record.get("loss"),
            )
            if not heed_guards(run, state):
                return
        run.interrupts.check_together()
        if evaluation_due(run, state):
            add_candidate(run, state)
            if not heed_guards(run, state):
                return
            if state.step < state.length:
                run.progress.start(state.length, title, done=state.step)
        collected = state.store is not store  # which may have taken hours
        due = state.step % rounds.save_every == 0 or collected
        if due and state.step < state.length:
            store = state.store
            save(run, state)


def end_round(run: Session, state: RunState) -> None:
    """Pick the checkpoint the next round starts from, or after an alarm the rest of this one; what
    goes with its parameters comes back with them (`RunState.go_on`, `RunState.go_back`)."""
    back = goes_back(run, state)
    with run.clock.phase("pick"):
        base = run.outcomes(state.start)
        candidates = [run.candidate(mark) for mark in state.candidates]
        picked = pick(base, run.candidate(state.origin), candidates, run.settings.pick)
        run.progress.log(picked.reason)
        if not picked.kept:
            state.origin = next(mark for mark in state.candidates if mark.step == picked.step)
        run.record(
            {
                "kind": "pick",
                "round": state.round + 1,
                "step": picked.step,
                "kept": picked.kept,
                "reason": picked.reason,
            }
        )
        if not back:
            after = run.outcomes(state.origin)
            entry = Round(
                limit=state.limit,
                steps=state.step,
                picked_step=picked.step,
                accuracy=stats.accuracy(after),
                mean_tokens=stats.mean_tokens(after),
                reason=picked.reason,
            )
            state.rounds.append(dataclasses.asdict(entry))
        state.learn = state.learn.replace(params=None)  # makes room for those that were picked
        params = run.checkpoints.load_parameters(state.origin.parameters, run.parameters_like)
        if state.alarmed:
            state.go_back()
        else:
            state.go_on({phase.name for phase in run.training if phase.collect.renews})
        if state.alarmed or run.resets("optimiser", "round"):
            state.learn = None  # the old moments go before the new ones are made
            state.learn = run.fresh_optimizer(params)
            state.fresh = state.steps
        else:
            state.learn = state.learn.replace(params=params)
    state.reference = None
    state.candidates = []
    if back:
        resume_round(run, state)
    else:
        before_an_alarm = picked.kept and has_gone_back(state)
        in_band = before_an_alarm or any(judgement.within for judgement in picked.judgements)
        if not in_band and run.settings.rounds.limits == "auto" and state.ended is None:
            state.ended = f"round {state.round + 1} had no checkpoint in the band"
        state.round += 1
        state.limit = None
    save(run, state)


def goes_back(run: Session, state: RunState) -> bool:
    """Whether a round that a guard stopped goes on with the steps that are left of it. Problems,
    draws and the order of rows depend on the steps made, so they are not those that rang."""
    before = sum(r["kind"] == "pick" and r["round"] == state.round + 1 for r in run.history)
    left = state.step < state.length and before < run.settings.guards.rollbacks
    return state.alarmed and state.ended is None and left


def has_gone_back(state: RunState) -> bool:
    """Whether a pick of this round stands: in it, of one that an alarm took the round back to."""
    return state.origin.step > state.steps - state.step


def resume_round(run: Session, state: RunState) -> None:
    """After a rollback, from what was picked."""
    state.alarmed = False
    if run.resets("parameters", "round") and not has_gone_back(state):
        back_to_start(run, state)
    if wants_reference(run, state):
        state.reference = reference_of(run, state)
    left = state.length - state.step
    run.progress.log(f"round {state.round + 1} goes on from there with the {left} steps left")


# -- the end ---------------------------------------------------------------------------------------


def finish(run: Session, state: RunState) -> dict[str, Any]:
    """Test both models, write the summary, the report and the export."""
    if state.ended is not None:
        run.progress.log(f"no further round: {state.ended}")
    state.learn = state.reference = None  # their memory is wanted for the test
    base = run.checkpoints.load_parameters(state.start.parameters, run.parameters_like)
    before = test(run, base, "base")
    del base
    final = merged(run, state)
    after = test(run, final, "final")
    export(run, final)
    run.checkpoints.wait()
    result = summary(
        before,
        after,
        rounds=[Round(**entry) for entry in state.rounds],
        seconds=run.clock.total,
        versions=versions(),
        confidence=run.settings.test.confidence,
        resamples=run.settings.test.resamples,
        seed=run.settings.seed,
        budget=run.settings.test.budget,
    )
    result["models"] = run.models
    result["ended"] = state.ended
    result["alarms"] = [record for record in run.history if record["kind"] == "alarm"]
    summarise = functools.partial(write_atomically, run.folder.summary)
    run.pod.lead(summarise, json.dumps(result, indent=2) + "\n")
    shown = run.pod.lead(show_finished, run.folder, run.progress)
    run.publish()
    return shown


def show_finished(folder: RunFolder, progress: Progress) -> dict[str, Any]:
    """Show what a complete run came to; its report is built again, which costs seconds."""
    result = json.loads(folder.summary.read_text())
    path = html.build(folder.root)
    progress.show(result)
    progress.log(f"report: {folder.shown(path)}")
    progress.log(f"model:  {folder.shown(folder.export)}")
    return result


def merged(run: Session, state: RunState) -> PyTree:
    """The picked parameters, merged with the start's if the method says so."""
    final = run.checkpoints.load_parameters(state.origin.parameters, run.parameters_like)
    if run.method.merge is None:
        return final
    first = run.checkpoints.load_parameters(state.start.parameters, run.parameters_like)
    return jax.tree.map(run.method.merge, first, final)


def test(run: Session, params: PyTree, name: str) -> Outcomes:
    """One model on the test set, in parts that are kept."""
    path = run.folder.rollouts / f"{name}-test.parquet"
    at_once = run.engine.rows_together(run.cap("test")) // run.settings.test.samples

    def sample(part: slice, some: str) -> Graded:
        run.publish()  # the parts before it
        return evaluate(run, params, "test", f"test set, {name} model{some}", part)

    keep_parts(path, len(run.set("test")), max(1, at_once), sample, run.pod)
    return run.pod.lead(read_outcomes, path)


def export(run: Session, params: PyTree) -> None:
    """The picked model as a Hugging Face folder."""
    policy = dataclasses.replace(run.policy, params=params)
    with run.clock.phase("save"):
        dtype = policy.config.stored_dtype
        handle.save(policy, run.folder.export, dtype=dtype, each=run.pod.each)
