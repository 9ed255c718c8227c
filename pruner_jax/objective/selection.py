"""Selection: which rows count. Steps that narrow ``scene.keep_PG``, before or after the advantage.

In the slot ``select`` they act on the rewards, so the baseline and scale see only what is left
(GFPO); in ``adjust`` they act on the advantages and leave baseline and scale as they were.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from pruner_jax import masked
from pruner_jax.objective import slots
from pruner_jax.objective.context import Scene
from pruner_jax.objective.groups import Subset, varies
from pruner_jax.objective.schedules import Number
from pruner_jax.objective.statistics import Stat, evaluate


@dataclasses.dataclass(frozen=True)
class DropFlat:
    """Drop groups in which a channel does not vary (dynamic sampling, DAPO)."""

    channel: Literal["task", "reward"] = "task"
    needs = ("group",)

    def __post_init__(self) -> None:
        slots.check_choices(self)

    def __call__(self, scene: Scene) -> Scene:
        x_PG = scene.task_PG if self.channel == "task" else scene.reward_PG
        return scene.replace(keep_PG=scene.keep_PG & varies(x_PG, scene.keep_PG))


@dataclasses.dataclass(frozen=True)
class DropAllWrong:
    """Drop groups without a correct row."""

    def __call__(self, scene: Scene) -> Scene:
        return scene.replace(keep_PG=scene.keep_PG & (scene.groups.solve_rate_P > 0)[:, None])


@dataclasses.dataclass(frozen=True)
class SolveRate:
    """Keep groups whose share of correct rows lies between low and high, ends included."""

    low: float = 0.0
    high: float = 1.0

    def __call__(self, scene: Scene) -> Scene:
        rate_P = scene.groups.solve_rate_P
        here_P = (rate_P >= self.low) & (rate_P <= self.high)
        return scene.replace(keep_PG=scene.keep_PG & here_P[:, None])


@dataclasses.dataclass(frozen=True)
class Only:
    """Keep the rows of a subset: ``correct`` (positives only), ``finished`` (overlong masked)."""

    over: Subset

    def __post_init__(self) -> None:
        slots.check_choices(self)

    def __call__(self, scene: Scene) -> Scene:
        return scene.replace(keep_PG=scene.keep_PG & scene.groups.subset(self.over))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Within:
    """Keep the rows of which a measure (length, thinking, mode...) lies between low and high, ends
    included."""

    measure: str
    low: Number = -np.inf
    high: Number = np.inf

    def __call__(self, scene: Scene) -> Scene:
        x_PG = scene.groups.measure(self.measure)
        return scene.replace(keep_PG=scene.keep_PG & (x_PG >= self.low) & (x_PG <= self.high))


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """Keep rows whose reward reaches a value, or the mean of their group plus it."""

    value: float = 0.0
    mean: bool = False
    """Measured from the mean reward of the group."""
    or_correct: bool = False
    """Correct rows are kept whatever their reward (RaM)."""

    def __call__(self, scene: Scene) -> Scene:
        reward_PG = scene.reward_PG
        level = masked.mean(reward_PG, scene.keep_PG, 1, empty=0.0, keepdims=True)
        pass_PG = reward_PG >= self.value + (level if self.mean else 0.0) - 1e-9  # rounding
        if self.or_correct:
            pass_PG = pass_PG | scene.groups.subset("correct")
        return scene.replace(keep_PG=scene.keep_PG & pass_PG)


@dataclasses.dataclass(frozen=True)
class TopK:
    """Keep the k best rows of every group; of equals, the one with the lower sample number.

    ``k`` may be a statistic, rounded down: 8 to 4 with the solve rate, for example, is that of
    ``correct`` times -4 plus 8 (GFPO's second form). Where it is below 1 or unknown no row is
    kept.

    By ``short`` -L and ``efficient`` score / L (GFPO), ``reward`` (k 1: the argmax of RaM), or at
    ``random`` (O1-Pruner; depends on seed, step, problem and sample only).
    """

    k: int | Stat
    by: Literal["short", "efficient", "reward", "random"]

    def __post_init__(self) -> None:
        slots.check_choices(self)
        if isinstance(self.k, int) and self.k < 1:
            raise ValueError(f"top_k.k is {self.k}; allowed: 1 or more")

    def __call__(self, scene: Scene) -> Scene:
        worth_PG = np.where(scene.keep_PG, self._worth(scene), -np.inf)
        order_PG = np.lexsort((scene.groups.sample_PG, -worth_PG), axis=1)
        rank_PG = np.argsort(order_PG, axis=1)
        return scene.replace(keep_PG=scene.keep_PG & (rank_PG < np.floor(evaluate(self.k, scene))))

    def _worth(self, scene: Scene) -> np.ndarray:
        groups, context = scene.groups, scene.context
        length_PG = groups.measure("length")
        if self.by == "short":
            return -length_PG
        if self.by == "efficient":
            return groups.measure("score") / np.maximum(length_PG, 1)
        if self.by == "reward":
            return scene.reward_PG
        chance = np.zeros(groups.row_PG.shape)
        for p, g in zip(*np.nonzero(groups.mask_PG)):
            sample = groups.sample_PG[p, g]
            chance[p, g] = slots.uniform(context.seed, context.step, groups.problems[p], sample)
        return chance


Select = DropFlat | DropAllWrong | SolveRate | Only | Within | AtLeast | TopK
