r"""Numbers, equal up to a relative tolerance.

Read are 12, 1,234.5, -3e4, 3/4, \frac{3}{4}, with a currency before it, and a percent sign or a
unit in words after it. Two integers are compared exactly, whatever the tolerance.
"""

from __future__ import annotations

import re
from fractions import Fraction

from pruner_jax.types import Problem, Verdict

BY_ANSWER = True

_DRESS = re.compile(r"\\text\{[^{}]*\}|\\[!,;: ]|\\(?:left|right)(?![A-Za-z])|[$€£¥]|\\(?=[%$])")
_FRACTION = re.compile(r"([+-]?)\\[dt]?frac\s*\{([+-]?\d+)\}\s*\{([+-]?\d+)\}")
_NUMBER = re.compile(
    r"([+-]?\s*(?:\d+|\d{1,3}(?:,\d{3})+|(?=\.\d))(?:\.\d*)?(?:[eE][+-]?\d{1,3})?)"
    r"(?:\s*/\s*(\d+(?:\.\d+)?))?\s*(?:%|[A-Za-z][A-Za-z .]*)?\.?"
)


def check(
    problem: Problem, text: str, answer: str, *, relative: float = 1e-4, percent: bool = False
) -> Verdict | tuple[Verdict, str]:
    """Equal within ``relative`` of the gold number (1e-4 in ThinkPrune's grader).

    ``percent`` also accepts a hundredth and the hundredfold of it, as that grader does; without it
    a percent sign is a unit like any other.
    """
    gold, value = read(problem.answer), read(answer)
    if gold is None:
        raise ValueError(f"the gold answer {problem.answer!r:.100} is not a number")
    if value is None:
        return Verdict.UNPARSED, f"{answer!r:.100} is not a number"
    golds = (gold, gold / 100, gold * 100) if percent else (gold,)
    return Verdict.CORRECT if any(same(g, value, relative) for g in golds) else Verdict.WRONG


def read(text: str) -> Fraction | None:
    """The number that ``text`` is, exactly; None if it is none or has more than 300 characters."""
    if len(text) > 300:
        return None
    text = _FRACTION.sub(r"\1\2/\3", _DRESS.sub("", text.replace("{,}", ","))).strip()
    found = _NUMBER.fullmatch(text)
    if not found:
        return None
    numerator = Fraction(re.sub(r"[,\s]", "", found.group(1)))
    denominator = Fraction(found.group(2) or 1)
    return numerator / denominator if denominator else None


def same(gold: Fraction, value: Fraction, relative: float) -> bool:
    """Two integers exactly, anything else within ``relative``."""
    if gold.denominator == value.denominator == 1:
        return gold == value
    return abs(gold - value) <= Fraction(relative) * max(abs(gold), abs(value))
