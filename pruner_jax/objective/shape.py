"""Shaping: steps ``Graded -> Graded`` that cut, add or rewrite rows.

In the slot ``shape`` they run before any statistic of the objective (each takes statistics of its
own over the rows it gets, so a method can cut at the mean of its group and then compare the cut
rows). In ``finish`` they run on the weighted rows and must keep their number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from pruner_jax.objective.context import Scene
from pruner_jax.objective.hint import Hint
from pruner_jax.objective.repair import Inject, Refine
from pruner_jax.objective.rows import append, widen
from pruner_jax.objective.statistics import Limit, Provider, Stat, evaluate
from pruner_jax.types import Graded, Origin, Rollouts, Verdict


@dataclasses.dataclass(frozen=True)
class Cut:
    """Rows longer than floor(sum of ``at``) end there, unfinished and so never correct.

    Exact without sampling or verifying again: correct at n = correct and length <= n. ThinkPrune's
    cap is ``at = (Limit(),)``; DOT cuts outliers of solved groups at the mean plus three standard
    deviations, with slack 32 and solve_rate (1, 1).
    """

    at: tuple[Provider, ...] = (Limit(),)
    """The cut is at the sum of these."""

    slack: Provider = 1
    """Only rows that exceed the cut by at least so many tokens, and one."""

    solve_rate: tuple[float, float] = (0.0, 1.0)
    """Only in groups whose share of correct rows lies in this interval, ends included."""

    def __call__(self, graded: Graded, scene: Scene) -> Graded:
        limit_PG = np.floor(sum(evaluate(provider, scene) for provider in self.at))
        least_PG = np.maximum(evaluate(self.slack, scene), 1)
        length_PG = scene.groups.measure("length")
        rate_P = scene.groups.solve_rate_P
        here_P = (rate_P >= self.solve_rate[0]) & (rate_P <= self.solve_rate[1])
        over_PG = here_P[:, None] & (length_PG - limit_PG >= least_PG)
        limit_B = scene.groups.flat(np.where(over_PG, np.maximum(limit_PG, 0), length_PG))
        return cut(graded, limit_B.astype(np.int32), scene.context.decode)

    def idle(self, limit: int, samples: int) -> str | None:
        """Why no row is ever cut, where the cut is at the mean and some standard deviations of the
        group: a single long row is d (1 - 1/n) above the mean and d / sqrt(n) is the deviation."""
        stats = {at.reduce: at for at in self.at if isinstance(at, Stat) and at.source == "group"}
        if len(self.at) != 2 or stats.keys() != {"mean", "std"} or samples < 2:
            return None
        times = stats["std"].times
        excess = (limit - 1) * (1 - 1 / samples - times / np.sqrt(samples))
        slack = self.slack if isinstance(self.slack, int | float) else 1
        if excess > max(slack, 1) - 1:
            return None
        return (
            f"nothing is cut, as none of {samples} responses can exceed their mean and {times:g} "
            f"standard deviations by {slack:g} tokens"
        )


def cut(graded: Graded, limit_B: np.ndarray, decode: Callable[[np.ndarray], str]) -> Graded:
    """Every row as it would have been under the limit ``limit_B`` (int [B])."""
    rollouts = graded.rollouts
    short_B = rollouts.length_B > limit_B
    if not short_B.any():
        return graded
    length_B = np.minimum(rollouts.length_B, limit_B).astype(np.int32)
    beyond_BT = np.arange(rollouts.tokens_BT.shape[1]) >= length_B[:, None]
    text = tuple(
        decode(rollouts.tokens_BT[b, : length_B[b]]) if short_B[b] else rollouts.text[b]
        for b in range(len(rollouts))
    )
    return dataclasses.replace(
        graded,
        rollouts=dataclasses.replace(
            rollouts,
            origin_BT=np.where(beyond_BT, np.uint8(Origin.PAD), rollouts.origin_BT),
            length_B=length_B,
            thinking_B=np.minimum(rollouts.thinking_B, length_B),
            finished_B=rollouts.finished_B & ~short_B,
            text=text,
        ),
        verdict_B=np.where(short_B, np.int8(Verdict.UNFINISHED), graded.verdict_B),
        score_B=np.where(short_B, np.float32(0), graded.score_B),
        extracted=tuple(None if s else e for s, e in zip(short_B, graded.extracted)),
        detail=graded.detail and tuple("" if s else d for s, d in zip(short_B, graded.detail)),
    )


@dataclasses.dataclass(frozen=True)
class AddEmpty:
    """One row without a token for every prompt: the empty thought of RaM. It has no answer (verdict
    unparsed), sample -1 and a mode of its own."""

    mode: int = -1

    def __call__(self, graded: Graded, scene: Scene) -> Graded:
        old = graded.rollouts
        present = np.unique(old.group_B)
        n, width = len(present), old.tokens_BT.shape[1]
        zeros, nones = np.zeros(n, np.int32), np.full(n, -1, np.int32)
        rows = Rollouts(
            prompts=old.prompts,
            group_B=present.astype(np.int32),
            sample_B=nones,
            tokens_BT=np.zeros((n, width), np.int32),
            logp_BT=np.full((n, width), np.nan, np.float32),
            origin_BT=np.zeros((n, width), np.uint8),
            length_B=zeros,
            thinking_B=zeros,
            finished_B=np.ones(n, bool),
            text=("",) * n,
            temperature=old.temperature,
            limit=old.limit,
            mode_B=np.full(n, self.mode, np.int32),
            budget_B=nones,
            parent_B=nones,
        )
        verdict_B = np.full(n, Verdict.UNPARSED, np.int8)
        return append(graded, Graded(rows, verdict_B, np.zeros(n, np.float32), (None,) * n))


@dataclasses.dataclass(frozen=True)
class GoldAnswer:
    """What follows the thought is replaced by the gold answer and the end token (RaM trains on the
    thought with the gold answer, whatever the model had answered). A thought that was left open is
    closed first."""

    template: str = "\n\\boxed{{answer}}"
    """What is written after the thought; {answer} stands for the gold answer."""

    def __call__(self, graded: Graded, scene: Scene) -> Graded:
        old, context = graded.rollouts, scene.context
        end = [] if context.end_token is None else [context.end_token]
        start_B, answers = old.thought_B, []
        for b, close in enumerate(context.closing(old)):
            answer = old.prompts.problems[old.group_B[b]].answer
            written = context.encode(self.template.replace("{answer}", answer))
            answers.append(np.concatenate([close, written, end]).astype(np.int32))
        length_B = start_B + np.array([len(a) for a in answers], np.int32)
        width = max(old.tokens_BT.shape[1], int(length_B.max(initial=0)))
        tokens_BT, origin_BT = widen(old.tokens_BT, width, 0), widen(old.origin_BT, width, 0)
        logp_BT = widen(old.logp_BT, width, np.nan)
        for b, (start, answer) in enumerate(zip(start_B, answers)):
            origin_BT[b, start:] = Origin.PAD
            logp_BT[b, start:] = np.nan
            tokens_BT[b, start : length_B[b]] = answer
            origin_BT[b, start : length_B[b]] = Origin.EDITED
        rows = range(len(old))
        rollouts = dataclasses.replace(
            old,
            tokens_BT=tokens_BT,
            logp_BT=logp_BT,
            origin_BT=origin_BT,
            length_B=length_B,
            finished_B=np.full(len(old), bool(end)),
            text=tuple(context.decode(tokens_BT[b, : length_B[b] - len(end)]) for b in rows),
        )
        return dataclasses.replace(graded, rollouts=rollouts)


Shape = Cut | AddEmpty | Hint | Refine | Inject
Finish = GoldAnswer | Cut
