"""Collecting: the rows that a phase works on, from whoever writes them.

At every step the rows are sampled and used. What is collected once or by iteration goes into a
table (`store.table`), part by part, so that a collection that is stopped goes on where it was; and
so that a reference table can serve other runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from pruner_jax.objective.groups import Groups, join
from pruner_jax.objective.method import Phase, looks_at_tokens
from pruner_jax.objective.weigh import trained
from pruner_jax.problems.order import order
from pruner_jax.run.ahead import own_sampling, table_key
from pruner_jax.run.checks import collection_limit, problems_of
from pruner_jax.run.conditions import force_hook
from pruner_jax.run.engine import Engine
from pruner_jax.run.programs import said, taxonomy
from pruner_jax.run.second import (
    add_rejects,
    in_the_students_words,
    read_responses,
    unusable,
    written,
)
from pruner_jax.run.session import PyTree, Session
from pruner_jax.run.state import RunState
from pruner_jax.sample.sampler import SampleStats
from pruner_jax.store.table import Table, open_table
from pruner_jax.types import Graded, Problem, Purpose, Weighted, take_rows

# Added to the visits of what is collected once, and of each further phase that is not, so that no
# phase makes the draws of another.
_ONCE, _FURTHER = 1 << 20, 1 << 22

GENERATED = "prune/generated_tokens"  # by the policy and by an expander


# -- which problems --------------------------------------------------------------------------------


def draw(
    run: Session, state: RunState, phase: Phase, ahead: int = 0, count: int | None = None
) -> tuple[list[Problem], np.ndarray]:
    """The problems that a phase collects now, and how often each was visited, int32 [P]; or
    ``count`` of those that come ``ahead`` problems later."""
    train = run.problems["train"]
    count = count or problems_of(phase, run.settings, len(train))
    alike = [other for other in run.method.phases if _is_once(other) == _is_once(phase)]
    own = _FURTHER * alike.index(phase)
    if _is_once(phase):  # the same problems whenever it has to be done again
        index, _ = order(len(train), run.settings.seed, 0, count)
        return [train[i] for i in np.sort(index)], np.full(count, own + _ONCE, np.int32)
    first = state.cursors.get(phase.name, 0) + ahead
    index, visit = order(len(train), run.settings.seed, first, count)
    return [train[i] for i in index], visit + np.int32(own)


def _is_once(phase: Phase) -> bool:
    return phase.collect.every == "once"


def drawn(state: RunState, phase: Phase, count: int) -> None:
    """Move the phase's place among the problems on."""
    state.cursors = {**state.cursors, phase.name: state.cursors.get(phase.name, 0) + count}


# -- who writes, and under which conditions --------------------------------------------------------


def writer(run: Session, state: RunState, phase: Phase) -> tuple[Engine, PyTree]:
    """Engine and decode parameters of the policy that writes a phase's rows."""
    changes = own_sampling(phase)
    if phase.collect.policy == "teacher":
        teacher = run.load_teacher()  # let go of with the collection: it is needed there only
        return teacher.engine.with_sampling(**changes), teacher.params
    params = parameters(run, state, phase.collect.policy)
    return run.engine.with_sampling(**changes), run.engine.decode_params(params)


def parameters(run: Session, state: RunState, policy: str) -> PyTree:
    """The learner's parameters of the current policy, the start model, or the reference.

    Raises:
      ValueError: of another policy, or of a reference that no loss of the method keeps.
    """
    if policy == "reference" and state.reference is not None:
        return state.reference
    if policy not in ("current", "start"):
        raise ValueError(
            f"log-probabilities under the policy {policy!r} are asked for, which has none here; "
            "allowed: current, start, and reference where a loss has a KL term"
        )
    if policy == "current" or state.steps == 0:
        return state.learn.params
    return run.checkpoints.load_parameters(state.start.parameters, run.parameters_like)


def sample(
    run: Session,
    state: RunState,
    phase: Phase,
    engine: Engine,
    params: PyTree,
    problems: Sequence[Problem],
    visit_P: np.ndarray,
    limit: int,
) -> tuple[Graded, SampleStats]:
    """Graded rows under the phase's conditions: modes, budgets, what is written in the policy's
    place, worked examples. They are trained under their prompts without the examples."""
    condition, samples = phase.condition, phase.collect.samples
    ids, seed, step = [problem.id for problem in problems], run.settings.seed, state.steps
    shared: dict[str, Any] = {
        "purpose": Purpose.TRAIN,
        "limit": limit,
        "visit_P": visit_P,
        "notes": condition.sentences_of(ids, seed, step),
    }
    with run.clock.phase("rollout"):
        prompts = engine.prompts(problems, **shared, examples=condition.examples)
        budget_B = np.repeat(condition.budgets_of(ids, seed, step), samples)
        mode_B = np.zeros(len(budget_B), np.int32)
        if condition.modes:
            mode_B = condition.modes_of(ids, samples, seed, step).reshape(-1)
    graded, speed = engine.rollout(
        params,
        prompts,
        samples=samples,
        limit=limit,
        clock=run.clock,
        on_progress=run.interrupts.check,
        force=force_hook(condition, engine),
        mode_B=mode_B,
        budget_B=budget_B,
    )
    if condition.examples:
        bare = engine.prompts(problems, **shared)
        rollouts = dataclasses.replace(graded.rollouts, prompts=bare)
        graded = dataclasses.replace(graded, rollouts=rollouts)
    return graded, speed


