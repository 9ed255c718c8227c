"""Schedules and controllers: numbers of a slot that change over the run.

Any field of a slot typed `Number` takes a number or one of these. A schedule is a function of a
clock; a controller also has a value of its own in the state, moved by a metric after every step,
or, where that is a number of the monitor set, once for every evaluation. `at` puts today's numbers
into a phase, so no other slot ever sees a schedule.

    state["controllers"][path]   float64, path as in "prune-length-0-weight"
    state["heard"][path]         int64, step of the evaluation that it last followed
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import numpy as np

from pruner_jax.objective import slots
from pruner_jax.objective.context import Context

Clock = Literal["step", "round_step", "round"]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Ramp:
    """A straight line from ``start`` at clock ``begin`` to ``end`` at clock ``begin + length``."""

    start: float
    end: float
    length: int
    begin: int = 0
    clock: Clock = "step"

    def __call__(self, time: int) -> float:
        share = min(max((time - self.begin) / self.length, 0.0), 1.0)
        return self.start + share * (self.end - self.start)


@dataclasses.dataclass(frozen=True)
class Stages:
    """``values[i]`` from clock ``starts[i]`` on, ``values[0]`` before: off then on, stage lists."""

    starts: tuple[int, ...]
    values: tuple[float, ...]
    clock: Clock = "step"

    def __post_init__(self) -> None:
        if len(self.starts) != len(self.values) or list(self.starts) != sorted(self.starts):
            raise ValueError(
                f"stages.starts is {self.starts} and stages.values is {self.values}; "
                "they must be equally long, starts ascending"
            )

    def __call__(self, time: int) -> float:
        return self.values[max(0, int(np.searchsorted(self.starts, time, "right")) - 1)]


@dataclasses.dataclass(frozen=True)
class Decay:
    """``max(floor, start * rate ** floor(clock / every))`` (Train Long, Think Short)."""

    start: float
    rate: float
    every: int = 1
    floor: float = 0.0
    clock: Clock = "step"

    def __call__(self, time: int) -> float:
        return max(self.floor, self.start * self.rate ** (time // self.every))


@dataclasses.dataclass(frozen=True)
class Alternate:
    """The values in turn, each for ``every`` ticks of the clock (SIRI, Kimi's toggle)."""

    values: tuple[float, ...]
    every: int = 1
    clock: Clock = "step"

    def __call__(self, time: int) -> float:
        return self.values[(time // self.every) % len(self.values)]


@dataclasses.dataclass(frozen=True)
class Dual:
    """A Lagrange multiplier: at every move ``value += rate * (metric / target - 1)`` (LEASH)."""

    metric: str
    target: float
    start: float
    rate: float
    low: float = 0.0
    high: float = np.inf

    def after(self, value: float, metric: float) -> float:
        """The value after a move."""
        return float(np.clip(value + self.rate * (metric / self.target - 1), self.low, self.high))


@dataclasses.dataclass(frozen=True)
class Feedback:
    """At every move the value grows by the factor ``up`` where the metric has reached the target,
    and shrinks by ``down`` where it has not (Acoer: 1.02 and .95, with every batch's accuracy)."""

    metric: str
    target: float
    start: float
    up: float = 1.02
    down: float = 0.95
    low: float = 0.0
    high: float = np.inf

    def after(self, value: float, metric: float) -> float:
        """The value after a move."""
        factor = self.up if metric >= self.target else self.down
        return float(np.clip(value * factor, self.low, self.high))


Number = float | Ramp | Stages | Decay | Alternate | Dual | Feedback
_TIMED = (Ramp, Stages, Decay, Alternate)
_STEERED = (Dual, Feedback)


def at(phase: T, context: Context, state: Mapping[str, Any]) -> T:
    """The phase with every schedule replaced by its number of this step."""

    def today(path: str, slot: Any) -> Any:
        if isinstance(slot, _TIMED):
            return float(slot(getattr(context, slot.clock)))
        if isinstance(slot, _STEERED):
            values = state.get("controllers", {})
            return float(values.get(_key(phase, path), slot.start))
        return slot

    return slots.transform(phase, today)


def steer(phase: Any, state: Mapping[str, Any], metrics: Mapping[str, float]) -> dict[str, Any]:
    """The state after a step with these metrics: every controller of the phase moves once.

    A metric that is not there yet (no evaluation so far) leaves its controllers where they are, and
    so does an evaluation (``monitor/step``) that they have followed already.
    """
    values, heard = dict(state.get("controllers", {})), dict(state.get("heard", {}))
    for path, slot in slots.walk(phase):
        if not isinstance(slot, _STEERED) or slot.metric not in metrics:
            continue
        key = _key(phase, path)
        if slot.metric.startswith("monitor/"):
            evaluated = int(metrics["monitor/step"])
            if heard.get(key, -1) >= evaluated:
                continue
            heard[key] = np.asarray(evaluated, np.int64)
        value = float(values.get(key, slot.start))
        values[key] = np.asarray(slot.after(value, metrics[slot.metric]), np.float64)
    new = {"controllers": values, "heard": heard}
    return {**state, **{name: entries for name, entries in new.items() if entries}}


def _key(phase: Any, path: str) -> str:
    return f"{phase.name}-{path}".replace(".", "-")
