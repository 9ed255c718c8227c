r"""Mathematical answers in LaTeX, compared by math-verify.

Most answers never get that far: equal strings, words, plain numbers, and tuples, intervals and sets
of numbers are compared here, which takes microseconds instead of the milliseconds of parsing LaTeX.
The short cut decides only what math-verify decides the same way (a test compares the two).
"""

from __future__ import annotations

import functools
import logging
import re
from fractions import Fraction
from typing import Any

from pruner_jax.types import Problem, Verdict

BY_ANSWER = True

_SPACING = re.compile(r"(?<!\\)\\[!,;: ]|\\(?:left|right|displaystyle)(?![A-Za-z])")
_AROUND = re.compile(r"\s*([^\w\s\\])\s*")
_INTEGER = re.compile(r"([+-]?)(\d+|[1-9]\d{0,2}(?:,\d{3})+)")
_DECIMAL = re.compile(r"[+-]?(?:\d*|[1-9]\d{0,2}(?:,\d{3})+)\.\d+")
_FRACTION = re.compile(r"([+-]?)(?:\\frac(?:\{(\d+)\}\{(\d+)\}|(\d)(\d))|(\d+)/(\d+))")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm)\{([A-Za-z ]+)\}")
_BRACKETS = re.compile(r"(\(|\[|\\\{)(.*)(\)|\]|\\\})", re.DOTALL)


def check(
    problem: Problem, text: str, answer: str, *, longest: int = 1000
) -> Verdict | tuple[Verdict, str]:
    """Equal as mathematics. Answers beyond ``longest`` characters (and twice the gold answer) are
    UNPARSED: a model that collapses into noise must not cost seconds a row."""
    if len(answer) > max(longest, 2 * len(problem.answer)):
        return Verdict.UNPARSED, f"an answer of {len(answer)} characters"
    equal = compare_plain(_tidy(problem.answer), _tidy(answer))
    if equal is None:
        equal = _compare_parsed(problem.answer, answer)
    return Verdict.CORRECT if equal else Verdict.WRONG


def prepare() -> None:
    """Import math-verify and sympy, and let the parser build its tables on one formula."""
    _compare_parsed(r"\frac{x+1}{2}", r"\sqrt{2}")


# -- without sympy ---------------------------------------------------------------------------------


def compare_plain(gold: str, answer: str) -> bool | None:
    """Whether two tidied answers are equal, None where that takes more than looking at them."""
    if not gold:
        raise ValueError("the gold answer is empty")
    if gold == answer:
        return True
    first, second = _INTEGER.fullmatch(gold), _INTEGER.fullmatch(answer)
    if first and second:  # of any length, so never through int()
        return _digits(first) == _digits(second)
    a, b = _number(gold), _number(answer)
    if a is not None and b is not None:
        exact = "." not in gold + answer  # math-verify rounds decimals at six places
        return None if not exact and 0 < abs(a - b) <= Fraction(1, 10**5) else a == b
    told = _compare_words(gold, answer)
    return _compare_sequences(gold, answer) if told is None else told


def _compare_words(gold: str, answer: str) -> bool | None:
    """Words of which one at least is marked as text (unmarked letters may be a product)."""
    words, marked = zip(*(_TEXT.subn(r"\1", text) for text in (gold, answer)))
    if not any(marked) or not all(re.fullmatch(r"[A-Za-z ]{3,}", word) for word in words):
        return None
    left, right = (word.replace(" ", "").casefold() for word in words)
    return left == right


def _compare_sequences(gold: str, answer: str) -> bool | None:
    first, second = _BRACKETS.fullmatch(gold), _BRACKETS.fullmatch(answer)
    if not first or not second or first.group(1, 3) != second.group(1, 3):
        return None
    golds, answers = first.group(2).split(","), second.group(2).split(",")
    if len(golds) < 2 or len(golds) != len(answers):
        return None
    numbers = [_number(item) for item in golds + answers]
    if None in numbers or "." in gold + answer:
        return None
    left, right = numbers[: len(golds)], numbers[len(golds) :]
    return set(left) == set(right) if first.group(1) == r"\{" else left == right


def _number(text: str) -> Fraction | None:
    """An integer, decimal or fraction of integers of at most 60 characters."""
    if len(text) > 60:
        return None
    if _INTEGER.fullmatch(text) or _DECIMAL.fullmatch(text):
        return Fraction(text.replace(",", ""))
    found = _FRACTION.fullmatch(text)
    if not found:
        return None
    sign, *parts = found.groups()
    numerator, denominator = (int(part) for part in parts if part)
    return Fraction(int(sign + "1") * numerator, denominator) if denominator else None


def _digits(number: re.Match[str]) -> tuple[str, str]:
    digits = number.group(2).replace(",", "").lstrip("0")
    return (number.group(1).strip("+") if digits else "", digits)


def _tidy(text: str) -> str:
    """The same formula with less freedom in how it is written."""
    text = text.strip().strip("$").replace("{,}", ",")
    text = re.sub(r"\\[dt]frac(?![A-Za-z])", r"\\frac", _SPACING.sub(" ", text))
    return _AROUND.sub(r"\1", text).strip().removesuffix(".")


# -- with math-verify ------------------------------------------------------------------------------


def _compare_parsed(gold: str, answer: str) -> bool:
    """math-verify's judgement. Its own time limits use signals and hide errors: both are off, the
    worker pool has the clock."""
    golds, answers = _parse(gold), _parse(answer)
    if not golds:
        raise ValueError(f"math-verify cannot read the gold answer {gold!r:.200}")
    return _library().verify(golds, answers, timeout_seconds=None, raise_on_error=True)


@functools.lru_cache(4096)
def _parse(answer: str) -> list[Any]:
    library = _library()
    config = (library.LatexExtractionConfig(boxed_match_priority=0),)
    boxed = answer if r"\boxed{" in answer else rf"\boxed{{{answer}}}"
    return library.parse(boxed, config, parsing_timeout=None, raise_on_error=True)


@functools.cache
def _library() -> Any:
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its timeouts are off
    return math_verify