# -- tables ----------------------------------------------------------------------------------------


def collect_table(run: Session, state: RunState, phase: Phase) -> Graded:
    """The rows of a collection that lasts, from its table; what the table lacks is written now.
    Without texts and tokens where nothing looks at them before it is known which rows count."""
    problems, visit_P = draw(run, state, phase)
    limit = collection_limit(run.settings) if _is_once(phase) else state.limit
    table = _open(run, state, phase, limit)
    with filling(run, table):
        missing = run.pod.lead(table.missing, problems, visit_P)
        if len(missing) < len(problems) and not is_charged(run, phase):
            run.clock.charge("table", run.pod.lead(table.seconds, problems, visit_P))
        asked, visit_M = [problems[i] for i in missing], visit_P[missing]
        if missing and phase.collect.policy == "teacher" and run.settings.teacher.file is not None:
            _read_teacher(run, state, table, asked, visit_M, limit)
        elif missing:
            _sample_parts(run, state, phase, table, asked, visit_M, limit)
    if phase.collect.reference:
        state.tables = {**state.tables, phase.name: _name(state, phase)}
        run.tables.clear()
    # A teacher's rows that are too long stay in the table, or it would be asked again for them.
    wanted = phase.loss is not None and looks_at_tokens(phase)
    read = functools.partial(table.read, tokens=wanted, longest=limit)
    rows = run.pod.lead(read, problems, visit_P)
    if phase.collect.policy == "teacher":
        run.progress.log(f"teacher: {said(taxonomy(rows))}")
    return rows


def is_charged(run: Session, phase: Phase) -> bool:
    """Whether the run's records have what a phase's table took, as where a rollback took what came
    of it: each run is charged once for a table, whoever made it."""
    name = metric_of(run, phase, GENERATED)
    return _is_once(phase) and any(name in record for record in run.history)


def metric_of(run: Session, phase: Phase, name: str) -> str:
    """The name of a phase's metric in a record, its own for the first one that learns; of a further
    phase ``reward`` is ``gradient/reward``, ``perf/x`` is ``perf/gradient/x``."""
    if phase is run.training[0]:
        return name
    if name.startswith("perf/"):
        return name.replace("/", f"/{phase.name}/", 1)
    return f"{phase.name}/{name}"


