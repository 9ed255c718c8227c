"""``evaluate``: accuracy and lengths of a model with intervals, alone or paired with another.

``--like RUN`` takes the problems, the prompt and the sampling of a run's test, so that an exported
model can be measured again as the run measured it.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
from typing import Any

from pruner_jax.config import EvaluateConfig
from pruner_jax.measure import stats
from pruner_jax.measure.outcomes import Outcomes, outcomes
from pruner_jax.measure.summary import plain, summary, versions
from pruner_jax.mesh import LEARN_RULES, make_mesh
from pruner_jax.policy import handle
from pruner_jax.problems.source import load_problems
from pruner_jax.report.progress import Progress
from pruner_jax.run.compilation import keep_compiled_programs
from pruner_jax.run.engine import Engine
from pruner_jax.run.measuring import measure
from pruner_jax.run.programs import answer, check_are_programs, lines
from pruner_jax.store.folder import write_atomically
from pruner_jax.store.records import write_rollouts
from pruner_jax.types import Problem, Purpose
from pruner_jax.verify.pool import Verifier

_COMPARED = ("accuracy_change", "token_ratio", "aes", "by_difficulty", "confidence", "resamples")


def evaluate_verb(settings: EvaluateConfig) -> dict[str, Any]:
    """Measure one model, or two on the same problems; the numbers."""
    if settings.test.limit is None:
        raise ValueError(
            "test.limit is not set: say how long an answer may be (--test.limit=N), or take all "
            "settings from a run with --like RUN"
        )
    settings.programs.check_samples(settings.test.samples, settings.test.temperature)
    if settings.out is not None:
        pathlib.Path(settings.out).mkdir(parents=True, exist_ok=True)
    keep_compiled_programs()
    problems = load_problems(settings.problems, settings.split)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress())
        verifier = stack.enter_context(Verifier(settings.verify))
        if settings.programs.asked:
            check_are_programs(verifier, problems)
        verifier.prepare(problems)
        result: dict[str, Any] = {}
        measured = {}
        names = {"model": settings.model, "against": settings.against}
        for name, folder in names.items():
            if folder is not None:
                measured[name], programs = _measure(
                    settings, name, folder, problems, verifier, progress
                )
                result[name] = {
                    "folder": str(folder),
                    **({"programs": programs} if programs else {}),
                    **stats.describe(
                        measured[name],
                        settings.test.confidence,
                        settings.test.resamples,
                        settings.seed,
                    ),
                }
        if settings.against is not None:
            both = _compare(settings, measured["against"], measured["model"])
            progress.show(both)
            result |= {name: both[name] for name in _COMPARED}
        else:
            _show(progress, result["model"])
        result = plain(result)
        if settings.out is not None:
            path = pathlib.Path(settings.out) / "evaluation.json"
            write_atomically(path, json.dumps(result, indent=2) + "\n")
    return result


def _measure(
    settings: EvaluateConfig,
    name: str,
    folder: str,
    problems: list[Problem],
    verifier: Verifier,
    progress: Progress,
) -> tuple[Outcomes, dict[str, Any]]:
    """One model on the problems, and how its programs came about where that was asked for."""
    mesh = make_mesh(settings.mesh.data, settings.mesh.fsdp, settings.mesh.tensor)
    policy = handle.load(folder, mesh=mesh, rules=LEARN_RULES)
    engine = Engine.of(
        policy,
        text_options=settings.text,
        sampling=settings.sample,
        verifier=verifier,
        seed=settings.seed,
        problems=settings.problems,
    )
    params = engine.decode_params(policy.params)
    del policy
    shared = {"purpose": Purpose(settings.split), "progress": progress, "title": f"{name} {folder}"}
    programs: dict[str, Any] = {}
    if settings.programs.asked:
        graded, programs = answer(
            engine, params, problems, settings.test, settings.programs, **shared
        )
        for line in lines(programs):
            progress.log(line)
    else:
        graded = measure(
            engine, params, problems, settings.test, limit=settings.test.limit, **shared
        )
    if settings.out is not None:
        path = pathlib.Path(settings.out) / f"{name}.parquet"
        write_rollouts(path, graded, round=0, step=0)
    return outcomes(graded), programs


def _compare(settings: EvaluateConfig, base: Outcomes, final: Outcomes) -> dict[str, Any]:
    """What the model changes against the other one, problem by problem; a summary of both."""
    return summary(
        base,
        final,
        versions=versions(),
        confidence=settings.test.confidence,
        resamples=settings.test.resamples,
        seed=settings.seed,
    )


def _show(progress: Progress, found: dict[str, Any]) -> None:
    """One model's numbers, a line each."""
    low, high = (found["accuracy_in_general"][end] for end in ("low", "high"))
    progress.log(f"accuracy              {found['accuracy']:.4f} ({low:.4f} to {high:.4f})")
    for name in ("mean_tokens", "median_tokens", "mean_thinking_tokens", "mean_answer_tokens"):
        progress.log(f"{name.replace('_', ' '):<22}{found[name]:.2f}")
    progress.log(
        f"cut at the limit      {found['truncated']:.2%}\n{found['n_problems']} problems, "
        f"{found['samples_per_problem']} samples each, limit {found['limit']} tokens"
    )
