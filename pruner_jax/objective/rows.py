"""Rows added to graded rows, and responses written anew: what several shape steps share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from pruner_jax.objective.context import Context
from pruner_jax.types import Graded, Origin, Rollouts, take_prompts, take_rows


def append(graded: Graded, more: Graded) -> Graded:
    """Both, grouped by prompt again, the added rows last in their group. Parents are renumbered."""
    if more.rollouts.prompts is not graded.rollouts.prompts:
        raise ValueError("rows can only be appended to rows of the same prompts")
    joined = below([graded, more])
    order_B = np.argsort(joined.rollouts.group_B, kind="stable")
    place_B = np.argsort(order_B)
    parent_B = joined.rollouts.parent_B
    moved_B = np.where(parent_B >= 0, place_B[parent_B], -1).astype(np.int32)
    rollouts = dataclasses.replace(joined.rollouts, parent_B=moved_B)
    return take_rows(dataclasses.replace(joined, rollouts=rollouts), order_B)


def together(first: Graded, second: Graded) -> Graded:
    """Two collections as one: prompts and rows of the second behind those of the first."""
    one, two = first.rollouts.prompts, second.rollouts.prompts
    prompts = dataclasses.replace(
        one,
        problems=one.problems + two.problems,
        text=one.text + two.text,
        tokens=one.tokens + two.tokens,
        visit_P=np.concatenate([one.visit_P, two.visit_P]),
    )
    more = second.rollouts
    parent_B = np.where(more.parent_B >= 0, more.parent_B + len(first), -1).astype(np.int32)
    group_B = (more.group_B + len(one)).astype(np.int32)
    moved = dataclasses.replace(more, group_B=group_B, parent_B=parent_B)
    joined = below([first, dataclasses.replace(second, rollouts=moved)])
    rollouts = dataclasses.replace(joined.rollouts, prompts=prompts)
    return dataclasses.replace(joined, rollouts=rollouts)


def first_prompts(graded: Graded, count: int) -> Graded:
    """The first prompts and their rows."""
    kept = take_rows(graded, graded.rollouts.group_B < count)
    prompts = take_prompts(kept.rollouts.prompts, np.arange(count))
    return dataclasses.replace(kept, rollouts=dataclasses.replace(kept.rollouts, prompts=prompts))


def below(parts: Sequence[Graded]) -> Graded:
    """The rows of all, one below the other; prompts, temperature and limit of the first."""
    rollouts = [part.rollouts for part in parts]
    width = max(some.tokens_BT.shape[1] for some in rollouts)
    fields = {}
    for field in dataclasses.fields(Rollouts):
        values = [getattr(some, field.name) for some in rollouts]
        if field.name.endswith("_BT"):
            fill = np.nan if field.name == "logp_BT" else 0
            fields[field.name] = np.concatenate([widen(x_BT, width, fill) for x_BT in values])
        elif field.name.endswith("_B"):
            fields[field.name] = np.concatenate(values)
        elif field.name == "text":
            fields[field.name] = sum(values, ())

    def filled(values: Sequence[tuple | None], fill: str | None) -> tuple | None:
        if all(x is None for x in values):
            return None
        return sum((x or (fill,) * len(part) for x, part in zip(values, parts)), ())

    fields["train_tokens"] = filled([some.train_tokens for some in rollouts], None)
    return Graded(
        rollouts=dataclasses.replace(rollouts[0], **fields),
        verdict_B=np.concatenate([part.verdict_B for part in parts]),
        score_B=np.concatenate([part.score_B for part in parts]),
        extracted=sum((part.extracted for part in parts), ()),
        detail=filled([part.detail for part in parts], ""),
    )


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
