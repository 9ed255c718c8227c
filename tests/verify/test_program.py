"""Programs: which are right, how failures are named, what the sandbox refuses."""

import os
import pathlib
import sys
import time

import pytest

from pruner_jax.types import Problem, Verdict
from pruner_jax.verify.checkers import program

WRITTEN = "def solution():\n    eggs = 16\n    left = eggs - 3 - 4\n    return left * 2"


def check(source, gold="18", **settings):
    return program.check(Problem("p", "", gold), "", source, **settings)


def body(*lines, before=""):
    return before + "def solution():\n" + "".join(f"    {line}\n" for line in lines)


# -- right and wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "gold"),
    [
        (WRITTEN, "18"),
        (body("return 18.0"), "18"),
        (body("return 18.0001"), "18"),
        (body("return 1/3"), "0.3333"),
        (body("return '18'"), "18"),
        (body("return '$1,800'"), "1800"),
        (body("print('working')", "return 18"), "18"),
        (body("return math.sqrt(324)", before="import math\n"), "18"),
        (body("return Decimal('18')", before="from decimal import Decimal\n"), "18"),
        (body("return 7**500"), str(7**500)),
        (body("return 'nb'"), "nb"),  # last letters, coin flips: compared as text
        (body("return sum(int(d) for d in '99')"), "18"),
        (body("try:", "    1/0", "except ZeroDivisionError:", "    return 18"), "18"),
        # the first line, behind what the sandbox is given before the program
        (f"    \f\n    \feggs = 1\n{WRITTEN}", "18"),
        (f"from __future__ import annotations\n{WRITTEN}", "18"),
    ],
)
def test_right(source, gold):
    assert check(source, gold) == (Verdict.CORRECT, "")


@pytest.mark.parametrize(
    ("source", "verdict", "detail"),
    [
        (body("return 19"), Verdict.WRONG, "WrongAnswer: solution() returned 19"),
        (body("return 18.1"), Verdict.WRONG, "WrongAnswer"),
        (body("return True"), Verdict.WRONG, "WrongAnswer"),
        (body("return [18]"), Verdict.WRONG, "WrongAnswer"),
        (body("return float('nan')"), Verdict.WRONG, "WrongAnswer"),
        (body("return float('inf')"), Verdict.WRONG, "WrongAnswer"),
        (body("return 7**9999"), Verdict.WRONG, "WrongAnswer: solution() returned an integer of"),
        (body("eggs = 18"), Verdict.WRONG, "NoResult"),
        ("def solution(:\n    return 18", Verdict.WRONG, "Syntax: "),
        (f"    return 18\n{WRITTEN}", Verdict.WRONG, "Syntax: unexpected indent"),
        (f"except error:\n    pass\n{WRITTEN}", Verdict.WRONG, "Syntax: "),
        (body("return (18"), Verdict.WRONG, "Syntax: "),
        (body("return eggs"), Verdict.WRONG, "Name: name 'eggs' is not defined"),
        (body("return 1 + 'a'"), Verdict.WRONG, "Type: unsupported operand"),
        (body("return 1 / 0"), Verdict.WRONG, "ZeroDivision: division by zero"),
        (body("return int('x')"), Verdict.WRONG, "Value: "),
        (body("return [][3]"), Verdict.WRONG, "Index: "),
        (body("return {}['a']"), Verdict.WRONG, "Key: "),
        (body("return (1).nothing"), Verdict.WRONG, "Attribute: "),
        (body("raise NotImplementedError"), Verdict.WRONG, "NotImplemented"),
        (body("return 1", before="import nosuchmodule\n"), Verdict.WRONG, "ModuleNotFound: "),
        (body("return solution()"), Verdict.WRONG, "Recursion: "),
        (body("return len([0] * 10**10)"), Verdict.WRONG, "Memory: "),
        (body("raise SystemExit"), Verdict.WRONG, "SystemExit"),
        # made one by one, and all of it taken at once
        (body("return sum(int(d) for d in '98')"), Verdict.WRONG, "WrongAnswer"),
        (body("return max(map(abs, (n for n in [1, 2])))"), Verdict.WRONG, "WrongAnswer"),
        (body("for n, d in enumerate('18'):", "    return n"), Verdict.WRONG, "WrongAnswer"),
        (body("a, b = map(int, '1 8'.split())", "return a + b"), Verdict.WRONG, "WrongAnswer"),
        (body("return [n for n in zip('18', '18')][3]"), Verdict.WRONG, "Index: "),
        (body("return sum(n for n in reversed([1, 'a']))"), Verdict.WRONG, "Type: "),
        (body("return int(''.join(d for d in 'ab'))"), Verdict.WRONG, "Value: "),
        (body("print(*map(str, [18]))"), Verdict.WRONG, "NoResult"),
        (body("return next([18])"), Verdict.WRONG, "Type: 'list' object is not an iterator"),
        (body("return 1 < 'a'"), Verdict.WRONG, "Type: '<' not supported"),
        (body("return pow(2, 5, 0)"), Verdict.WRONG, "Value: "),
    ],
)
def test_wrong_and_why(source, verdict, detail):
    found = check(source)
    assert found[0] == verdict
    assert found[1].startswith(detail)


