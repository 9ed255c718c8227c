"""What a checker is given and what it may give back.

`Job` is one question to a checker, `Outcome` its answer; `settle` turns everything that a checker
may return into an Outcome. A failing checker gives ERROR and its message, never a bare 0.
"""

from __future__ import annotations

import math
import numbers
from typing import Any, NamedTuple

from pruner_jax.types import Problem, Verdict


class Job(NamedTuple):
    """One response to be checked. ``answer``: what was extracted; ``tokens``: ids of the response,
    for those checkers that ask for them."""

    problem: Problem
    text: str
    answer: str | None
    tokens: tuple[int, ...] | None = None


class Outcome(NamedTuple):
    """Verdict, score (1.0 for correct, 0.0 otherwise unless the checker says more), and what the
    checker adds: an error class and its message, or nothing."""

    verdict: Verdict
    score: float = 0.0
    detail: str = ""


def settle(value: Any, correct_from: float) -> Outcome:
    """The Outcome of what a checker returned.

    A Verdict, a bool, a score (correct from ``correct_from`` on), or a tuple of one of them with a
    score and a detail in either order. Errors: TypeError for anything else, ValueError for a score
    that is not finite.
    """
    if isinstance(value, tuple) and value:
        first = settle(value[0], correct_from)
        for extra in value[1:]:
            if isinstance(extra, str):
                first = first._replace(detail=extra)
            else:
                first = first._replace(score=_score(extra))
        return first
    if isinstance(value, Verdict):
        return Outcome(value, float(value == Verdict.CORRECT))
    if isinstance(value, bool):
        return Outcome(Verdict.CORRECT if value else Verdict.WRONG, float(value))
    score = _score(value)
    return Outcome(Verdict.CORRECT if score >= correct_from else Verdict.WRONG, score)


def _score(value: Any) -> float:
    if not (isinstance(value, numbers.Real) or hasattr(value, "item")):  # item: numpy scalars
        raise TypeError(
            f"the checker returned {value!r:.200}, a {type(value).__name__}; allowed: Verdict, "
            "bool, float, or a tuple of one of them with a score and a text"
        )
    score = float(value)
    if not math.isfinite(score):
        raise ValueError(f"the checker returned the score {score}; allowed: finite numbers")
    return score


def describe(error: BaseException) -> str:
    """One line on an exception; ``str`` of a foreign object may itself fail."""
    try:
        return f"{type(error).__name__}: {error}"[:1000]
    except Exception:
        return type(error).__name__
