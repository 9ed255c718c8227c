"""What is checked before a run samples its first token, so that a contradiction costs seconds.

Settings against the method, prompts against the model's context, and what a later start must find
unchanged. Everything raises ``ValueError`` with the setting to change.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from pruner_jax.config import EvaluateConfig, PruneConfig, plain
from pruner_jax.objective import slots
from pruner_jax.objective.hint import Hint
from pruner_jax.objective.method import Method, Phase, check, idle
from pruner_jax.objective.statistics import Words, Written
from pruner_jax.objective.task import Expanded, Utility
from pruner_jax.run.engine import Engine
from pruner_jax.run.measuring import as_told
from pruner_jax.types import Graded, Problem, Purpose


def inputs(settings: PruneConfig) -> list[pathlib.Path]:
    """Files on which the results of a run depend: those that the settings name, and the description
    of the model."""
    described = pathlib.Path(settings.model) / "config.json"
    return sorted({*named_files(settings), *([described] if described.is_file() else [])})


def named_files(settings: PruneConfig | EvaluateConfig) -> list[pathlib.Path]:
    """Files that settings name, wherever they do: the code of a method or a checker, tables of
    problems."""

    def texts(tree: Any) -> Iterator[str]:
        if isinstance(tree, dict):
            for key, value in tree.items():
                yield from (key, *texts(value))
        elif isinstance(tree, list):
            for value in tree:
                yield from texts(value)
        elif isinstance(tree, str):
            yield tree

    rooms = ("problems", "verify", "method", "teacher", "programs")
    named = texts([plain(getattr(settings, room)) for room in rooms if hasattr(settings, room)])
    paths = [
        pathlib.Path(name.rpartition(".py:")[0] + ".py" if ".py:" in name else name)
        for name in named
    ]
    return sorted({path for path in paths if path.is_file()})


def check_method(settings: PruneConfig, method: Method) -> None:
    """The run has all that the method needs, and its rounds can play it."""
    offers = {"monitor", "answers", "resample"}
    if settings.expander.model is not None:
        offers.add("expander")
    if settings.teacher.model is not None or settings.teacher.file is not None:
        offers.add("teacher")
    check(method, offers)
    wrong = [
        f"{name}={value!r} (it is {found!r})"
        for name, found, value in _differing(settings, method.requires)
    ]
    if wrong:
        raise ValueError(
            f"method {method.name!r} as asked for by method.options makes sense only with "
            f"{', '.join(wrong)}; set these, or other options"
        )
    for phase in method.phases:
        where = f"method {method.name!r}, phase {phase.name!r}"
        if phase.loss is None and phase.collect.every == "step":
            raise ValueError(
                f"{where} collects at every step and nothing learns from it; set its "
                "collect.every to once or iteration, or give it a loss"
            )
        if phase.loss is not None and phase.collect.policy == "teacher" and phase.loss.kind == "pg":
            raise ValueError(
                f"{where}: loss.kind is 'pg', but a teacher's rows have no log-probabilities of "
                "the policy; allowed: ce, pairs"
            )
        resets = dataclasses.asdict(phase.reset).values()
        if "iteration" in resets and phase.collect.every != "iteration":
            raise ValueError(
                f"{where} resets by iteration but collects every {phase.collect.every}; set its "
                "collect.every to iteration, or its resets to round or never"
            )
        if phase.collect.reference and phase.collect.problems is not None and phase.loss is None:
            raise ValueError(
                f"{where}: the reference table would have {phase.collect.problems} problems only, "
                "but all are trained on; set its collect.problems to null, or use train_limit "
                "(problems.train_limit)"
            )
    if settings.reference_table is not None and not any(
        phase.collect.reference for phase in method.phases
    ):
        raise ValueError(
            f"reference_table is {settings.reference_table!r}, but {method.name} has no phase "
            "with collect.reference; set it to null"
        )


def check_thoughts(method: Method, graded: Graded) -> None:
    """A method that looks at thoughts has some to look at, in the start model's responses."""
    slots_of = [slot for phase in method.phases for _, slot in slots.walk(phase)]
    looks = any(
        isinstance(slot, (Utility, Expanded, Words)) or getattr(slot, "measure", "") == "thinking"
        for slot in slots_of
    )
    if looks and not graded.rollouts.thinking_B.any():
        raise ValueError(
            f"{method.name} looks at the thoughts of responses, but in {len(graded)} responses of "
            "the start model none was found; say which tags enclose them (text.think_open, "
            "text.think_close), or let the prompt ask for them (text.instruction, text.plain)"
        )


