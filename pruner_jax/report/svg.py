"""Charts as SVG text: scales, ticks, axes, labels. No library, no pixels.

Colours are CSS classes (``base``, ``final``, ``muted`` ...), so a chart follows the page into dark
mode. All charts of the report share one width; the page scales them, and their type with them,
hardly at all.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Iterable, Sequence

import numpy as np

from pruner_jax.report.words import tick_labels

WIDTH = 500.0
CHARACTER = 6.3  # mean width of a character at the charts' 12 px, for placing labels


@dataclasses.dataclass(frozen=True)
class Scale:
    """Data to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float  # pixel of low
    end: float  # pixel of high
    log: bool = False

    def __call__(self, value: float) -> float:
        """Pixel of a value."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the scale, about so many."""
        if self.log:
            return _log_ticks(self.low, self.high)
        return linear_ticks(self.low, self.high, count)


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(math.log(s / raw)))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of every decade; round linear values where that gives fewer than three."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [m * 10.0**p for p in powers for m in (1, 2, 5)]
    inside = [t for t in fine if low <= t <= high]
    if len(inside) < 3:
        return linear_ticks(low, high, 4)
    return inside


def element(tag: str, body: str = "", **attributes: object) -> str:
    """One element; ``class_`` becomes class, underscores become dashes, floats are shortened."""
    parts = []
    for name, value in attributes.items():
        text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        parts.append(f' {name.rstrip("_").replace("_", "-")}="{html.escape(text)}"')
    return f"<{tag}{''.join(parts)}>{body}</{tag}>" if body else f"<{tag}{''.join(parts)}/>"


def text(x: float, y: float, body: str, class_: str = "", anchor: str = "start") -> str:
    """A label; the body is escaped."""
    return element(
        "text", html.escape(body), x=float(x), y=float(y), class_=class_, text_anchor=anchor
    )


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return element("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=class_)


def dot(x: float, y: float, radius: float, class_: str, title: str = "") -> str:
    """A circle with a tooltip."""
    body = element("title", html.escape(title)) if title else ""
    return element("circle", body, cx=float(x), cy=float(y), r=float(radius), class_=class_)


def path(points: Iterable[tuple[float, float]], class_: str, closed: bool = False) -> str:
    """A polyline through the points."""
    steps = [f"{x:.1f} {y:.1f}" for x, y in points]
    if not steps:
        return ""
    return element("path", d="M" + "L".join(steps) + ("Z" if closed else ""), class_=class_)


def stairs(
    edges: Sequence[float], values: Sequence[float], x: Scale, y: Scale
) -> list[tuple[float, float]]:
    """Corner points of a step function: values[i] from edges[i] to edges[i + 1]."""
    points = []
    for left, right, value in zip(edges[:-1], edges[1:], values):
        points += [(x(left), y(value)), (x(right), y(value))]
    return points


@dataclasses.dataclass(frozen=True)
class Chart:
    """A plotting area with two scales: made by ``chart``, drawn on, closed with ``svg``."""

    x: Scale
    y: Scale
    height: float
    width: float = WIDTH
    marks: list[str] = dataclasses.field(default_factory=list)

    def add(self, *marks: str) -> None:
        """Draw on top of what is there."""
        self.marks.extend(marks)

    def svg(self, label: str) -> str:
        """The finished element; the label is read to those who cannot see it."""
        return element(
            "svg",
            "".join(self.marks),
            viewBox=f"0 0 {self.width:g} {self.height:g}",
            role="img",
            aria_label=label,
            class_="chart",
        )


def chart(
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    *,
    height: float = 300.0,
    width: float = WIDTH,
    left: float = 46.0,
    right: float = 16.0,
    top: float = 26.0,
    bottom: float = 40.0,
    x_title: str = "",
    y_title: str = "",
    x_log: bool = False,
    y_percent: bool = False,
    y_ticks: int = 4,
) -> Chart:
    """Axes: light horizontal rules, ticks below, the vertical title above the axis and level."""
    made = Chart(
        x=Scale(*x_range, left, width - right, log=x_log),
        y=Scale(*y_range, height - bottom, top),
        height=height,
        width=width,
    )
    floor = height - bottom
    values = made.y.ticks(y_ticks) if y_ticks else []
    for value, label in zip(values, tick_labels(values, y_percent)):
        level = made.y(value)
        made.add(line(left, level, width - right, level, "rule"))
        made.add(text(left - 8, level + 4, label, "tick", "end"))
    made.add(line(left, floor, width - right, floor, "axis"))
    values = made.x.ticks(6)
    for value, label in zip(values, tick_labels(values)):
        place = made.x(value)
        made.add(line(place, floor, place, floor + 4, "axis"))
        made.add(text(place, floor + 17, label, "tick", "middle"))
    if x_title:
        made.add(text((left + width - right) / 2, height - 4, x_title, "title", "middle"))
    if y_title:
        made.add(text(0, 12, y_title, "title"))
    return made


def padded(values: Iterable[float], share: float = 0.08) -> tuple[float, float]:
    """A range that leaves a little air around the values."""
    finite = np.array([v for v in values if v is not None and math.isfinite(v)])
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    room = share * (high - low) or max(abs(high), 1.0) * share
    return low - room, high + room


def free_spot(
    x: float, y: float, label: str, taken: list[tuple[float, float, float, float]], height: float
) -> tuple[float, float, str]:
    """Where a label beside the point (x, y) covers no other: (x, baseline, anchor). Claims it."""
    width = CHARACTER * len(label)
    places = [(x + dx, y + dy, a) for dy, dx, a in _AROUND]
    boxes = []
    for px, py, anchor in places:
        left = {"start": px, "middle": px - width / 2, "end": px - width}[anchor]
        boxes.append((left, py - 11, left + width, py + 3))
    inside = [b[0] >= 0 and b[2] <= WIDTH and b[1] >= 14 and b[3] <= height for b in boxes]
    clear = [not any(_overlap(box, other) for other in taken) for box in boxes]
    fit = next((i for i in range(len(boxes)) if inside[i] and clear[i]), 0)
    taken.append(boxes[fit])
    return places[fit]


_AROUND = (  # offsets of a label from its point: beside, above, below, then farther away
    (4, 11, "start"),
    (-11, 0, "middle"),
    (20, 0, "middle"),
    (4, -11, "end"),
    (-26, 0, "middle"),
    (36, 0, "middle"),
    (-40, 0, "middle"),
    (52, 0, "middle"),
)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