@pytest.mark.parametrize(
    "source",
    [
        body("def halves():", "    yield 18", "return sum(halves())"),
        body("return Fraction(36, 2)", before="from fractions import Fraction\n"),
        body("return np.sum([18])", before="import numpy as np\n"),
        body("return int(input())"),
        body("return (18).__class__(18)"),
        body("return sqrt(324)", before="from math import *\n"),
        body("return pow(3, -1, 20)"),
        body("return int(re.sub('8', lambda found: '8', '18'))", before="import re\n"),
        # what Python makes one by one, and the sandbox at once
        body("return next(n for n in [1, 18] if n > 3)"),
        body("return next(filter(lambda n: n > 3, [1, 18]))"),
        body("return next(map(abs, [-18]))"),
        body("return next(zip([18], [1]))[0]"),
        body("return next(enumerate([18]))[1] + 0"),
        body("return next(reversed([1, 18]))"),
        body("return int(next(re.finditer('18', '18')).group())", before="import re\n"),
        body("return next(n for n in itertools.count(1) if n == 18)", before="import itertools\n"),
        body("for n, _ in enumerate(itertools.count()):", "    if n == 18: return n")
        + "import itertools",
        body("halves = (n for n in [9, 9])", "return sum(halves) + sum(halves)"),
        body("halves = map(int, '99')", "return sum(halves) + sum(halves)"),
        body("return 18 if any(1 / n for n in [1, 0]) else 17"),
        body("if any((found := n) > 9 for n in [9, 18, 36]): return found"),
        body("for n in map(lambda n: 18 / n, [1, 0]): return n"),
        body(
            "many = [18]", "each = (n for n in many)", "many.append(0)", "return len([*each]) + 16"
        ),
        body("def one(): return (n for n in [18])", "return next(one())"),
        body("def sum(each): return next(each)", "return sum(n for n in [18])"),
        body("seen = []", "any(seen.append(n) or n for n in [1, 2])", "if seen == [1]: return 18"),
    ],
)
def test_legal_python_that_the_sandbox_does_not_know_is_not_called_wrong(source):
    found = check(source)
    assert found[0] == Verdict.UNSUPPORTED
    assert found[1].startswith("Unsupported: ")


def test_what_is_made_one_by_one_and_right_is_right():
    assert check(body("return next(iter([n for n in [18]]))"))[0] == Verdict.CORRECT
    assert check(body("return 18 if any(n > 9 for n in [9, 18]) else 17"))[0] == Verdict.CORRECT


def test_a_loop_without_end_is_out_of_time_whatever_else_there_is():
    source = body("any(n for n in [1])", "while True: pass")
    assert check(source, seconds=0.2)[0] == Verdict.TIMEOUT


def test_recursion_goes_as_deep_as_in_python():
    before = "def count(n): return 0 if n == 0 else 1 + count(n - 1)\n"
    assert check(body("return count(960)", before=before), "960")[0] == Verdict.CORRECT
    assert check(body("return count(1000)", before=before), "1000")[1].startswith("Recursion: ")


def test_rounding_as_in_the_original():
    """PaD's code rounds before it compares, so 17.6 passes for 18."""
    assert check(body("return 17.6"))[0] == Verdict.WRONG
    assert check(body("return 17.6"), rounded=True)[0] == Verdict.CORRECT
    assert check(body("return 17.4"), rounded=True)[0] == Verdict.WRONG


def test_clock_and_chance_stand_still():
    before = "import random\nimport datetime\n"
    source = body("return random.random() + datetime.datetime.now().timestamp()", before=before)
    assert check(source)[1] == check(source)[1] != ""


def test_one_program_leaves_nothing_to_the_next():
    check("leak = 18\n" + WRITTEN)
    assert check(body("return leak"))[1].startswith("Name: ")


# -- attacks ---------------------------------------------------------------------------------------

SECRET = "the gold answer is 18"


