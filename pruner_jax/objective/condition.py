"""Prompt conditioning: what each rollout is told or made to begin with, before it is sampled.

Gives the run a mode and a budget for every row; the run renders the sentence into the prompt and
hands the named force hook to the sampler. Left out: how either is done (see `text` and `sample`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from pruner_jax.objective import slots


@dataclasses.dataclass(frozen=True)
class Mode:
    """A way in which some of the rows of every group are made."""

    name: str
    """For people; rows carry the number of the mode, its place in the list."""

    share: float = 1.0
    """Share of the rows of a group."""

    force: str | None = None
    """Force hook of the sampler that writes tokens into these rows. null: none."""


@dataclasses.dataclass(frozen=True)
class UniformBudget:
    """A budget for every prompt, a whole number drawn evenly from low to high, ends included."""

    low: int
    high: int
    sentence: str = "Think for {budget} tokens."
    """How the model is told; appended to the question."""

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(
                f"uniform_budget has low {self.low} and high {self.high}; allowed: 0 < low <= high"
            )
        if "{budget}" not in self.sentence:
            raise ValueError(f"uniform_budget.sentence lacks {{budget}}: {self.sentence!r}")


@dataclasses.dataclass(frozen=True)
class Condition:
    """Modes and budgets of the rows that a phase collects. The default: none of either."""

    modes: tuple[Mode, ...] = ()
    """How the rows of a group are divided. Empty: all alike (mode 0)."""

    budget: UniformBudget | None = None
    """The budget in the prompt. null: the model is told none."""

    def __post_init__(self) -> None:
        shares = [mode.share for mode in self.modes]
        if shares and not np.isclose(sum(shares), 1.0):
            raise ValueError(f"condition.modes: the shares {shares} must add up to 1")

    def modes_of(self, samples: int) -> np.ndarray:
        """The mode of each sample of a group, int32 [G]; the first samples are of mode 0."""
        edges = np.cumsum([mode.share for mode in self.modes])[:-1]
        middles_G = (np.arange(samples) + 0.5) / samples
        return np.searchsorted(edges, middles_G, "right").astype(np.int32)

    def budgets_of(self, problems: Sequence[str], seed: int, step: int) -> np.ndarray:
        """The budget of each problem, int32 [P]; -1 where there is none."""
        if self.budget is None:
            return np.full(len(problems), -1, np.int32)
        low, span = self.budget.low, self.budget.high - self.budget.low + 1
        draws = [slots.uniform(seed, step, "budget", problem) for problem in problems]
        return (low + np.floor(np.array(draws) * span)).astype(np.int32)
