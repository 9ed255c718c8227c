"""Collecting: the rows that a phase works on, from whoever writes them.

At every step the rows are sampled and used. What is collected once or by iteration goes into a
table (`store.table`), part by part, so that a collection that is stopped goes on where it was; and
so that a reference table can serve other runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from pruner_jax.config import plain
from pruner_jax.objective.groups import Groups, join
from pruner_jax.objective.method import Phase
from pruner_jax.problems.order import order
from pruner_jax.run.checks import collection_limit
from pruner_jax.run.conditions import force_hook
from pruner_jax.run.engine import Engine
from pruner_jax.run.programs import said, taxonomy
from pruner_jax.run.second import (
    in_the_students_words,
    read_responses,
    unusable,
    write_rejects,
    written,
)
from pruner_jax.run.session import PyTree, Session, problems_of
from pruner_jax.run.state import RunState
from pruner_jax.sample.sampler import SampleStats
from pruner_jax.store.table import Table, open_table
from pruner_jax.types import Graded, Problem, Purpose, take_rows

_ROWS = 4096  # that are sampled and written together
# Added to the visits of what is collected once, and of each further phase that is not, so that no
# phase makes the draws of another.
_ONCE, _FURTHER = 1 << 20, 1 << 22


# -- which problems --------------------------------------------------------------------------------


def draw(run: Session, state: RunState, phase: Phase) -> tuple[list[Problem], np.ndarray]:
    """The problems that a phase collects now, and how often each was visited, int32 [P]."""
    train = run.problems["train"]
    count = problems_of(phase, run.settings, len(train))
    first = state.cursors.get(phase.name, 0)
    if phase.collect.every == "once" and count == len(train):
        return train, np.full(count, _ONCE, np.int32)
    index, visit = order(len(train), run.settings.seed, first, count)
    lasting = [other for other in run.method.phases if other.collect.every != "once"]
    number = lasting.index(phase) * _FURTHER if phase in lasting else _ONCE
    return [train[i] for i in index], visit + np.int32(number)


def drawn(run: Session, state: RunState, phase: Phase) -> None:
    """Move the phase's place among the problems on."""
    count = problems_of(phase, run.settings, len(run.problems["train"]))
    state.cursors = {**state.cursors, phase.name: state.cursors.get(phase.name, 0) + count}


# -- who writes, and under which conditions --------------------------------------------------------


def writer(run: Session, state: RunState, phase: Phase) -> tuple[Engine, PyTree]:
    """Engine and decode parameters of the policy that writes a phase's rows."""
    given = {name: getattr(phase.collect, name) for name in ("temperature", "top_p", "top_k")}
    changes = {name: value for name, value in given.items() if value is not None}
    if phase.collect.policy == "teacher":
        return run.teacher.engine.with_sampling(**changes), run.teacher.params
    params = parameters(run, state, phase.collect.policy)
    return run.engine.with_sampling(**changes), run.engine.decode_params(params)


def parameters(run: Session, state: RunState, policy: str) -> PyTree:
    """The learner's parameters of the current policy, the start model, or the reference."""
    if policy == "reference":
        return state.reference
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
    """The rows of a collection that lasts, from its table; what the table lacks is written now."""
    problems, visit_P = draw(run, state, phase)
    limit = collection_limit(run.settings) if phase.collect.every == "once" else state.limit
    table = _open(run, state, phase, limit)
    missing = table.missing(problems, visit_P)
    if missing:
        title = f"{phase.name}: {phase.collect.policy} model, {len(missing)} problems"
        if phase.collect.policy == "teacher" and run.settings.teacher.file is not None:
            asked = [problems[i] for i in missing]
            _read_teacher(run, state, table, asked, visit_P[missing], limit)
        else:
            _sample_parts(run, state, phase, table, problems, visit_P, missing, limit, title)
    if phase.collect.reference:
        state.tables = {**state.tables, phase.name: str(table.folder)}
    rows = table.read(problems, visit_P)
    if phase.collect.policy == "teacher":
        run.progress.log(f"teacher: {said(taxonomy(rows))}")
    return rows


