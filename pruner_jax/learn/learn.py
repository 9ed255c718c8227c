"""Weighted rows -> new parameters: pack, update, pack, update, in an order that can be repeated.

The host side of learning. Takes ``Rows`` (``rows.rows_of`` a collection, or ``rows_of_examples``
for imitation), a state and its compiled update; gives the next state and the metrics of the step.
Leaves out what the rows are worth (methods) and where the reference comes from (``step.score``).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from pruner_jax.learn import pack
from pruner_jax.learn.options import LearnOptions
from pruner_jax.learn.rows import Rows, active, shares, updates
from pruner_jax.learn.step import LearnState, Update, row_shards, to_devices
from pruner_jax.objective.loss_spec import LossSpec

# Compares the sampler with the learner, so only before the first update has moved the policy.
_FIRST = "sampling/"


def learn(
    state: LearnState,
    rows: Rows,
    update: Update,
    *,
    spec: LossSpec,
    options: LearnOptions,
    mesh: Mesh,
    seed: int,
    rate: Callable[[float, float], float],
    part: tuple[int, int] = (0, 1),
    on_update: Callable[[int, dict[str, jax.Array]], None] | None = None,
) -> tuple[LearnState, dict[str, float]]:
    """The updates on one collection: ``spec.epochs`` passes in minibatches.

    Args:
      state: donated; use the one that comes back.
      rows: what to learn from; no trained token at all leaves the state as it is.
      update: ``step.make_update`` with the same spec, options and mesh.
      spec: the loss, and into how many updates the rows are cut.
      options: packing.
      mesh: where the update runs.
      seed: of the order of the minibatches.
      rate: learning rate of an update, from where it begins and ends among all updates of this
        call, 0 to 1.
      part: ``(i, n)``: of all these updates only the i-th of n equal parts (i from 0), for rows
        that are learnt from over many steps.
      on_update: called after every update with its number from 0 and its metrics, still on the
        device (reading them waits for it).

    Returns:
      The state, and metrics averaged over the updates (the comparison of sampler and learner: of
      the first). ``perf/learn_fill`` is the share of the computed slots that held tokens,
      ``prune/rows_skipped`` the share of rows whose weights were all zero and that were left out.
    """
    if not rows.train_BT.any():
        return state, {"prune/updates": 0.0}
    options = options.resolve(jax.default_backend())
    sizes = pack.plan(rows, spec, options, shards=row_shards(mesh), shares=shares(rows, spec))
    seen, fill = [], []
    chosen = list(updates(rows, spec, seed, part))
    for number, index in enumerate(chosen):
        some = rows.take(index)
        batch, places = pack.pack(some, spec, sizes)
        lr = rate(number / len(chosen), (number + 1) / len(chosen))
        state, metrics = update(state, to_devices(batch, mesh), lr)
        seen.append(metrics)
        slots = max(1, int(batch.steps) * sizes.rows * sizes.tokens)
        fill.append(pack.used(some)[places.packed].sum() / slots)
        if on_update is not None:
            on_update(number, metrics)
    if not seen:
        return state, {"prune/updates": 0.0}
    mean = _mean(jax.device_get(seen))
    mean["prune/updates"] = float(len(seen))
    mean["prune/rows_skipped"] = float(1 - active(rows, spec).mean())
    mean["perf/learn_fill"] = float(np.mean(fill))
    return state, mean


def _mean(seen: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """Averages over updates. An update in which no token went forward has no token metrics."""
    mean = {}
    always = ("loss", "grad_norm", "lr", "prune/trained_tokens")
    for name in seen[0]:
        having = [m for m in seen if name in always or m["prune/trained_tokens"] > 0]
        values = [m[name] for m in (having[:1] if name.startswith(_FIRST) else having)]
        if values:
            mean[name] = float(np.mean(values))
    return mean