def that_count(
    run: Session, state: RunState, phase: Phase, weighted: Weighted
) -> Iterator[Weighted]:
    """The rows of a table that were weighed without their tokens and count, with them: the rows of
    some problems at a time. Texts and what the learner leaves out are never in memory for all;
    what it takes (`learn.rows.Rows`) is, once it learns from them."""
    kept = np.flatnonzero(weighted.keep_B)
    group_B = weighted.graded.rollouts.group_B[kept]
    # Cut where a problem begins, for the rows of a preference pair stay together.
    first_B = np.searchsorted(group_B, group_B)
    at_once = run.engine.rows_together(weighted.graded.rollouts.limit)
    parts = np.split(kept, np.flatnonzero(np.diff(first_B // at_once)) + 1) if len(kept) else []
    table = Table(table_folder(run, state, phase))
    found = table.with_tokens(weighted.graded, parts)
    for rows in parts:
        graded = run.pod.lead(next, found)
        pair_B = None if weighted.pair_B is None else weighted.pair_B[rows]
        yield dataclasses.replace(
            take_rows(weighted, rows),
            graded=graded,
            train_BT=trained(phase, graded.rollouts),
            pair_B=None if pair_B is None else pair_B - pair_B.min(),
        )


@contextlib.contextmanager
def filling(run: Session, table: Table) -> Iterator[None]:
    """Only this run adds rows to the table; where another one does, it waits."""
    with contextlib.ExitStack() as stack:
        run.pod.lead(stack.enter_context, table.filling(_waiting(run, table)))
        yield


def _waiting(run: Session, table: Table) -> Callable[[], None]:
    """What is done while another run fills the table."""
    said = False

    def wait() -> None:
        nonlocal said
        if not said:
            run.progress.log(f"waits for another run to fill {table.folder}")
        said = True
        run.interrupts.check()

    return wait


def _sample_parts(
    run: Session,
    state: RunState,
    phase: Phase,
    table: Table,
    problems: Sequence[Problem],
    visit_P: np.ndarray,
    limit: int,
) -> None:
    """Sample rows of all these problems into the table, part by part (`Engine.rows_together`)."""
    taught = phase.collect.policy == "teacher"
    engine, params = writer(run, state, phase)
    at_once = max(1, engine.rows_together(limit) // phase.collect.samples)
    run.progress.start(len(problems), f"{phase.name}: {phase.collect.policy} model, problems")
    for first in range(0, len(problems), at_once):
        part = slice(first, first + at_once)
        begun = time.perf_counter()
        graded, _ = sample(run, state, phase, engine, params, problems[part], visit_P[part], limit)
        if taught:
            graded = in_the_students_words(graded, engine, run.engine)
            _tell_unusable(run, graded, [], limit)
        _add(run, state, table, graded, seconds=time.perf_counter() - begun)
        run.progress.update(
            min(len(problems), first + at_once),
            accuracy=float(graded.correct_B.mean()) if len(graded) else None,
            mean_tokens=float(graded.rollouts.length_B.mean()) if len(graded) else None,
            truncated=float(1 - graded.rollouts.finished_B.mean()) if len(graded) else None,
        )
    run.progress.finish()


def _read_teacher(
    run: Session,
    state: RunState,
    table: Table,
    problems: Sequence[Problem],
    visit_P: np.ndarray,
    limit: int,
) -> None:
    """A teacher's file as rows of the table, for those of these problems that it answers."""
    found = read_responses(run.settings.teacher, run.problems["train"])
    places = [n for n, problem in enumerate(problems) if problem.id in found.of_problem]
    if not places:
        return
    answered = [problems[n] for n in places]
    texts = [found.of_problem[problem.id] for problem in answered]
    prompts = run.engine.prompts(
        answered, purpose=Purpose.TRAIN, limit=limit, visit_P=visit_P[places]
    )
    samples_P = [len(said) for said in texts]
    rollouts = written(
        run.engine,
        prompts,
        np.repeat(np.arange(len(answered)), samples_P).astype(np.int32),
        np.concatenate([np.arange(n) for n in samples_P]).astype(np.int32),
        [said for group in texts for said in group],
        np.ones(sum(samples_P), bool),
    )
    graded = run.engine.grade(rollouts)
    _tell_unusable(run, graded, found.rejects, limit)
    _add(run, state, table, graded)


def _add(run: Session, state: RunState, table: Table, graded: Graded, seconds: float = 0) -> None:
    """Write rows into the table, once for all processes."""
    run.pod.lead(lambda: table.add(graded, step=state.steps, seconds=seconds))


def _tell_unusable(
    run: Session, graded: Graded, rejects: Sequence[dict[str, Any]], limit: int
) -> None:
    """Say which of a teacher's responses cannot be learnt from, and write them to OUT/rejects.jsonl
    behind what is there."""
    rejects = [*rejects, *unusable(graded, limit)]
    path = run.folder.root / "rejects.jsonl"
    if run.pod.lead(lambda: rejects and add_rejects(path, rejects) is None):
        run.progress.log(f"{len(rejects)} responses of the teacher cannot be used: {path}")


def _open(run: Session, state: RunState, phase: Phase, limit: int) -> Table:
    """The table of a phase: of its own name, of an iteration its step too."""
    table = Table(table_folder(run, state, phase), own=not _is_shared(run, phase))

    def make() -> None:
        key = table_key(run.settings, run.engine, run.policy.folder, phase, limit)
        open_table(table.folder, key, own=table.own)

    run.pod.lead(make)
    return table


def table_folder(run: Session, state: RunState, phase: Phase) -> pathlib.Path:
    """Where the table of what a phase collects now lies, and what belongs to it."""
    return _folder(run, phase, _name(state, phase))


def _name(state: RunState, phase: Phase) -> str:
    return phase.name if _is_once(phase) else f"{phase.name}-{state.steps:05d}"


def _folder(run: Session, phase: Phase, name: str) -> pathlib.Path:
    """Where a table lies; not remembered, for a run's folder may be moved."""
    if _is_shared(run, phase):
        return pathlib.Path(run.settings.reference_table)
    return run.folder.tables / name


def _is_shared(run: Session, phase: Phase) -> bool:
    return phase.collect.reference and run.settings.reference_table is not None


def reference(run: Session, state: RunState) -> Groups | None:
    """The reference table of all phases that have made one, by problem."""
    if not state.tables:
        return None
    key = tuple(state.tables.items())
    if key not in run.tables:
        own = {phase.name: phase for phase in run.method.phases}
        folders = [_folder(run, own[phase], name) for phase, name in key]
        run.tables[key] = run.pod.lead(_groups, folders)
    return run.tables[key]


def _groups(folders: Sequence[pathlib.Path]) -> Groups:
    return join([Groups.of(Table(folder).everything()) for folder in folders])
