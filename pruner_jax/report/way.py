"""The way over the rounds: accuracy against mean tokens on the monitor set, step by step.

Every evaluation is a dot, darker with every round; the checkpoints that went on are ringed and
named. A run that still trains has its way so far.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pruner_jax.report import svg
from pruner_jax.report.read import Run
from pruner_jax.report.svg import Chart
from pruner_jax.report.words import number, percent, tokens

_HEIGHT = 360.0


def way(run: Run) -> str:
    """The chart; empty when nothing was evaluated yet."""
    if not run.evaluations:
        return ""
    start = _start(run)
    shown = [start, *map(_place, run.evaluations)]
    tolerance = run.setting("pick.tolerance")
    heights = [a for _, a in shown] + ([start[1] - tolerance] if tolerance else [])
    drawn = svg.chart(
        svg.padded([t for t, _ in shown], 0.1),
        svg.padded(heights, 0.14),
        height=_HEIGHT,
        x_title="mean tokens of a response",
        y_title="accuracy on the monitor set",
        y_percent=True,
    )
    pixels = [(drawn.x(t), drawn.y(a)) for t, a in shown]
    if tolerance:
        _band(drawn, start[1], tolerance)
    drawn.add(svg.path(pixels, "trail"))
    rounds = sorted({r.get("round", 0) for r in run.evaluations})
    for (x, y), record in zip(pixels[1:], run.evaluations):
        shade = 1 + rounds.index(record.get("round", 0)) * 4 // len(rounds)
        t, a = _place(record)
        note = f"step {record.get('step')}: {percent(a)}, {tokens(t)} tokens"
        drawn.add(svg.dot(x, y, 3.2, f"final shade{shade}", note))
    _name(drawn, run, pixels)
    return drawn.svg("Accuracy against mean tokens over the rounds")


def picks(run: Run) -> list[tuple[int, str]]:
    """(index into the evaluations, name) of what went on: from the summary, else from the marks."""
    numbers = sorted({r.get("round") for r in run.steps if r.get("round") is not None})
    limits = {r.get("round"): r.get("limit") for r in run.steps}
    named: dict[int, list[str]] = {}
    if run.summary is None:
        for i, record in enumerate(run.evaluations):
            if record.get("picked") and record.get("round") in numbers:
                place = numbers.index(record["round"]) + 1
                named[i] = [_label(place, limits[record["round"]])]
    else:
        for place, entry in enumerate(run.summary["rounds"], 1):
            i = _evaluated(run, entry["picked_step"], numbers[place - 1 : place])
            if i is not None:
                named.setdefault(i, []).append(_label(place, entry["limit"]))
    return [(i, "; ".join(labels)) for i, labels in sorted(named.items())]


def _label(place: int, limit: int | None) -> str:
    return f"round {place}" + (f", limit {number(limit)}" if limit else "")


def _evaluated(run: Run, step: int, round_: list[Any]) -> int | None:
    """The evaluation at this step; that of this round where steps start again with every round."""
    found = [i for i, r in enumerate(run.evaluations) if r.get("step") == step]
    of_round = [i for i in found if [run.evaluations[i].get("round")] == round_]
    return next(iter([*of_round, *found]), None)


def _start(run: Run) -> tuple[float, float]:
    """The start model on the monitor set: its stored rollouts, else the first evaluation."""
    if run.base_monitor is None:
        return _place(run.evaluations[0])
    right = np.array([verdict == "correct" for verdict in run.base_monitor["verdict"]])
    return float(run.base_monitor["length"].mean()), float(right.mean())


def _place(record: dict[str, Any]) -> tuple[float, float]:
    return record["mean_tokens"], record["accuracy"]


def _band(drawn: Chart, accuracy: float, tolerance: float) -> None:
    """What the checkpoint rule may lose."""
    top, bottom = drawn.y(accuracy), drawn.y(accuracy - tolerance)
    left, right = drawn.x.start, drawn.x.end
    drawn.add(
        svg.element("rect", x=left, y=top, width=right - left, height=bottom - top, class_="band"),
        svg.text(right - 4, bottom - 5, "allowed loss", "note", "end"),
    )


def _name(drawn: Chart, run: Run, pixels: list[tuple[float, float]]) -> None:
    """Rings and names, none on top of another or of a dot."""
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in pixels]
    start = pixels[0]
    drawn.add(svg.dot(*start, 6, "base solid", "the model as it came"))
    named = [(start, "start", "base")]
    for i, label in picks(run):
        drawn.add(svg.dot(*pixels[i + 1], 7.5, "ring", label))
        named.append((pixels[i + 1], label, "final"))
    for (x, y), label, class_ in named:
        px, py, anchor = svg.free_spot(x, y, label, taken, drawn.height - 44)
        drawn.add(svg.text(px, py, label, f"label {class_}", anchor))
