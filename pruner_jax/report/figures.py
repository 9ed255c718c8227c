"""The charts of the result: lengths, budgets, difficulty.

Each takes what ``read`` found and gives one SVG, or an empty string when its data are not there.
Two colours throughout: ``base`` is the model as it came, ``final`` the pruned one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pruner_jax.report import svg
from pruner_jax.report.read import Run, Table
from pruner_jax.report.svg import Chart
from pruner_jax.report.words import number, percent, tokens

_BINS = 32
_ROW = 30.0  # height of one row of the difficulty chart


def lengths(run: Run) -> str:
    """How long the responses are, before and after: share of responses per bin, medians marked."""
    tables = [("base", run.base_test), ("final", run.final_test)]
    if any(table is None for _, table in tables):
        return ""
    everything = np.concatenate([table["length"] for _, table in tables])
    low, high = int(everything.min()), int(everything.max())
    log = high > 12 * np.quantile(everything, 0.05)
    edges = _edges(low, high, log)
    shares = [np.histogram(t["length"], edges)[0] / len(t) for _, t in tables]
    drawn = svg.chart(
        (edges[0], edges[-1]),
        (0.0, 1.25 * max(s.max() for s in shares)),
        x_title="tokens of a response" + (", logarithmic" if log else ""),
        y_title="share of responses",
        y_percent=True,
        x_log=log,
    )
    for (name, _), share in zip(tables, shares):
        outline = svg.stairs(edges, share, drawn.x, drawn.y)
        ground = drawn.y(0.0)
        area = [(outline[0][0], ground), *outline, (outline[-1][0], ground)]
        drawn.add(svg.path(area, f"area {name}", closed=True), svg.path(outline, f"curve {name}"))
    _medians(drawn, tables)
    return drawn.svg("Distribution of response lengths before and after")


def _edges(low: int, high: int, log: bool) -> np.ndarray:
    """Bin edges between whole lengths; linear bins all hold equally many whole numbers."""
    if log:
        return np.unique(np.rint(np.geomspace(low, high + 1, _BINS + 1))) - 0.5
    width = max(1, math.ceil((high - low + 1) / _BINS))
    return np.arange(low, high + width + 1, width) - 0.5


def _medians(drawn: Chart, tables: Sequence[tuple[str, Table]]) -> None:
    """A tick and a name at each median; side by side when they are close."""
    middle = [float(np.median(table["length"])) for _, table in tables]
    words = {"base": "before", "final": "after"}
    for (name, _), value, other in zip(tables, middle, reversed(middle)):
        place, top = drawn.x(value), drawn.y.end
        side = ("end", -5) if value < other else ("start", 5)
        drawn.add(
            svg.line(place, drawn.y.start, place, top - 2, f"marker {name}"),
            svg.text(place + side[1], top + 8, f"median {words[name]}", f"label {name}", side[0]),
            svg.text(place + side[1], top + 22, number(value), f"label {name}", side[0]),
        )


def budgets(run: Run) -> str:
    """J(b), accuracy when the server stops at b tokens, for both models with pointwise bands."""
    found = (run.summary or {}).get("curve")
    if not found or len(found["budgets"]) < 2:
        return ""
    at = found["budgets"]
    top = max(found["base"]["high"] + found["final"]["high"])
    drawn = svg.chart(
        (at[0], at[-1]),
        (0.0, min(1.0, top * 1.02)),
        x_title="token budget b, logarithmic",
        y_title="accuracy within b tokens",
        y_percent=True,
        x_log=True,
    )
    for name in ("base", "final"):
        # J jumps at whole lengths and is flat between: it holds from one budget to the next.
        edges = [*at, at[-1]]
        high = svg.stairs(edges, found[name]["high"], drawn.x, drawn.y)
        low = svg.stairs(edges, found[name]["low"], drawn.x, drawn.y)
        drawn.add(svg.path([*high, *reversed(low)], f"area {name}", closed=True))
        middle = svg.stairs(edges, found[name]["value"], drawn.x, drawn.y)
        drawn.add(svg.path(middle, f"curve {name}"))
    _reach(drawn, found)
    return drawn.svg("Accuracy as a function of the token budget")


def _reach(drawn: Chart, found: dict[str, Any]) -> None:
    """What the chosen share of the base accuracy costs either model, on a line between the two."""
    level = drawn.y(found["reach"]["share"] * found["base"]["value"][-1])
    costs = {name: found["reach"][name] for name in ("base", "final")}
    places = {name: drawn.x(cost) for name, cost in costs.items() if cost is not None}
    if len(places) == 2:
        drawn.add(svg.line(places["base"], level, places["final"], level, "reach"))
    for name, place in places.items():
        drawn.add(svg.dot(place, level, 4, f"{name} solid", f"{number(costs[name])} tokens"))
    if places:
        words = [
            svg.element("tspan", f"{number(costs[name])}", class_=name) if name in places else "–"
            for name in ("base", "final")
        ]
        middle = sum(places.values()) / len(places)
        label = " → ".join(words)
        drawn.add(
            svg.element("text", label, x=middle, y=level + 17, class_="label", text_anchor="middle")
        )


def difficulty(rows: Sequence[dict[str, Any]], title: str) -> str:
    """Mean tokens before and after for each group of problems, with the accuracies beside them."""
    if not rows:
        return ""
    most = max(max(row["base_tokens"], row["final_tokens"]) for row in rows)
    names = [f"{row['label']} ({row['problems']})" for row in rows]
    height = 66.0 + _ROW * len(rows)
    drawn = svg.chart(
        (0.0, most * 1.05),
        (0.0, 1.0),
        height=height,
        left=14.0 + 1.12 * svg.CHARACTER * max(map(len, names)),
        right=150.0,
        x_title="mean tokens of a response",
        y_title=f"{title} (problems)",
        y_ticks=0,
    )
    drawn.add(svg.text(svg.WIDTH, 12, "accuracy before → after", "title", "end"))
    for place, row in enumerate(rows):
        level = 26 + _ROW * (place + 0.5)
        before, after = drawn.x(row["base_tokens"]), drawn.x(row["final_tokens"])
        values = f"{tokens(row['base_tokens'])} → {tokens(row['final_tokens'])} tokens"
        drawn.add(
            svg.line(drawn.x.start, level, drawn.x.end, level, "rule"),
            svg.text(
                drawn.x.start - 10,
                level + 4,
                f"{row['label']} ({row['problems']})",
                "tick strong",
                "end",
            ),
            svg.line(before, level, after, level, "dumbbell"),
            svg.dot(before, level, 5, "base solid", values),
            svg.dot(after, level, 5, "final solid", values),
            svg.text(svg.WIDTH - 76, level + 4, percent(row["base_accuracy"]), "tick", "end"),
            svg.text(svg.WIDTH - 61, level + 4, "→", "tick", "middle"),
            svg.text(svg.WIDTH, level + 4, percent(row["final_accuracy"]), "tick strong", "end"),
        )
    return drawn.svg(f"Mean tokens and accuracy {title}")
