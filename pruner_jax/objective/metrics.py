"""What a weighing tells about itself: names as in TRL where TRL has one, ours under ``prune/``.

A metric with no rows behind it (mean length of correct rows when none is correct) is left out.
``docs/metrics.md`` says what each one means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pruner_jax import masked
from pruner_jax.objective.context import Scene
from pruner_jax.types import Graded, Rollouts

if TYPE_CHECKING:
    from pruner_jax.objective.method import Phase


def completions(rollouts: Rollouts) -> dict[str, float]:
    """Lengths of the rows as they were sampled, and which were cut at their limit."""
    length_B, finished_B = rollouts.length_B, rollouts.finished_B
    found = {
        "completions/mean_length": length_B.mean(),
        "completions/min_length": length_B.min(),
        "completions/max_length": length_B.max(),
        "completions/clipped_ratio": 1.0 - finished_B.mean(),
    }
    if finished_B.any():
        found["completions/mean_terminated_length"] = length_B[finished_B].mean()
    return {name: float(value) for name, value in found.items()}


def measure(phase: Phase, scene: Scene, collected: Graded) -> dict[str, float]:
    """Metrics of a finished scene; ``collected`` are its rows before they were shaped.

    Rewards are those of both channels together, over the shaped rows.
    """
    groups, a_PG, keep_PG = scene.groups, scene.advantage_PG, scene.keep_PG
    every, correct, wrong = groups.mask_PG, groups.subset("correct"), groups.subset("wrong")
    length_PG = groups.measure("length")
    some_P, rate_P = every.any(axis=1), groups.solve_rate_P
    std_P = masked.std(scene.reward_PG, every, 1, ddof=1, empty=0.0)
    found = {
        **completions(collected.rollouts),
        "reward": masked.mean(scene.reward_PG, every, empty=np.nan),
        "reward_std": masked.mean(std_P, some_P, empty=np.nan),
        "frac_reward_zero_std": masked.mean(1.0 * (std_P < 1e-9), some_P, empty=np.nan),
        "prune/reward_task": masked.mean(scene.task_PG, every, empty=np.nan),
        "prune/reward_length": masked.mean(scene.length_PG, every, empty=np.nan),
        "prune/all_correct": masked.mean(1.0 * (rate_P == 1), some_P, empty=np.nan),
        "prune/all_wrong": masked.mean(1.0 * (rate_P == 0), some_P, empty=np.nan),
        "prune/kept": masked.mean(1.0 * keep_PG, every, empty=np.nan),
        "prune/length_correct": masked.mean(length_PG, correct, empty=np.nan),
        "prune/length_wrong": masked.mean(length_PG, wrong, empty=np.nan),
        "prune/correct_pushed_down": masked.mean(1.0 * (a_PG < 0), correct & keep_PG, empty=np.nan),
        "prune/wrong_pushed_up": masked.mean(1.0 * (a_PG > 0), wrong & keep_PG, empty=np.nan),
        "prune/advantage_length_corr": _correlation(a_PG, length_PG, correct & keep_PG),
        "prune/length_over_task": _length_over_task(phase, scene),
    }
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def _correlation(a_PG: np.ndarray, length_PG: np.ndarray, mask_PG: np.ndarray) -> float:
    """Correlation of advantage and length within the correct rows of a group, over all groups."""
    x, y = (
        np.where(mask_PG, z - masked.mean(z, mask_PG, 1, empty=0.0, keepdims=True), 0.0)
        for z in (a_PG, length_PG)
    )
    spread = np.sqrt((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / spread) if spread > 1e-9 else np.nan


def _length_over_task(phase: Phase, scene: Scene) -> float:
    """Mean size of what the length channel does to the advantage, over that of the advantage
    without it."""
    if not phase.length:
        return np.nan
    bare = scene.replace(length_PG=np.zeros_like(scene.length_PG))
    with_PG = phase.advantage(scene, phase.task).advantage_PG
    task_PG = phase.advantage(bare, phase.task).advantage_PG
    size = masked.mean(np.abs(task_PG), scene.keep_PG, empty=0.0)
    change = masked.mean(np.abs(with_PG - task_PG), scene.keep_PG, empty=0.0)
    return float(change / size) if size > 0 else np.nan
