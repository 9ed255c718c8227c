"""What a phase has brought to a step, and the policy that learns from it.

Rows of a step are learnt from once. Rows that last are files (`shards`), over which the steps until
the next collection pass; here they are read, and here is what starts anew with them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from pruner_jax.learn.learn import learn
from pruner_jax.learn.optimizer import learning_rate
from pruner_jax.learn.rows import Rows, rows_of
from pruner_jax.objective.condition import Begin
from pruner_jax.objective.method import Phase
from pruner_jax.pod.likeness import check_rows
from pruner_jax.run import collect
from pruner_jax.run.heap import give_back_freed
from pruner_jax.run.interrupts import Interrupted
from pruner_jax.run.session import Session, iteration_steps, optimizer_steps, optimizer_term
from pruner_jax.run.shards import join, read_shards
from pruner_jax.run.state import RunState, position
from pruner_jax.types import Weighted


@dataclasses.dataclass(frozen=True)
class Work:
    """What a phase has brought to a step."""

    phase: Phase
    metrics: Mapping[str, Any]
    problems: int = 0  # collected at this step; 0: it goes on with the rows it has
    weighted: Weighted | None = None  # what was collected; None: nothing to learn from
    shards: tuple[str, ...] = ()  # files of what counts of it, if it lasts
    broken: bool = False  # it holds numbers that nothing can be learnt from; a metric is NaN


def finish(run: Session, state: RunState, work: Work, collected: bool) -> dict[str, float]:
    """Learn from what a phase has; the metrics of that. ``collected``: at this step, by any."""
    phase = work.phase
    if work.problems:
        collect.drawn(state, phase, work.problems)
        if phase.loss is not None and phase.collect.every == "iteration":
            start_anew(run, state, phase)
        if phase.collect.lasts and not work.broken:  # a broken one comes again
            state.store = state.store.add(phase.name, work.shards, state.steps, phase.collect.keep)
    if phase.loss is None or work.broken:
        return {}
    if not wants_reference(run, state):
        state.reference = None
    rows, how = _to_learn_from(run, state, work)
    run.checkpoints.release()
    with run.clock.phase("learn"):
        if jax.default_backend() == "cpu":  # the sampler's copy of them was in the host's memory
            give_back_freed(sum(x.nbytes for x in jax.tree.leaves(state.learn.params)))
        state.learn, metrics = learn(
            state.learn,
            rows,
            run.updates[phase.name],
            spec=phase.loss,
            options=run.settings.learn,
            mesh=run.mesh,
            on_update=heeds_signals(run, state, collected),
            **how,
        )
    if phase.loss.kind != "pg" and "entropy" in metrics:
        # Imitation ends where nothing is left to chance: no alarm.
        metrics["taught_entropy"] = metrics.pop("entropy")
    if is_on_policy(phase):
        return metrics
    return {name: x for name, x in metrics.items() if not name.startswith("sampling/")}


def _to_learn_from(run: Session, state: RunState, work: Work) -> tuple[Rows, dict[str, Any]]:
    """The rows of a phase at this step, and how `learn` passes over them: the seed of their order,
    the part of their updates, the learning rate. The same on all hosts, or an error."""
    phase, since, part = work.phase, state.steps, (0, 1)
    files = state.store.shards.get(phase.name)
    if files is not None:
        rows = stored(run, state, phase)
        steps, since = iteration_steps(phase, run.settings), state.store.since[phase.name]
        part = ((state.steps - since) % steps, steps)
    else:
        rows = rows_of(work.weighted, phase.loss)
        rows = dataclasses.replace(rows, prompt_limit=run.longest["train"])
    seed, rate = run.settings.seed + since, _rates(run, state, phase)
    check_rows(
        run.pod,
        f"the hosts' rows of phase {phase.name} at step {state.steps + 1}",
        rows if files is None else None,  # stored ones were compared as they were read
        files=files,
        seed=seed,
        part=part,
        rate=rate(0.0, 1.0),
    )
    return rows, {"seed": seed, "part": part, "rate": rate}


def heeds_signals(
    run: Session, state: RunState, collected: bool
) -> Callable[[int, dict[str, jax.Array]], None] | None:
    """What looks for a request to stop after every update, where a step is thousands of them over
    files: if the run is saved up to this step it is given up, for its updates alone are lost. A
    step that has collected and weighed, or comes after others that are not saved, is finished
    (None)."""
    if collected or run.saved != position(state):
        return None
    running: dict[str, jax.Array] = {}

    def look(number: int, metrics: dict[str, jax.Array]) -> None:
        nonlocal running
        jax.block_until_ready(running)  # of the update before, so that the next is packed meanwhile
        running = metrics
        try:
            run.interrupts.check_together()
        except Interrupted:
            run.progress.log(f"step {state.steps + 1} is given up after {number + 1} updates")
            raise

    return look


def _rates(run: Session, state: RunState, phase: Phase) -> Callable[[float, float], float]:
    """Learning rate of an update from its place among those of a phase in this step, 0 to 1. The
    phases of a step follow one another and share it."""
    steps, (term, owner) = optimizer_steps(run.settings, run.method), optimizer_term(run.method)
    done, fresh = state.steps, state.fresh
    if term == "iteration":
        since = state.store.since.get(owner.name, state.steps)
        done, fresh = state.steps - since, max(0, state.fresh - since)
    elif term == "round":
        done, fresh = state.step, max(0, state.fresh - (state.steps - state.step))
    place, phases = run.training.index(phase), len(run.training)

    def rate(begin: float, end: float) -> float:
        at = [done + (place + share) / phases for share in (begin, end)]
        return learning_rate(run.settings.optimizer, *at, steps, fresh)

    return rate


def is_on_policy(phase: Phase) -> bool:
    """Whether every trained token was drawn by the policy that now learns from it; only then must
    sampler and learner agree on its log-probability."""
    condition, rows = phase.condition, phase.collect
    forces = [condition.force, *(mode.force for mode in condition.modes)]
    decided = any(isinstance(force, Begin) and force.logp is not None for force in forces)
    current = rows.policy == "current" and rows.every == "step" and not rows.keep
    return current and not decided


def wants_reference(run: Session, state: RunState) -> bool:
    """Whether the reference policy will be asked again; not where all that is learnt from was
    collected once and has its log-probabilities."""
    stored = all(
        phase.collect.every == "once" and phase.name in state.store.shards for phase in run.training
    )
    return run.needs_reference and not stored


def stored(run: Session, state: RunState, phase: Phase) -> Rows:
    """All rows that a phase has; each file is read once."""
    names = state.store.shards[phase.name]
    known, rows = run.rows.get(phase.name, ((), None))
    if known != names:
        grown = rows is not None and names[: len(known)] == known
        fresh = names[len(known) :] if grown else names
        more = run.pod.lead(read_shards, [run.folder.store / name for name in fresh])
        rows = join([rows, more]) if grown else more
        check_rows(run.pod, f"the hosts' stored rows of phase {phase.name}", rows)
        run.rows[phase.name] = (names, rows)
    return rows


def start_anew(run: Session, state: RunState, phase: Phase) -> None:
    """What a phase resets by iteration: after its rows were weighed, before they train."""
    if phase.reset.reference == "iteration" and run.needs_reference:
        state.reference = None  # makes room
        state.reference_parameters = f"reference-{state.steps:05d}"
        run.checkpoints.save_parameters(state.reference_parameters, state.learn.params)
        state.reference = jax.tree.map(jnp.copy, state.learn.params)  # an update donates the others
    if phase.reset.parameters == "iteration":
        back_to_start(run, state)
    if phase.reset.optimiser == "iteration":
        params, state.learn = state.learn.params, None
        state.learn = run.fresh_optimizer(params)


def back_to_start(run: Session, state: RunState) -> None:
    """The start model's parameters in place of the current ones; the optimiser stays."""
    state.learn = state.learn.replace(params=None)  # makes room
    params = run.checkpoints.load_parameters(state.start.parameters, run.parameters_like)
    state.learn = state.learn.replace(params=params)
