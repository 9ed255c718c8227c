"""One step of a round: sample, check, weigh, learn; and what is written down of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from pruner_jax.learn.learn import learn
from pruner_jax.learn.rows import rows_of, rows_of_rollouts
from pruner_jax.learn.step import score
from pruner_jax.measure import guards
from pruner_jax.objective.context import Context
from pruner_jax.objective.weigh import weigh
from pruner_jax.problems.order import order
from pruner_jax.run.session import Session
from pruner_jax.run.state import RunState
from pruner_jax.types import Graded, Origin, Purpose, Weighted
from pruner_jax.verify.grade import counts


def train_step(run: Session, state: RunState) -> dict[str, Any]:
    """Sample, check, weigh, learn; the record of the step as it was written down.

    The state changes after the sampling only, so an ``Interrupted`` leaves it at the step before.
    """
    settings, clock = run.settings, run.clock
    index, visit = order(
        len(run.problems["train"]), settings.seed, state.cursor, settings.rounds.prompts
    )
    with clock.phase("rollout"):
        params = run.engine.decode_params(state.learn.params)
        prompts = run.engine.prompts(
            [run.problems["train"][i] for i in index],
            purpose=Purpose.TRAIN,
            limit=state.limit,
            visit_P=visit,
        )
    graded, speed = run.engine.rollout(
        params,
        prompts,
        samples=run.phase.collect.samples,
        limit=state.limit,
        clock=clock,
        on_progress=run.interrupts.check,
    )
    del params
    with clock.phase("weigh"):
        weighted, state.method, weighing = weigh(
            run.phase, graded, state.method, context(run, state)
        )
    learning = {}
    sampled_BT = graded.rollouts.origin_BT == Origin.SAMPLED
    broken = not np.isfinite(graded.rollouts.logp_BT[sampled_BT]).all()
    if not (broken and settings.guards.not_finite):  # which will ring; without it, learn refuses
        with clock.phase("learn"):
            weighted = with_reference(run, state, weighted)
            run.checkpoints.release()
            state.learn, learning = learn(
                state.learn,
                rows_of(weighted, run.spec),
                run.update,
                spec=run.spec,
                options=settings.learn,
                mesh=run.mesh,
                seed=settings.seed + state.steps,
            )
    state.cursor += settings.rounds.prompts
    state.step += 1
    state.steps += 1
    log_rollouts(run, state, weighted)
    return run.record(
        {
            "kind": "step",
            "round": state.round + 1,
            "step": state.steps,
            "limit": state.limit,
            **weighing,
            "prune/generated_tokens": int(graded.rollouts.length_B.sum()),
            **completions(graded),
            **guards.diagnose(graded),
            **counts(graded),
            **learning,
            **speed.metrics(),
            **{f"perf/verify_{name}": n for name, n in run.engine.verifier.stats.items()},
            **clock.lap(),
        }
    )


def context(run: Session, state: RunState) -> Context:
    """What the method may know of this step."""
    return Context(
        limit=state.limit,
        step=state.steps,
        round_step=state.step,
        round=state.round,
        seed=run.settings.seed,
        metrics=run.latest_evaluation(),
        end_token=run.engine.end_ids[0],
        decode=run.engine.decode,
    )


def with_reference(run: Session, state: RunState, weighted: Weighted) -> Weighted:
    """The rows with log-probabilities under the reference policy, if the loss needs them."""
    if not run.spec.needs_reference:
        return weighted
    rollouts = weighted.graded.rollouts
    rows = rows_of_rollouts(rollouts, run.spec.temperature_of(rollouts.temperature))
    logp_BT = score(
        state.reference, run.engine.config, rows, options=run.settings.learn, mesh=run.mesh
    )
    return dataclasses.replace(weighted, ref_logp_BT=logp_BT)


def completions(graded: Graded) -> dict[str, float]:
    """Accuracy and lengths of a step's rows, beside the mean that the weighing reports."""
    rollouts = graded.rollouts
    length_B, finished_B = rollouts.length_B, rollouts.finished_B
    found = {
        "prune/accuracy": graded.correct_B.mean(),
        "completions/min_length": length_B.min(),
        "completions/max_length": length_B.max(),
    }
    if finished_B.any():
        found["completions/mean_terminated_length"] = length_B[finished_B].mean()
    return {name: float(value) for name, value in found.items()}


def log_rollouts(run: Session, state: RunState, weighted: Weighted) -> None:
    """Every so many steps the rows go to a file of their own."""
    every = run.settings.rounds.log_rollouts_every
    if every and state.steps % every == 0:
        name = f"round-{state.round + 1:02d}-step-{state.steps:05d}"
        run.write_rollouts(
            name, weighted.graded, round=state.round + 1, step=state.steps, weighted=weighted
        )
