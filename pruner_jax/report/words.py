"""Numbers as people read them: shares, tokens, points, durations. A dash stands for what is not
known."""

from __future__ import annotations

import math
from collections.abc import Sequence


def number(value: float | None, digits: int = 0) -> str:
    """With thousands separated and a real minus sign."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,.{digits}f}".replace("-", "−")


def tokens(value: float | None) -> str:
    """A mean number of tokens: one decimal below a hundred."""
    return number(value, 1 if value is not None and abs(value) < 100 else 0)


def percent(value: float | None, digits: int = 1) -> str:
    """A share in per cent."""
    return "–" if value is None else f"{number(100 * value, digits)} %"


def points(change: float | None) -> str:
    """A change of accuracy in percentage points, always signed."""
    if change is None:
        return "–"
    size = number(abs(100 * change), 1)
    sign = "±" if float(size.replace(",", "")) == 0 else "+" if change > 0 else "−"
    return f"{sign}{size}"


def duration(seconds: float) -> str:
    """The two largest units that matter: 0.4 s, 12 s, 3 min 05 s, 2 h 07 min, 3 d 04 h."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def brief(seconds: float) -> str:
    """A duration that may be less than a tenth of a second: 0.94 ms, 34 ms, 12 s."""
    return duration(seconds) if seconds >= 0.095 else f"{1e3 * seconds:.2g} ms"


def tick_labels(values: Sequence[float], percents: bool = False) -> list[str]:
    """The values with as many decimals as tell them exactly, the same for all; or as per cents."""
    scaled = [100 * v if percents else v for v in values]
    exact = (d for d in range(4) if all(abs(round(v, d) - v) < 1e-9 for v in scaled))
    digits = next(exact, 4)
    return [number(v, digits) + (" %" if percents else "") for v in scaled]