def check_settings(settings: PruneConfig, method: Method) -> None:
    """On-policy rows come from the whole distribution, rounds can go on where they are to, monitor
    and test can be measured."""
    for phase in method.phases:
        _check_sampling(settings, phase)
    _check_patience(settings, method)
    for name in ("monitor", "test"):
        limit, options = cap(settings, name), as_told(getattr(settings, name), method)
        try:
            options.check_budget(limit)
            options.note()
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if settings.monitor.samples < 2 and heeds_tolerance(settings, method):
        raise ValueError(
            f"monitor.samples is {settings.monitor.samples}; the checkpoint rule needs 2 or more "
            "to tell a loss from noise (pick.rule last does not)"
        )


def heeds_tolerance(settings: PruneConfig, method: Method) -> bool:
    """Whether anything asks if a checkpoint is within ``pick.tolerance``: the pick, ``auto`` limits
    or a controller of the method."""
    shortest, auto = settings.pick.rule != "last", settings.rounds.limits == "auto"
    parts = (slot for phase in method.phases for _, slot in slots.walk(phase))
    return shortest or auto or any(getattr(x, "metric", "") == "monitor/margin" for x in parts)


def _check_patience(settings: PruneConfig, method: Method) -> None:
    """A round can go on only where more steps are like those before, and the pick looks for one."""
    patience, schedule = settings.rounds.patience, settings.optimizer.schedule
    if not patience:
        return
    if schedule != "constant":
        raise ValueError(
            f"rounds.patience is {patience}, but with optimizer.schedule {schedule!r} the learning "
            "rate is 0 at the end of the run's steps; set patience to 0 or the schedule to constant"
        )
    learnt = [phase for phase in method.phases if phase.loss is not None]
    if any(phase.collect.every != "step" for phase in learnt):
        raise ValueError(
            f"rounds.patience is {patience}, but {method.name} passes over collected rows in so "
            "many steps as there are; set it to 0"
        )
    if settings.pick.rule == "last":
        raise ValueError(
            f"rounds.patience is {patience}, but pick.rule is 'last', which takes the last "
            "checkpoint whatever it is like; set patience to 0"
        )


def _check_sampling(settings: PruneConfig, phase: Phase) -> None:
    sample, collect = settings.sample, phase.collect
    temperature = sample.temperature if collect.temperature is None else collect.temperature
    learnt = phase.loss is not None and phase.loss.kind == "pg"
    if collect.every != "step" or collect.policy != "current":
        if learnt and temperature == 0:
            raise ValueError(
                f"phase {phase.name!r} collects at temperature 0, which leaves no policy "
                "gradient; set collect.temperature (or sample.temperature) above 0"
            )
        return
    if sample.truncates or temperature == 0:
        raise ValueError(
            f"sample.temperature is {temperature:g}, top_k {sample.top_k}, top_p "
            f"{sample.top_p:g}, min_p {sample.min_p:g}: rounds learn from their own samples, whose "
            "log-probabilities must be those of the whole distribution; set temperature above 0, "
            "top_k 0, top_p 1, min_p 0 (monitor and test have their own)"
        )


def unlike_published(method: Method, settings: PruneConfig) -> Iterator[str]:
    """A line for every setting of another room under which the method is not the published one."""
    for name, found, value in _differing(settings, method.wants):
        yield f"{name} is {found!r}; {method.name} as asked for was published with {value!r}"


def _differing(
    settings: PruneConfig, rooms: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, Any, Any]]:
    """Settings that are not as they stand there: their dotted name, value, and the other value."""
    for room, wanted in rooms.items():
        for name, value in wanted.items():
            found = getattr(getattr(settings, room), name)
            if found != value:
                yield f"{room}.{name}", found, value


def idle_parts(method: Method, settings: PruneConfig) -> Iterator[str]:
    """A line for every part of a method that is inert under some or all limits of the run."""
    limits = settings.rounds.limits
    found: dict[str, list[int]] = {}
    for limit in [collection_limit(settings)] if limits == "auto" else dict.fromkeys(limits):
        for phase in method.phases:
            for line in idle(phase, limit):
                found.setdefault(f"{phase.name}.{line}", []).append(limit)
    for line, under in found.items():
        yield f"{method.name}: {line} (rounds.limits {', '.join(map(str, under))})"


