"""A method is a value: a tuple of phases, each built from the slots of this room.

A `Phase` says, in the order in which it happens, what is collected, what the rows are told, how
they are shaped, what they are worth, which of them count, and how the learner uses them. `needs`
reads off the slots what the run must offer; `check` compares before anything starts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, Literal

from pruner_jax.objective import slots
from pruner_jax.objective.advantage import Advantage, Boost, Clip, Guard, Pairs, Uniform, Whiten
from pruner_jax.objective.condition import Condition
from pruner_jax.objective.credit import Broadcast, Credit
from pruner_jax.objective.length import Length
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.merge import Merge
from pruner_jax.objective.selection import Select, TopK
from pruner_jax.objective.shape import Finish, Shape
from pruner_jax.objective.task import Outcome, Task

Adjust = Clip | Whiten | Guard | Boost | Select
Trained = Literal["prompt", "sampled", "forced", "edited"]
When = Literal["never", "round", "iteration"]

OFFERS: Mapping[str, str] = {
    "group": "collect.samples of 2 or more",
    "history": "the method state, which every run has",
    "reference": "an earlier phase with collect.reference: true",
    "monitor": "a set of monitor problems",
    "answers": "problems with gold answers, scored by the learner",
    "expander": "a second model as the expander (expander.model)",
    "thoughts": "the texts of the rows, which every run has",
    "resample": "a policy that samples again, under a prompt of the method's own",
    "teacher": "a second model (teacher.model) or its responses (teacher.file)",
}
"""What a method may need, and what gives it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collect:
    """Which rollouts a phase works on."""

    samples: int
    """Rollouts of each problem."""

    policy: Literal["current", "start", "teacher"] = "current"
    """Who writes them: the policy in training, the start model of the run, or a second model."""

    every: Literal["once", "iteration", "step"] = "step"
    """How often. Between collections the phase goes on with the rows it has."""

    steps: int = 1
    """Steps in an iteration."""

    problems: int | None = None
    """Problems of a collection. null: as the run says (once: the whole training set)."""

    extra_draws: int = 0
    """Further draws of a step, at most, of as many problems as are expected to do, while selection
    leaves fewer problems than were to be collected (dynamic sampling, DAPO)."""

    keep: bool = False
    """Whether the rows that count are stored and trained on again with all later ones."""

    reference: bool = False
    """Whether they become the reference table, by problem."""

    temperature: float | None = None
    """null: as the run says. Like the next two a matter of the method only for collected data."""

    top_p: float | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        slots.check_choices(self)
        if self.samples < 1 or self.steps < 1:
            raise ValueError(
                f"collect.samples is {self.samples}, collect.steps {self.steps}; allowed: 1 or more"
            )
        if self.extra_draws < 0 or (self.extra_draws and self.every != "step"):
            raise ValueError(
                f"collect.extra_draws is {self.extra_draws} and collect.every {self.every!r}; "
                "allowed: 0 or more, and above 0 only where rows are collected at every step"
            )
        truncated = self.top_p not in (None, 1.0) or self.top_k not in (None, 0)
        if truncated and self.policy == "current" and self.every == "step":
            raise ValueError(
                f"collect.top_p is {self.top_p} and collect.top_k {self.top_k}, but the rows are "
                "on-policy, whose log-probabilities must be those of the whole distribution; set "
                "both to null, or collect.every to iteration or once"
            )

    @property
    def lasts(self) -> bool:
        """Whether what is collected is there at later steps too."""
        return self.every != "step" or self.keep

    @property
    def renews(self) -> bool:
        """Whether what is collected takes the place of what was before, after some steps."""
        return self.every == "iteration" and not self.keep

    def due(self, step: int, since: int | None) -> bool:
        """Whether the phase collects at this step of the run; ``since``: the step at which it
        collected what it has (None: nothing)."""
        if self.every == "step" or since is None:
            return True
        return self.every == "iteration" and step - since >= self.steps


