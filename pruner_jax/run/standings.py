"""What the runs of a comparison came to, put together: the content of compare.json.

For every set the points with intervals over problems and seeds (see ``measure/frontier.py``), the
frontier, the hypervolumes, and whether the claims hold. Takes finished runs as ``played`` reads
them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pruner_jax.config import CompareConfig
from pruner_jax.measure import paired
from pruner_jax.measure.bootstrap import estimate
from pruner_jax.measure.frontier import (
    MEASURES,
    Means,
    bounds,
    correlation,
    divisor,
    hypervolume,
    measure,
    on_frontier,
    ratio,
    resampled,
    subsets,
)
from pruner_jax.measure.summary import plain
from pruner_jax.run.planned import BASE
from pruner_jax.run.played import QUANTITIES, Played


def standings(
    settings: CompareConfig, played: Sequence[Played], resamples: int | None = None
) -> dict[str, Any]:
    """The content of compare.json, plain data; points and sets without a finished run are left out.

    Raises:
      ValueError: runs of a set were measured on other problems.
    """
    resamples = resamples or settings.resamples
    found, means = {}, {}
    for name in settings.sets:
        here = [one for one in played if one.run.set == name]
        if here:
            found[name], means[name] = _set(here, settings.confidence, resamples)
    return plain(
        {
            "sets": found,
            "effects": _effects(settings, means),
            "confidence": settings.confidence,
            "resamples": resamples,
            "runs": [{"run": one.run.name, **_alone(one)} for one in played],
        }
    )


def _set(
    played: list[Played], confidence: float, resamples: int
) -> tuple[dict[str, Any], dict[str, Means]]:
    """One set, and the draws of its points by name, the base model among them."""
    first = played[0]
    for one in played:
        if (one.problem_ids, one.limit) != (first.problem_ids, first.limit):
            raise ValueError(
                f"{one.run.name} and {first.run.name} were measured on other problems or under "
                "another limit; give the comparison a new out"
            )
    points: dict[str, list[Played]] = {}
    for one in played:
        points.setdefault(one.run.point.name, []).append(one)
    values = {name: np.stack([one.values_MPQ for one in runs]) for name, runs in points.items()}
    values[BASE] = _base(played)
    subsets_PU = subsets(first.difficulty_P)
    means = resampled(values, first.quantities, subsets_PU, resamples=resamples)
    frontier = _frontier(means)
    describe = {
        name: _described(means[name], first.quantities, confidence) | {"frontier": frontier[name]}
        for name in means
    }
    base = describe[BASE] | {"correlation": _correlation(played, model=0)}
    return {
        "problems": len(first.problem_ids),
        "samples": first.samples,
        "limit": first.limit,
        "difficulty": {
            name: np.unique(first.difficulty_P[inside_P])
            for name, inside_P in zip(("easy", "hard"), subsets_PU.T[1:])
        },
        "base": base,
        "points": [
            _identity(runs) | describe[name] | _trained(runs) for name, runs in points.items()
        ],
        "hypervolume": _hypervolumes(points, means, first.limit, confidence),
    }, means


def _base(played: list[Played]) -> np.ndarray:
    """The base model as a point: in the place of both models, once for each seed."""
    by_seed = {one.run.seed: one.values_MPQ[[0, 0]] for one in reversed(played)}
    return np.stack([by_seed[seed] for seed in sorted(by_seed)])


def _identity(runs: list[Played]) -> dict[str, Any]:
    point = runs[0].run.point
    return {
        "name": point.name,
        "label": point.label,
        "strength": point.strength,
        "method": runs[0].run.settings.method.get("name"),
        "seeds": [one.run.seed for one in runs],
    }


def _described(means: Means, quantities: Sequence[str], confidence: float) -> dict[str, Any]:
    """A point's numbers, each with its interval."""
    accuracy, tokens = means("accuracy"), means("tokens")
    accuracy_0, tokens_0 = means("accuracy", model=BASE), means("tokens", model=BASE)
    draws = {
        "accuracy_change": (accuracy - accuracy_0, (-1.0, 1.0)),
        "token_ratio": (ratio(tokens, tokens_0), (0.0, np.inf)),
        "aes": (
            paired.aes(divisor(accuracy_0), divisor(tokens_0), accuracy, tokens),
            (-np.inf, np.inf),
        ),
        **{name: (measure(means, name), bounds(name)) for name in MEASURES},
    }
    found = {name: _estimate(draw, confidence, within) for name, (draw, within) in draws.items()}
    found["redundancy"] = {
        name: {
            "per_response": _estimate(means(name), confidence, (0.0, np.inf)),
            "per_step": _estimate(ratio(means(name), means("difficulty")), confidence),
        }
        for name in quantities
        if name not in QUANTITIES
    }
    return found


