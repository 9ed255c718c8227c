"""Of the rows that were made in a certain way, how many are trained on: metrics of a collection.

What a method adds to its rows or makes begin otherwise (`Rollouts.mode_B`) competes with the plain
ones, and selection decides. For Rational Metareasoning's empty thought, of which every problem has
one, the share is that of the problems for which it was chosen.
"""

from __future__ import annotations

import numpy as np

from pruner_jax import masked
from pruner_jax.measure.frontier import SUBSETS, subsets
from pruner_jax.types import Weighted


def kept_by_mode(weighted: Weighted) -> dict[str, float]:
    """``prune/kept_mode/M``: the kept share of the rows of every mode M but the plain one, 0; and
    ``prune/kept_mode/M/easy`` and ``/hard``, of the collection's problems at either end of
    difficulty, where it is known."""
    rollouts = weighted.graded.rollouts
    difficulty_P = np.array(
        [np.nan if p.difficulty is None else p.difficulty for p in rollouts.prompts.problems]
    )
    subset_BU = subsets(difficulty_P)[rollouts.group_B]
    found = {}
    for mode in np.unique(rollouts.mode_B[rollouts.mode_B != 0]):
        for subset, inside_B in zip(SUBSETS, subset_BU.T):
            share = masked.mean(
                1.0 * weighted.keep_B, inside_B & (rollouts.mode_B == mode), empty=np.nan
            )
            found[f"prune/kept_mode/{mode}{'' if subset == 'all' else f'/{subset}'}"] = share
    return {name: float(share) for name, share in found.items() if np.isfinite(share)}
