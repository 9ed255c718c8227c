"""The settings of measuring: an evaluation, the checkpoint rule, the next limit, the guards."""

from __future__ import annotations

import dataclasses


def _require(holds: bool, field: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{field} is {value!r}; allowed: {allowed}")


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """How a model is sampled when it is measured (monitor and test each have their own)."""

    problems: int | None = None
    """How many problems of the set, from its start; all of them when empty."""
    samples: int = 4
    """Samples per problem; from two on the model's own noise can be told."""
    temperature: float = 0.6
    """Sampling temperature; 0 is greedy decoding, with samples 1."""
    top_p: float = 0.95
    """Nucleus: the share of probability that is kept; 1 keeps all."""
    top_k: int = 0
    """How many of the likeliest tokens are kept; 0 keeps all."""
    limit: int | None = None
    """The most tokens of a response, for all models alike; empty: the longest round's."""
    budget: int | None = None
    """Tokens that the model is told to answer in, the same for every question and fewer than the
    limit; how well it keeps to them is reported. Empty: it is told none."""
    budget_sentence: str | None = None
    """How it is told, with {budget} in it; appended to the question. Empty: as the run's method
    tells its own budgets."""
    thinking_budget: int | None = None
    """Budget forcing (arXiv 2501.19393): a thought that is still open after so many tokens is ended
    by writing ``thinking_end``. Empty: it is not."""
    thinking_end: str = "{think_close}"
    """What ends the thought; {think_close} stands for the closing tag."""
    examples: int = 0
    """Worked examples of ``text.examples`` before the question (few-shot)."""
    confidence: float = 0.95
    """Confidence of every interval that is printed."""
    resamples: int = 10_000
    """Resamples of the bootstrap over problems."""

    def __post_init__(self) -> None:
        """Ranges, and greedy decoding with one sample."""
        _require(self.problems is None or self.problems >= 1, "problems", self.problems, ">= 1")
        _require(self.samples >= 1, "samples", self.samples, ">= 1")
        _require(self.temperature >= 0, "temperature", self.temperature, ">= 0")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "0 < top_p <= 1")
        _require(self.top_k >= 0, "top_k", self.top_k, ">= 0")
        _require(self.limit is None or self.limit >= 1, "limit", self.limit, ">= 1")
        _require(self.budget is None or self.budget >= 1, "budget", self.budget, ">= 1")
        if self.limit is not None:
            self.check_budget(self.limit)
        said = self.budget_sentence
        tells = said is None or "{budget}" in said
        _require(tells, "budget_sentence", said, "a text with {budget}")
        budget = self.thinking_budget
        _require(budget is None or budget >= 0, "thinking_budget", budget, ">= 0")
        _require(self.examples >= 0, "examples", self.examples, ">= 0")
        closes = "{think_close}" in self.thinking_end
        _require(closes, "thinking_end", self.thinking_end, "a text with {think_close}")
        _require(0.5 < self.confidence < 1, "confidence", self.confidence, "0.5 < confidence < 1")
        _require(self.resamples >= 100, "resamples", self.resamples, ">= 100")
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(
                f"samples is {self.samples} at temperature 0, where all samples of a problem are "
                "equal; set samples to 1 or raise temperature"
            )

    def check_budget(self, limit: int) -> None:
        """No response could be over a budget that is not below the limit."""
        if self.budget is not None and self.budget >= limit:
            raise ValueError(
                f"budget is {self.budget}, but responses are cut at {limit} tokens, so none could "
                f"be over it; set budget to less than {limit}, or raise limit"
            )

    def note(self) -> str:
        """What is appended to every question."""
        if self.budget is None:
            return ""
        if self.budget_sentence is None:
            raise ValueError(
                f"budget is {self.budget}, but nothing says how the model is told; set "
                "budget_sentence beside it, or take a method that tells budgets (l1_exact, l1_max; "
                "to evaluate a model of one: --like RUN)"
            )
        return self.budget_sentence.replace("{budget}", str(self.budget))


