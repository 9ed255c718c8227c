"""Length kernels: pure functions of u = (L - target) / scale, as rewards (larger is better).

u is a float array of any shape; so is the value. A kernel knows nothing of groups, gates or
weights. The numbers K1..K17 are those of the usual catalogue of length rewards. One class is one
kernel; its fields are the kernel's constants.
"""

from __future__ import annotations

import dataclasses

import numpy as np

_HUGE = 60.0  # exp(60) is finite and far beyond any reward


@dataclasses.dataclass(frozen=True)
class One:
    """1 whatever the length: a bonus for the rows that the gate lets through (AdaptThink)."""

    def __call__(self, u: np.ndarray) -> np.ndarray:
        return np.ones_like(u)


@dataclasses.dataclass(frozen=True)
class Linear:
    """K1: -u. Unbounded."""

    def __call__(self, u: np.ndarray) -> np.ndarray:
        return -u


@dataclasses.dataclass(frozen=True)
class Distance:
    """K2: -abs(u), for a target that should be met (L1-Exact, ShorterBetter). Unbounded."""

    def __call__(self, u: np.ndarray) -> np.ndarray:
        return -np.abs(u)


@dataclasses.dataclass(frozen=True)
class Clipped:
    """clip(offset - u, low, high). K3, the min-max of Kimi k1.5, by default; K6, the soft overlong
    ramp of DAPO: offset 0, low -1, high 0; K7 of L1-Max: offset .5, low 0, high 1."""

    offset: float = 0.5
    low: float = -0.5
    high: float = 0.5

    def __call__(self, u: np.ndarray) -> np.ndarray:
        return np.clip(self.offset - u, self.low, self.high)


@dataclasses.dataclass(frozen=True)
class Sigmoid:
    """K4: -sigmoid(u) (TLMRE, DDCA)."""

    def __call__(self, u: np.ndarray) -> np.ndarray:
        return -0.5 * (1 + np.tanh(u / 2))


@dataclasses.dataclass(frozen=True)
class Step:
    """K5: 1 up to the target and 0 beyond it; with ``above`` the other way round (LASER-DE)."""

    above: bool = False

    def __call__(self, u: np.ndarray) -> np.ndarray:
        return ((u > 0) if self.above else (u <= 0)).astype(np.float64)


@dataclasses.dataclass(frozen=True)
class Cosine:
    """K8: half a cosine wave from ``start`` at u = 0 to ``end`` at u = 1, constant outside.

    HAPO's cos(pi/2 min(L/h, 2)) is the default with scale 2h.
    """

    start: float = 1.0
    end: float = -1.0

    def __call__(self, u: np.ndarray) -> np.ndarray:
        return self.end + (self.start - self.end) * (1 + np.cos(np.pi * np.clip(u, 0, 1))) / 2


@dataclasses.dataclass(frozen=True)
class Exponential:
    """K9: exp(-rate u) (GRPO-LEAD). Unbounded below the target."""

    rate: float = 1.0

    def __call__(self, u: np.ndarray) -> np.ndarray:
        return np.exp(np.clip(-self.rate * u, -_HUGE, _HUGE))


@dataclasses.dataclass(frozen=True)
class Excess:
    """K10: -max(u, 0) ** power (SmartThinker; Hawkeye with power 2). Unbounded."""

    power: float = 1.0

    def __call__(self, u: np.ndarray) -> np.ndarray:
        return -(np.maximum(u, 0.0) ** self.power)


@dataclasses.dataclass(frozen=True)
class Ratio:
    """K11: 1/u - 1, so that with target 0 it is scale / L - 1 (O1-Pruner). Unbounded near 0."""

    def __call__(self, u: np.ndarray) -> np.ndarray:
        return 1 / np.maximum(u, 1e-6) - 1


@dataclasses.dataclass(frozen=True)
class Hyperbolic:
    """K12: 1 / (1 + rate u), u from 0 (GR3)."""

    rate: float = 1.0

    def __call__(self, u: np.ndarray) -> np.ndarray:
        return 1 / (1 + self.rate * np.maximum(u, 0.0))


@dataclasses.dataclass(frozen=True)
class LogBudget:
    """K13: log(1 + k (1 - u)) / log(1 + k), 0 from the budget on (Acoer)."""

    k: float = 5.0

    def __call__(self, u: np.ndarray) -> np.ndarray:
        return np.log1p(self.k * np.maximum(1 - u, 0.0)) / np.log1p(self.k)


@dataclasses.dataclass(frozen=True)
class Discount:
    """K14: gamma ** u. K15, 2 ** -rank (S-GRPO): gamma .5 on the measure ``rank``."""

    gamma: float = 0.5

    def __call__(self, u: np.ndarray) -> np.ndarray:
        return np.exp(np.clip(u * np.log(self.gamma), -_HUGE, _HUGE))


@dataclasses.dataclass(frozen=True)
class Triangle:
    """K16: max(0, 1 - abs(u)), a peak at the target (Train Long, Think Short)."""

    def __call__(self, u: np.ndarray) -> np.ndarray:
        return np.maximum(0.0, 1 - np.abs(u))


@dataclasses.dataclass(frozen=True)
class Log:
    """K17: -log(1 + u), u from 0: the cost of length in RaM, and of counts of any kind."""

    def __call__(self, u: np.ndarray) -> np.ndarray:
        return -np.log1p(np.maximum(u, 0.0))


Kernel = (
    One
    | Linear
    | Distance
    | Clipped
    | Sigmoid
    | Step
    | Cosine
    | Exponential
    | Excess
    | Ratio
    | Hyperbolic
    | LogBudget
    | Discount
    | Triangle
    | Log
)
