"""One sampling spread over the processes of a pod: each writes and checks the rows of its prompts.

Afterwards all processes have all rows, in the order (prompt, sample), so whatever follows from them
is decided alike everywhere, and the learner packs its batches from all of them. That costs about 14
bytes a token on the network; packing host by host would leave a third of the learner's slots empty
on 32 hosts (`benchmarks/pod.py`). Leaves out how a process samples (`run.engine`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pruner_jax.objective.rows import below
from pruner_jax.pod.together import Pod
from pruner_jax.sample.sampler import SampleStats
from pruner_jax.types import Graded, Prompts, Rollouts, take_prompts, take_rows

Work = Callable[..., tuple[Graded, SampleStats]]


def spread(
    pod: Pod, prompts: Prompts, samples: int, conditions: Mapping[str, Any], work: Work, params: Any
) -> tuple[Graded, SampleStats]:
    """Graded rows of all prompts, and what sampling them took on all processes together.

    Args:
      pod: the processes.
      prompts: what is answered, the same everywhere.
      samples: responses to each.
      conditions: of the rows; what is given per row is cut to those of each process.
      work: ``work(params, prompts, samples, **conditions)`` samples some of the prompts here.
      params: decode parameters of this process.
    """
    own = pod.share(len(prompts))
    rows = (own[:, None] * samples + np.arange(samples)).reshape(-1)

    def part() -> tuple[np.ndarray, Graded, SampleStats] | None:
        if not len(own):
            return None
        graded, stats = work(
            params, take_prompts(prompts, own), samples, **_of_rows(conditions, rows)
        )
        # The prompts are known to all.
        rollouts = dataclasses.replace(
            graded.rollouts, prompts=None, group_B=(rows // samples).astype(np.int32)
        )
        return rows, dataclasses.replace(graded, rollouts=ragged(rollouts)), stats

    rows_of, graded_of, stats_of = zip(*filter(None, pod.each(part)))
    order = np.argsort(np.concatenate(rows_of), kind="stable")
    width = max(int(graded.rollouts.length_B.max(initial=0)) for graded in graded_of)
    whole = [dataclasses.replace(g, rollouts=padded(g.rollouts, width)) for g in graded_of]
    graded = take_rows(below(whole), order)
    limit = int(np.max(conditions["limit"]))
    rollouts = dataclasses.replace(graded.rollouts, prompts=prompts, limit=limit)
    return dataclasses.replace(graded, rollouts=rollouts), _together(stats_of)


def spread_checks(pod: Pod, rollouts: Rollouts, check: Callable[[Rollouts], Graded]) -> Graded:
    """Graded rows of which each process checks a part, so that all have the same verdicts: a
    checker may run out of time on one host and not on another."""
    if pod.count == 1:
        return check(rollouts)
    own = pod.share(len(rollouts))

    def part() -> tuple[np.ndarray, Graded]:
        graded = check(take_rows(rollouts, own))
        return own, dataclasses.replace(graded, rollouts=None)

    shares, verdicts = zip(*pod.each(part))
    order = np.argsort(np.concatenate(shares))

    def all_of(name: str) -> Any:
        values = [getattr(graded, name) for graded in verdicts]
        if isinstance(values[0], np.ndarray):
            return np.concatenate(values)[order]
        flat = [value for part in values for value in part]
        return tuple(flat[b] for b in order)

    names = ("verdict_B", "score_B", "extracted", "detail")
    return Graded(rollouts, **{name: all_of(name) for name in names})


def ragged(rollouts: Rollouts) -> Rollouts:
    """The rollouts with their ``[B, T]`` arrays one row after the other, without padding."""
    inside_BT = np.arange(rollouts.tokens_BT.shape[1]) < rollouts.length_B[:, None]
    return dataclasses.replace(rollouts, **{n: x[inside_BT] for n, x in _by_token(rollouts)})


def padded(rollouts: Rollouts, width: int) -> Rollouts:
    """The rollouts that ``ragged`` came from, ``width`` tokens wide."""
    inside_BT = np.arange(width) < rollouts.length_B[:, None]
    changes = {}
    for name, flat in _by_token(rollouts):
        changes[name] = np.zeros(inside_BT.shape, flat.dtype)
        changes[name][inside_BT] = flat
    return dataclasses.replace(rollouts, **changes)


def _by_token(rollouts: Rollouts) -> list[tuple[str, np.ndarray]]:
    names = [field.name for field in dataclasses.fields(rollouts) if field.name.endswith("_BT")]
    return [(name, getattr(rollouts, name)) for name in names]


def _of_rows(conditions: Mapping[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """The conditions of some rows, renumbered."""
    found = {
        name: value[rows] if isinstance(value, np.ndarray) and value.ndim else value
        for name, value in conditions.items()
    }
    if found.get("given"):
        place = {int(row): n for n, row in enumerate(rows)}
        found["given"] = {place[b]: x for b, x in found["given"].items() if b in place}
    return found


def _together(stats: Sequence[SampleStats]) -> SampleStats:
    """What all took: the sum, but of the seconds the longest."""
    total = sum(stats[1:], stats[0])
    return dataclasses.replace(total, seconds=max(one.seconds for one in stats))
