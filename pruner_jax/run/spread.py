"""One sampling spread over the processes of a pod: each writes and checks the rows of its prompts.

Afterwards all processes have all rows, in the order (prompt, sample), so whatever follows from them
is decided alike everywhere, and the learner packs its batches from all of them. A row takes about
20 bytes a token on its way. Leaves out how a process samples (`run.engine`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
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

    def part() -> dict[str, Any] | None:
        if not len(own):
            return None
        graded, stats = work(
            params, take_prompts(prompts, own), samples, **_of_rows(conditions, rows)
        )
        return {"rows": rows, "graded": _plain(graded), "stats": dataclasses.asdict(stats)}

    parts = [part for part in pod.each(part) if part is not None]
    joined = below([_graded(part["graded"], prompts, part["rows"] // samples) for part in parts])
    order = np.argsort(np.concatenate([part["rows"] for part in parts]), kind="stable")
    graded = take_rows(joined, order)
    limit = int(np.max(conditions["limit"]))
    rollouts = dataclasses.replace(graded.rollouts, limit=limit)
    return dataclasses.replace(graded, rollouts=rollouts), _together(parts)


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


def _plain(graded: Graded) -> dict[str, Any]:
    """The rows as arrays and lists, without their prompts, which all have."""
    own = {f.name: getattr(graded, f.name) for f in dataclasses.fields(graded)}
    rollouts = own.pop("rollouts")
    fields = [f.name for f in dataclasses.fields(rollouts) if f.name != "prompts"]
    return {"own": own, "rollouts": {name: getattr(rollouts, name) for name in fields}}


def _graded(plain: Mapping[str, Any], prompts: Prompts, group_B: np.ndarray) -> Graded:
    """The rows again, of the prompts of all."""

    def tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {n: tuple(x) if isinstance(x, list) else x for n, x in fields.items()}

    rollouts = tuples(plain["rollouts"]) | {"group_B": group_B.astype(np.int32)}
    return Graded(rollouts=Rollouts(prompts=prompts, **rollouts), **tuples(plain["own"]))


def _together(parts: list[Mapping[str, Any]]) -> SampleStats:
    """What all took: the sum, but of the seconds the longest."""
    stats = [SampleStats(**part["stats"]) for part in parts]
    total = sum(stats[1:], stats[0])
    return dataclasses.replace(total, seconds=max(one.seconds for one in stats))
