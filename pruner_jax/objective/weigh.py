"""One phase applied to graded rows: Graded -> Weighted, with new state and metrics.

To be read top to bottom; it is the order in which the slots of a `Phase` stand. Pure: the same
phase, rows, state and context give the same result on every host.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pruner_jax.objective import schedules, statistics
from pruner_jax.objective.context import Context, Scene
from pruner_jax.objective.groups import Groups
from pruner_jax.objective.length import length_channel
from pruner_jax.objective.method import Phase
from pruner_jax.objective.metrics import measure
from pruner_jax.types import Graded, Origin, Rollouts, Weighted


def weigh(
    phase: Phase, graded: Graded, state: Mapping[str, Any], context: Context
) -> tuple[Weighted, dict[str, Any], dict[str, float]]:
    """What each row of a collection is worth to the learner.

    Args:
      phase: a phase with a loss.
      graded: its rows; shape steps may add to them, so the result can have more.
      state: the method state, ``{}`` at the start of a run (see `memory` and `schedules`).
      context: what the phase may know of the run and ask of it.

    Returns:
      The weighted rows, the state after them, and metrics (`metrics.measure`).

    Raises:
      ValueError: the phase has no loss, or a reward or weight is not finite.
    """
    if phase.loss is None:
        raise ValueError(f"phase {phase.name!r} has loss null: it collects rows, none are weighed")
    today = schedules.at(phase, context, state)
    collected = graded
    for shape in today.shape:
        graded = shape(graded, Scene.of(graded, context, state))

    scene = Scene.of(graded, context, state)
    scene = scene.replace(task_PG=today.task(scene))
    scene = scene.replace(length_PG=length_channel(today.length, scene))
    _check_finite(phase, "rewards", scene, scene.reward_PG)
    for select in today.select:
        scene = select(scene)
    scene = today.advantage(scene, today.task)
    for adjust in today.adjust:
        scene = adjust(scene)

    weighted = _weighted(today, scene)
    metrics = measure(today, scene, collected)
    state = statistics.after(state, phase, scene.groups)
    state = schedules.steer(phase, state, {**context.metrics, **metrics})
    return weighted, state, metrics


def _weighted(phase: Phase, scene: Scene) -> Weighted:
    """The rows as the learner gets them: edited, weighted token by token, and marked."""
    graded, groups = scene.graded, scene.groups
    _check_finite(phase, "weights", scene, scene.advantage_PG)
    advantage_B = groups.flat(np.where(scene.keep_PG, scene.advantage_PG, 0.0))
    for finish in phase.finish:
        graded = finish(graded, scene.replace(graded=graded, groups=Groups.of(graded)))
    if len(graded) != len(scene.graded):
        raise ValueError(
            f"phase {phase.name!r}: a finish step made {len(graded)} rows of {len(scene.graded)}; "
            "steps that add or drop rows belong into shape"
        )
    weight_BT = phase.credit(advantage_B.astype(np.float32), scene.replace(graded=graded))
    return Weighted(
        graded=graded,
        weight_BT=weight_BT,
        train_BT=trained(phase, graded.rollouts),
        keep_B=groups.flat(scene.keep_PG),
        loss=phase.loss.kind,
        pair_B=None if scene.pair_PG is None else groups.flat(scene.pair_PG).astype(np.int32),
    )


def trained(phase: Phase, rollouts: Rollouts) -> np.ndarray:
    """Which tokens of the rows enter the loss, bool [B, T]."""
    return np.isin(rollouts.origin_BT, [Origin[name.upper()] for name in phase.train])


def _check_finite(phase: Phase, what: str, scene: Scene, x_PG: np.ndarray) -> None:
    bad_B = scene.groups.flat(scene.keep_PG & ~np.isfinite(x_PG))
    if bad_B.any():
        raise ValueError(
            f"phase {phase.name!r}: the {what} of rows {np.flatnonzero(bad_B)[:5].tolist()} are "
            "not finite; bound the length kernel, or give its statistics a value for empty subsets"
        )
