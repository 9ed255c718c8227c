"""The frontier plot of a comparison: accuracy against mean tokens, one panel for each set.

Takes the content of compare.json, gives one SVG file. A colour for each method, its strengths
joined from the weakest (an open dot) to the strongest (a filled one) and named there; intervals of
both numbers as a cross; the base model in grey; what no other point beats joined by stairs.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from pruner_jax.report import svg
from pruner_jax.report.svg import Chart
from pruner_jax.report.words import percent, tokens

_WIDTH = 860.0
_HEIGHT = 500.0  # of a panel
_MARGIN = 20.0
_STYLE = pathlib.Path(__file__).parent / "page.css"
_COLOURS = (  # on light and on dark paper; neighbours in the list are far apart
    ("#0961bb", "#70adfb"),
    ("#c74c3d", "#fda293"),
    ("#087736", "#69c27e"),
    ("#a355b4", "#e3a2f2"),
    ("#756208", "#c5a93b"),
    ("#138b90", "#28d6df"),
    ("#a13170", "#e887b6"),
    ("#718509", "#b3ca65"),
    ("#5d4fb9", "#a39ef9"),
    ("#b36303", "#fba962"),
    ("#107460", "#2dc5a6"),
    ("#c4486d", "#ff9cb3"),
    ("#2f3a46", "#dfe4e9"),
    ("#7a4a26", "#d8b08c"),
    ("#1f3f86", "#a9bdf0"),
    ("#4f6b2a", "#a4c07c"),
)
_OWN = """
svg { background: var(--paper); font-family: system-ui, sans-serif; }
.chart .panel { fill: var(--ink); font-size: 15px; font-weight: 600; }
.chart .stairs { fill: none; stroke: var(--line); stroke-width: 4; stroke-linejoin: round; }
.chart .method { stroke: var(--own); fill: var(--own); }
.chart .method.joined { fill: none; stroke-width: 1.6; opacity: .75; }
.chart .method.cross { stroke-width: 1; opacity: .4; }
.chart .method.weak { fill: var(--paper); stroke-width: 1.8; }
.chart .method.middle { fill: color-mix(in srgb, var(--own) 45%, var(--paper)); stroke-width: 1.8; }
.chart .method.leader { stroke-width: .8; opacity: .6; }
.chart text.label.method { fill: var(--own); stroke: var(--paper); }
.chart .method.base { --own: var(--base); }
.chart text.label.method.base { fill: var(--base-ink); }
"""
_RINGS = ((11, 8), (18, 12), (28, 16), (40, 20), (54, 24), (72, 24), (92, 24), (114, 24))
Box = tuple[float, float, float, float]


def frontier(result: Mapping[str, Any]) -> str:
    """The file, with its style in it; panels below each other. Sets without a finished run have
    none."""
    labels = [entry["label"] for entry in result["settings"]["entries"]]
    colours = {label: f"colour{i % len(_COLOURS)}" for i, label in enumerate(labels)}
    panels, sure = [], f"{100 * result['confidence']:g} %"
    for place, (name, found) in enumerate(result["sets"].items()):
        drawn = _panel(found, colours, f"{name}: {_basis(found)}")
        panels.append(
            svg.element(
                "g", "".join(drawn.marks), transform=f"translate(0 {place * (_HEIGHT + _MARGIN):g})"
            )
        )
    height = len(panels) * (_HEIGHT + _MARGIN)
    key = (
        "open dot: the weakest strength of a method; filled: the strongest; crosses: intervals "
        f"({sure}) over problems and seeds; stairs: the frontier"
    )
    body = "".join(panels) + svg.text(0, height + 4, key, "note")
    return svg.element(
        "svg",
        f"<style>{_STYLE.read_text()}{_OWN}{_colours()}</style>{body}",
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"{-_MARGIN:g} {-_MARGIN:g} {_WIDTH + 2 * _MARGIN:g} {height + 2 * _MARGIN:g}",
        width=f"{_WIDTH + 2 * _MARGIN:g}",
        role="img",
        aria_label="Accuracy against mean tokens of every method and strength",
        class_="chart",
    )


def _colours() -> str:
    def rules(shade: int) -> str:
        return "".join(f".colour{i} {{ --own: {c[shade]}; }}\n" for i, c in enumerate(_COLOURS))

    return f"{rules(0)}@media (prefers-color-scheme: dark) {{\n{rules(1)}}}\n"


def _basis(found: Mapping[str, Any]) -> str:
    return f"{found['problems']} problems, limit {found['limit']} tokens"


def _panel(found: Mapping[str, Any], colours: Mapping[str, str], title: str) -> Chart:
    """One set."""
    base, points = found["base"], found["points"]
    ends = {
        name: [p[name][end] for p in (base, *points) for end in ("low", "value", "high")]
        for name in ("tokens", "accuracy")
    }
    drawn = svg.chart(
        svg.padded(ends["tokens"], 0.05),
        svg.padded(ends["accuracy"], 0.05),
        height=_HEIGHT,
        width=_WIDTH,
        top=56.0,
        x_title="mean tokens of a response",
        y_percent=True,
        y_ticks=6,
    )
    y_title = svg.text(0, 36, "accuracy on the test set", "title")
    drawn.add(svg.text(0, 12, title, "panel"), y_title)
    _stairs(drawn, [p for p in (base, *points) if p["frontier"]["on"]])
    methods: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        methods.setdefault(point["label"], []).append(point)
    for point in (base, *points):
        colour = colours.get(point.get("label", ""), "base")
        drawn.add(*(svg.line(*arm, f"method cross {colour}") for arm in _arms(drawn, point)))
    for label, members in methods.items():
        drawn.add(svg.path([_at(drawn, p) for p in members], f"method joined {colours[label]}"))
        for i, point in enumerate(members):
            last = i == len(members) - 1
            shade = "" if last else "weak" if i == 0 else "middle"
            drawn.add(_dot(drawn, point, point["name"], f"method {shade} {colours[label]}"))
    drawn.add(_dot(drawn, base, "base model", "method base"))
    taken = [_around(*_at(drawn, p), 6.0) for p in (base, *points)]
    lines = [_at(drawn, a) + _at(drawn, b) for m in methods.values() for a, b in pairwise(m)]
    lines += [arm for p in (base, *points) for arm in _arms(drawn, p)]
    _name(drawn, base, "base model", "base", taken, lines)
    for label, members in methods.items():
        _name(drawn, members[-1], label, colours[label], taken, lines)
    return drawn


def _at(drawn: Chart, point: Mapping[str, Any]) -> tuple[float, float]:
    return drawn.x(point["tokens"]["value"]), drawn.y(point["accuracy"]["value"])


def _stairs(drawn: Chart, points: Sequence[Mapping[str, Any]]) -> None:
    """From point to point of the frontier: to the right there are more tokens, further up more
    accuracy."""
    corners: list[tuple[float, float]] = []
    for x, y in sorted(_at(drawn, p) for p in points):
        corners += [(x, corners[-1][1] if corners else drawn.y.start), (x, y)]
    drawn.add(svg.path([*corners, (drawn.x.end, corners[-1][1])], "stairs"))


def _arms(drawn: Chart, point: Mapping[str, Any]) -> tuple[Box, Box]:
    """The lines of both intervals."""
    x, y = _at(drawn, point)
    left, right = (drawn.x(point["tokens"][end]) for end in ("low", "high"))
    bottom, top = (drawn.y(point["accuracy"][end]) for end in ("low", "high"))
    return (left, y, right, y), (x, bottom, x, top)


def _dot(drawn: Chart, point: Mapping[str, Any], name: str, class_: str) -> str:
    said = f"{name}: {percent(point['accuracy']['value'])}, {tokens(point['tokens']['value'])}"
    return svg.dot(*_at(drawn, point), 4.5, class_, f"{said} tokens")


# -- names -----------------------------------------------------------------------------------------


def _name(
    drawn: Chart,
    point: Mapping[str, Any],
    label: str,
    colour: str,
    taken: list[Box],
    lines: Sequence[Box],
) -> None:
    """A name near its dot, where it covers least, with a line to it where it is farther away."""
    x, y = _at(drawn, point)
    inside = (drawn.x.start, drawn.y.end - 10, drawn.x.end, drawn.y.start)

    def cost(spot: tuple[float, float, float, str, Box]) -> float:
        covered = sum(_cover(spot[4], box) for box in taken)
        crossed = sum(_crosses(spot[4], line) for line in lines)
        return spot[0] + covered + 4 * _outside(spot[4], inside) + 9 * crossed

    spots = [
        _spot(x, y, label, radius, k / count) for radius, count in _RINGS for k in range(count)
    ]
    radius, px, py, anchor, box = min(spots, key=cost)
    taken.append(box)
    if radius > _RINGS[1][0]:
        nearest = (min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))
        drawn.add(svg.line(x, y, *nearest, f"method leader {colour}"))
    drawn.add(svg.text(px, py, label, f"label method {colour}", anchor))


def _spot(
    x: float, y: float, label: str, radius: float, turn: float
) -> tuple[float, float, float, str, Box]:
    """A place on a ring: (radius, x, baseline, anchor, box); turn 0 is to the right of the dot."""
    dx, dy = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    anchor = "start" if dx > 0.3 else "end" if dx < -0.3 else "middle"
    px, py = x + radius * dx, y + radius * dy + 4
    width = 1.08 * svg.CHARACTER * len(label)
    left = px - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
    return radius, px, py, anchor, (left - 3, py - 12, left + width + 3, py + 4)


def _around(x: float, y: float, reach: float) -> Box:
    return x - reach, y - reach, x + reach, y + reach


def _cover(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def _crosses(box: Box, line: Box) -> bool:
    """Whether a straight line passes through a box (looked at in twenty places)."""
    return any(
        box[0] < line[0] + t * (line[2] - line[0]) < box[2]
        and box[1] < line[1] + t * (line[3] - line[1]) < box[3]
        for t in _TWENTY
    )


_TWENTY = [(k + 0.5) / 20 for k in range(20)]


def _outside(box: Box, inside: Box) -> float:
    """The area of a box that lies outside another."""
    return (box[2] - box[0]) * (box[3] - box[1]) - _cover(box, inside)