@dataclasses.dataclass(frozen=True)
class Reset:
    """What starts anew, and when: never, with every round, or with every iteration (whenever the
    phase collects)."""

    parameters: When = "never"
    """Back to the start model of the run."""

    optimiser: When = "never"
    """To its initial state."""

    reference: When = "never"
    """The reference policy becomes the current one. never: it is the start model of the run."""

    def __post_init__(self) -> None:
        slots.check_choices(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """One kind of collection and what is done with it."""

    name: str
    collect: Collect
    """What is collected."""

    condition: Condition = Condition()
    """What the rows are told or made to begin with."""

    shape: tuple[Shape, ...] = ()
    """How they are cut, edited or joined by others, before the statistics."""

    task: Task = Outcome()
    """What they are worth apart from their length."""

    length: tuple[Length, ...] = ()
    """What length adds to it."""

    select: tuple[Select, ...] = ()
    """Which rows count, for the statistics of the advantage and after."""

    advantage: Advantage = Uniform()
    """How both channels become one number per row."""

    adjust: tuple[Adjust, ...] = ()
    """Steps on the advantage, and selection that leaves its statistics alone."""

    credit: Credit = Broadcast()
    """How the number is spread over the tokens of the row."""

    finish: tuple[Finish, ...] = ()
    """How the weighted rows are edited before they are trained on."""

    train: tuple[Trained, ...] = ("sampled",)
    """Tokens that enter the loss, by origin. One that a hook wrote in the policy's place and put in
    the loss (AdaptThink's first one) counts as "sampled"."""

    loss: LossSpec | None
    """How the learner uses the rows. null: it does not; the phase only collects."""

    reset: Reset = Reset()
    """What starts anew."""

    def __post_init__(self) -> None:
        if "group" in needs(self) and self.collect.samples < 2:
            where = ", ".join(needs(self)["group"])
            raise ValueError(
                f"phase {self.name!r}: collect.samples is {self.collect.samples}, but {where} "
                "compares the samples of a problem; allowed: 2 or more"
            )
        asked = sorted({"answers", "expander", "resample"} & set(needs(self)))
        if self.collect.extra_draws and asked:
            raise ValueError(
                f"phase {self.name!r}: collect.extra_draws is {self.collect.extra_draws}, but rows "
                f"are weighed once more for each draw, and {asked[0]!r} takes a model each time; "
                "set it to 0"
            )
        if self.loss is not None and self.loss.kind == "pg" and isinstance(self.advantage, Uniform):
            raise ValueError(
                f"phase {self.name!r}: loss.kind is 'pg' but advantage is 'uniform'; choose an "
                "advantage (fused, decoupled), or loss.kind ce"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """A published method, or one's own."""

    name: str
    phases: tuple[Phase, ...]
    merge: Merge | None = None
    """What is done with the parameters in the end. null: they are exported as they are."""

    wants: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """Settings of other rooms (room -> field -> value) under which the method is the published one.
    The run shows where its configuration differs."""

    requires: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """The same without which it is not even what was asked for. The run refuses others."""

    def __post_init__(self) -> None:
        names = [phase.name for phase in self.phases]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"method {self.name!r}: phases are {names}; allowed: different names")
        have_table = False
        for phase in self.phases:
            have_table |= phase.collect.reference
            if "reference" in needs(phase) and not have_table:
                raise ValueError(
                    f"method {self.name!r}, phase {phase.name!r}: {needs(phase)['reference'][0]} "
                    f"needs a reference table; give it {OFFERS['reference']}"
                )


def most_kept(phase: Phase) -> int:
    """The most rows of a problem that reach the learner, as far as selection says it by a number;
    what shapes and verdicts do to them is not known before."""
    steps = (*phase.select, *phase.adjust)
    best = [step.k for step in steps if isinstance(step, TopK) and isinstance(step.k, int)]
    pairs = [2 * phase.advantage.count] if isinstance(phase.advantage, Pairs) else []
    return min([phase.collect.samples, *best, *pairs])


def needs(phase: Phase) -> dict[str, list[str]]:
    """What a phase needs of the run, and which of its slots need it."""
    found: dict[str, list[str]] = {}
    for path, slot in slots.walk(phase):
        for need in getattr(slot, "needs", ()):
            found.setdefault(need, []).append(path)
    if phase.collect.policy == "teacher":
        found.setdefault("teacher", []).append("collect.policy")
    return found


def idle(phase: Phase, limit: int) -> list[str]:
    """What of a phase is inert while no response has more than ``limit`` tokens: the slot's path
    and why. A slot that may be such has ``idle(limit, samples)``, which gives a text or None."""
    found = [
        (path, slot.idle(limit, phase.collect.samples))
        for path, slot in slots.walk(phase)
        if hasattr(slot, "idle")
    ]
    return [f"{path}: {why}" for path, why in found if why]


def looks_at_tokens(phase: Phase) -> bool:
    """Whether weighing a phase's rows may take their tokens or texts, and not lengths and verdicts
    alone: something rewrites them, counts in them, a model is asked about them, they are not
    credited as wholes, or a slot is one's own, of which nothing is known."""
    own = any(not type(s).__module__.startswith("pruner_jax.") for _, s in slots.walk(phase))
    asks = {"answers", "expander", "resample", "thoughts"} & set(needs(phase))
    rewrites = phase.shape or phase.finish
    return bool(own or asks or rewrites) or not isinstance(phase.credit, Broadcast)


def follows_monitor(phase: Phase) -> bool:
    """Whether a phase learns from the evaluations on the monitor set: it takes statistics of them,
    or a controller follows a number of theirs."""
    followed = [getattr(slot, "metric", "") for _, slot in slots.walk(phase)]
    return "monitor" in needs(phase) or any(name.startswith("monitor/") for name in followed)


def budget_sentence(method: Method) -> str | None:
    """How the first phase that tells budgets does so, with {budget} in it; None where none does."""
    budgets = [phase.condition.budget for phase in method.phases]
    return next((b.sentence for b in budgets if b is not None and b.sentence), None)


def check(method: Method, offers: Collection[str]) -> None:
    """Refuse a method that needs what the run does not offer.

    ``offers``: which of monitor, answers, expander, resample, teacher the run has. Groups, history,
    the reference table and the texts of thoughts come with the method itself.

    Raises:
      ValueError: naming the phase, the slot, what it needs and what would give it.
    """
    for phase in method.phases:
        for need, paths in needs(phase).items():
            if need not in {*offers, "group", "history", "reference", "thoughts"}:
                raise ValueError(
                    f"method {method.name!r}, phase {phase.name!r}: {', '.join(paths)} needs "
                    f"{need!r}, which this run lacks; give it {OFFERS[need]}"
                )
