"""Programs (PaD): run ``solution()`` in the pydantic-monty sandbox and compare what it returns.

The sandbox is an interpreter of its own with no files, network or processes, and with limits on
time, memory and recursion. A program that fails is WRONG and its detail begins with the error's
class (Syntax, Name, Type, ZeroDivision, NoResult, WrongAnswer, ...), ready to be shown to a model
that is to repair it. A legal program that the sandbox cannot run, or may run in another way than
Python (`legal`), is UNSUPPORTED if it is not right; one that runs out of time is TIMEOUT.

What a program returns or says is never trusted out here: only numbers and short texts leave the
sandbox, and a message is read as text alone.
"""

from __future__ import annotations

import datetime
import decimal
import functools
import math
import re
import secrets
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from pruner_jax.types import Problem, Verdict
from pruner_jax.verify import legal
from pruner_jax.verify.checkers import number

BY_ANSWER = True

_FENCE = re.compile(r"```[^`\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_START = re.compile(r"^(?:import |from |def )", re.MULTILINE)
_DEFINES = "def solution("
_AT_ONCE = "it makes values one by one, which the sandbox makes at once"
_MESSAGE = 500  # most characters of a failure's message, which may be the program's own words
_TEXT = 10_000  # most characters of a value
_EXPONENT = 2000  # of a Decimal: larger ones take long to expand, and no gold answer comes near


class Run(NamedTuple):
    """What came of a program: its value, or the class and message of its failure.

    The value is a number, a text, None, or for all other values the tuple (its text,).
    """

    value: Any = None
    failure: str = ""
    message: str = ""


def extract(text: str) -> str | None:
    """The last fenced block that defines ``solution``, else the text from its first definition;
    None for neither, or for more than 100,000 characters."""
    blocks = [block for block in _FENCE.findall(text) if _DEFINES in block]
    start = _START.search(text)
    if blocks:
        source = blocks[-1].strip("\n")
    else:
        source = text[start.start() :].rstrip() if start else ""
    return source if _DEFINES in source and len(source) <= legal.MOST else None


def check(
    problem: Problem,
    text: str,
    answer: str,
    *,
    relative: float = 1e-4,
    rounded: bool = False,
    seconds: float = 1.0,
    memory_mb: int = 64,
    recursion: int = 1000,
) -> tuple[Verdict, str]:
    """Run the program and compare its value with the gold answer.

    Numbers are equal within ``relative``, integers exactly. ``rounded`` rounds the value first, as
    PaD's own code does, so 17.6 passes for 18. Other gold answers are compared as text.
    """
    run = value_of(answer, seconds=seconds, memory_mb=memory_mb, recursion=recursion)
    if run.failure:
        verdict = {"Unsupported": Verdict.UNSUPPORTED, "Timeout": Verdict.TIMEOUT}
        return verdict.get(run.failure, Verdict.WRONG), f"{run.failure}: {run.message}"
    if _equal(problem.answer, run.value, relative, rounded):
        return Verdict.CORRECT, ""
    returned = f"solution() returned {_text(run.value)[:200]}"
    if legal.is_lazy(answer):
        return Verdict.UNSUPPORTED, f"Unsupported: {_AT_ONCE}; {returned}"
    return Verdict.WRONG, f"WrongAnswer: {returned}"


def value_of(
    source: str, *, seconds: float = 1.0, memory_mb: int = 64, recursion: int = 1000
) -> Run:
    """What a program returns, without a gold answer; NoResult where that is None."""
    run = execute(source, seconds=seconds, memory_mb=memory_mb, recursion=recursion)
    if run.value is not None or run.failure:
        return run
    if legal.is_lazy(source):
        return Run(failure="Unsupported", message=f"{_AT_ONCE}; solution() returned None")
    return Run(failure="NoResult", message="solution() returned None")


def ballot(value: Any) -> str:
    """A text that equal values share, so that they can be counted: numbers to six digits."""
    found = _number(value)
    if found is None:
        return value.strip() if isinstance(value, str) else _text(value)
    if found.denominator == 1:
        return str(found) if abs(found) < 10**18 else hex(found.numerator)
    digits = decimal.Context(prec=6).divide(Decimal(found.numerator), Decimal(found.denominator))
    whole = digits.adjusted() < 6 and digits == digits.to_integral_value()
    return str(int(digits) if whole else digits.normalize())


def _equal(gold: str, value: Any, relative: float, rounded: bool) -> bool:
    wanted = number.read(gold)
    if wanted is None:
        return _text(value, str).strip() == gold.strip()
    found = _number(value)
    if found is None:
        return False
    return number.same(wanted, Fraction(round(found)) if rounded else found, relative)


def _number(value: Any) -> Fraction | None:
    """The number that a value is or spells; None for what is none, and for True and infinity."""
    match value:
        case str():
            return number.read(value)
        case Decimal() if value.is_finite() and abs(value.adjusted()) <= _EXPONENT:
            return Fraction(value)
        case int() if not isinstance(value, bool):
            return Fraction(value)
        case float() if math.isfinite(value):
            return Fraction(value)
    return None


def _text(value: Any, write: Callable[[Any], str] = repr) -> str:
    return value[0] if isinstance(value, tuple) else write(value)


# -- the sandbox -----------------------------------------------------------------------------------


def execute(source: str, *, seconds: float, memory_mb: int, recursion: int) -> Run:
    """Run ``source`` and then ``solution()`` under limits; clock and random numbers stand still."""
    import pydantic_monty as monty

    if len(source) > legal.MOST:
        return Run(failure="Unsupported", message=f"a program of more than {legal.MOST} characters")
    try:
        legal.compiled(source)
        used = legal.named(source, _LISTS)
    except SyntaxError as error:
        return Run(failure="Syntax", message=str(error)[:_MESSAGE])
    if used:  # under whatever other name: it could put a function of its own in the place of _SHOW
        return Run(failure="Unsupported", message=f"{min(used)} is not available")
    limits = {
        "max_feed_duration_secs": seconds,
        "max_memory": memory_mb << 20,
        "max_recursion_depth": recursion,
    }
    policy = {
        "datetime": datetime.datetime(2024, 1, 1),
        "sleep": "zero",
        "random_start": {"seed": 0},
    }
    try:
        with _sandbox().checkout(limits=limits, os_policy=policy) as session:
            # ``pass`` ends whatever statement stands open before it, or is a syntax error in it
            value = session.feed_run(
                f"{_SHOWN}\npass\n{source}\npass\n{_SHOW}(solution())", print_callback=_discard
            )
    except monty.MontyCrashedError as error:
        if error.timed_out:
            return _out_of_time("the sandbox had to be stopped", source)
        raise RuntimeError(f"the sandbox crashed: {error}") from error
    except monty.MontyError as error:
        return _failure(error.exception(), source)
    if not _left_by_show(value):
        return Run(failure="Unsupported", message="a value that did not come from solution()")
    return Run(value)


_LISTS = {"exec", "eval", "locals"}  # what the sandbox has that lists names, or binds listed ones


def _left_by_show(value: Any) -> bool:
    """Whether a value is of those that `_SHOWN` lets out: all else found another way."""
    match value:
        case (text,) if type(value) is tuple:
            return type(text) is str
    return value is None or type(value) in (int, float, str, Decimal)


_SHOW = f"_{secrets.token_hex(16)}"  # which a program cannot guess, nor list the names there are
_SHOWN = f"""
from decimal import Decimal as {_SHOW}
def {_SHOW}(
    value, kind=type, text=str, whole=int, plain=(float, {_SHOW}), most=1 << 14284, error=Exception
):
    if value is None or kind(value) in plain:
        return value
    if kind(value) is whole:
        return value if -most < value < most else ("an integer of 4300 digits or more",)
    if kind(value) is text:
        return value[:{_TEXT}]
    try:
        return (text(value)[:{_TEXT}],)
    except error:
        return ("a value that cannot be printed",)
"""
"""Stands before a program, in its sandbox, so that only small values leave it: lists of lists that
share their parts are a tree of any size outside, where no limit holds. Short, since the sandbox
compiles it for each program; what it calls is bound before the program can give the names to other
things. Integers of more digits are no answers, and Python does not print them."""


def prepare() -> None:
    """Start the sandbox."""
    _sandbox()


@functools.cache
def _sandbox() -> Any:
    """One process, used for all programs of this worker; each gets a session of its own."""
    import pydantic_monty

    return pydantic_monty.Monty(max_processes=1).__enter__()


def _discard(stream: str, text: str) -> None:
    """Printing is allowed and lost."""


def _failure(error: BaseException, source: str) -> Run:
    """Class and message of a failure, or Unsupported if Python itself would have gone on."""
    message = str(error)[:_MESSAGE]
    if isinstance(error, TimeoutError) and "time limit exceeded" in message:
        return _out_of_time(message, source)
    if legal.python_knows(error, message) or legal.is_lazy(source):
        return Run(failure="Unsupported", message=message)
    return Run(failure=type(error).__name__.removesuffix("Error"), message=message)


def _out_of_time(message: str, source: str) -> Run:
    endless = legal.is_endless(source)
    return Run(failure="Unsupported" if endless else "Timeout", message=message)
