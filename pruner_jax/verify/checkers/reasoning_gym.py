"""Tasks of reasoning-gym, scored by the data set's own ``score_answer``.

``problem.columns`` holds the data set's name under "dataset" and the generated item under "entry".
Scores between 0 and 1 are partial credit; the full score is correct.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from pruner_jax.types import Problem


def check(problem: Problem, text: str, answer: str) -> float:
    """The score that the data set itself gives to the answer."""
    missing = {"dataset", "entry"} - set(problem.columns)
    if missing:
        raise ValueError(
            f"problem {problem.id!r} has no column {', '.join(sorted(missing))}; the checker "
            "reasoning_gym needs dataset (its name) and entry (the generated item)"
        )
    return float(_scorer(problem.columns["dataset"])(answer, problem.columns["entry"]))


@functools.cache
def _scorer(name: str) -> Callable[[str, dict[str, Any]], float]:
    from reasoning_gym import get_score_answer_fn

    return get_score_answer_fn(name)


def prepare() -> None:
    """Import reasoning-gym and its hundred data sets."""
    try:
        import reasoning_gym  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "the checker reasoning_gym needs the package: pip install 'pruner-jax[tasks]'"
        ) from error
