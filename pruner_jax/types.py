"""The letters, and the host-side types that travel between the stages (numpy only, no JAX).

Letters, used as name suffixes wherever a mix-up is possible and in every einsum:

    B rows (= P*G, grouped by prompt)   P prompts        G samples per prompt   T tokens in a row
    S cache slots     D model width     N query heads    K key/value heads      H head width
    F MLP width       V vocabulary      L layers         R packed rows

One convention for shifted arrays: ``logp_BT[:, t]`` scores ``tokens_BT[:, t]``.

The flow (each arrow is one type of this file):

    Prompts -> sample -> Rollouts -> verify -> Graded -> method -> Weighted -> learn -> parameters

Lengths are counts of generated token ids, the end token included; so a finished row of length n is
what a run under the limit n would have produced, and ``correct at n = correct and length <= n``.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import numpy as np


class Verdict(enum.IntEnum):
    """What verification says of one rollout; never a bare 0."""

    CORRECT = 0
    WRONG = 1
    UNPARSED = 2  # finished, but no answer was found in it
    UNFINISHED = 3  # no end token within the limit; never correct
    UNSUPPORTED = 4  # a legal program that uses what the sandbox does not know
    TIMEOUT = 5  # verification ran past its deadline, twice
    ERROR = 6  # the checker itself failed


class Origin(enum.IntEnum):
    """Where a token of a row comes from. By default only SAMPLED trains."""

    PAD = 0
    PROMPT = 1
    SAMPLED = 2
    FORCED = 3  # written by a force hook instead of the policy
    EDITED = 4  # written by a method's shape step after sampling


class Purpose(enum.StrEnum):
    """Which of the three disjoint problem sets a row belongs to; folded into its random key."""

    TRAIN = "train"
    MONITOR = "monitor"
    TEST = "test"


@dataclasses.dataclass(frozen=True)
class Problem:
    """One question with its gold answer.

    ``checker`` names the verifier (see ``verify``): "math", "exact", "choice", "number", "program",
    or "path/to/file.py:function". ``difficulty`` is any number that grows with difficulty, or None.
    ``messages`` replaces ``question`` where the source already holds a chat. ``columns`` keeps
    whatever else the source had, for user checkers.
    """

    id: str
    question: str
    answer: str
    checker: str = "math"
    difficulty: float | None = None
    source: str = ""
    messages: tuple[Mapping[str, str], ...] | None = None
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Prompts:
    """P rendered problems, ready to be sampled.

    ``visit_P`` counts how often the run has come back to each problem, so that a second visit draws
    other samples. ``text[p]`` is what ``tokens[p]`` (int32, ragged) encodes.
    """

    problems: tuple[Problem, ...]
    text: tuple[str, ...]
    tokens: tuple[np.ndarray, ...]
    purpose: Purpose
    visit_P: np.ndarray

    def __len__(self) -> int:
        return len(self.problems)


@dataclasses.dataclass(frozen=True)
class Rollouts:
    """B generated rows, in the order (prompt, sample); responses only, right-padded.

    Groups are ids and may be ragged: row b answers ``prompts.problems[group_B[b]]`` and is its
    ``sample_B[b]``-th sample.
    """

    prompts: Prompts
    group_B: np.ndarray  # int32, index into prompts
    sample_B: np.ndarray  # int32, with the problem, visit and seed it makes the row's random key
    tokens_BT: np.ndarray  # int32
    logp_BT: (
        np.ndarray
    )  # float32, log-probability under softmax(logits / temperature); NaN: not scored
    origin_BT: np.ndarray  # uint8 of Origin; 0 past the end of the row
    length_B: np.ndarray  # int32, generated ids including the end token
    thinking_B: (
        np.ndarray
    )  # int32, how many of them belong to the thought (its closing tag included)
    finished_B: np.ndarray  # bool, an end token was generated within the limit
    text: tuple[str, ...]  # decoded responses, end token left out
    temperature: float
    limit: int  # the most tokens a row could have
    mode_B: np.ndarray  # int32, a method's label of how the row was made; 0 = plain
    budget_B: np.ndarray  # int32, the budget told to the model; -1 = none
    parent_B: np.ndarray  # int32, the row this one continues or edits; -1 = none
    train_tokens: tuple[np.ndarray | None, ...] | None = (
        None  # prompt to train under, where it differs
    )

    def __len__(self) -> int:
        return len(self.length_B)

    @property
    def answer_B(self) -> np.ndarray:
        """Tokens after the thought, int32 [B]."""
        return self.length_B - self.thinking_B

    @property
    def thought_B(self) -> np.ndarray:
        """Tokens of the thought, int32 [B], without an end token that came while it was open."""
        ended_B = self.finished_B & (self.thinking_B == self.length_B) & (self.length_B > 0)
        return self.thinking_B - ended_B


@dataclasses.dataclass(frozen=True)
class Graded:
    """Rollouts with their verdicts. ``score_B`` is 1.0 for correct and 0.0 otherwise, unless the
    checker gives partial credit (reasoning-gym, verl functions)."""

    rollouts: Rollouts
    verdict_B: np.ndarray  # int8 of Verdict
    score_B: np.ndarray  # float32
    extracted: tuple[str | None, ...]  # the answer that was found in each row
    detail: tuple[str, ...] | None = None  # what the checker adds: an error's class and message

    def __len__(self) -> int:
        return len(self.verdict_B)

    @property
    def correct_B(self) -> np.ndarray:
        """Verdict is CORRECT, bool [B]."""
        return self.verdict_B == Verdict.CORRECT


@dataclasses.dataclass(frozen=True)
class Weighted:
    """What the learner gets: rows and the weight of each of their tokens.

    ``weight_BT`` broadcasts against ``[B, T]`` (so ``[B, 1]`` is one advantage per row);
    ``train_BT`` says which tokens enter the loss. ``loss`` is "pg" (weights are advantages), "ce"
    (weights are example weights) or "pairs" (``pair_B`` numbers the preference pairs, sign of the
    weight says preferred or rejected). Rows with ``keep_B`` False never reach the learner.
    """

    graded: Graded
    weight_BT: np.ndarray  # float32
    train_BT: np.ndarray  # bool
    keep_B: np.ndarray  # bool
    loss: str = "pg"
    pair_B: np.ndarray | None = None  # int32, -1 = in no pair
    ref_logp_BT: np.ndarray | None = None  # float32, under the reference policy


def take_rows(value: Any, rows: np.ndarray) -> Any:
    """The given rows of Rollouts, Graded or Weighted, in that order; prompts stay whole.

    ``rows`` is an int index array or a bool mask over B. Fields are cut by their suffix.
    """
    rows = np.asarray(rows)
    index = np.flatnonzero(rows) if rows.dtype == bool else rows
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(value):
        old = getattr(value, field.name)
        if isinstance(old, (Rollouts, Graded)):
            changes[field.name] = take_rows(old, index)
        elif old is None or isinstance(old, Prompts):
            continue
        elif field.name.endswith(("_B", "_BT")):
            changes[field.name] = old[index]
        elif field.name in ("text", "extracted", "detail", "train_tokens"):
            changes[field.name] = tuple(old[i] for i in index)
    return dataclasses.replace(value, **changes)


def take_prompts(prompts: Prompts, index: np.ndarray) -> Prompts:
    """The given prompts, in that order."""
    return dataclasses.replace(
        prompts,
        problems=tuple(prompts.problems[p] for p in index),
        text=tuple(prompts.text[p] for p in index),
        tokens=tuple(prompts.tokens[p] for p in index),
        visit_P=prompts.visit_P[index],
    )
