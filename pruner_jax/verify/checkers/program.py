"""Programs (PaD): run ``solution()`` in the pydantic-monty sandbox and compare what it returns.

The sandbox is an interpreter of its own with no files, network or processes, and with limits on
time, memory and recursion. A program that fails is WRONG and its detail begins with the error's
class (Syntax, Name, Type, ZeroDivision, NoResult, WrongAnswer, ...), ready to be shown to a model
that is to repair it. A legal program that the sandbox cannot run is UNSUPPORTED; one that runs out
of time is TIMEOUT.

What a program returns or says is never trusted out here: only numbers and short texts leave the
sandbox, and a message is read as text alone.
"""

from __future__ import annotations

import ast
import builtins
import datetime
import decimal
import functools
import importlib
import math
import re
import secrets
import sys
import types
import unicodedata
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from pruner_jax.types import Problem, Verdict
from pruner_jax.verify.checkers import number

BY_ANSWER = True

_FENCE = re.compile(r"```[^`\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_START = re.compile(r"^(?:import |from |def )", re.MULTILINE)
_DEFINES = "def solution("
_LIBRARIES = {"numpy", "sympy", "scipy", "pandas", "mpmath", "networkx"}
# fmt: off
_MODULES = {  # what the sandbox has, or has parts of
    "asyncio", "base64", "binascii", "bisect", "collections", "copy", "csv", "dataclasses",
    "datetime", "decimal", "functools", "hashlib", "itertools", "json", "math", "os", "os.path",
    "pathlib", "posixpath", "random", "re", "sys", "time", "tomllib", "typing", "unicodedata",
}
# fmt: on
_MESSAGE = 500  # most characters of a failure's message, which may be the program's own words
_TEXT = 10_000  # most characters of a value
_SOURCE = 100_000  # most characters of a program: Python's own compiler dies of a few times more
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
    return source if _DEFINES in source and len(source) <= _SOURCE else None


def check(
    problem: Problem,
    text: str,
    answer: str,
    *,
    relative: float = 1e-4,
    rounded: bool = False,
    seconds: float = 1.0,
    memory_mb: int = 64,
    recursion: int = 200,
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
    return Verdict.WRONG, f"WrongAnswer: solution() returned {_text(run.value)[:200]}"


def value_of(
    source: str, *, seconds: float = 1.0, memory_mb: int = 64, recursion: int = 200
) -> Run:
    """What a program returns, without a gold answer; NoResult where that is None."""
    run = execute(source, seconds=seconds, memory_mb=memory_mb, recursion=recursion)
    if run.value is None and not run.failure:
        return Run(failure="NoResult", message="solution() returned None")
    return run


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

    if refusal := _refused(source):
        return refusal
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
            session.feed_run(_SHOWN)
            # ``pass`` ends whatever statement the program leaves open, or is a syntax error in it
            value = session.feed_run(
                f"{source}\npass\n{_SHOW}(solution())", print_callback=_discard
            )
    except monty.MontyCrashedError as error:
        if error.timed_out:
            return Run(failure="Timeout", message="the sandbox had to be stopped")
        raise RuntimeError(f"the sandbox crashed: {error}") from error
    except monty.MontyError as error:
        return _failure(error.exception(), source)
    return Run(value)


_LISTS = {"exec", "eval", "locals"}  # what the sandbox has that lists names, or binds listed ones


def _refused(source: str) -> Run | None:
    """The failure of a program that uses one of these, under whatever other name: it could put a
    function of its own in the place of _SHOW."""
    # Python reads names in this form too
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", source))
    if _LISTS.isdisjoint(words):
        return None
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        # the sandbox may be able to read it: it is ahead of some Pythons
        return Run(failure="Syntax", message=str(error)[:_MESSAGE])
    used = {node.id for node in nodes if isinstance(node, ast.Name)} & _LISTS
    if not used:
        return None
    return Run(failure="Unsupported", message=f"{min(used)} is not available")


_SHOW = f"_{secrets.token_hex(16)}"  # which a program cannot guess, nor list the names there are
_SHOWN = f"""
def {_SHOW}():
    from decimal import Decimal
    plain, whole, text, kind, error = (float, Decimal), int, str, type, Exception
    most = 10**4300  # larger ones are no answers, and Python does not print them
    def show(value):
        if value is None or kind(value) in plain:
            return value
        if kind(value) is whole:
            return value if -most < value < most else ("an integer of more than 4300 digits",)
        if kind(value) is text:
            return value[:{_TEXT}]
        try:
            return (text(value)[:{_TEXT}],)
        except error:
            return ("a value that cannot be printed",)
    return show
{_SHOW} = {_SHOW}()
"""
"""Runs before a program, in its sandbox, so that only small values leave it: lists of lists that
share their parts are a tree of any size outside, where no limit holds."""


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
    kind = type(error).__name__.removesuffix("Error")
    if isinstance(error, TimeoutError) and "time limit exceeded" in message:
        kind = "Timeout"
    elif _python_knows(error, message, source):
        kind = "Unsupported"
    return Run(failure=kind, message=message)


def _python_knows(error: BaseException, message: str, source: str) -> bool:
    """Whether the failure is the sandbox's: a name, attribute, module or syntax that Python has.

    The program may have written the message: nothing that it names may be imported or called.
    """
    quoted = re.findall(r"'([\w.]*)'", message)
    match error:
        case NotImplementedError() | RuntimeError():
            return "monty" in message
        case SyntaxError():
            return _compiles(source)
        case NameError() if quoted:
            return hasattr(builtins, quoted[0])
        case ModuleNotFoundError() if quoted:
            return quoted[0].split(".")[0] in sys.stdlib_module_names | _LIBRARIES
        case ImportError() if len(quoted) == 2:  # cannot import name 'a' from 'b'
            return _has(quoted[1], quoted[0])
        case AttributeError() if len(quoted) == 2:  # module 'a' / 'a' object has no attribute 'b'
            return _has(quoted[0], quoted[1]) if "module" in message else _type_has(*quoted)
    return False


def _compiles(source: str) -> bool:
    try:
        compile(source, "solution", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return False
    return True


def _has(module: str, name: str) -> bool:
    return module in _MODULES and hasattr(importlib.import_module(module), name)


def _type_has(kind: str, name: str) -> bool:
    owner = types.FunctionType if kind == "function" else getattr(builtins, kind, None)
    return isinstance(owner, type) and hasattr(owner, name)
