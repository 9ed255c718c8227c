"""Statistics: the targets, scales and weights of the other slots, as [P, 1] or [P, G] arrays.

A provider is a number, a `Stat` over a named subset of a named source, the `Limit` of the round,
the `Budget` told to each row, a measure of each row itself (`Own`), or the length of a text of its
problem (`Written`). NaN means that there was
nothing to measure; it only ever leaves this file where the slot said ``empty: null`` (the term is
then off for that group).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from pruner_jax import masked
from pruner_jax.objective import memory, slots
from pruner_jax.objective.context import NotOffered, Scene
from pruner_jax.objective.groups import Groups, Subset
from pruner_jax.types import Problem


@dataclasses.dataclass(frozen=True)
class Limit:
    """``times * limit + plus``, with the token limit of the round."""

    times: float = 1.0
    plus: float = 0.0

    def __call__(self, scene: Scene) -> np.ndarray:
        return np.full((1, 1), self.times * scene.context.limit + self.plus)


@dataclasses.dataclass(frozen=True)
class Budget:
    """``times * budget + plus`` of each row; nothing where the model was told no budget."""

    times: float = 1.0
    plus: float = 0.0

    def __call__(self, scene: Scene) -> np.ndarray:
        return self.times * scene.groups.measure("budget") + self.plus


@dataclasses.dataclass(frozen=True)
class Own:
    """``times * measure + plus`` of each row itself: its ``thinking`` plus 64 is where an answer of
    more than 64 tokens is cut."""

    measure: str
    times: float = 1.0
    plus: float = 0.0

    def __call__(self, scene: Scene) -> np.ndarray:
        return self.times * scene.groups.measure(self.measure) + self.plus


@dataclasses.dataclass(frozen=True)
class Written:
    """``times * tokens + plus`` of a text that stands in a column of the problem: a worked solution
    of its source."""

    column: str
    times: float = 1.0
    plus: float = 0.0

    unit: Literal["tokens", "words"] = "tokens"
    """What is counted: tokens of the policy, or words with white space between them."""

    whole: bool = False
    """Rounded down to a whole number."""

    def __post_init__(self) -> None:
        slots.check_choices(self)

    def __call__(self, scene: Scene) -> np.ndarray:
        split = str.split if self.unit == "words" else scene.context.encode
        texts = self.texts(scene.graded.rollouts.prompts.problems)
        size_P1 = np.array([[len(split(text))] for text in texts], np.float64)
        value_P1 = self.times * size_P1 + self.plus
        return np.floor(value_P1) if self.whole else value_P1

    def texts(self, problems: Sequence[Problem]) -> list[str]:
        """What stands there.

        Raises:
          ValueError: nothing, or no text, in a problem.
        """
        for problem in problems:
            if not isinstance(problem.columns.get(self.column), str):
                raise ValueError(
                    f"the method wants a text in column {self.column!r} of every problem, but "
                    f"{problem.id!r} has none; its columns: "
                    f"{', '.join(map(str, problem.columns)) or 'none'}"
                )
        return [problem.columns[self.column] for problem in problems]


@dataclasses.dataclass(frozen=True)
class Words:
    """How often a pattern is found in the thought of each row (K17): its words, or those that
    announce a re-check, ``(?i)\\b(?:wait|hmm)\\b``."""

    pattern: str = r"\S+"
    needs = ("thoughts",)

    def __call__(self, scene: Scene) -> np.ndarray:
        thoughts = scene.context.thoughts(scene.graded.rollouts)
        return scene.groups.pad([len(re.findall(self.pattern, thought)) for thought in thoughts])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stat:
    """``clip(times * reduce(measure over a subset of a source) + plus, low, high)`` by prompt."""

    reduce: Literal["mean", "std", "min", "max", "range", "quantile", "count"]
    """How the subset becomes one number. ``range`` is max - min, and as good as empty where that is
    0: a scale of nothing measures nothing."""

    measure: str = "length"
    """Of what: length (the default), thinking, answer, correct, score, finished, mode, rank..."""

    over: Subset
    """Which rows: all, correct, wrong or finished."""

    source: Literal["group", "batch", "running", "reference", "history", "monitor"] = "group"
    """Whose rows: of the own group, of the whole batch, of the batches so far (a running average),
    of the start model for this problem, of earlier visits to this problem, of the monitor set."""

    empty: float | Stat | None
    """The value where the subset is empty (for std: where it has ``ddof`` rows or fewer). null:
    whatever this statistic feeds is off there."""

    q: float = 0.5
    """Which quantile."""

    ddof: int = 1
    """Of the standard deviation: 1 unbiased, 0 population."""

    decay: float | None = None
    """For running and history: weight of the past in an exponential average. null: plain mean."""

    buckets: tuple[float, ...] = ()
    """For batch and monitor: edges of difficulty buckets; a prompt looks only at prompts whose
    share of correct rows falls between the same edges."""

    times: float = 1.0
    plus: float = 0.0
    low: float = -np.inf
    high: float = np.inf

    def __post_init__(self) -> None:
        slots.check_choices(self)
        if self.source in ("history", "running") and self.reduce in ("std", "quantile", "range"):
            raise ValueError(
                f"stat.reduce is {self.reduce!r} with stat.source {self.source!r}, which keeps no "
                "rows; allowed: mean, min, max, count"
            )
        if self.decay is not None and self.source not in ("history", "running"):
            raise ValueError(
                f"stat.decay is {self.decay} but stat.source is {self.source!r}; "
                "only history and running have a past"
            )
        if self.buckets and self.source not in ("batch", "monitor"):
            raise ValueError(
                f"stat.buckets is {self.buckets} but stat.source is {self.source!r}; "
                "allowed with batch and monitor"
            )

    @property
    def needs(self) -> tuple[str, ...]:
        """What the run must have for this statistic."""
        return (self.source,) if self.source not in ("batch", "running") else ()

    def __call__(self, scene: Scene) -> np.ndarray:
        value = self.times * self._value(scene) + self.plus
        value = np.clip(value, self.low, self.high)
        if self.empty is None:
            return value
        return np.where(np.isnan(value), evaluate(self.empty, scene), value)

    def _value(self, scene: Scene) -> np.ndarray:
        own = scene.groups
        if self.source == "group":
            return self.reduced(own, axis=1)
        if self.source == "reference":
            if scene.context.reference is None:
                raise NotOffered(
                    "stat.source is 'reference' but nothing was collected for the reference table; "
                    "give an earlier phase collect.reference: true"
                )
            return self.reduced(scene.context.reference.at(own.problems), axis=1)
        if self.source == "batch":
            return self._pooled(own, own)
        if self.source == "monitor":
            return self._pooled(own, memory.monitor(scene.state))
        return memory.recall(scene.state, self.remembers, self.reduce, own.problems)[:, None]

    def reduced(
        self, groups: Groups, axis: int | None, among: np.ndarray | bool = True
    ) -> np.ndarray:
        """The bare statistic along an axis, kept as length 1; NaN where the subset is empty."""
        x_PG = groups.measure(self.measure)
        mask_PG = groups.subset(self.over) & ~np.isnan(x_PG) & among
        shared: dict[str, Any] = {"axis": axis, "keepdims": True}
        if self.reduce == "count":
            return masked.count(mask_PG, **shared).astype(np.float64)
        if self.reduce == "std":
            return masked.std(x_PG, mask_PG, ddof=self.ddof, empty=np.nan, **shared)
        if self.reduce == "quantile":
            if axis is None:
                x_PG, mask_PG, shared["axis"] = x_PG.reshape(1, -1), mask_PG.reshape(1, -1), 1
            return masked.quantile(x_PG, mask_PG, self.q, empty=np.nan, **shared)
        if self.reduce == "range":
            most = masked.max(x_PG, mask_PG, empty=np.nan, **shared)
            spread = most - masked.min(x_PG, mask_PG, empty=np.nan, **shared)
            return np.where(spread > 0, spread, np.nan)
        return getattr(masked, self.reduce)(x_PG, mask_PG, empty=np.nan, **shared)

    def _pooled(self, own: Groups, source: Groups) -> np.ndarray:
        """The statistic over all rows of the source in the same difficulty bucket, [P, 1]."""
        bucket_P = np.digitize(own.solve_rate_P, self.buckets)
        others_P = np.digitize(source.solve_rate_P, self.buckets)
        value_P1 = np.full((len(own.problems), 1), np.nan)
        for bucket in np.unique(bucket_P):
            among_P1 = (others_P == bucket)[:, None]
            value_P1[bucket_P == bucket] = self.reduced(source, axis=None, among=among_P1)
        return value_P1

    @property
    def remembers(self) -> memory.Key | None:
        """What the state must keep for this statistic."""
        if self.source not in ("history", "running"):
            return None
        return memory.Key(self.source, self.measure, self.over, self.decay)


Provider = float | Stat | Limit | Budget | Own | Written


def evaluate(provider: Provider, scene: Scene) -> np.ndarray:
    """The value of a provider, broadcastable to [P, G]; NaN where it is off."""
    if callable(provider):
        return provider(scene)
    return np.full((1, 1), float(provider))


def after(state: Mapping[str, Any], phase: Any, groups: Groups) -> dict[str, Any]:
    """The state after these rows, for every statistic of the phase that has memory."""
    keys = {slot.remembers for _, slot in slots.walk(phase) if isinstance(slot, Stat)} - {None}
    for key in sorted(keys, key=str):
        state = memory.remember(state, key, groups)
    return dict(state)
