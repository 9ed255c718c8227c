"""Programs as answers (PaD): searched step by step, repaired while answering, and put to the vote.

`answer` measures a model that does any of it, `taxonomy` counts the classes of failure. `refine`
asks again where a program failed by itself, with the program and the message of its error in the
prompt; `vote` takes, for each problem, the value that most samples return. Neither looks at a gold
answer, nor does the search (`run.beams`): a program that runs and returns the wrong value counts as
fine. All give graded rows. Left out: training to repair (`objective.repair`).
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pruner_jax.measure import stats
from pruner_jax.measure.options import EvaluateOptions
from pruner_jax.measure.outcomes import Outcomes, outcomes
from pruner_jax.measure.paired import paired
from pruner_jax.measure.programs import ProgramsOptions
from pruner_jax.objective.inject import check_template, feedback, is_program
from pruner_jax.objective.rows import widen
from pruner_jax.report.progress import Progress as Bar
from pruner_jax.run.beams import by_steps
from pruner_jax.run.engine import Engine, Progress
from pruner_jax.run.measuring import measure, measured
from pruner_jax.sample.steps import Executes, Scorer
from pruner_jax.types import Graded, Problem, Prompts, Purpose, Rollouts, Verdict, take_rows
from pruner_jax.verify.checkers import program
from pruner_jax.verify.pool import Verifier

PyTree = Any

SAYS = {
    Verdict.UNPARSED: "NoProgram: the response defines no function solution()",
    Verdict.UNFINISHED: "Unfinished: the response was cut at the limit",
}
"""Messages of failures that come to no run."""


@dataclasses.dataclass(frozen=True)
class Round:
    """What one round of answers took and led to."""

    asked: int  # rows that were sampled
    tokens: int  # that they took
    failing: int  # rows of all that fail visibly after it
    correct: int  # rows of all that are correct after it


@dataclasses.dataclass(frozen=True)
class Refined:
    """The last answer of every row, and the rounds that led there; the first one came before."""

    graded: Graded
    rounds: tuple[Round, ...]
    tokens_B: np.ndarray  # int64, of all answers of each row


def answer(
    engine: Engine,
    params: PyTree,
    problems: Sequence[Problem],
    test: EvaluateOptions,
    programs: ProgramsOptions,
    *,
    score: Scorer | None,
    purpose: Purpose,
    progress: Bar,
    title: str,
    check: Callable[[], None] = lambda: None,
) -> tuple[Graded, Outcomes, dict[str, Any]]:
    """The last answers to a set of problems under the options, and what led there.

    ``engine``, ``params`` and ``check`` as of `measuring.measure`, which samples where nothing else
    is asked; ``score`` of `load_scorer`.
    The second result counts as the length of an answer all tokens that were generated for it: of
    earlier attempts, of samples that lost a vote, of other beams (and as its limit the most that
    this can be). The third has the ``taxonomy`` of the first answers, their ``accuracy``, all
    ``tokens`` generated for a problem, the ``rounds`` of refinement, and where there is more than
    first answers the ``change`` of accuracy since, paired over problems.

    Raises:
      ValueError: the problems' answers are no programs.
    """
    check_are_programs(engine.verifier, problems)
    limit, sandbox = test.limit, sandbox_limits(engine.verifier)
    if programs.beams:
        engine = measured(engine, test)
        prompts = engine.prompts(problems[: test.problems], purpose=purpose, limit=limit)
        progress.start(len(prompts), f"{title}: beam search")

        def tell(done: int, rows: int, tokens: int) -> None:
            check()
            progress.update(min(len(prompts), done * engine.pod.count))  # as if all were alike

        first, tokens_B = by_steps(
            engine,
            params,
            prompts,
            beams=programs.beams,
            chains=programs.chains,
            limit=limit,
            score=score or Executes(**sandbox),
            on_progress=tell,
        )
        progress.finish()
        most = limit * programs.beams * programs.chains
    else:
        first = measure(
            engine,
            params,
            problems,
            test,
            limit=limit,
            purpose=purpose,
            progress=progress,
            title=title,
            check=check,
        )
        tokens_B, most = first.rollouts.length_B.astype(np.int64), limit
    last, rounds = first, ()
    if programs.refine:
        refined = refine(
            measured(engine, test),
            params,
            first,
            rounds=programs.refine,
            template=programs.template,
            on_progress=_each_round(progress, f"{title}: asked again", check),
        )
        last, rounds = refined.graded, refined.rounds
        tokens_B = tokens_B - first.rollouts.length_B + refined.tokens_B
        most += limit * programs.refine
    tokens_P = np.bincount(last.rollouts.group_B, tokens_B)
    if programs.vote:
        last = engine.pod.lead(functools.partial(vote, **sandbox), last)
        tokens_B, most = tokens_P.astype(np.int64), most * test.samples
    before = outcomes(first)
    found = {
        "taxonomy": taxonomy(first),
        "accuracy": float(stats.accuracy(before)),
        "tokens": float(tokens_P.mean()),
        "rounds": [dataclasses.asdict(part) for part in rounds],
    }
    if last is not first:
        compared = paired(
            before, outcomes(last), confidence=test.confidence, resamples=test.resamples
        )
        found["change"] = dataclasses.asdict(compared.accuracy_change)
    return last, outcomes(_of_length(last, tokens_B, most)), found


def _of_length(graded: Graded, length_B: np.ndarray, limit: int) -> Graded:
    """The rows under other lengths and a limit of these."""
    rollouts = dataclasses.replace(graded.rollouts, length_B=length_B, limit=limit)
    return dataclasses.replace(graded, rollouts=rollouts)


def _each_round(bar: Bar, title: str, check: Callable[[], None]) -> Progress:
    """Shows the progress of calls that follow one another as a phase each."""

    def on_progress(done: int, rows: int, tokens: int) -> None:
        check()
        if not bar.running:
            bar.start(rows, title)
        bar.update(done)
        if done == rows:
            bar.finish()

    return on_progress


def lines(found: Mapping[str, Any]) -> list[str]:
    """What `answer` found, for the terminal."""
    told = [f"first answers       {said(found['taxonomy'])}"]
    for number, part in enumerate(found["rounds"][1:], 1):
        told.append(
            f"asked again, {number:<7}{part['asked']} rows, {part['tokens']} tokens; then "
            f"{part['failing']} fail visibly and {part['correct']} are correct"
        )
    if "change" in found:
        value, low, high = (found["change"][name] for name in ("value", "low", "high"))
        told.append(f"change of accuracy  {value:+.4f} ({low:+.4f} to {high:+.4f})")
    return [*told, f"tokens generated    {found['tokens']:.2f} a problem, all answers together"]


def refine(
    engine: Engine,
    params: PyTree,
    graded: Graded,
    *,
    rounds: int,
    template: str,
    on_progress: Progress | None = None,
) -> Refined:
    """Ask again, up to ``rounds`` times, for every row whose program fails visibly.

    A row whose prompt would be too long for the model's context keeps its answer.

    Args:
      engine: with a verifier.
      params: decode parameters.
      graded: B rows as first answered; the new ones have the same limit.
      rounds: most times that a row is asked again; it stops where none fails.
      template: of the prompt, see `objective.inject.check_template`.
      on_progress: told how far each round is.

    Returns:
      Rows in the same order, those that were asked again with the prompt of their last answer as
      ``train_tokens``. A row's draws hang on its problem, visit, sample and round alone.

    Raises:
      ValueError: a problem whose answers are no programs, or a template that cannot be filled.
    """
    check_template(template)
    check_are_programs(engine.verifier, graded.rollouts.prompts.problems)
    tokens_B = graded.rollouts.length_B.astype(np.int64)
    history = [_round(graded, len(graded), int(tokens_B.sum()))]
    for number in range(1, rounds + 1):
        failing = np.flatnonzero(fails(graded))
        if not len(failing):
            break
        rows, prompts = _questions(engine, graded, failing, template, number)
        if not len(rows):
            break
        limit = graded.rollouts.limit
        answers, _ = engine.rollout(
            params, prompts, samples=1, limit=limit, on_progress=on_progress
        )
        graded = _exchange(graded, rows, answers)
        tokens_B[rows] += answers.rollouts.length_B
        history.append(_round(graded, len(rows), int(answers.rollouts.length_B.sum())))
    return Refined(graded, tuple(history), tokens_B)


def check_are_programs(verifier: Verifier, problems: Iterable[Problem]) -> None:
    """Refuse problems whose answers are something else."""
    for problem in problems:
        checker = verifier.plan(problem).spec
        if checker != "program":
            raise ValueError(
                f"problem {problem.id!r} is checked by {checker!r}: only programs can be refined, "
                "searched step by step or put to the vote; set verify.checker to program (for "
                "last_digit, problems.options.target), or leave out programs.refine, beams and vote"
            )


def sandbox_limits(verifier: Verifier) -> dict[str, float]:
    """The limits of the sandbox under which the verifier checks programs, where it has its own."""
    given = verifier.options.settings.get("program", {})
    return {name: given[name] for name in ("seconds", "memory_mb", "recursion") if name in given}


def fails(graded: Graded) -> np.ndarray:
    """Which rows fail without any gold answer, bool [B]: no program, no end, or no value."""
    shows = (Verdict.UNPARSED, Verdict.UNFINISHED, Verdict.UNSUPPORTED, Verdict.TIMEOUT)
    ran_B = [said.startswith("WrongAnswer: ") for said in graded.detail or ("",) * len(graded)]
    wrong_B = graded.verdict_B == Verdict.WRONG
    return np.isin(graded.verdict_B, shows) | (wrong_B & ~np.array(ran_B, bool))


def taxonomy(graded: Graded) -> dict[str, int]:
    """Rows by what came of them: correct, then the classes of failure, the most frequent first."""
    silent = {Verdict.UNPARSED: "NoAnswer", Verdict.UNFINISHED: "Unfinished"}
    found = {"correct": int(graded.correct_B.sum())}
    classes: collections.Counter[str] = collections.Counter()
    for verdict, detail in zip(graded.verdict_B, graded.detail or ("",) * len(graded)):
        if verdict != Verdict.CORRECT:
            kind = silent.get(Verdict(verdict)) or detail.partition(":")[0]
            classes[kind or Verdict(verdict).name.capitalize()] += 1
    return found | dict(classes.most_common())


def said(counts: Mapping[str, int]) -> str:
    """A taxonomy as a line."""
    return f"{sum(counts.values())} responses: " + ", ".join(f"{n} {k}" for k, n in counts.items())


def _round(graded: Graded, asked: int, tokens: int) -> Round:
    return Round(asked, tokens, int(fails(graded).sum()), int(graded.correct_B.sum()))


def _questions(
    engine: Engine, graded: Graded, rows: np.ndarray, template: str, number: int
) -> tuple[np.ndarray, Prompts]:
    """A prompt for each of the rows that shows its answer, and the rows; without those whose prompt
    is too long for the model's context."""
    rollouts = graded.rollouts
    problems, visits = [], []
    for b in rows:
        problem = rollouts.prompts.problems[rollouts.group_B[b]]
        verdict, answer = Verdict(int(graded.verdict_B[b])), graded.extracted[b]
        attempt = answer if is_program(answer) else rollouts.text[b]
        detail = SAYS.get(verdict, graded.detail[b])
        asked = feedback(template, problem, attempt, verdict, detail)
        name = f"{problem.id}#{rollouts.sample_B[b]}.{number}"
        problems.append(dataclasses.replace(problem, id=name, question=asked, messages=None))
        visits.append(rollouts.prompts.visit_P[rollouts.group_B[b]])
    prompts = engine.prompts(
        problems,
        purpose=rollouts.prompts.purpose,
        limit=rollouts.limit,
        visit_P=np.array(visits, np.int32),
    )
    room = engine.config.context - rollouts.limit
    fit = [i for i, tokens in enumerate(prompts.tokens) if len(tokens) <= room]
    return rows[fit], Prompts(
        problems=tuple(prompts.problems[i] for i in fit),
        text=tuple(prompts.text[i] for i in fit),
        tokens=tuple(prompts.tokens[i] for i in fit),
        purpose=prompts.purpose,
        visit_P=prompts.visit_P[fit],
    )


