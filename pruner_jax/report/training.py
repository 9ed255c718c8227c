"""Training curves: accuracy, length, truncation and reward over all steps, round by round.

Thin lines are the steps as they were, the bold line is their running mean within the round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pruner_jax.report import svg
from pruner_jax.report.read import Run
from pruner_jax.report.svg import Chart
from pruner_jax.report.words import number, percent, tokens

_CURVES = (
    ("prune/accuracy", "accuracy of the rollouts", percent),
    ("completions/mean_length", "mean tokens", tokens),
    ("completions/clipped_ratio", "cut off at the limit", percent),
    ("reward", "reward", lambda v: number(v, 2)),
)
_HEIGHT = 210.0


def curves(run: Run) -> list[str]:
    """One chart per metric that the run recorded."""
    steps = _places(run.steps)
    drawn = []
    for name, title, form in _CURVES:
        values = [record.get(name) for record in run.steps]
        if sum(v is not None for v in values) >= 2:
            drawn.append(_curve(run, steps, values, name, title, form))
    return drawn


def _places(records: Sequence[dict[str, Any]]) -> np.ndarray:
    """The x of each record: its step, or its place where steps start again with every round."""
    steps = np.array([record.get("step", -1) for record in records])
    return steps if len(steps) < 2 or (np.diff(steps) > 0).all() else np.arange(1, len(steps) + 1)


def _curve(run: Run, steps, values, name: str, title: str, form) -> str:
    known = [v for v in values if v is not None]
    limits = [r.get("limit") for r in run.steps] if name == "completions/mean_length" else []
    bounds = svg.padded([*known, *(v for v in limits if v)], 0.06)
    if min(known) >= 0:
        bounds = (max(0.0, bounds[0]), bounds[1])
    percents = form is percent
    drawn = svg.chart(
        (float(steps[0]), float(steps[-1])),
        bounds,
        height=_HEIGHT,
        x_title="step",
        y_title=title,
        y_percent=percents,
        y_ticks=4,
    )
    _rounds(drawn, run, steps)
    for first, last in _parts(limits):
        level = drawn.y(limits[first])
        ends = drawn.x(float(steps[first])), drawn.x(float(steps[last]))
        drawn.add(svg.line(ends[0], level, ends[1], level, "limit"))
        drawn.add(svg.text(ends[1], level - 5, f"limit {number(limits[first])}", "note", "end"))
    numbers = [r.get("round", 0) for r in run.steps]
    for first, last in _parts(numbers):
        part = [
            (float(s), v)
            for s, v in zip(steps[first : last + 1], values[first : last + 1])
            if v is not None
        ]
        drawn.add(svg.path([(drawn.x(s), drawn.y(v)) for s, v in part], "curve thin final"))
        smooth = running_mean([v for _, v in part])
        drawn.add(
            svg.path([(drawn.x(s), drawn.y(v)) for (s, _), v in zip(part, smooth)], "curve final")
        )
    last = np.mean(known[-5:])
    note = f"last: {form(float(last))}"
    drawn.add(svg.text(svg.WIDTH - 16, 12, note, "title strong", "end"))
    return drawn.svg(f"{title} over training steps")


def _rounds(drawn: Chart, run: Run, steps: np.ndarray) -> None:
    """A thin upright line where each round after the first begins."""
    numbers = [record.get("round", 0) for record in run.steps]
    for first, _ in _parts(numbers)[1:]:
        place = drawn.x((float(steps[first]) + float(steps[first - 1])) / 2)
        drawn.add(svg.line(place, drawn.y.end, place, drawn.y.start, "boundary"))


def _parts(values: Sequence[Any]) -> list[tuple[int, int]]:
    """First and last index of every stretch of equal values; None is no stretch."""
    parts: list[tuple[int, int]] = []
    for i, value in enumerate(values):
        if value is None:
            continue
        if i and values[i - 1] == value and parts:
            parts[-1] = (parts[-1][0], i)
        else:
            parts.append((i, i))
    return parts


def running_mean(values: Sequence[float]) -> np.ndarray:
    """Centred mean over about a tenth of the values, the window cut at both ends."""
    x = np.asarray(values, float)
    reach = max(1, len(x) // 20)
    total = np.concatenate([[0.0], np.cumsum(x)])
    last = np.minimum(np.arange(len(x)) + reach + 1, len(x))
    first = np.maximum(np.arange(len(x)) - reach, 0)
    return (total[last] - total[first]) / (last - first)
