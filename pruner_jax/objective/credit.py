"""Credit: how the advantage of a row is spread over its tokens.

Called with the advantages float32 [B] and the scene; gives weights that broadcast to [B, T].
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pruner_jax.objective.context import Scene


@dataclasses.dataclass(frozen=True)
class Broadcast:
    """The same on every token, [B, 1]."""

    def __call__(self, advantage_B: np.ndarray, scene: Scene) -> np.ndarray:
        return advantage_B[:, None]


@dataclasses.dataclass(frozen=True)
class ControlToken:
    """Another weight on the first token, which chooses the mode (Thinkless' DeGRPO)."""

    weight: float

    def __call__(self, advantage_B: np.ndarray, scene: Scene) -> np.ndarray:
        factor_T = np.ones(scene.graded.rollouts.tokens_BT.shape[1], np.float32)
        factor_T[:1] = self.weight
        return advantage_B[:, None] * factor_T


Credit = Broadcast | ControlToken
