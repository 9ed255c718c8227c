"""All that a run holds between steps, and how it is saved and found again.

``RunState`` is one value: what lies on devices (parameters, optimiser state) and plain numbers.
Saved at a step boundary together with how many metrics and which rollout files belong to it;
resuming cuts those back, so a run that is killed and continued is the run that never stopped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from pruner_jax.learn.step import LearnState
from pruner_jax.objective.memory import MONITOR

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
    ended: str | None = None  # why no further round follows

    @property
    def in_round(self) -> bool:
        """Whether a round has begun and not ended."""
        return self.limit is not None

    @property
    def current_round(self) -> int:
        """Number of the round that runs, from 1; between rounds of the one that has ended."""
        return self.round + self.in_round

    def mark(self, mark: Mark) -> Mark:
        """The mark with what now goes with its parameters."""
        return dataclasses.replace(
            mark, method=self.method, store=self.store, reference=self.reference_parameters
        )

    def go_on(self, renewed: Collection[str]) -> None:
        """From the parameters of the origin, which a round's end picked, to the next round.

        What belongs to a policy comes back with them: how it did on the monitor set, the rows that
        it was learning from in the phases ``renewed``, which collect anew with every iteration, and
        its reference. What belongs to the run stays: what is remembered of problems and batches,
        where controllers stand, and rows that are kept for good.
        """
        monitor = {name: self.origin.method[name] for name in self.origin.method if name == MONITOR}
        self.method = {**self.method, **monitor}
        self.store = self.store.with_phases(self.origin.store, renewed)
        self.reference_parameters = self.origin.reference

    def go_back(self) -> None:
        """To what went with the parameters of the origin, after an alarm: all of it, for what came
        since may be what rang."""
        self.method, self.store = self.origin.method, self.origin.store
        self.reference_parameters = self.origin.reference


@dataclasses.dataclass(frozen=True)
class Store:
    """What the phases that do not collect at every step have to learn from, by phase."""

    shards: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)  # files
    since: Mapping[str, int] = dataclasses.field(default_factory=dict)  # step of the newest

    def add(self, phase: str, shards: tuple[str, ...], step: int, keep: bool) -> Store:
        """With shards that were collected at a step, beside the earlier ones or in their place."""
        before = self.shards.get(phase, ()) if keep else ()
        return Store({**self.shards, phase: (*before, *shards)}, {**self.since, phase: step})

    def with_phases(self, other: Store, phases: Collection[str]) -> Store:
        """With another store's part of some phases in place of one's own."""

        def joined(own: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
            rest = {phase: x for phase, x in own.items() if phase not in phases}
            return rest | {phase: x for phase, x in others.items() if phase in phases}

        return Store(joined(self.shards, other.shards), joined(self.since, other.since))


@dataclasses.dataclass(frozen=True)
class Mark:
    """Parameters that were measured on the monitor set, and what going back to them restores: all
    of it after an alarm, what belongs to the policy at the end of a round."""

    step: int  # of the run
    parameters: str  # their name among the checkpoints
    rollouts: str  # file of the evaluation
    kept: bool = True  # whether the parameters are there: a candidate that cannot win has none
    method: dict[str, Any] = dataclasses.field(default_factory=dict)  # what the method remembered
    store: Store = dataclasses.field(default_factory=Store)  # what it learnt from
    reference: str | None = None  # parameters that its KL was measured against

    def without_parameters(self) -> Mark:
        """The mark of a candidate that cannot win: nobody goes back to it."""
        return Mark(self.step, self.parameters, self.rollouts, kept=False)


_ON_DEVICE = ("learn", "reference")
_MARKS = ("start", "origin")


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
    plain |= _memory_meta(plain)
    for name in _MARKS:
        plain[name] = plain[name] and _mark_meta(plain[name])
    plain["candidates"] = [_mark_meta(mark) for mark in state.candidates]
    return plain


def state_of(meta: Mapping[str, Any], learn: LearnState, reference: PyTree | None) -> RunState:
    """The state that ``meta_of`` came from.

    Raises:
      ValueError: it came from that of a version that noted less, or more of a mark.
    """
    names = [f.name for f in dataclasses.fields(RunState) if f.name not in _ON_DEVICE]
    try:
        plain = {name: meta[name] for name in names}
        plain |= _memory_of(plain)
        for name in _MARKS:
            plain[name] = plain[name] and _mark_of(plain[name])
        plain["candidates"] = [_mark_of(mark) for mark in meta["candidates"]]
    except KeyError as error:
        raise ValueError(
            f"the run was saved by an older version, which did not note {error}: finish it with "
            "that version, or begin anew with another --out"
        ) from None
    return RunState(learn=learn, reference=reference, **plain)


def parameters_in_use(state: RunState) -> list[str]:
    """Names of the parameters that this state may come back to."""
    marks = [mark for mark in _marks(state) if mark.kept]
    names = {name for mark in marks for name in (mark.parameters, mark.reference)}
    return sorted((names | {state.reference_parameters}) - {None})


def shards_in_use(state: RunState) -> list[str]:
    """Files of the store that this state learns from or may come back to."""
    stores = [state.store, *(mark.store for mark in _marks(state))]
    return sorted({n for store in stores for names in store.shards.values() for n in names})


def _marks(state: RunState) -> list[Mark]:
    marks = [state.start, state.origin, *state.candidates]
    return [mark for mark in marks if mark is not None]


def _mark_meta(mark: Mark) -> dict[str, Any]:
    plain = {field.name: getattr(mark, field.name) for field in dataclasses.fields(mark)}
    return plain | _memory_meta(plain)


def _mark_of(meta: Mapping[str, Any]) -> Mark:
    plain = {field.name: meta[field.name] for field in dataclasses.fields(Mark)}
    if unknown := sorted(meta.keys() - plain.keys()):
        raise ValueError(
            f"the run was saved by another version, which noted {unknown[0]!r} of its evaluations: "
            "finish it with that version, or begin anew with another --out"
        )
    return Mark(**{**plain, **_memory_of(plain)})


def _memory_meta(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Of a state or a mark, what the method remembers and learns from, as JSON types."""
    store = plain["store"]
    return {
        "method": _pack(plain["method"]),
        "store": {"shards": dict(store.shards), "since": dict(store.since)},
    }


def _memory_of(meta: Mapping[str, Any]) -> dict[str, Any]:
    shards = {phase: tuple(files) for phase, files in meta["store"]["shards"].items()}
    return {"method": _unpack(meta["method"]), "store": Store(shards, meta["store"]["since"])}


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
