"""From the two channels to one number per row: where they meet, and how they are scaled.

`Fused` adds them and then normalises; `Decoupled` normalises each and then adds. The choice matters
more than any kernel: in a group of correct rows a fused advantage divided by its standard deviation
does not depend on the weight of the length term at all. So baseline and scale have no default.
`Uniform` and `Pairs` are for imitation and for preference losses. After them come the steps that
change an advantage: `Clip`, `Whiten`, `Guard`, `Boost`.

Everything is taken over the rows that count (``scene.keep_PG``); the others get 0.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from pruner_jax import masked
from pruner_jax.objective import slots
from pruner_jax.objective.context import NotOffered, Scene
from pruner_jax.objective.groups import Groups, Subset, varies
from pruner_jax.objective.schedules import Number


@dataclasses.dataclass(frozen=True, kw_only=True)
class Norm:
    """``(r - baseline) / (std + epsilon)`` over a subset of the rows; 0 outside it."""

    baseline: Literal["none", "group", "leave_one_out", "halves", "batch", "reference"]
    """What is subtracted: nothing, the mean of the group, of the other rows of the group, of the
    shorter and the longer half of the group (CANON), of the batch, or of the task channel over the
    reference table."""

    scale: Literal["none", "group", "batch", "varying"]
    """What it is divided by: nothing, or the standard deviation of the group (GRPO) or of the batch
    (after the baseline; REINFORCE++, DLER). ``varying``: of the batch without the groups in which
    the channel does not vary, which have nothing to say about its scale."""

    over: Subset = "all"
    """Rows that have a baseline and an advantage: all, correct (DDCA), wrong, finished."""

    other: Number = 0.5
    """Of ``halves``: ``other`` times the mean of the half that a row is not in, 1 - ``other`` times
    that of its own. The halves meet at the median length; the median row of an odd group is
    long."""

    ddof: int = 1
    """1: unbiased standard deviation. 0: population."""

    epsilon: float = 1e-6
    """Added to the standard deviation."""

    def __post_init__(self) -> None:
        slots.check_choices(self)

    @property
    def needs(self) -> tuple[str, ...]:
        """A group, or a reference table."""
        if self.baseline == "reference":
            return ("reference",)
        grouped = self.baseline in ("group", "leave_one_out", "halves") or self.scale == "group"
        return ("group",) if grouped else ()

    def __call__(self, r_PG: np.ndarray, scene: Scene, task: object = None) -> np.ndarray:
        """The normalised channel, [P, G]."""
        mask_PG = scene.keep_PG & scene.groups.subset(self.over)
        a_PG = np.where(mask_PG, self._centred(r_PG, mask_PG, scene, task), 0.0)
        if self.scale == "none":
            return a_PG
        x_PG, axis = (r_PG, 1) if self.scale == "group" else (a_PG, None)
        if self.scale == "varying":
            mask_PG = mask_PG & varies(r_PG, mask_PG)
        std = masked.std(x_PG, mask_PG, axis, ddof=self.ddof, empty=0.0, keepdims=True)
        return masked.ratio(a_PG, std + self.epsilon, empty=0.0)

    def _centred(
        self, r_PG: np.ndarray, mask_PG: np.ndarray, scene: Scene, task: object
    ) -> np.ndarray:
        if self.baseline == "none":
            return r_PG
        if self.baseline == "reference":
            return r_PG - _reference_mean(scene, task)
        if self.baseline == "halves":
            own_PG, other_PG = _means_of_halves(r_PG, mask_PG, scene.groups)
            return r_PG - self.other * other_PG - (1 - self.other) * own_PG
        axis = None if self.baseline == "batch" else 1
        a_PG = r_PG - masked.mean(r_PG, mask_PG, axis, empty=0.0, keepdims=True)
        if self.baseline == "leave_one_out":  # r - mean of the others = (r - mean) n / (n - 1)
            n_P1 = masked.count(mask_PG, 1, keepdims=True)
            a_PG = a_PG * masked.ratio(n_P1, n_P1 - 1, empty=0.0)
        return a_PG


def _means_of_halves(
    r_PG: np.ndarray, mask_PG: np.ndarray, groups: Groups
) -> tuple[np.ndarray, np.ndarray]:
    """Of each row's own half and of the other one. Of rows as long as one another that with the
    lower sample number is the shorter one; a half without rows has the mean of the group."""
    length_PG = np.where(mask_PG, groups.measure("length"), np.inf)
    order_PG = np.lexsort((groups.sample_PG, length_PG), axis=1)
    rank_PG = np.argsort(order_PG, axis=1)
    short_PG = mask_PG & (rank_PG < masked.count(mask_PG, 1, keepdims=True) // 2)
    group_P1 = masked.mean(r_PG, mask_PG, 1, empty=0.0, keepdims=True)
    short_P1, long_P1 = (
        masked.mean(r_PG, half_PG, 1, empty=np.nan, keepdims=True)
        for half_PG in (short_PG, mask_PG & ~short_PG)
    )
    short_P1, long_P1 = (np.where(np.isnan(x), group_P1, x) for x in (short_P1, long_P1))
    return np.where(short_PG, short_P1, long_P1), np.where(short_PG, long_P1, short_P1)


def _reference_mean(scene: Scene, task: object) -> np.ndarray:
    """Mean of the task channel of the start model's rows for each problem, [P, 1]."""
    if scene.context.reference is None:
        raise NotOffered(
            "advantage baseline is 'reference' but nothing was collected for the reference table; "
            "give an earlier phase collect.reference: true"
        )
    if not hasattr(task, "value"):
        raise ValueError(
            f"advantage baseline is 'reference' but the task is {task!r}, which has no value on "
            "the reference table; allowed with task {kind: outcome}"
        )
    table = scene.context.reference.at(scene.groups.problems)
    known_P = table.mask_PG.any(axis=1)
    if not known_P.all():
        missing = [p for p, known in zip(table.problems, known_P) if not known]
        raise ValueError(
            f"the reference table has no rows for {len(missing)} problems: {missing[:3]}"
        )
    return masked.mean(task.value(table), table.mask_PG, 1, empty=0.0, keepdims=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fused:
    """``A = norm(task + length)``."""

    INNER = "norm"  # in YAML the fields of the norm stand beside ``kind: fused``

    norm: Norm

    def __call__(self, scene: Scene, task: object) -> Scene:
        return scene.replace(advantage_PG=self.norm(scene.reward_PG, scene, task))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoupled:
    """``A = norm_task(task) + beta * norm_length(length)`` (GDPO, DDCA)."""

    task: Norm
    length: Norm
    beta: Number = 1.0

    def __call__(self, scene: Scene, task: object) -> Scene:
        a_PG = self.task(scene.task_PG, scene, task) + self.beta * self.length(
            scene.length_PG, scene, task
        )
        return scene.replace(advantage_PG=a_PG)


@dataclasses.dataclass(frozen=True)
class Uniform:
    """1 for every row that counts: example weights for cross-entropy."""

    def __call__(self, scene: Scene, task: object) -> Scene:
        return scene.replace(advantage_PG=scene.keep_PG.astype(np.float64))


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Preference pairs: the ``count`` best rows of a group by reward (weight +1) against as many of
    the worst (weight -1), best with worst. A pair without a difference is left out; all other rows
    are dropped."""

    count: int = 1
    needs = ("group",)

    def __call__(self, scene: Scene, task: object) -> Scene:
        a_PG = np.zeros(scene.keep_PG.shape)
        pair_PG = np.full(scene.keep_PG.shape, -1, np.int32)
        reward_PG, pairs = scene.reward_PG, 0
        for p, keep_G in enumerate(scene.keep_PG):
            places = np.flatnonzero(keep_G)
            order = places[np.lexsort((scene.groups.sample_PG[p, places], -reward_PG[p, places]))]
            for best, worst in zip(order[: len(order) // 2][: self.count], order[::-1]):
                if reward_PG[p, best] > reward_PG[p, worst]:
                    a_PG[p, best], a_PG[p, worst] = 1.0, -1.0
                    pair_PG[p, [best, worst]] = pairs
                    pairs += 1
        return scene.replace(advantage_PG=a_PG, pair_PG=pair_PG, keep_PG=pair_PG >= 0)


Advantage = Fused | Decoupled | Uniform | Pairs


@dataclasses.dataclass(frozen=True)
class Clip:
    """The advantage between two bounds."""

    low: float
    high: float

    def __call__(self, scene: Scene) -> Scene:
        return scene.replace(advantage_PG=np.clip(scene.advantage_PG, self.low, self.high))


@dataclasses.dataclass(frozen=True)
class Whiten:
    """Mean 0 and standard deviation 1 over the rows that count, of the batch or of each group."""

    over: Literal["batch", "group"] = "batch"
    ddof: int = 1
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        slots.check_choices(self)

    @property
    def needs(self) -> tuple[str, ...]:
        """A group, to whiten over it."""
        return ("group",) if self.over == "group" else ()

    def __call__(self, scene: Scene) -> Scene:
        a_PG, mask_PG, axis = scene.advantage_PG, scene.keep_PG, 1 if self.over == "group" else None
        centred_PG = a_PG - masked.mean(a_PG, mask_PG, axis, empty=0.0, keepdims=True)
        std = masked.std(a_PG, mask_PG, axis, ddof=self.ddof, empty=0.0, keepdims=True)
        a_PG = masked.ratio(centred_PG, std + self.epsilon, empty=0.0)
        return scene.replace(advantage_PG=a_PG)


@dataclasses.dataclass(frozen=True)
class Guard:
    """No correct row below 0: being long is never punished like being wrong. Or no wrong row above
    0: being short never makes up for being wrong."""

    over: Literal["correct", "wrong"] = "correct"

    def __post_init__(self) -> None:
        slots.check_choices(self)

    def __call__(self, scene: Scene) -> Scene:
        a_PG, bound = scene.advantage_PG, np.maximum if self.over == "correct" else np.minimum
        here_PG = scene.groups.subset(self.over)
        return scene.replace(advantage_PG=np.where(here_PG, bound(a_PG, 0.0), a_PG))


@dataclasses.dataclass(frozen=True)
class Boost:
    """What is above 0 times ``above``, what is below 0 times ``below``: gains weigh more than
    losses, or less."""

    above: Number = 1.0
    below: Number = 1.0

    def __call__(self, scene: Scene) -> Scene:
        a_PG = scene.advantage_PG
        return scene.replace(advantage_PG=a_PG * np.where(a_PG > 0, self.above, self.below))
