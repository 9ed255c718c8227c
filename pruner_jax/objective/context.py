"""What a method may know of the run and ask of it (`Context`), and what is known so far while one
phase is weighed (`Scene`).

The run makes a `Context` at every step. What it cannot offer it leaves out; a method that asks for
it all the same gets an error that says what is missing (and `method.check` refuses it beforehand).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NoReturn

import numpy as np

from pruner_jax.objective.groups import Groups
from pruner_jax.types import Graded, Problem, Rollouts

PolicyName = Literal["current", "start", "reference", "teacher", "expander"]


class NotOffered(ValueError):
    """A method asked the run for something that this run does not offer."""


def _absent(what: str) -> Callable[..., NoReturn]:
    def ask(*_: Any, **__: Any) -> NoReturn:
        raise NotOffered(f"the method asks the run for {what}, which this run does not offer")

    return ask


@dataclasses.dataclass(frozen=True)
class Context:
    """One step of a run, as a method sees it."""

    limit: int
    """Token limit of the round."""

    step: int = 0
    """Steps since the start of the run."""

    round_step: int = 0
    """Steps since the start of the round."""

    round: int = 0
    """Rounds before this one."""

    seed: int = 0
    """Seed of the run; all chance in a method hangs on it, the step, the problem and the sample."""

    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """The newest evaluation on monitor, for schedules; the metrics of the step are added to it."""

    reference: Groups | None = None
    """Rollouts of the start model, from the phase that collects with ``reference``."""

    end_token: int | None = None
    """Id that ends a response, for steps that write one."""

    encode: Callable[[str], np.ndarray] = _absent("an encoder")
    """Token ids of a piece of a response; no special tokens are put around it."""

    decode: Callable[[np.ndarray], str] = _absent("a decoder")
    """Text of the token ids of a response."""

    closing: Callable[[Rollouts], tuple[np.ndarray, ...]] = _absent("ends of thoughts")
    """Token ids that have to follow the thought of each row before an answer can: the closing tag
    where the thought is still open, else none."""

    thoughts: Callable[[Rollouts], Sequence[str]] = _absent("texts of thoughts")
    """Text of the thought of each row, its tags left out."""

    prompt: Callable[[Problem, str], np.ndarray] = _absent("prompts of its own")
    """Token ids of a prompt that asks the given text in place of the problem's question."""

    score: Callable[[PolicyName, Graded, Literal["tokens", "answer"], str], np.ndarray] = _absent(
        "log-probabilities"
    )
    """``tokens``: log-probability of every token, float32 [B, T]. ``answer``: summed
    log-probability of the gold answer after the prompt and the thought of each row, float32 [B];
    the thought is closed first (``closing``), and the answer stands in a text with {answer}, the
    last argument, of which its own tokens alone are counted."""

    grade: Callable[[Rollouts], Graded] = _absent("a verifier")
    """Verdicts of rows that a shape step has rewritten."""

    expand: Callable[[Graded, bool], Graded] = _absent("an expander")
    """The rows that a second policy writes after the prompt and the thought of each row, graded;
    one row for each, in the same order. The second argument, ``mask_answers``: every literal gold
    answer in the thought is masked before the second policy sees it."""

    resample: Callable[[Graded, tuple[np.ndarray, ...]], Graded] = _absent("a policy to ask again")
    """One new row in place of each given one, from the policy that wrote it, under the given prompt
    (token ids), graded; in the same order, with the same problem, group and sample number. Its
    ``train_tokens`` are None, so it is trained under the prompt of its problem; its
    log-probabilities are NaN: those under the given prompt would be of no use."""


@dataclasses.dataclass(frozen=True)
class Scene:
    """What is known so far. The arrays [P, G] appear in this order: task, length, advantage."""

    groups: Groups
    graded: Graded
    context: Context
    state: Mapping[str, Any]
    keep_PG: np.ndarray  # rows that count: for the statistics, and then for the learner
    task_PG: np.ndarray | None = None
    length_PG: np.ndarray | None = None
    advantage_PG: np.ndarray | None = None
    pair_PG: np.ndarray | None = None  # number of the preference pair, -1: in none

    @classmethod
    def of(cls, graded: Graded, context: Context, state: Mapping[str, Any]) -> Scene:
        """The scene of graded rows, all of which count."""
        groups = Groups.of(graded)
        return cls(groups, graded, context, state, keep_PG=groups.mask_PG)

    @property
    def reward_PG(self) -> np.ndarray:
        """Both channels together."""
        return self.task_PG + self.length_PG

    def replace(self, **changes: Any) -> Scene:
        """The same scene with some of it changed."""
        return dataclasses.replace(self, **changes)