def _estimate(draws: np.ndarray, confidence: float, *within: tuple[float, float]) -> dict:
    return dataclasses.asdict(estimate(draws, confidence, *within))


def _trained(runs: list[Played]) -> dict[str, Any]:
    """What a point took and how its runs went."""
    return {
        "correlation": _correlation(runs),
        **{
            name: float(np.mean([one.training[name] for one in runs]))
            for name in ("generated_tokens", "seconds")
        },
        **{
            name: {str(one.run.seed): one.training[name] for one in runs}
            for name in ("picked_steps", "alarms", "ended")
        },
    }


def _correlation(runs: list[Played], model: int = 1) -> float:
    """Of difficulty and mean tokens over the problems; the mean of the runs."""
    return float(np.mean([correlation(r.difficulty_P, r.of("tokens", model)) for r in runs]))


def _alone(one: Played) -> dict[str, Any]:
    """One run by itself."""
    return {
        "base": {name: one.of(name, 0).mean() for name in QUANTITIES[:3]},
        "final": {name: one.of(name).mean() for name in QUANTITIES[:3]},
        **one.training,
    }


def _frontier(means: Mapping[str, Means]) -> dict[str, dict[str, Any]]:
    """Which points nothing else beats, and in which share of the draws."""
    on_RN = on_frontier(
        np.stack([m("tokens") for m in means.values()], axis=1),
        np.stack([m("accuracy") for m in means.values()], axis=1),
    )
    return {
        name: {"on": bool(on_R[0]), "probability": float(on_R[1:].mean())}
        for name, on_R in zip(means, on_RN.T)
    }


def _hypervolumes(
    points: Mapping[str, list[Played]], means: Mapping[str, Means], limit: int, confidence: float
) -> dict[str, Any]:
    """Of each label, over its strengths; and of the base model."""
    names: dict[str, list[str]] = {BASE: [BASE]}
    for name, runs in points.items():
        names.setdefault(runs[0].run.point.label, []).append(name)
    return {
        "reference": {"tokens": limit, "accuracy": 0.0},
        "of": {
            label: _estimate(
                hypervolume(
                    np.stack([means[n]("tokens") for n in members], axis=1),
                    np.stack([means[n]("accuracy") for n in members], axis=1),
                    limit,
                ),
                confidence,
            )
            for label, members in names.items()
        },
    }


def _effects(
    settings: CompareConfig, means: Mapping[str, Mapping[str, Means]]
) -> list[dict[str, Any]]:
    """Every claim on every set where both points have been played."""
    found = []
    for effect in settings.effects:
        for name, points in means.items():
            if effect.set in (None, name) and {effect.of, effect.against} <= points.keys():
                against = (points[effect.against], effect.measure)
                if effect.against == BASE:  # that of the same runs, for the pairs
                    against = (points[effect.of], effect.measure, BASE)
                draws = measure(points[effect.of], effect.measure) - measure(*against)
                difference = estimate(draws, settings.confidence)
                found.append(
                    {
                        **dataclasses.asdict(effect),
                        "set": name,
                        "difference": dataclasses.asdict(difference),
                        "holds": effect.holds(difference),
                    }
                )
    return found
