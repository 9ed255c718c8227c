"""What statistics remember between steps: a plain tree of numpy arrays, saved with the run.

    state["history"][name]   per problem: {problem [N, 2], count [N], mean [N], min [N], max [N]}
    state["running"][name]   the same with one row, for the average over batches
    state["monitor"]         the newest monitor set: {mask, one array [P, G] per measure}

Problems are kept as 64-bit digests of their ids (two uint32), so that the tree holds numbers only.
Functions never change a state; they return a new one.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pruner_jax.objective.groups import Groups, Subset

State = Mapping[str, Any]
MONITOR = "monitor"  # this part of a state is of a policy, the rest of the run
_EVERYWHERE = ("",)  # the one "problem" of a running average


@dataclasses.dataclass(frozen=True)
class Key:
    """What is remembered: a measure over a subset, with a decay or as a plain mean."""

    source: str
    measure: str
    over: Subset
    decay: float | None

    @property
    def name(self) -> str:
        """Its name in the state."""
        return f"{self.measure}-{self.over}-{'mean' if self.decay is None else self.decay}"


def recall(state: State, key: Key, reduce: str, problems: Sequence[str]) -> np.ndarray:
    """A remembered statistic of each problem, float64 [P] ([1] for running averages); NaN where
    there is no memory."""
    table = state.get(key.source, {}).get(key.name)
    wanted = _EVERYWHERE if key.source == "running" else problems
    if table is None:
        return np.full(len(wanted), 0.0 if reduce == "count" else np.nan)
    place = {
        digest: n for n, digest in enumerate(map(tuple, np.asarray(table["problem"]).tolist()))
    }
    index = np.array([place.get(_digest(problem), -1) for problem in wanted], int)
    missing = 0.0 if reduce == "count" else np.nan
    return np.where(index >= 0, np.asarray(table[reduce])[index], missing)


def remember(state: State, key: Key, groups: Groups) -> dict[str, Any]:
    """The state after the rows of these groups."""
    x_PG = groups.measure(key.measure)
    mask_PG = groups.subset(key.over) & ~np.isnan(x_PG)
    problems: Sequence[str] = groups.problems
    if key.source == "running":
        x_PG, mask_PG, problems = x_PG.reshape(1, -1), mask_PG.reshape(1, -1), _EVERYWHERE
    table = state.get(key.source, {}).get(key.name, {})
    records = {
        tuple(row): [float(table[column][n]) for column in ("count", "mean", "min", "max")]
        for n, row in enumerate(np.asarray(table["problem"]).tolist() if table else [])
    }
    for problem, x_G, mask_G in zip(problems, x_PG, mask_PG):
        if mask_G.any():
            digest = _digest(problem)
            records[digest] = _blend(records.get(digest), x_G[mask_G], key.decay)
    if not records:
        return dict(state)
    count, mean, least, most = np.array(list(records.values()), np.float64).reshape(-1, 4).T
    new = {
        "problem": np.array(list(records), np.uint32).reshape(-1, 2),
        **{"count": count, "mean": mean, "min": least, "max": most},
    }
    return {**state, key.source: {**state.get(key.source, {}), key.name: new}}


def _blend(old: list[float] | None, x: np.ndarray, decay: float | None) -> list[float]:
    """count, mean, min and max after some more values."""
    if old is None:
        return [float(len(x)), float(x.mean()), float(x.min()), float(x.max())]
    count, mean, least, most = old
    share = len(x) / (count + len(x)) if decay is None else 1 - decay
    mean += share * (float(x.mean()) - mean)
    return [count + len(x), mean, min(least, float(x.min())), max(most, float(x.max()))]


def observe(state: State, monitor: Groups) -> dict[str, Any]:
    """The state after an evaluation on the monitor set, for statistics whose source it is."""
    arrays = {"mask": monitor.mask_PG, **{k: v.copy() for k, v in monitor.measures.items()}}
    return {**state, MONITOR: arrays}


def monitor(state: State) -> Groups:
    """The newest monitor set; without rows before the first evaluation."""
    arrays = dict(state.get(MONITOR, {}))
    if not arrays:
        nothing = np.zeros((1, 1))
        names = ("length", "thinking", "answer", "score", "correct", "finished", "mode")
        return Groups(("",), nothing.astype(int) - 1, nothing - 1, dict.fromkeys(names, nothing))
    mask_PG = np.asarray(arrays.pop("mask"), bool)
    row_PG = np.where(mask_PG, 0, -1)
    return Groups(("",) * len(mask_PG), row_PG, row_PG, arrays)


def _digest(problem: str) -> tuple[int, int]:
    digest = hashlib.blake2b(problem.encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
