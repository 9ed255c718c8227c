"""Prompt conditioning: what each rollout is told or made to write, before it is sampled.

Gives the run a mode and a budget for every row, the sentence that tells it to the model, and what
is written in the policy's place; the run renders the sentence into the prompt and turns the rest
into a force hook of the sampler. Left out: how either is done (see `text` and `sample`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from pruner_jax.objective import slots


@dataclasses.dataclass(frozen=True, kw_only=True)
class Begin:
    """The row begins with a given text."""

    text: str | None
    """What is written in the policy's place. {think_open} and {think_close} stand for the tags of
    the model. null: nothing; the policy begins by itself."""

    logp: float | None = None
    """Log-probability of the text in the importance ratio, borne by its first token; the others
    count as certain. null: what the policy gives to each token."""

    in_loss: bool = True
    """Whether it is trained like what the policy has drawn."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EndThought:
    """A thought that is still open after so many tokens is ended. What is written is not trained
    unless the phase trains "forced" tokens."""

    after: int | None = None
    """Tokens of the row after which it is ended. null: the budget of the row."""

    text: str = "{think_close}"
    """What is written; it has to close the thought. The tags as in `Begin`."""

    def __post_init__(self) -> None:
        if self.after is not None and self.after < 0:
            raise ValueError(f"end_thought.after is {self.after}; allowed: 0 or more, or null")
        if "{think_close}" not in self.text:
            raise ValueError(f"end_thought.text lacks {{think_close}}: {self.text!r}")

    def idle(self, limit: int, samples: int) -> str | None:
        """Why no thought is ever ended."""
        if self.after is None or self.after < limit:
            return None
        return f"thoughts are ended after {self.after} tokens, which none can reach"


Force = Begin | EndThought


@dataclasses.dataclass(frozen=True)
class Mode:
    """A way in which some of the rows are made."""

    name: str
    """For people; rows carry the number of the mode, its place in the list."""

    share: float = 1.0
    """Share of what the modes divide."""

    force: Force | None = None
    """What is written into these rows in the policy's place. null: nothing."""

    sentence: str | None = None
    """How the budget is told to these rows. null: as the budget says. Only where the modes divide
    the problems, for the rows of a problem share its prompt."""


@dataclasses.dataclass(frozen=True)
class UniformBudget:
    """A budget for every prompt, a whole number drawn evenly from low to high, ends included."""

    low: int
    high: int
    sentence: str = "Think for {budget} tokens."
    """How the model is told; appended to the question. Empty: it is not told."""

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high:
            raise ValueError(
                f"uniform_budget has low {self.low} and high {self.high}; allowed: 0 < low <= high"
            )
        _check_sentence("uniform_budget.sentence", self.sentence)

    def idle(self, limit: int, samples: int) -> str | None:
        """Why no response can be too long for its budget."""
        if self.low < limit:
            return None
        return f"budgets are {self.low} to {self.high} tokens, and no response can exceed its own"


@dataclasses.dataclass(frozen=True)
class Condition:
    """Modes and budgets of the rows that a phase collects. The default: none of either."""

    modes: tuple[Mode, ...] = ()
    """How the rows are divided. Empty: all alike (mode 0)."""

    divide: Literal["rows", "problems"] = "rows"
    """What the modes divide: the rows of every group, or the problems of a step (by chance)."""

    budget: UniformBudget | None = None
    """The budget in the prompt. null: the model is told none."""

    force: Force | None = None
    """What is written into every row, whatever its mode, after what its mode has written."""

    examples: int = 0
    """Worked examples that are shown before the question while sampling. The rows are trained and
    scored under their prompt without them."""

    def __post_init__(self) -> None:
        slots.check_choices(self)
        if self.examples < 0:
            raise ValueError(f"condition.examples is {self.examples}; allowed: 0 or more")
        shares = [mode.share for mode in self.modes]
        if shares and not np.isclose(sum(shares), 1.0):
            raise ValueError(f"condition.modes: the shares {shares} must add up to 1")
        if len({mode.name for mode in self.modes}) < len(self.modes):
            names = [mode.name for mode in self.modes]
            raise ValueError(f"condition.modes are {names}; allowed: different names")
        for mode in self.modes:
            if mode.sentence is None:
                continue
            _check_sentence(f"condition.modes, {mode.name!r}: sentence", mode.sentence)
            if self.divide == "rows" or self.budget is None:
                raise ValueError(
                    f"condition.modes: {mode.name!r} has a sentence, but condition.divide is "
                    f"{self.divide!r} and condition.budget {self.budget}; allowed with divide "
                    "problems and a budget"
                )
        if self.budget is None and any(
            isinstance(force, EndThought) and force.after is None
            for force in (self.force, *(mode.force for mode in self.modes))
        ):
            raise ValueError(
                "condition: end_thought.after is null, which means the budget of the row, but "
                "condition.budget is null; set one of them"
            )

    def modes_of(self, problems: Sequence[str], samples: int, seed: int, step: int) -> np.ndarray:
        """The mode of each sample of each problem, int32 [P, G]. Of divided groups the first
        samples are of mode 0."""
        shape = (len(problems), samples)
        if self.divide == "rows":
            where = (np.arange(samples) + 0.5)[None, :] / samples
        else:
            draws = [slots.uniform(seed, step, "mode", problem) for problem in problems]
            where = np.array(draws)[:, None]
        edges = np.cumsum([mode.share for mode in self.modes])[:-1]
        return np.broadcast_to(np.searchsorted(edges, where, "right"), shape).astype(np.int32)

    def budgets_of(self, problems: Sequence[str], seed: int, step: int) -> np.ndarray:
        """The budget of each problem, int32 [P]; -1 where there is none."""
        if self.budget is None:
            return np.full(len(problems), -1, np.int32)
        low, span = self.budget.low, self.budget.high - self.budget.low + 1
        draws = [slots.uniform(seed, step, "budget", problem) for problem in problems]
        return (low + np.floor(np.array(draws) * span)).astype(np.int32)

    def sentences_of(self, problems: Sequence[str], seed: int, step: int) -> tuple[str, ...]:
        """What is appended to the question of each problem; "" where nothing is told."""
        if self.budget is None:
            return ("",) * len(problems)
        told = [self.budget.sentence] * len(problems)
        if self.divide == "problems" and self.modes:
            for p, mode in enumerate(self.modes_of(problems, 1, seed, step)[:, 0]):
                if self.modes[mode].sentence is not None:
                    told[p] = self.modes[mode].sentence
        budget_P = self.budgets_of(problems, seed, step)
        return tuple(text.replace("{budget}", str(n)) for text, n in zip(told, budget_P))

    def longest_sentences(self) -> tuple[str, ...]:
        """Every sentence that a prompt may get at some step, with the highest budget."""
        if self.budget is None:
            return ("",)
        told = {self.budget.sentence: None}  # each once, in order
        if self.divide == "problems":
            told |= {mode.sentence: None for mode in self.modes if mode.sentence is not None}
        return tuple(text.replace("{budget}", str(self.budget.high)) for text in told)


def _check_sentence(path: str, sentence: str) -> None:
    if sentence and "{budget}" not in sentence:
        raise ValueError(f"{path} lacks {{budget}}: {sentence!r}")
