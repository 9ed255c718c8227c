"""An evaluation: sample a set of problems with a model, check, and keep what came out.

Shared by rounds, ``evaluate`` and ``warmup``. Rollouts are kept as Parquet, outcomes (the arrays
statistics are computed on) can be read back from there.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pruner_jax.measure.options import EvaluateOptions
from pruner_jax.measure.outcomes import Outcomes, from_rows
from pruner_jax.objective.condition import Condition, EndThought
from pruner_jax.objective.method import Method, budget_sentence
from pruner_jax.pod.together import ALONE, Pod
from pruner_jax.report.progress import Progress
from pruner_jax.run.conditions import force_hook
from pruner_jax.run.engine import Engine
from pruner_jax.store.records import join_rollouts, read_rollouts, write_rollouts
from pruner_jax.types import Graded, Problem, Purpose

PyTree = Any


def measure(
    engine: Engine,
    params: PyTree,
    problems: Sequence[Problem],
    options: EvaluateOptions,
    *,
    limit: int,
    purpose: Purpose,
    progress: Progress,
    title: str,
    check: Callable[[], None] = lambda: None,
) -> Graded:
    """Graded samples of the set's problems under the evaluation's own sampling settings.

    ``params`` are decode parameters. The prompt names no token limit (``text.limit_sentence`` is a
    matter of training) and no budget but the evaluation's own, so every model is asked the same.
    The random keys depend on the seed, the set and the problem, not on the model, so two models are
    measured with the same draws. ``check`` is called at every look at the device and may raise.
    """
    problems = problems[: options.problems]
    engine = measured(engine, options)
    condition = Condition()
    if options.thinking_budget is not None:
        end = EndThought(after=options.thinking_budget, text=options.thinking_end)
        condition = Condition(force=end)
    total = len(problems) * options.samples
    progress.start(total, title)

    def on_progress(done: int, rows: int, tokens: int) -> None:
        check()
        progress.update(min(total, done * engine.pod.count))  # as if all were as far as this one

    told = -1 if options.budget is None else options.budget
    graded, _ = engine.rollout(
        params,
        engine.prompts(problems, purpose=purpose, limit=limit),
        samples=options.samples,
        limit=limit,
        on_progress=on_progress,
        force=force_hook(condition, engine),
        budget_B=np.full(len(problems) * options.samples, told, np.int32),
    )
    progress.update(
        len(graded),
        accuracy=float(graded.correct_B.mean()),
        mean_tokens=float(graded.rollouts.length_B.mean()),
        truncated=float(1.0 - graded.rollouts.finished_B.mean()),
    )
    progress.finish()
    return graded


def keep_parts(
    path: pathlib.Path,
    problems: int,
    at_once: int,
    sample: Callable[[slice, str], Graded],
    pod: Pod = ALONE,
) -> None:
    """Make a file of rollouts of so many problems. What has been sampled of it is kept, so that an
    evaluation that is stopped goes on with the part that it was at.

    ``sample`` gives the rollouts of some problems; it is told their places, and words for them
    where they are not all.
    """
    write = functools.partial(write_rollouts, round=0, step=0)
    if not pod.lead(path.exists):
        parts, first = [], 0
        while first < problems:
            last = pod.lead(_end_of_part, path, first)
            part = slice(first, last or min(first + at_once, problems))
            parts.append(path.with_name(f"{path.stem}.{first}-{part.stop}.parquet"))
            if last is None:
                some = f", problems {first + 1} to {part.stop}" if at_once < problems else ""
                pod.lead(write, parts[-1], sample(part, some))
            first = part.stop
        pod.lead(join_rollouts, parts, path)
    pod.lead(_drop_parts, path)


def _end_of_part(path: pathlib.Path, first: int) -> int | None:
    """Where the part that begins there ends, of any size; None if there is none."""
    found = path.parent.glob(f"{path.stem}.{first}-*.parquet")
    return max((int(part.stem.rpartition("-")[2]) for part in found), default=None)


def _drop_parts(path: pathlib.Path) -> None:
    for part in path.parent.glob(f"{path.stem}.*-*.parquet"):
        part.unlink()


def measured(engine: Engine, options: EvaluateOptions) -> Engine:
    """The engine under the evaluation's own sampling settings, with prompts that name no limit,
    tell its budget and show its worked examples."""
    silent = dataclasses.replace(engine.text, limit_sentence="")
    asking = dataclasses.replace(
        engine, text=silent, examples=options.examples, note=options.note()
    )
    return asking.with_sampling(
        temperature=options.temperature, top_p=options.top_p, top_k=options.top_k
    )


def as_told(options: EvaluateOptions, method: Method) -> EvaluateOptions:
    """The options with the sentence in which the method tells budgets, where they have none."""
    return dataclasses.replace(
        options, budget_sentence=options.budget_sentence or budget_sentence(method)
    )


def read_outcomes(path: pathlib.Path) -> Outcomes:
    """What an evaluation's Parquet file says, per problem."""
    columns = read_rollouts(
        path,
        ["problem_id", "difficulty", "verdict", "length", "thinking", "finished", "limit"],
    )
    difficulty_B = [np.nan if d is None else d for d in columns["difficulty"]]
    return from_rows(
        columns["problem_id"],
        np.array(difficulty_B),
        np.array([verdict == "correct" for verdict in columns["verdict"]]),
        np.array(columns["length"]),
        np.array(columns["thinking"]),
        np.array(columns["finished"]),
        columns["limit"][0],
    )
