"""``evaluate``: accuracy and lengths of a model with intervals, alone or paired with another.

``--expander.model=E`` measures the pipeline of both beside it: the model's thought, E's answer.

With ``--out`` the responses are kept part by part, and the same command goes on where it was.

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

from pruner_jax.config import ConfigError, EvaluateConfig
from pruner_jax.config import plain as plain_settings
from pruner_jax.measure import stats
from pruner_jax.measure.outcomes import Outcomes, outcomes
from pruner_jax.measure.summary import plain, summary, versions
from pruner_jax.mesh import make_mesh
from pruner_jax.policy import hf
from pruner_jax.problems.source import load_problems
from pruner_jax.report.progress import Progress
from pruner_jax.run import joint
from pruner_jax.run.ahead import model_digest
from pruner_jax.run.checks import named_files
from pruner_jax.run.compilation import keep_compiled_programs
from pruner_jax.run.interrupts import Interrupts
from pruner_jax.run.joint import Joint
from pruner_jax.run.measuring import keep_parts, measure, measured, read_outcomes
from pruner_jax.run.programs import answer, check_are_programs, lines, load_scorer
from pruner_jax.run.second import Second, check_room, load_expander, load_second
from pruner_jax.run.session import MACHINE
from pruner_jax.sample.steps import Scorer
from pruner_jax.settings import Given, build
from pruner_jax.store.folder import FolderError, changes_refused, digests, lock, write_atomically
from pruner_jax.store.records import read_graded, write_rollouts
from pruner_jax.types import Graded, Problem, Purpose
from pruner_jax.verify.pool import Verifier

# What the responses of a model hang on, and what of it may be another when they are gone on with.
_OF_THE_RESPONSES = ("problems", "split", "text", "verify", "sample", "test", "programs", "seed")
_FREE = (*MACHINE, "test.confidence", "test.resamples")

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
        if settings.out is not None:
            pathlib.Path(settings.out).mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock(pathlib.Path(settings.out)))
            for name, folder in names.items():
                if folder is not None:
                    _take_file(settings, name, folder)
        keep_compiled_programs()
        problems = load_problems(settings.problems, settings.split)
        progress = stack.enter_context(Progress())
        verifier = stack.enter_context(Verifier(settings.verify))
        if settings.programs.asked:
            check_are_programs(verifier, problems)
        verifier.prepare(problems)
        expander = _expander(settings, verifier)
        if expander is not None:
            asked = problems[: settings.test.problems]
            check_room(expander, settings.expander, asked, settings.test.limit, "test.limit")
        result: dict[str, Any] = {}
        alone, together = {}, {}
        for name, folder in names.items():
            if folder is None:
                continue
            large = load_second(
                folder,
                text_options=settings.text,
                sampling=settings.sample,
                verifier=verifier,
                seed=settings.seed,
                mesh=make_mesh(settings.mesh.data, settings.mesh.fsdp, settings.mesh.tensor),
                problems=settings.problems,
            )
            graded, alone[name], programs = _answer(
                settings, name, folder, large, problems, score, progress
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
            commit = hf.commit_of(hf.find_folder(folder))
            result[name] = {"folder": str(folder), "commit": commit, **numbers}
            if expander is not None:
                together[name], result[name]["joint"] = _measure_joint(
                    settings, large, graded(), expander, problems, progress
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


def _take_file(settings: EvaluateConfig, name: str, folder: str) -> None:
    """Where responses of a model are there already, they must be those that are asked for.

    Raises:
      FolderError: of another model, or sampled or checked in another way; what differs is named.
        Or there is no note of how they were made.
    """
    path, place = _file(settings, name), hf.find_folder(folder)
    note = path.with_suffix(".settings.json")
    described = hf.description_files(place)
    now = {
        "weights": model_digest(place),
        "described": dict(zip(described, digests(described.values()).values())),
        "files": digests(named_files(settings)),
        **{room: plain_settings(getattr(settings, room)) for room in _OF_THE_RESPONSES},
    }
    if path.exists() or any(path.parent.glob(f"{name}.*-*.parquet")):
        if not note.exists():
            raise FolderError(
                f"{path.parent} holds responses ({path.stem}*.parquet), but {note.name}, which "
                "would say how they were made, is not there: an older version made them, or it was "
                "taken away. Give another --out, or delete them to sample again."
            )
        old = _today(json.loads(note.read_text()), now)
        if changes := changes_refused(old, json.loads(json.dumps(now)), _FREE):
            raise FolderError(
                f"{path.parent} holds responses of another evaluation ({name}):\n"
                + "\n".join(f"  {change}" for change in changes)
                + "\nGive the same settings to continue it, or another --out."
            )
    write_atomically(note, json.dumps(now, indent=2) + "\n")


def _today(written: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """A note that an older version wrote, as this one would: settings that came since are at their
    defaults, and files of which it says nothing are taken as they are."""
    rooms = {room: written[room] for room in _OF_THE_RESPONSES if room in written}
    with contextlib.suppress(ConfigError):  # one of them is no more: they stay what they are
        then = build(EvaluateConfig, Given(None, {"model": "", **rooms}, ()))
        rooms = {room: plain_settings(getattr(then, room)) for room in _OF_THE_RESPONSES}
    files = {path: written["files"].get(path, digest) for path, digest in now["files"].items()}
    return {**now, **written, **json.loads(json.dumps(rooms)), "files": files}


def _file(settings: EvaluateConfig, name: str) -> pathlib.Path:
    return pathlib.Path(settings.out) / f"{name}.parquet"


def _answer(
    settings: EvaluateConfig,
    name: str,
    folder: str,
    large: Second,
    problems: list[Problem],
    score: Scorer | None,
    progress: Progress,
) -> tuple[Callable[[], Graded], Outcomes, dict[str, Any]]:
    """One model on the problems, and how its programs came about where that was asked for; their
    outcomes then count all tokens that led to an answer. The responses may have to be read."""
    title, test = f"{name} {folder}", settings.test
    shared = {"purpose": Purpose(settings.split), "progress": progress}
    if settings.programs.asked:
        graded, found, programs = answer(
            large.engine,
            large.params,
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
            write_rollouts(_file(settings, name), graded, round=0, step=0)
        return lambda: graded, found, programs
    sample = functools.partial(
        measure, large.engine, large.params, options=test, limit=test.limit, **shared
    )
    if settings.out is None:
        graded = sample(problems, title=title)
        return lambda: graded, outcomes(graded), {}
    path, asked = _file(settings, name), problems[: test.problems]
    at_once = max(1, large.engine.rows_together(test.limit) // test.samples)
    with Interrupts() as interrupts:
        keep_parts(
            path,
            len(asked),
            at_once,
            lambda part, some: sample(asked[part], title=title + some, check=interrupts.check),
        )
    by_id = {problem.id: problem for problem in asked}
    return lambda: read_graded([path], by_id), read_outcomes(path), {}


def _expander(settings: EvaluateConfig, verifier: Verifier) -> Second | None:
    """The second model, if there is one."""
    if settings.expander.model is None:
        return None
    return load_expander(
        settings.expander,
        sampling=settings.sample,
        verifier=verifier,
        seed=settings.seed,
        mesh=make_mesh(settings.mesh.data, settings.mesh.fsdp, settings.mesh.tensor),
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