@dataclasses.dataclass(frozen=True)
class PickOptions:
    """The checkpoint that goes on: the shortest within the allowed band of the start model."""

    rule: str = "shortest"
    """shortest: within the band. last: the last one, whatever it lost; for comparisons of methods,
    in which the rule would hide what a method does."""
    tolerance: float = 0.03
    """Accuracy that may be lost on the monitor set (0.03 = three points)."""
    confidence: float = 0.95
    """One-sided confidence that no more than the tolerance was lost."""
    resamples: int = 10_000
    """Resamples of the paired bootstrap over problems."""

    def __post_init__(self) -> None:
        """Ranges."""
        _require(self.rule in ("shortest", "last"), "rule", self.rule, "shortest or last")
        _require(0 < self.tolerance < 1, "tolerance", self.tolerance, "0 < tolerance < 1")
        _require(0.5 < self.confidence < 1, "confidence", self.confidence, "0.5 < confidence < 1")
        _require(self.resamples >= 100, "resamples", self.resamples, ">= 100")


@dataclasses.dataclass(frozen=True)
class AutoOptions:
    """How the next token limit follows from the lengths of correct answers."""

    quantile: float = 0.7
    """Share of the correct answers on the monitor set that fit into the next limit."""
    coverage: float = 0.9
    """Share of the solvable monitor problems that keep at least one correct answer within it."""
    shrink: float = 0.8
    """Where these two would keep the limit up: it becomes this share of the current one. For as
    long as a checkpoint stays in the band there is something to win."""
    least: float = 0.25
    """Share of the solvable monitor problems that must keep a correct answer: the limit goes no
    further down, and the rounds end where that leaves no room."""
    floor: int = 1
    """No limit below this many tokens."""

    def __post_init__(self) -> None:
        """Ranges."""
        _require(0 < self.quantile <= 1, "quantile", self.quantile, "0 < quantile <= 1")
        _require(0 <= self.coverage <= 1, "coverage", self.coverage, "0 <= coverage <= 1")
        _require(self.floor >= 1, "floor", self.floor, ">= 1")
        _require(0 < self.shrink < 1, "shrink", self.shrink, "0 < shrink < 1")
        _require(0 < self.least <= 1, "least", self.least, "0 < least <= 1")


@dataclasses.dataclass(frozen=True)
class GuardOptions:
    """When a run is no longer doing what it is for. An empty threshold switches that guard off."""

    action: str = "rollback"
    """What an alarm does: "rollback" (back to the pick among what was measured before the steps
    that rang, from where the round goes on with the steps that are left), "stop" (such a pick, and
    the run ends), or "warn"."""
    rollbacks: int = 2
    """Rollbacks from which a round goes on; a further alarm ends it, and the next one begins."""
    window: int = 5
    """Steps that are averaged; the run's first window is what the last one is compared with."""
    empty_thinking: float | None = 0.5
    """Fires when more than this share of the thoughts is empty and the run began below it."""
    answer_growth: float | None = 2.0
    """Fires when the answers grew by this factor while the thoughts shrank."""
    repetition: float | None = 0.25
    """Fires when the share of repeated n-grams rose by more than this since the start."""
    entropy: float | None = 0.02
    """Fires when the entropy is below this share of what it was at the start."""
    accuracy: float | None = 0.15
    """Fires when the monitor accuracy fell by more than this below the start model's."""
    not_finite: bool = True
    """Fire on any metric that is NaN or infinite."""

    def __post_init__(self) -> None:
        """Ranges."""
        actions = ("stop", "rollback", "warn")
        _require(self.action in actions, "action", self.action, ", ".join(actions))
        _require(self.window >= 1, "window", self.window, ">= 1")
        _require(self.rollbacks >= 0, "rollbacks", self.rollbacks, ">= 0")
        for name in ("empty_thinking", "repetition", "entropy", "accuracy"):
            value = getattr(self, name)
            _require(value is None or 0 < value < 1, name, value, "between 0 and 1, or empty")
        growth = self.answer_growth
        _require(growth is None or growth > 1, "answer_growth", growth, "> 1, or empty")