def _exchange(graded: Graded, rows: np.ndarray, answers: Graded) -> Graded:
    """The answers in place of the given rows, with the prompts that they answer."""
    old, new = graded.rollouts, answers.rollouts
    width = max(old.tokens_BT.shape[1], new.tokens_BT.shape[1])
    kept = ("group_B", "sample_B", "mode_B", "budget_B", "parent_B")

    def put(into: tuple[Any, ...], values: Any) -> tuple[Any, ...]:
        listed = list(into)
        for b, value in zip(rows, values):
            listed[b] = value
        return tuple(listed)

    changes: dict[str, Any] = {}
    for field in dataclasses.fields(Rollouts):
        if field.name in kept or not field.name.endswith(("_B", "_BT")):
            continue
        array, values = getattr(old, field.name).copy(), getattr(new, field.name)
        if field.name.endswith("_BT"):
            fill = np.nan if field.name == "logp_BT" else 0
            array, values = widen(array, width, fill), widen(values, width, fill)
        array[rows] = values
        changes[field.name] = array
    verdict_B, score_B = graded.verdict_B.copy(), graded.score_B.copy()
    verdict_B[rows], score_B[rows] = answers.verdict_B, answers.score_B
    rollouts = dataclasses.replace(
        old,
        **changes,
        text=put(old.text, new.text),
        train_tokens=put(old.train_tokens or (None,) * len(old), new.prompts.tokens),
    )
    return Graded(
        rollouts=rollouts,
        verdict_B=verdict_B,
        score_B=score_B,
        extracted=put(graded.extracted, answers.extracted),
        detail=put(graded.detail, answers.detail),
    )


def vote(graded: Graded, **limits: float) -> Graded:
    """One row for each problem: the first that returns the value which most of its rows return.

    Values are compared by `program.ballot`; a row that fails or crashes has no vote. Among values
    with equally many votes, and where no row has one, the earliest row is taken. ``limits``: of the
    sandbox, see `sandbox_limits`.
    """
    chosen = []
    silent_B = fails(graded) | (graded.verdict_B == Verdict.ERROR)
    for group in np.unique(graded.rollouts.group_B):
        rows = np.flatnonzero(graded.rollouts.group_B == group)
        voters: dict[str, list[int]] = {}
        for b in rows:
            run = program.Run(failure="silent")
            if not silent_B[b] and is_program(graded.extracted[b]):
                with contextlib.suppress(RuntimeError):  # a crash
                    run = program.value_of(graded.extracted[b], **limits)
            if not run.failure:
                voters.setdefault(program.ballot(run.value), []).append(b)
        chosen.append(max(voters.values(), key=len, default=rows)[0])
    return take_rows(graded, np.array(chosen, np.int64))