def idle_hosts(settings: PruneConfig, method: Method, hosts: int) -> Iterator[str]:
    """A line for every phase whose steps have fewer prompts than there are hosts to share them."""
    for phase in method.phases:
        prompts = settings.rounds.prompts
        if phase.collect.every == "step" and prompts < hosts:
            yield (
                f"phase {phase.name!r} has {prompts} prompts a step (rounds.prompts) for {hosts} "
                f"hosts, and all rows of a prompt are sampled on one: {hosts - prompts} of them "
                f"have nothing to sample; set rounds.prompts to {hosts} or a multiple of it"
            )


def check_context(
    settings: PruneConfig, method: Method, engine: Engine, problems: dict[str, list[Problem]]
) -> dict[str, int]:
    """Every prompt with its longest response fits into the model: now, not on the second day. How
    many tokens the longest prompt of each set has."""
    found: dict[str, int] = {}
    limits = {
        "train": collection_limit(settings),
        "monitor": cap(settings, "monitor"),
        "test": cap(settings, "test"),
    }
    context = engine.config.context
    for name, part in problems.items():
        limit = limits[name]
        if name == "train":
            ways = _asked(method, part)
        else:
            options = as_told(getattr(settings, name), method)
            notes = [options.note()] * len(part)
            ways = [(part, {"examples": options.examples, "notes": notes})]
        for asked, shown in ways:
            prompts = engine.prompts(asked, purpose=Purpose(name), limit=limit, **shown)
            found[name] = max(found.get(name, 0), *map(len, prompts.tokens))
            for problem, prompt in zip(part, prompts.tokens):
                if len(prompt) + limit > context:
                    cure = "lower the limit (rounds.limits, monitor.limit, test.limit)"
                    if len(prompt) >= context:
                        cure = "shorten its question"
                    raise ValueError(
                        f"{name} set, problem {problem.id!r}: a prompt of {len(prompt)} tokens and "
                        f"a response of up to {limit} do not fit into the model's context of "
                        f"{context} (max_position_embeddings in {settings.model}/config.json); "
                        f"{cure}, or take the problem out of its source"
                    )
    return found


def _asked(
    method: Method, problems: list[Problem]
) -> Iterator[tuple[list[Problem], dict[str, Any]]]:
    """Every way in which a method may put the problems at some step: with budgets and worked
    examples, or with the answer as a hint. (Questions that hold an attempt, for repairs, are not
    known beforehand.)"""
    for condition in dict.fromkeys(phase.condition for phase in method.phases):  # each once
        for sentence in condition.longest_sentences():
            yield problems, {"notes": [sentence] * len(problems), "examples": condition.examples}
    for step in (step for phase in method.phases for step in phase.shape):
        if isinstance(step, Hint):
            questions = map(step.question, problems)
            yield (
                [
                    dataclasses.replace(problem, question=question, messages=None)
                    for problem, question in zip(problems, questions)
                ],
                {},
            )


def check_columns(method: Method, problems: list[Problem]) -> None:
    """The training problems have the texts that the method wants."""
    for _, slot in (found for phase in method.phases for found in slots.walk(phase)):
        if isinstance(slot, Written):
            slot.texts(problems)


def problems_of(phase: Phase, settings: PruneConfig, train: int) -> int:
    """Problems that a phase collects rows of at a time; ``train``: how many there are."""
    if phase.collect.problems is not None:
        return (
            min(phase.collect.problems, train)
            if phase.collect.every == "once"
            else phase.collect.problems
        )
    if phase.collect.every == "once":
        return train
    steps = phase.collect.steps if phase.collect.every == "iteration" else 1
    return settings.rounds.prompts * steps


def collection_limit(settings: PruneConfig) -> int:
    """Most tokens of a response that a training problem may get: of the longest round."""
    limits = settings.rounds.limits
    return cap(settings, "monitor") if limits == "auto" else max(limits)


def cap(settings: PruneConfig, name: str) -> int:
    """Most tokens of a response on the monitor or the test set, the same for every model."""
    given = getattr(settings, name).limit
    limits = settings.rounds.limits
    if given is None and limits == "auto":
        raise ValueError(
            f"{name}.limit is not set and rounds.limits is auto: say how long an answer may "
            f"be when models are measured ({name}.limit)"
        )
    return given or max(limits)
