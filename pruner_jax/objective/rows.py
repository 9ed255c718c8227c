"""Rows added to graded rows, and responses written anew: what several shape steps share."""

from __future__ import annotations

import dataclasses

import numpy as np

from pruner_jax.objective.context import Context
from pruner_jax.types import Graded, Origin, Rollouts, take_rows


def append(graded: Graded, more: Graded) -> Graded:
    """Both, grouped by prompt again, the added rows last in their group. Parents are renumbered."""
    first, second = graded.rollouts, more.rollouts
    if second.prompts is not first.prompts:
        raise ValueError("rows can only be appended to rows of the same prompts")
    width = max(first.tokens_BT.shape[1], second.tokens_BT.shape[1])
    fields = {}
    for field in dataclasses.fields(Rollouts):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if field.name.endswith("_BT"):
            fill = np.nan if field.name == "logp_BT" else 0
            fields[field.name] = np.concatenate([widen(a, width, fill), widen(b, width, fill)])
        elif field.name.endswith("_B"):
            fields[field.name] = np.concatenate([a, b])
        elif field.name == "text":
            fields[field.name] = a + b

    def either(a: tuple | None, b: tuple | None, fill: str | None) -> tuple | None:
        if a is None and b is None:
            return None
        return (a or (fill,) * len(first)) + (b or (fill,) * len(second))

    fields["train_tokens"] = either(first.train_tokens, second.train_tokens, None)
    joined = Graded(
        rollouts=dataclasses.replace(first, **fields),
        verdict_B=np.concatenate([graded.verdict_B, more.verdict_B]),
        score_B=np.concatenate([graded.score_B, more.score_B]),
        extracted=graded.extracted + more.extracted,
        detail=either(graded.detail, more.detail, ""),
    )
    order_B = np.argsort(joined.rollouts.group_B, kind="stable")
    place_B = np.argsort(order_B)
    parent_B = joined.rollouts.parent_B
    moved_B = np.where(parent_B >= 0, place_B[parent_B], -1).astype(np.int32)
    rollouts = dataclasses.replace(joined.rollouts, parent_B=moved_B)
    return take_rows(dataclasses.replace(joined, rollouts=rollouts), order_B)


def widen(x_BT: np.ndarray, width: int, fill: float) -> np.ndarray:
    """The array with columns of ``fill`` up to that width."""
    return np.pad(x_BT, [(0, 0), (0, width - x_BT.shape[1])], constant_values=fill)


def rewrite(rollouts: Rollouts, texts: list[str], context: Context) -> Rollouts:
    """The rows with other, finished responses; none of it trains or is scored."""
    end = [] if context.end_token is None else [context.end_token]
    rows = [np.concatenate([context.encode(text), end]).astype(np.int32) for text in texts]
    length_B = np.array([len(row) for row in rows], np.int32)
    here_BT = np.arange(int(length_B.max())) < length_B[:, None]
    tokens_BT = np.zeros(here_BT.shape, np.int32)
    tokens_BT[here_BT] = np.concatenate(rows)
    return dataclasses.replace(
        rollouts,
        tokens_BT=tokens_BT,
        logp_BT=np.full(here_BT.shape, np.nan, np.float32),
        origin_BT=np.where(here_BT, np.uint8(Origin.EDITED), np.uint8(Origin.PAD)),
        length_B=length_B,
        thinking_B=np.minimum(rollouts.thinking_B, length_B),
        finished_B=np.ones(len(rows), bool),
        text=tuple(texts),
    )
