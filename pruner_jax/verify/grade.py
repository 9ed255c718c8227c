"""Rollouts to Graded: unfinished first, then the answer, then its checker.

`Grader` takes rows as they finish, so that checking overlaps with decoding. What the same rows
would have been worth under a tighter limit: `measure.outcomes.at_limit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pruner_jax.text import TextOptions, split_thought
from pruner_jax.types import Graded, Problem, Rollouts, Verdict
from pruner_jax.verify import answers
from pruner_jax.verify.outcome import Outcome
from pruner_jax.verify.pool import Verifier


class _Row(NamedTuple):
    problem: Problem
    text: str
    finished: bool
    answer: str | None
    ticket: int | None  # of the Verifier; None where the outcome is clear without a checker


class Grader:
    """Grades the rows of one Rollouts.

    ``opened``: whether the prompt opened the thought, a bool or one per row. Tags as in
    `text.TextOptions`.
    """

    def __init__(
        self,
        verifier: Verifier,
        *,
        opened: bool | Sequence[bool] | np.ndarray,
        think_close: str = "</think>",
        think_open: str = "<think>",
    ) -> None:
        self.verifier = verifier
        self._opened = opened
        self._tags = TextOptions(think_open=think_open, think_close=think_close)
        self._rows: dict[int, _Row] = {}

    def add(
        self,
        row: int,
        problem: Problem,
        text: str,
        finished: bool,
        tokens: Sequence[int] | None = None,
    ) -> None:
        """Begin to check a row. ``tokens``: its ids, for checkers that ask for them."""
        if row in self._rows:
            raise ValueError(f"row {row} was added before")
        options = self.verifier.options
        answer = ticket = None
        if finished or not options.unfinished_is_wrong:
            plan = self.verifier.plan(problem)
            place = self._answer_text(row, text) if options.after_thought else text
            answer = plan.extract(place) if plan.extract else answers.extract(place, options.answer)
            if answer is not None or not plan.needs_answer:
                ticket = self.verifier.submit(problem, text, answer, tokens)
        self._rows[row] = _Row(problem, text, bool(finished), answer, ticket)

    def _answer_text(self, row: int, text: str) -> str:
        opened = self._opened if np.ndim(self._opened) == 0 else self._opened[row]
        return split_thought(text, self._tags, bool(opened))[1]

    def result(self, rollouts: Rollouts) -> Graded:
        """Wait for all verdicts. Rows that were not added are added now."""
        problems = rollouts.prompts.problems
        for b in range(len(rollouts)):
            finished, text = bool(rollouts.finished_B[b]), rollouts.text[b]
            if b not in self._rows:
                tokens = rollouts.tokens_BT[b, : rollouts.length_B[b]]
                self.add(b, problems[rollouts.group_B[b]], text, finished, tokens)
            elif (self._rows[b].text, self._rows[b].finished) != (text, finished):
                raise ValueError(f"row {b} was added with another text or end than it has here")
        if len(self._rows) != len(rollouts):
            raise ValueError(
                f"{len(self._rows)} rows were added, the rollouts have {len(rollouts)}"
            )
        rows = [self._rows[b] for b in range(len(rollouts))]
        self._rows = {}
        collected = iter(self.verifier.collect([r.ticket for r in rows if r.ticket is not None]))
        outcomes = [_unchecked(row) if row.ticket is None else next(collected) for row in rows]
        for row, outcome in zip(rows, outcomes):
            if outcome.verdict in (Verdict.ERROR, Verdict.TIMEOUT):
                self.verifier.show_first(row.problem, outcome)
        return Graded(
            rollouts=rollouts,
            verdict_B=np.array([outcome.verdict for outcome in outcomes], np.int8),
            score_B=np.array([outcome.score for outcome in outcomes], np.float32),
            extracted=tuple(row.answer for row in rows),
            detail=tuple(outcome.detail for outcome in outcomes),
        )


def _unchecked(row: _Row) -> Outcome:
    return Outcome(Verdict.UNPARSED if row.finished else Verdict.UNFINISHED)


def counts(graded: Graded) -> dict[str, int]:
    """How many rows have each verdict, by metric name (``prune/verdict/correct``, ...)."""
    numbers = np.bincount(graded.verdict_B, minlength=len(Verdict))
    return {f"prune/verdict/{verdict.name.lower()}": int(numbers[verdict]) for verdict in Verdict}
