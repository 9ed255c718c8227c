"""The length channel: what is added to (or taken from) the task channel for the sake of length.

    u      = (L - target) / scale
    reward = task + weight * times * kernel(u)            add
             task * (1 + weight * times * (kernel(u) - 1))   multiply
             weight * times * kernel(u)                     replace

for the rows that the gate lets through. Several terms act one after the other. The channel is the
difference ``reward - task``, an array [P, G] of its own up to the advantage.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from pruner_jax.objective import slots
from pruner_jax.objective.context import Scene
from pruner_jax.objective.kernels import Kernel, One
from pruner_jax.objective.schedules import Number
from pruner_jax.objective.statistics import Provider, Words, evaluate

ANY = (-np.inf, np.inf)
TOKENS = ("length", "thinking", "answer")  # measures that are counts of tokens


@dataclasses.dataclass(frozen=True)
class Gate:
    """Which rows a length term acts on, and between which bounds its kernel may move them."""

    correct: tuple[float, float] | None = ANY
    """Bounds of the kernel on correct rows. null: it does not act on them."""

    wrong: tuple[float, float] | None = None
    """Bounds on wrong rows. null: it does not act on them. Kimi k1.5: [-inf, 0]."""

    finished: bool = False
    """Only on rows that end within the limit."""

    modes: tuple[int, ...] | None = None
    """Only on rows of these modes. null: of any."""

    solve_rate: tuple[float, float] = (0.0, 1.0)
    """Only on groups whose share of correct rows lies in this interval, ends included."""

    top: float = 1.0
    """Only on groups whose share of correct rows is in the top share of the batch (GRPO-lambda)."""

    def __call__(self, phi_PG: np.ndarray, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
        """The kernel within its bounds, and where it acts, bool [P, G]."""
        groups = scene.groups
        open_PG = np.zeros(groups.row_PG.shape, bool)
        for side, bounds in (("correct", self.correct), ("wrong", self.wrong)):
            if bounds is not None:
                here_PG = groups.subset(side)
                phi_PG = np.where(here_PG, np.clip(phi_PG, *bounds), phi_PG)
                open_PG |= here_PG
        if self.finished:
            open_PG &= groups.subset("finished")
        if self.modes is not None:
            open_PG &= np.isin(groups.measure("mode"), self.modes)
        rate_P = groups.solve_rate_P
        low, high = self.solve_rate
        threshold = np.quantile(rate_P, 1 - self.top) if self.top < 1 else -np.inf
        open_P = (rate_P >= low) & (rate_P <= high) & (rate_P >= threshold)
        return phi_PG, open_PG & open_P[:, None]


EVERY_ROW = Gate(wrong=ANY)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Length:
    """One term of the length channel."""

    INNER = (
        "kernel"  # in YAML ``kind`` names the kernel, whose fields stand beside those of the term
    )

    kernel: Kernel
    """Shape of the reward, a function of u."""

    weight: Number = 1.0
    """Its strength; a number or a schedule."""

    target: Provider = 0.0
    """The length from which u counts."""

    scale: Provider = 1.0
    """The unit of u; at least ``epsilon``."""

    times: Provider = 1.0
    """A further factor for each prompt, such as its share of correct rows (ALP, DDCA)."""

    gate: Gate = Gate()
    """Which rows it acts on: by default the correct ones."""

    combine: Literal["add", "multiply", "replace"] = "add"
    """How it meets the reward so far."""

    measure: str | Words = "length"
    """What is meant by length: length, thinking, answer, rank, or any other measure of a row; or
    how often a pattern is found in its thought."""

    epsilon: float = 1e-6
    """Least scale; where a standard deviation is 0, u = 0 at the mean."""

    def __post_init__(self) -> None:
        slots.check_choices(self)

    def __call__(self, reward_PG: np.ndarray, scene: Scene) -> np.ndarray:
        """The reward after this term, [P, G]."""
        scale = np.maximum(evaluate(self.scale, scene), self.epsilon)  # NaN stays NaN
        is_named = isinstance(self.measure, str)
        length_PG = scene.groups.measure(self.measure) if is_named else self.measure(scene)
        u_PG = (length_PG - evaluate(self.target, scene)) / scale
        factor = self.weight * evaluate(self.times, scene)
        known_PG = ~np.isnan(u_PG) & ~np.isnan(factor)
        phi_PG, acts_PG = self.gate(self.kernel(np.where(known_PG, u_PG, 0.0)), scene)
        if self.combine == "add":
            new_PG = reward_PG + factor * phi_PG
        elif self.combine == "multiply":
            new_PG = reward_PG * (1 + factor * (phi_PG - 1))
        else:
            new_PG = factor * phi_PG
        return np.where(acts_PG & known_PG, new_PG, reward_PG)

    def idle(self, limit: int, samples: int) -> str | None:
        """Why every response gets the same of it, if its target is a number that is too high."""
        numbers = isinstance(self.target, int | float) and isinstance(self.scale, int | float)
        if isinstance(self.kernel, One) or self.measure not in TOKENS or not numbers:
            return None
        u = (np.arange(limit + 1) - self.target) / max(self.scale, self.epsilon)
        if np.ptp(self.kernel(u)) > 0:
            return None
        return f"the target is {self.target:g} tokens, so all responses get the same for length"


def length_channel(terms: tuple[Length, ...], scene: Scene) -> np.ndarray:
    """All terms applied to the task channel of the scene, minus that channel, [P, G]."""
    reward_PG = scene.task_PG
    for term in terms:
        reward_PG = term(reward_PG, scene)
    return reward_PG - scene.task_PG