def attacks(folder):
    """Programs that would return 18, or do harm, if the sandbox let them."""
    secret, planted = f"{folder}/secret", f"{folder}/planted"
    return {
        "read a file": body(f"return int(open({secret!r}).read()[-2:])"),
        "read through pathlib": body(
            f"return int(Path({secret!r}).read_text()[-2:])", before="from pathlib import Path\n"
        ),
        "write a file": body(f"open({planted!r}, 'w').write('x')", "return 18"),
        "list files": body(f"return 18 if os.listdir({folder!r}) else 0", before="import os\n"),
        "environment": body("return int(os.environ['GOLD'])", before="import os\n"),
        "getenv": body("return int(os.getenv('GOLD'))", before="import os\n"),
        "shell": body(f"os.system('touch {planted}')", "return 18", before="import os\n"),
        "subprocess": body(
            f"subprocess.run(['touch', {planted!r}])", "return 18", before="import subprocess\n"
        ),
        "fork": body("return 18 if os.fork() else 18", before="import os\n"),
        "kill": body("os.kill(os.getppid(), 9)", "return 18", before="import os\n"),
        "socket": body("socket.socket()", "return 18", before="import socket\n"),
        "http": body(
            "urllib.request.urlopen('http://127.0.0.1')",
            "return 18",
            before="import urllib.request\n",
        ),
        "ctypes": body("ctypes.string_at(0)", "return 18", before="import ctypes\n"),
        "dynamic import": body("__import__('os').system('true')", "return 18"),
        "importlib": body(
            "importlib.import_module('os')", "return 18", before="import importlib\n"
        ),
        "import inside eval": body("eval('__import__(\"os\")')", "return 18"),
        "import inside exec": body("exec('import subprocess')", "return 18"),
        "subclasses": body("return len(().__class__.__bases__[0].__subclasses__()) and 18"),
        "globals of a function": body("solution.__globals__['x'] = 1", "return 18"),
        "code of a function": body("solution.__code__", "return 18"),
        "frames": body("sys._getframe(1)", "return 18", before="import sys\n"),
        "frames of an error": body(
            "try:",
            "    1/0",
            "except ZeroDivisionError as e:",
            "    return e.__traceback__.tb_frame and 18",
        ),
        "builtins": body("__builtins__['open']", "return 18"),
        "memory at once": body("x = 'a' * 10**11", "return 18"),
        "memory bit by bit": body("x = []", "while True:", "    x.append('a' * 10**6)"),
        "memory by doubling": body("x = [0]", "while True:", "    x += x"),
        "memory by a number": body("return 10 ** 10 ** 10 and 18"),
        "memory by formatting": body("return len('%0999999999d' % 1) and 18"),
        "memory by printing": body("while True:", "    print('a' * 10**6)"),
        "time": body("while True:", "    pass"),
        "time, catching": body("try:", "    while True: pass", "except BaseException: return 18"),
        "time, catching again": body(
            "while True:",
            "    try:",
            "        while True: pass",
            "    except BaseException: pass",
        ),
        "time by backtracking": body(
            "return re.match('(a+)+$', 'a' * 4000 + 'b') or 17", before="import re\n"
        ),
        "sleep": body("time.sleep(10**6)", "return 17", before="import time\n"),
        "recursion": body("return solution()"),
        "deep nesting": body("return " + "(" * 100_000 + "18" + ")" * 100_000),
        "deep data": body("x = []", "for _ in range(10**6): x = [x]", "return x"),
    }


@pytest.mark.parametrize("name", list(attacks("")))
def test_attacks_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.setenv("GOLD", "18")
    (tmp_path / "secret").write_text(SECRET)
    start = time.monotonic()
    verdict, detail = check(attacks(str(tmp_path))[name], seconds=0.5, memory_mb=32)
    assert verdict != Verdict.CORRECT, detail
    assert time.monotonic() - start < 4
    assert os.listdir(tmp_path) == ["secret"]
    assert check(WRITTEN) == (Verdict.CORRECT, "")  # and the sandbox is as it was


def test_a_program_out_of_time_is_a_timeout():
    assert check(body("while True:", "    pass"), seconds=0.2)[0] == Verdict.TIMEOUT


def test_attacks_would_work_outside(tmp_path, monkeypatch):
    """The list is not a list of programs that fail for other reasons."""
    monkeypatch.setenv("GOLD", "18")
    (tmp_path / "secret").write_text(SECRET)
    names = ["read a file", "environment", "write a file", "subclasses", "frames", "list files"]
    for name in names:
        space = {}
        exec(attacks(str(tmp_path))[name], space)
        assert space["solution"]() in (18, True), name


# -- finding the program in a response -------------------------------------------------------------


def test_extract():
    fenced = f"Here it is:\n```python\n{WRITTEN}\n```\nIt returns 18."
    assert program.extract(fenced) == WRITTEN
    assert program.extract(WRITTEN) == WRITTEN
    assert program.extract("import math\n" + WRITTEN) == "import math\n" + WRITTEN
    assert program.extract("We compute:\n" + WRITTEN + "\n") == WRITTEN
    twice = f"```\n{body('return 1')}```\nwrong, again:\n```python\n{WRITTEN}\n```\n```\nout\n```"
    assert program.extract(twice) == WRITTEN
    assert program.extract(f"```python\n{WRITTEN}") == WRITTEN  # the fence may stay open
    assert program.extract("```python\nprint(18)\n```") is None
    assert program.extract("The answer is 18.") is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_sandbox_is_one_process_for_all_programs():
    check(WRITTEN)
    children = pathlib.Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    before = children.read_text()
    for _ in range(5):
        check(WRITTEN)
    assert children.read_text() == before
