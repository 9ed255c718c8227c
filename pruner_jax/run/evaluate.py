"""``evaluate``: accuracy and lengths of a model with intervals, alone or paired with another.

``--expander.model=E`` measures the pipeline of both beside it: the model's thought, E's answer.

With ``--out`` the responses are kept part by part, and the same command goes on where it was
(`kept`); a model whose responses are all there is not loaded.

``--like RUN`` takes the problems, the prompt and the sampling of a run's test, so that an exported
model can be measured again as the run measured it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any

from pruner_jax.config import EvaluateConfig
from pruner_jax.measure import stats
from pruner_jax.measure.outcomes import Outcomes, outcomes
from pruner_jax.measure.summary import plain, summary, versions
from pruner_jax.mesh import make_mesh
from pruner_jax.policy import hf
from pruner_jax.problems.source import load_problems
from pruner_jax.report.progress import Progress
from pruner_jax.run import joint
from pruner_jax.run.compilation import keep_compiled_programs
from pruner_jax.run.engine import Engine
from pruner_jax.run.interrupts import Interrupts
from pruner_jax.run.joint import Joint
from pruner_jax.run.kept import file_of, take_file
from pruner_jax.run.measuring import keep_parts, measure, measured, read_outcomes
from pruner_jax.run.memory import check_memory, device_bytes, evaluation_stages
from pruner_jax.run.programs import answer, check_are_programs, lines, load_scorer
from pruner_jax.run.second import Second, check_room, load_expander, load_second
from pruner_jax.sample.steps import Scorer
from pruner_jax.store.folder import lock, write_atomically
from pruner_jax.store.mirror import local
from pruner_jax.store.records import read_graded, write_rollouts
from pruner_jax.types import Graded, Problem, Purpose
from pruner_jax.verify.pool import Verifier

PyTree = Any

_COMPARED = ("accuracy_change", "token_ratio", "aes", "by_difficulty", "confidence", "resamples")


def evaluate_verb(settings: EvaluateConfig) -> dict[str, Any]:
    """Measure one model, or two on the same problems; the numbers."""
    if settings.test.limit is None:
        raise ValueError(
            "test.limit is not set: say how long an answer may be (--test.limit=N), or take all "
            "settings from a run with --like RUN"
        )
    settings.test.note()  # raises where a budget cannot be told
    settings.programs.check_samples(settings.test.samples, settings.test.temperature)
    if settings.programs.asked and settings.expander.model is not None:
        raise ValueError(
            f"expander.model is {settings.expander.model!r} and programs.refine, vote or beams is "
            "set: a pipeline is measured on single answers; set one of them to null, 0 or false"
        )
    score = load_scorer(settings.programs.scorer)
    names = {"model": settings.model, "against": settings.against}
    with contextlib.ExitStack() as stack:
        names = {name: model for name, model in names.items() if model is not None}
        found = names
        if settings.out is not None:
            folder = local(settings.out, "out")
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(folder))
            found = {name: take_file(settings, name, model) for name, model in names.items()}
        keep_compiled_programs()
        problems = load_problems(settings.problems, settings.split)
        progress = stack.enter_context(Progress())
        verifier = stack.enter_context(Verifier(settings.verify))
        if settings.programs.asked:
            check_are_programs(verifier, problems)
        verifier.prepare(problems)
        asked = problems[: settings.test.problems]
        expander = _expander(settings, verifier, checked_only=True)
        if expander is not None:
            check_room(expander, settings.expander, asked, settings.test.limit, "test.limit")
        mesh = make_mesh(settings.mesh.data, settings.mesh.fsdp, settings.mesh.tensor)
        load = functools.partial(
            load_second,
            text_options=settings.text,
            sampling=settings.sample,
            verifier=verifier,
            seed=settings.seed,
            mesh=mesh,
            problems=settings.problems,
        )
        engines = {name: load(model, checked_only=True).engine for name, model in found.items()}
        second = expander and expander.engine
        stages = evaluation_stages(engines, second, mesh, asked, settings.test, settings.split)
        progress.log(check_memory(stages, device_bytes(mesh)))
        expander = _expander(settings, verifier)
        result: dict[str, Any] = {}
        alone, together = {}, {}
        for name, folder in names.items():
            large = functools.cache(functools.partial(load, found[name]))  # if it has to sample
            graded, alone[name], programs = _answer(
                settings,
                name,
                engines[name],
                lambda large=large: large().params,
                problems,
                score,
                title=f"{name} {folder}",
                progress=progress,
            )
            numbers = stats.describe(
                alone[name],
                settings.test.confidence,
                settings.test.resamples,
                settings.seed,
                _budget(settings),
            )
            if programs:
                numbers |= {"programs": programs, **_of_one_answer(settings)}
            commit = hf.commit_of(hf.find_folder(found[name]))
            result[name] = {"folder": str(folder), "commit": commit, **numbers}
            if expander is not None:
                together[name], result[name]["joint"] = _measure_joint(
                    settings, large(), graded(), expander, problems, progress
                )
                if settings.out is not None:
                    path = pathlib.Path(settings.out) / f"{name}-joint.json"
                    write_atomically(path, json.dumps(joint.by_problem(together[name])) + "\n")
            del large
        if settings.against is not None:
            both = _compare(settings, alone["against"], alone["model"])
            progress.show(both)
            result |= {name: both[name] for name in _COMPARED}
        else:
            _show(progress, result["model"])
        for name in together:
            progress.log(f"\n{name} {names[name]} with the expander {settings.expander.model}")
            joint.show(progress, result[name]["joint"])
        if len(together) == 2:
            result["joint"] = joint.compare(
                together["against"], together["model"], settings.test, settings.seed
            )
            progress.log("\nboth with the expander")
            joint.show_comparison(progress, result["joint"])
        result = plain(result)
        if settings.out is not None:
            path = pathlib.Path(settings.out) / "evaluation.json"
            write_atomically(path, json.dumps(result, indent=2) + "\n")
    return result


def _answer(
    settings: EvaluateConfig,
    name: str,
    engine: Engine,
    params: Callable[[], PyTree],
    problems: list[Problem],
    score: Scorer | None,
    *,
    title: str,
    progress: Progress,
) -> tuple[Callable[[], Graded], Outcomes, dict[str, Any]]:
    """One model on the problems, and how its programs came about where that was asked for; their
    outcomes then count all tokens that led to an answer. The responses may have to be read, and
    ``params``, which loads the weights, is asked only if some are not there yet."""
    test = settings.test
    shared = {"purpose": Purpose(settings.split), "progress": progress}
    if settings.programs.asked:
        graded, found, programs = answer(
            engine,
            params(),
            problems,
            test,
            settings.programs,
            score=score,
            title=title,
            **shared,
        )
        for line in lines(programs):
            progress.log(line)
        if settings.out is not None:
            write_rollouts(file_of(settings, name), graded, round=0, step=0)
        return lambda: graded, found, programs

    def sample(some: list[Problem], **how: Any) -> Graded:
        return measure(engine, params(), some, options=test, limit=test.limit, **shared, **how)

    if settings.out is None:
        graded = sample(problems, title=title)
        return lambda: graded, outcomes(graded), {}
    path, asked = file_of(settings, name), problems[: test.problems]
    at_once = max(1, engine.rows_together(test.limit) // test.samples)
    with Interrupts() as interrupts:
        keep_parts(
            path,
            len(asked),
            at_once,
            lambda part, some: sample(asked[part], title=title + some, check=interrupts.check),
        )
    by_id = {problem.id: problem for problem in asked}
    return lambda: read_graded([path], by_id), read_outcomes(path), {}


def _expander(
    settings: EvaluateConfig, verifier: Verifier, checked_only: bool = False
) -> Second | None:
    """The second model, if there is one."""
    if settings.expander.model is None:
        return None
    return load_expander(
        settings.expander,
        sampling=settings.sample,
        verifier=verifier,
        seed=settings.seed,
        mesh=make_mesh(settings.mesh.data, settings.mesh.fsdp, settings.mesh.tensor),
        checked_only=checked_only,
    )


def _measure_joint(
    settings: EvaluateConfig,
    large: Second,
    graded: Graded,
    expander: Second,
    problems: list[Problem],
    progress: Progress,
) -> tuple[Joint, dict[str, Any]]:
    """The pipeline of a measured model and the expander: what it is worth, takes and costs."""
    large = Second(measured(large.engine, settings.test), large.params)
    found = joint.measure_joint(large.engine, graded, expander, settings.expander, progress)
    return found, {
        "expander": settings.expander.model,
        **joint.describe(found, settings.test, settings.seed),
        "cost": joint.costs(found, settings.serving, large, expander),
        "serving": joint.serve(
            large,
            expander,
            settings.expander,
            settings.serving,
            problems[: settings.test.problems],
            limit=settings.test.limit,
            progress=progress,
        ),
    }


def _compare(settings: EvaluateConfig, base: Outcomes, final: Outcomes) -> dict[str, Any]:
    """What the model changes against the other one, problem by problem; a summary of both."""
    found = summary(
        base,
        final,
        versions=versions(),
        confidence=settings.test.confidence,
        resamples=settings.test.resamples,
        seed=settings.seed,
        budget=_budget(settings),
    )
    if settings.programs.asked:
        for side in ("base", "final"):
            found[side] |= _of_one_answer(settings)
    return found


def _budget(settings: EvaluateConfig) -> int | None:
    """The budget that lengths are compared with: not where they count all that led to an answer."""
    return None if settings.programs.asked else settings.test.budget


def _of_one_answer(settings: EvaluateConfig) -> dict[str, int | None]:
    """What a description says of one answer, where all that led to it is counted: its limit, and
    nothing of the parts, which are those of the last answer."""
    parts = ("mean_thinking_tokens", "mean_answer_tokens")
    nothing = dict.fromkeys((*parts, *(f"{name}_in_general" for name in parts)))
    return {"limit": settings.test.limit, **nothing}


def _show(progress: Progress, found: dict[str, Any]) -> None:
    """One model's numbers, a line each."""
    low, high = (found["accuracy_in_general"][end] for end in ("low", "high"))
    progress.log(f"{'accuracy':<24}{found['accuracy']:.4f} ({low:.4f} to {high:.4f})")
    for name in ("mean_tokens", "mean_thinking_tokens", "mean_answer_tokens"):
        if found[name] is not None:
            low, high = (found[f"{name}_in_general"][end] for end in ("low", "high"))
            label = name.replace("_", " ")
            progress.log(f"{label:<24}{found[name]:.2f} ({low:.2f} to {high:.2f})")
    progress.log(f"{'median tokens':<24}{found['median_tokens']:.2f}")
    low, high = (found["truncated_in_general"][end] for end in ("low", "high"))
    progress.log(f"{'cut at the limit':<24}{found['truncated']:.2%} ({low:.2%} to {high:.2%})")
    if told := found.get("budget"):
        off, within, over = (told[part] for part in ("distance", "within", "over"))
        progress.log(
            f"{'off its budget':<24}{off['value']:.2f} ({off['low']:.2f} to {off['high']:.2f}), "
            f"the mean of |tokens - {told['tokens']}|"
        )
        for label, part in (("within its budget", within), ("over its budget", over)):
            share = f"{part['value']:.2%} ({part['low']:.2%} to {part['high']:.2%})"
            progress.log(f"{label:<24}{share}")
    progress.log(
        f"{found['n_problems']} problems, {found['samples_per_problem']} samples each, "
        f"limit {found['limit']} tokens"
    )
