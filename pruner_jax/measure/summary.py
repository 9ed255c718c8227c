"""summary.json: what a run achieved, as plain JSON types.

Takes the two evaluations on the test set, the rounds, seconds by phase and the versions. Every
number that the report shows about the two models is in it, so that a script can read what a person
sees. NaN ("the data cannot say") becomes null.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pruner_jax.measure import curve, difficulty, paired, stats
from pruner_jax.measure.outcomes import Outcomes

_PACKAGES = (
    "pruner-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "transformers",
    "math-verify",
    "numpy",
)
_REACH = 0.95  # the share of the base accuracy whose token price is named


@dataclasses.dataclass(frozen=True)
class Round:
    """One finished round, measured on the monitor set."""

    limit: int
    steps: int
    picked_step: int
    accuracy: float
    mean_tokens: float
    reason: str = ""


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on, without importing any of it."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def summary(
    base: Outcomes,
    final: Outcomes,
    *,
    rounds: Sequence[Round] = (),
    seconds: Mapping[str, float] | None = None,
    versions: Mapping[str, str] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    budget: int | None = None,
) -> dict[str, Any]:
    """The dict that is written as summary.json, from two test evaluations under one limit.

    ``seconds``: the time of each phase. ``budget``: tokens that both models were told.
    """
    how = {"confidence": confidence, "resamples": resamples, "seed": seed}
    base, final = paired.aligned(base, final)
    change = paired.paired(base, final, **how)
    levels = difficulty.by_difficulty(base, final)
    rates = difficulty.by_base_accuracy(base, final) if base.samples_P.min() >= 2 else ()
    adaptation = dict(zip(("base", "final"), difficulty.adaptation_ratio(levels)))
    result = {
        "base": stats.describe(base, **how, budget=budget),
        "final": stats.describe(final, **how, budget=budget),
        "accuracy_change": dataclasses.asdict(change.accuracy_change),
        "token_ratio": dataclasses.asdict(change.token_ratio),
        "aes": {
            **dataclasses.asdict(change.aes),
            "a": paired.AES_A,
            "b": paired.AES_B,
            "g": paired.AES_G,
        },
        "confidence": confidence,
        "resamples": resamples,
        "curve": _curves(base, final, confidence, seed),
        "by_difficulty": [dataclasses.asdict(level) for level in levels],
        "by_base_accuracy": [dataclasses.asdict(rate) for rate in rates],
        "adaptation_ratio": adaptation,
        "rounds": [dataclasses.asdict(entry) for entry in rounds],
        "seconds": dict(seconds or {}),
        "versions": dict(versions or {}),
    }
    return plain(result)


def plain(value: Any) -> Any:
    """The same with JSON types only: arrays become lists, numpy scalars Python's, NaN and infinity
    null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _curves(base: Outcomes, final: Outcomes, confidence: float, seed: int) -> dict[str, Any]:
    """J(b) of both models from the shortest sample to the limit, its area and the price of 95 %."""
    low = min(int(side.length_PG[side.mask_PG].min()) for side in (base, final))
    budgets = curve.log_budgets(max(low, 1), base.limit)
    goal = _REACH * stats.accuracy(base)
    result: dict[str, Any] = {"budgets": budgets, "reach": {"share": _REACH}, "area": {}}
    for name, side in (("base", base), ("final", final)):
        drawn = curve.curve(side, budgets, confidence=confidence, seed=seed)
        result[name] = {"value": drawn.value, "low": drawn.low, "high": drawn.high}
        result["reach"][name] = curve.budget_to_reach(side, goal)
        if low < base.limit:
            result["area"][name] = curve.area(side, max(low, 1), base.limit)
    return result
