"""The answer is the gold answer, character by character (surrounding white space aside)."""

from __future__ import annotations

from pruner_jax.types import Problem, Verdict

BY_ANSWER = True


def check(problem: Problem, text: str, answer: str, *, ignore_case: bool = False) -> Verdict:
    """Equal strings; with ``ignore_case`` upper and lower case are the same (as in RaM)."""
    gold, answer = problem.answer.strip(), answer.strip()
    if ignore_case:
        gold, answer = gold.casefold(), answer.casefold()
    return Verdict.CORRECT if answer == gold else Verdict.WRONG