def _sample_parts(
    run: Session,
    state: RunState,
    phase: Phase,
    table: Table,
    problems: Sequence[Problem],
    visit_P: np.ndarray,
    missing: Sequence[int],
    limit: int,
    title: str,
) -> None:
    engine, params = writer(run, state, phase)
    at_once = max(1, _ROWS // phase.collect.samples)
    run.progress.start(len(missing), title)
    for first in range(0, len(missing), at_once):
        part = missing[first : first + at_once]
        graded, _ = sample(
            run,
            state,
            phase,
            engine,
            params,
            [problems[i] for i in part],
            visit_P[part],
            limit,
        )
        if phase.collect.policy == "teacher":
            asked = [problems[i] for i in part]
            prompts = run.engine.prompts(
                asked, purpose=Purpose.TRAIN, limit=limit, visit_P=visit_P[part]
            )
            graded, fits_B = in_the_students_words(graded, run.engine, prompts, limit)
            graded = take_rows(graded, fits_B)
        table.add(graded, step=state.steps)
        run.progress.update(
            first + len(part),
            accuracy=float(graded.correct_B.mean()),
            mean_tokens=float(graded.rollouts.length_B.mean()),
            truncated=float(1 - graded.rollouts.finished_B.mean()),
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
    """A teacher's file as rows of the table; what cannot be used goes to OUT/rejects.jsonl."""
    found = read_responses(run.settings.teacher, problems)
    places = [n for n, problem in enumerate(problems) if problem.id in found.of_problem]
    answered = [problems[n] for n in places]
    if not answered and len(problems) == len(run.problems["train"]):
        raise ValueError(
            f"teacher.file {run.settings.teacher.file!r} answers none of the {len(problems)} "
            "problems of the train set; its lines name them by id or question"
        )
    if not answered:
        return
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
    rejects = [*found.rejects, *unusable(graded, limit)]
    if rejects:
        path = run.folder.root / "rejects.jsonl"
        write_rejects(path, rejects)
        run.progress.log(f"{len(rejects)} responses of the teacher cannot be used: {path}")
    table.add(take_rows(graded, rollouts.length_B <= limit), step=state.steps)


def _open(run: Session, state: RunState, phase: Phase, limit: int) -> Table:
    """The table of a phase: of its own name, of an iteration its step too."""
    name = phase.name if phase.collect.every == "once" else f"{phase.name}-{state.steps:05d}"
    folder = run.folder.tables / name
    if phase.collect.reference and run.settings.reference_table is not None:
        folder = pathlib.Path(run.settings.reference_table)
    return open_table(folder, table_key(run, phase, limit))


def table_key(run: Session, phase: Phase, limit: int) -> dict[str, Any]:
    """What a table's rows depend on, the seed left out: they are draws, whichever."""
    settings, collect = run.settings, phase.collect
    engine, options = run.engine, settings.sample
    named: dict[str, Any] = {"policy": collect.policy}
    if collect.policy == "teacher":
        engine = run.teacher.engine if run.teacher is not None else engine
        named["teacher"] = settings.teacher.model or settings.teacher.file
    if collect.every == "once" and collect.policy != "teacher":
        named["model"] = model_digest(run)
    chosen = {
        name: getattr(options, name) if getattr(collect, name) is None else getattr(collect, name)
        for name in ("temperature", "top_p", "top_k")
    }
    lenient = {
        name: getattr(settings.verify, name)
        for name in ("answer", "after_thought", "unfinished_is_wrong")
    }
    shown = {"problems": plain(settings.problems)["name"], "noise": repr(engine.environment)}
    return {
        **named,
        "tokenizer": _digest(json.dumps(engine.tokenizer.get_vocab(), sort_keys=True)),
        "template": _digest(str(engine.tokenizer.chat_template)),
        "text": plain(engine.text),
        "condition": repr(phase.condition),
        **chosen,
        "min_p": options.min_p,
        "limit": limit,
        "samples": collect.samples,
        **lenient,
        **shown,
    }


def model_digest(run: Session) -> str:
    """Of the start model's weights: names, sizes, and the first and last megabyte of its files."""
    digest = hashlib.blake2b(digest_size=8)
    folder = run.policy.folder
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            digest.update(f"{path.name} {path.stat().st_size}".encode())
            digest.update(file.read(1 << 20))
            file.seek(max(0, path.stat().st_size - (1 << 20)))
            digest.update(file.read())
    return digest.hexdigest()


def _digest(said: str) -> str:
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


def reference(run: Session, state: RunState) -> Groups | None:
    """The reference table of all phases that have made one, by problem."""
    if not state.tables:
        return None
    key = tuple(state.tables.values())
    if key not in run.tables:
        run.tables.clear()
        run.tables[key] = _groups(key)
    return run.tables[key]


def _groups(folders: Sequence[str]) -> Groups:
    return join([Groups.of(Table(pathlib.Path(f)).everything()) for f in folders])
