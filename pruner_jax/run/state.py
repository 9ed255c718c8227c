"""All that a run holds between steps, and how it is saved and found again.

``RunState`` is one value: what lies on devices (parameters, optimiser state) and plain numbers.
Saved at a step boundary together with how many metrics and which rollout files belong to it;
resuming cuts those back, so a run that is killed and continued is the run that never stopped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from pruner_jax.learn.step import LearnState

PyTree = Any


@dataclasses.dataclass
class RunState:
    """Where a run stands. ``parameters`` names are those of ``store.Checkpoints``.

    Changed in place: what lies on devices must go before its successor is made, or both need room.
    """

    learn: LearnState
    reference: PyTree | None  # what the KL is measured against; None: the method has no KL
    method: dict[str, Any] = dataclasses.field(default_factory=dict)  # what the method remembers
    round: int = 0  # rounds finished
    limit: int | None = None  # token limit of the round that runs; None: between rounds
    step: int = 0  # steps done in this round
    length: int = 0  # steps of this round
    steps: int = 0  # steps done in the run
    fresh: int = 0  # steps done when the last alarm or the end of a round made the optimiser anew
    cursors: dict[str, int] = dataclasses.field(default_factory=dict)  # problems drawn, by phase
    tables: dict[str, str] = dataclasses.field(default_factory=dict)  # reference tables, by phase
    store: Store = dataclasses.field(default_factory=lambda: Store())  # what is trained on later
    reference_parameters: str | None = None  # their name, where the method has a KL
    start: Mark | None = None  # where the run's parameters were measured: the start model
    origin: Mark | None = None  # where the round started
    candidates: list[Mark] = dataclasses.field(default_factory=list)  # of this round
    rounds: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # finished ones
    alarmed: bool = False  # a guard stopped this round
    method_before: dict[str, Any] = dataclasses.field(default_factory=dict)  # when it began
    reference_before: str | None = None
    store_before: Store = dataclasses.field(default_factory=lambda: Store())
    ended: str | None = None  # why no further round follows

    @property
    def in_round(self) -> bool:
        """Whether a round has begun and not ended."""
        return self.limit is not None

    @property
    def current_round(self) -> int:
        """Number of the round that runs, from 1; between rounds of the one that has ended."""
        return self.round + self.in_round


@dataclasses.dataclass(frozen=True)
class Store:
    """What the phases that do not collect at every step have to learn from, by phase."""

    shards: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # files
    since: Mapping[str, int] = dataclasses.field(default_factory=dict)  # step of the newest

    def add(self, phase: str, shards: tuple[str, ...], step: int, keep: bool) -> Store:
        """With shards that were collected at a step, beside the earlier ones or in their place."""
        before = self.shards.get(phase, ()) if keep else ()
        return Store({**self.shards, phase: (*before, *shards)}, {**self.since, phase: step})


@dataclasses.dataclass(frozen=True)
class Mark:
    """Parameters that were measured on the monitor set."""

    step: int  # of the run
    parameters: str  # their name among the checkpoints
    rollouts: str  # file of the evaluation
    kept: bool = True  # whether the parameters are there: a candidate that cannot win has none


_ON_DEVICE = ("learn", "reference")
_REMEMBERED = ("method", "method_before")
_STORES = ("store", "store_before")


def position(state: RunState) -> tuple[int, int, int]:
    """Tells any two states of a run apart."""
    return state.round, state.steps, len(state.candidates)


def meta_of(state: RunState) -> dict[str, Any]:
    """The plain part of a state, as JSON types."""
    plain = {
        field.name: getattr(state, field.name)
        for field in dataclasses.fields(state)
        if field.name not in _ON_DEVICE
    }
    for name in _REMEMBERED:
        plain[name] = _pack(plain[name])
    for name in _STORES:
        plain[name] = {"shards": dict(plain[name].shards), "since": dict(plain[name].since)}
    for name in ("start", "origin"):
        plain[name] = plain[name] and dataclasses.asdict(plain[name])
    plain["candidates"] = [dataclasses.asdict(mark) for mark in state.candidates]
    return plain


def state_of(meta: Mapping[str, Any], learn: LearnState, reference: PyTree | None) -> RunState:
    """The state that ``meta_of`` came from."""
    plain = {f.name: meta[f.name] for f in dataclasses.fields(RunState) if f.name not in _ON_DEVICE}
    for name in _REMEMBERED:
        plain[name] = _unpack(plain[name])
    for name in _STORES:
        shards = {phase: tuple(files) for phase, files in plain[name]["shards"].items()}
        plain[name] = Store(shards, plain[name]["since"])
    for name in ("start", "origin"):
        plain[name] = plain[name] and Mark(**plain[name])
    plain["candidates"] = [Mark(**mark) for mark in meta["candidates"]]
    return RunState(learn=learn, reference=reference, **plain)


def parameters_in_use(state: RunState) -> list[str]:
    """Names of the parameters that this state may come back to."""
    marks = [state.start, state.origin, *state.candidates]
    names = {mark.parameters for mark in marks if mark is not None and mark.kept}
    return sorted(names | ({state.reference_parameters, state.reference_before} - {None}))


def _pack(tree: Any) -> Any:
    """Arrays as JSON types; method states are small trees of dicts and arrays."""
    if isinstance(tree, Mapping):
        return {key: _pack(branch) for key, branch in tree.items()}
    if isinstance(tree, (np.ndarray, np.generic)):
        array = np.asarray(tree)
        values = array.astype(float) if array.dtype == np.float32 else array
        return {
            "__array__": str(array.dtype),
            "shape": list(array.shape),
            "of": values.ravel().tolist(),
        }
    return tree


def _unpack(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        if "__array__" in tree:
            return np.array(tree["of"], tree["__array__"]).reshape(tree["shape"])
        return {key: _unpack(branch) for key, branch in tree.items()}
    return tree
