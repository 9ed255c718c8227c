"""``evaluate``: accuracy and lengths of a model with intervals, alone or paired with another.

``--expander.model=E`` measures the pipeline of both beside it: the model's thought, E's answer.

With ``--out`` the responses are kept part by part, and the same command goes on where it was
(`kept`); a model whose responses are all there is not loaded.

``--like RUN`` takes the problems, the prompt and the sampling of a run's test, so that an exported
model can be measured again as the run measured it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pruner_jax.config import EvaluateConfig
from pruner_jax.measure import stats
from pruner_jax.measure.outcomes import Outcomes, outcomes
from pruner_jax.measure.summary import plain, summary, versions
from pruner_jax.pod.start import start as start_pod
from pruner_jax.pod.together import ALONE, Pod
from pruner_jax.policy import hf
from pruner_jax.problems.source import load_problems
from pruner_jax.report.progress import Progress
from pruner_jax.run import joint
from pruner_jax.run.beams import load_scorer
from pruner_jax.run.engine import Engine
from pruner_jax.run.interrupts import Interrupts
from pruner_jax.run.joint import Joint
from pruner_jax.run.kept import file_of, take_file
from pruner_jax.run.measuring import keep_parts, measure, measured, read_outcomes
from pruner_jax.run.memory import check_memory, device_bytes, evaluation_stages
from pruner_jax.run.processors import use_processors
from pruner_jax.run.programs import answer, check_are_programs, lines
from pruner_jax.run.second import Second, check_room, load_expander, load_second
from pruner_jax.run.surroundings import Surroundings, check_hosts, open_surroundings
from pruner_jax.sample.steps import Scorer
from pruner_jax.store.folder import lock, write_atomically
from pruner_jax.store.mirror import local
from pruner_jax.store.records import read_graded, write_rollouts
from pruner_jax.types import Graded, Problem, Purpose

PyTree = Any

_COMPARED = ("accuracy_change", "token_ratio", "aes", "by_difficulty", "confidence", "resamples")


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What stays the same during an evaluation."""

    settings: EvaluateConfig  # on many hosts with the first one's ``out``
    around: Surroundings
    names: dict[str, str]  # "model" and "against", as the settings name them
    found: dict[str, str]  # by what to find each of them
    engines: dict[str, Engine]
    expander: Second | None
    score: Scorer | None
    interrupts: Interrupts

    @property
    def problems(self) -> list[Problem]:
        """All of the set that is asked; ``test.problems`` may take the first ones."""
        return self.around.problems[self.settings.split]


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
    models = (settings.model, settings.against, settings.expander.model)
    use_processors(models, settings.mesh, settings.pod)
    with start_pod(settings.pod) as pod:
        return evaluate(settings, pod)


def evaluate(settings: EvaluateConfig, pod: Pod = ALONE) -> dict[str, Any]:
    """The same by the processes of a pod: each samples and checks its share of the problems, all
    have all numbers, and the first one writes and shows."""
    with _open(settings, pod) as run:
        result: dict[str, Any] = {}
        alone, together = {}, {}
        for name in run.names:
            result[name], alone[name], together[name] = _measure(run, name)
        _tell(run, result, alone, {name: found for name, found in together.items() if found})
        result = plain(result)
        _write(run, "evaluation.json", json.dumps(result, indent=2))
    return result


@contextlib.contextmanager
def _open(settings: EvaluateConfig, pod: Pod) -> Iterator[Evaluation]:
    """All that is needed, checked, before weights are loaded; those of the expander then are."""
    check_hosts(settings, pod)
    settings = dataclasses.replace(settings, out=pod.lead(lambda: settings.out))
    score = load_scorer(settings.programs.scorer)
    load = functools.partial(load_problems, settings.problems, settings.split)
    with contextlib.ExitStack() as stack:
        around = stack.enter_context(
            open_surroundings(settings, pod, lambda: {settings.split: load()})
        )
        problems = around.problems[settings.split]
        if settings.programs.asked:
            check_are_programs(around.verifier, problems)
        named = {"model": settings.model, "against": settings.against}
        names = {name: model for name, model in named.items() if model is not None}
        found = pod.lead(_take, settings, names, stack)
        asked = problems[: settings.test.problems]
        expander = None
        if settings.expander.model is not None:
            expander = load_expander(settings.expander, **around.shared, checked_only=True)
            check_room(expander, settings.expander, asked, settings.test.limit, "test.limit")
        every = {**found, **({"expander": settings.expander.model} if expander else {})}
        around.check_models(every)
        engines = {
            name: load_second(model, **around.own, checked_only=True).engine
            for name, model in found.items()
        }
        second, mesh = expander and expander.engine, around.mesh
        stages = evaluation_stages(engines, second, mesh, asked, settings.test, settings.split)
        around.progress.log(check_memory(stages, device_bytes(mesh)))
        kept = settings.out is not None and not settings.programs.asked
        interrupts = stack.enter_context(Interrupts(pod, kept))
        if expander is not None:
            expander = load_expander(settings.expander, **around.shared)
        yield Evaluation(settings, around, names, found, engines, expander, score, interrupts)


