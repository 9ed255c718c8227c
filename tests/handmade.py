"""Graded rollouts written by hand: `graded([Row(...), ...], ...)`, one list per problem."""

from __future__ import annotations

import dataclasses

import numpy as np

from pruner_jax.types import Graded, Origin, Problem, Prompts, Purpose, Rollouts, Verdict

END = 9


@dataclasses.dataclass(frozen=True)
class Row:
    """A response of ``length`` tokens (the end token included), ``thinking`` of them thought."""

    length: int
    correct: bool = False
    finished: bool = True
    thinking: int | None = None  # all but the end token
    mode: int = 0
    budget: int = -1
    forced: int = 0  # leading tokens that a hook has written
    logp: float = -0.5
    text: str = "text"
    verdict: Verdict | None = None


def prompts(problems):
    return Prompts(
        problems=tuple(problems),
        text=tuple(problem.question for problem in problems),
        tokens=tuple(np.array([7, 7], np.int32) for _ in problems),
        purpose=Purpose.TRAIN,
        visit_P=np.zeros(len(problems), np.int32),
    )


def graded(*groups, limit=10_000, ids=None):
    """Rows by problem, named a, b, c... unless ``ids`` says otherwise; tokens count up from 100."""
    ids = ids or [chr(ord("a") + p) for p in range(len(groups))]
    problems = [Problem(id=i, question=f"question {i}?", answer=f"gold {i}") for i in ids]
    rows = [row for group in groups for row in group]
    B, T = len(rows), max((row.length for row in rows), default=0)
    place_BT = np.broadcast_to(np.arange(T), (B, T))
    length_B = np.array([row.length for row in rows], np.int32)
    here_BT = place_BT < length_B[:, None]
    forced_BT = here_BT & (place_BT < np.array([row.forced for row in rows])[:, None])
    origin_BT = np.where(here_BT, Origin.SAMPLED, Origin.PAD).astype(np.uint8)
    origin_BT[forced_BT] = Origin.FORCED
    finished_B = np.array([row.finished for row in rows], bool)
    tokens_BT = np.where(here_BT, 100 + place_BT, 0).astype(np.int32)
    last = here_BT & (place_BT == length_B[:, None] - 1) & finished_B[:, None]
    tokens_BT[last] = END
    logp_B = np.array([row.logp for row in rows], np.float32)
    thinking_B = [row.length - 1 if row.thinking is None else row.thinking for row in rows]
    rollouts = Rollouts(
        prompts=prompts(problems),
        group_B=np.repeat(np.arange(len(groups)), [len(g) for g in groups]).astype(np.int32),
        sample_B=np.concatenate([np.arange(len(g)) for g in groups]).astype(np.int32),
        tokens_BT=tokens_BT,
        logp_BT=np.where(here_BT, logp_B[:, None], np.nan).astype(np.float32),
        origin_BT=origin_BT,
        length_B=length_B,
        thinking_B=np.maximum(thinking_B, 0).astype(np.int32),
        finished_B=finished_B,
        text=tuple(row.text for row in rows),
        temperature=1.0,
        limit=limit,
        mode_B=np.array([row.mode for row in rows], np.int32),
        budget_B=np.array([row.budget for row in rows], np.int32),
        parent_B=np.full(B, -1, np.int32),
    )
    verdict_B = np.array([_verdict(row) for row in rows], np.int8)
    return Graded(
        rollouts=rollouts,
        verdict_B=verdict_B,
        score_B=(verdict_B == Verdict.CORRECT).astype(np.float32),
        extracted=tuple("x" if row.finished else None for row in rows),
    )


def _verdict(row):
    if row.verdict is not None:
        return row.verdict
    if not row.finished:
        return Verdict.UNFINISHED
    return Verdict.CORRECT if row.correct else Verdict.WRONG


def weights(weighted):
    """The weight of each row's first token, [B]."""
    return weighted.weight_BT[:, 0]


def differing_slots(phase, other):
    """Fields in which two phases, or two parts of phases, are not alike; in order."""
    return [
        field.name
        for field in dataclasses.fields(phase)
        if getattr(phase, field.name) != getattr(other, field.name)
    ]