def _take(
    settings: EvaluateConfig, names: Mapping[str, str], stack: contextlib.ExitStack
) -> dict[str, str]:
    """By what to find each model, once the folder is taken, if there is one."""
    if settings.out is None:
        return dict(names)
    out = local(settings.out, "out")
    out.mkdir(parents=True, exist_ok=True)
    stack.enter_context(lock(out))
    return {name: take_file(settings, name, model) for name, model in names.items()}


def _write(run: Evaluation, name: str, text: str) -> None:
    """A file of the folder, if there is one."""
    if run.settings.out is not None:
        path = pathlib.Path(run.settings.out) / name
        run.around.pod.lead(write_atomically, path, text + "\n")


def _measure(run: Evaluation, name: str) -> tuple[dict[str, Any], Outcomes, Joint | None]:
    """The numbers of one model, what they are computed on, and that of its pipeline, if there is an
    expander."""
    settings, model = run.settings, run.found[name]
    large = functools.cache(functools.partial(load_second, model, **run.around.own))
    graded, alone, programs = _answer(run, name, lambda: large().params)  # if it has to sample
    numbers = stats.describe(
        alone,
        settings.test.confidence,
        settings.test.resamples,
        settings.seed,
        _budget(settings),
    )
    if programs:
        numbers |= {"programs": programs, **_of_one_answer(settings)}
    commit = hf.commit_of(hf.find_folder(model))
    numbers = {"folder": str(run.names[name]), "commit": commit, **numbers}
    together = None
    if run.expander is not None:
        together, numbers["joint"] = _measure_joint(run, large(), graded())
        _write(run, f"{name}-joint.json", json.dumps(joint.by_problem(together)))
    return numbers, alone, together


def _answer(
    run: Evaluation, name: str, params: Callable[[], PyTree]
) -> tuple[Callable[[], Graded], Outcomes, dict[str, Any]]:
    """One model on the problems, and how its programs came about where that was asked for; their
    outcomes then count all tokens that led to an answer. The responses may have to be read, and
    ``params``, which loads the weights, is asked only if some are not there yet."""
    settings, engine, pod = run.settings, run.engines[name], run.around.pod
    test, title = settings.test, f"{name} {run.names[name]}"
    shared = {"purpose": Purpose(settings.split), "progress": run.around.progress}
    shared["check"] = run.interrupts.check
    if settings.programs.asked:
        graded, found, programs = answer(
            engine,
            params(),
            run.problems,
            test,
            settings.programs,
            score=run.score,
            title=title,
            **shared,
        )
        for line in lines(programs):
            run.around.progress.log(line)
        if settings.out is not None:
            write = functools.partial(write_rollouts, round=0, step=0)
            pod.lead(write, file_of(settings, name), graded)
        return lambda: graded, found, programs

    def sample(some: list[Problem], title: str) -> Graded:
        return measure(
            engine, params(), some, options=test, limit=test.limit, title=title, **shared
        )

    if settings.out is None:
        graded = sample(run.problems, title)
        return lambda: graded, outcomes(graded), {}
    path, asked = file_of(settings, name), run.problems[: test.problems]
    at_once = max(1, engine.rows_together(test.limit) // test.samples)
    keep_parts(path, len(asked), at_once, lambda part, some: sample(asked[part], title + some), pod)
    by_id = {problem.id: problem for problem in asked}
    return lambda: pod.lead(read_graded, [path], by_id), pod.lead(read_outcomes, path), {}


def _tell(
    run: Evaluation,
    result: dict[str, Any],
    alone: Mapping[str, Outcomes],
    together: Mapping[str, Joint],
) -> None:
    """Show the numbers; those of two models compared are added to the result."""
    settings, progress = run.settings, run.around.progress
    if settings.against is not None:
        both = _compare(settings, alone["against"], alone["model"])
        progress.show(both)
        result |= {name: both[name] for name in _COMPARED}
    else:
        _show(progress, result["model"])
    for name in together:
        progress.log(f"\n{name} {run.names[name]} with the expander {settings.expander.model}")
        joint.show(progress, result[name]["joint"])
    if len(together) == 2:
        result["joint"] = joint.compare(
            together["against"], together["model"], settings.test, settings.seed
        )
        progress.log("\nboth with the expander")
        joint.show_comparison(progress, result["joint"])


def _measure_joint(run: Evaluation, large: Second, graded: Graded) -> tuple[Joint, dict[str, Any]]:
    """The pipeline of a measured model and the expander: what it is worth, takes and costs. How
    long it takes is measured by the first process alone, on its own devices."""
    settings, expander, progress = run.settings, run.expander, run.around.progress
    check = run.interrupts.check
    large = Second(measured(large.engine, settings.test), large.params)
    found = joint.measure_joint(large.engine, graded, expander, settings.expander, progress, check)
    serve = functools.partial(
        joint.serve, limit=settings.test.limit, progress=progress, check=check
    )
    asked = run.problems[: settings.test.problems]
    return found, {
        "expander": settings.expander.model,
        **joint.describe(found, settings.test, settings.seed),
        "cost": joint.costs(found, settings.serving, large, expander),
        "serving": run.around.pod.lead(
            serve, large, expander, settings.expander, settings.serving, asked
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
