"""Attacks on the verifier by programs: one batch through real workers, honest ones in between.

`test_program` attacks the sandbox one program at a time; here is what it leaves out, above all what
aims at the code around the sandbox (values that are hard to compare or to print, messages as long
as books). Each attack costs one verdict of its own class, never a checker's ERROR.
"""

import ast
import contextlib
import os
import pathlib
import socket
import sys
import time

import pytest

from pruner_jax.types import Problem, Verdict
from pruner_jax.verify import legal
from pruner_jax.verify.checkers import program
from pruner_jax.verify.options import VerifyOptions
from pruner_jax.verify.pool import Verifier

HONEST = "def solution():\n    eggs = 16\n    return (eggs - 3 - 4) * 2"


def body(*lines, before=""):
    return before + "def solution():\n" + "".join(f"    {line}\n" for line in lines)


def quoting_import(name, module):
    return f"""raise ImportError("cannot import name '{name}' from '{module}'")"""


def quoting_module(module, name):
    return f"""raise AttributeError("module '{module}' has no attribute '{name}'")"""


def shown(function):
    """Ways to put a function in the place of the one that shows the program's value."""
    return {
        "by its name": f"exec(list(locals())[0] + ' = {function}')",
        "by an alias": f"e, names = exec, locals\ne(list(names())[0] + ' = {function}')",
        "by another spelling": f"ｅｘｅｃ(list(𝐥𝐨𝐜𝐚𝐥𝐬())[0] + ' = {function}')",
        "by the names alone": f"locals()[list(locals())[0]] = {function}",
        "between braces": f"""f"{{exec(list(locals())[0] + ' = {function}')}}\"""",
    }


def attacks(folder, port):
    """Name -> (expected class, program); each would return 18, or do harm, if it were let."""
    secret, planted = f"{folder}/secret", f"{folder}/planted"
    decimal = "from decimal import Decimal\n"
    return {
        # files
        "io": (
            "Unsupported",
            body(f"io.open({planted!r}, 'w')", "return 18", before="import io\n"),
        ),
        "os.open": ("Unsupported", body(f"import os; os.open({planted!r}, 65)", "return 18")),
        "write through pathlib": (
            "Permission",
            body(
                f"Path({planted!r}).write_text('x')",
                "return 18",
                before="from pathlib import Path\n",
            ),
        ),
        "descriptor": ("Type", body("open(1, 'w').write('x')", "return 18")),
        "environment by proc": (
            "Permission",
            body("return 18 if 'GOLD' in open('/proc/self/environ').read() else 0"),
        ),
        "database": ("Unsupported", body(f"import sqlite3; sqlite3.connect({planted!r})")),
        "remove a folder": ("Unsupported", body(f"import shutil; shutil.rmtree({folder!r})")),
        "remove a file": ("Permission", body(f"import os; os.remove({secret!r})", "return 18")),
        "temporary": ("Unsupported", body("import tempfile; tempfile.mkdtemp()", "return 18")),
        # network
        "connect": (
            "Unsupported",
            body(f"import socket; socket.create_connection(('127.0.0.1', {port}))", "return 18"),
        ),
        "connect by asyncio": (
            "Unsupported",
            body(f"return asyncio.open_connection('127.0.0.1', {port})", before="import asyncio\n"),
        ),
        "http": (
            "Unsupported",
            body(f"import http.client; http.client.HTTPConnection('127.0.0.1', {port}).connect()"),
        ),
        # processes
        "popen": ("Unsupported", body(f"import os; os.popen('touch {planted}')", "return 18")),
        "from os": ("Unsupported", body("from os import system", f"system('touch {planted}')")),
        "posix": ("Unsupported", body("import posix; posix.fork()", "return 18")),
        "exec": ("Unsupported", body("import os; os.execv('/bin/sh', ['sh'])")),
        "exit": ("Unsupported", body("import os; os._exit(0)")),
        "worker": ("Unsupported", body("import multiprocessing; multiprocessing.Process()")),
        "thread": ("Unsupported", body("import threading; threading.Thread()", "return 18")),
        "signal": ("Unsupported", body("import signal; signal.alarm(1)", "return 18")),
        # memory
        "a number of bits": ("Memory", body("return 1 << 10**12")),
        "a width": ("Memory", body("return f'{18:>99999999999}'")),
        "a list": ("Memory", body("return list(range(10**9))")),
        "a join": ("Memory", body("return ' '.join(['a'] * 10**8)")),
        "source": ("Unsupported", body(*["x = 1"] * 100_000, "return 18")),
        # time
        "a sum": ("Timeout", body("return sum(range(10**12))")),
        "loops in loops": (
            "Timeout",
            body("for a in range(10**6):", "    for b in range(a): pass"),
        ),
        "while it cleans up": (
            "Timeout",
            body("try:", "    1/0", "finally:", "    while True: pass"),
        ),
        "when it is defined": ("Timeout", "while True: pass\n" + body("return 18")),
        "digits": ("Value", body("return int('9' * 10**6)")),
        "a timeout by name": ("Timeout", body("raise TimeoutError('time limit exceeded')")),
        # recursion
        "two functions": (
            "Recursion",
            body("return f()", before="def f():\n    return solution()\n"),
        ),
        "a key function": ("Recursion", body("return sorted([2, 1], key=lambda x: solution())")),
        "a sum as source": ("Syntax", body("return " + "+".join(["1"] * 10_000))),
        "signs as source": ("Syntax", body("return " + "-" * 10_000 + "18")),
        # introspection
        "bases": ("Unsupported", body("return ().__class__.__bases__")),
        "mro": ("Unsupported", body("return (18).__class__.__mro__[-1].__subclasses__()")),
        "format": ("Unsupported", body("return '{0.__class__.__mro__}'.format(18)")),
        "sys.modules": ("Unsupported", body("import sys; return sys.modules['os']")),
        "globals": ("Unsupported", body("return globals()['__builtins__']")),
        "gc": ("Unsupported", body("import gc; return gc.get_objects()")),
        "inspect": ("Unsupported", body("import inspect; return inspect.stack()[1]")),
        "a patch": ("Unsupported", "import builtins\nbuiltins.int = str\n" + body("return 18")),
        "a patched type": ("Unsupported", body("int.__eq__ = lambda a, b: True", "return 17")),
        "pickle": ("Unsupported", body("import pickle; return pickle.loads(b'x')")),
        "compile": ("Unsupported", body("return compile('18', '', 'eval')")),
        # the code that compares and prints values
        "equal to all": (
            "WrongAnswer",
            body(
                "class All:",
                "    def __eq__(self, other): return True",
                "    def __str__(self): return '18'",
                "    def __repr__(self): return '18'",
                "return All()",
            ),
        ),
        "printed, not returned": ("NoResult", body("print(18)")),
        "megabytes printed": ("WrongAnswer", body("print('18 ' * 10**6)", "return 17")),
        "a long text": ("WrongAnswer", body("return '18' * 5 * 10**6")),
        "a long list": ("WrongAnswer", body("return [18] * 10**5")),
        "a deep list": ("WrongAnswer", body("x = 18", "for _ in range(9**5): x = [x]", "return x")),
        "itself": ("WrongAnswer", body("x = {}", "x[18] = x", "return x")),
        "bits": ("WrongAnswer", body("return 1 << 10**7")),
        "bits in a list": ("WrongAnswer", body("return [1 << 10**7]")),
        "an exponent": ("WrongAnswer", body("return Decimal('1E+99999999999')", before=decimal)),
        "a small exponent": ("WrongAnswer", body("return Decimal('1E-99999999')", before=decimal)),
        "no number": ("WrongAnswer", body("return Decimal('sNaN')", before=decimal)),
        "a spelled exponent": ("WrongAnswer", body("return '1e' + '9' * 280")),
        "a complex one": ("WrongAnswer", body("return 18 + 0j")),
        "a type": ("WrongAnswer", body("return open")),
        "a function": ("WrongAnswer", body("return lambda: 18")),
        "a tree of shared parts": (
            "Memory",
            body("x = 'a' * 10**5", "for _ in range(40): x = [x, x]", "return x"),
        ),
        "a long text in many places": (
            "Memory",
            body("x = 'a' * 10**6", "return [x] * 10**4"),
        ),
        "as a key": ("WrongAnswer", body("class A: pass", "return {A(): 18}")),
        "in a set": ("WrongAnswer", body("class A: pass", "return {A()}")),
        "what cannot be printed": (
            "WrongAnswer",
            body("class A:", "    def __str__(self): return 18", "return A()"),
        ),
        "printing without end": (
            "Timeout",
            body("class A:", "    def __str__(self):", "        while True: pass", "return A()"),
        ),
        "the names of what prints": (
            "WrongAnswer",
            "type = lambda value: int\nstr = lambda value: value\n" + body("return [18]"),
        ),
        # the function that shows values, which stands among the program's own names
        **{
            f"what shows values, {how}": ("Unsupported", f"{source}\n" + body("return 17"))
            for how, source in shown("lambda value: 18").items()
        },
        **{
            f"what shows values, {how}, to let a tree out": (
                "Unsupported",
                f"{source}\n" + body("x = 18", "for _ in range(22): x = [x, x]", "return x"),
            )
            for how, source in shown("lambda value: value").items()
        },
        "what shows values, in solution": (
            "Unsupported",
            "here = list(locals())\n" + body("exec(here[0] + ' = lambda v: 18')", "return 17"),
        ),
        "what shows values, in a default": (
            "Unsupported",
            "def solution(run=exec, here=list(locals())):\n"
            "    run('global ' + here[0] + '; ' + here[0] + ' = lambda v: 18')\n    return 17",
        ),
        "what shows values, in a text that is run": (
            "Unsupported",
            body("return 17") + """eval("exec(list(locals())[0] + ' = lambda v: 18')")""",
        ),
        "what shows values, in a syntax that not every Python has": (
            "Syntax" if sys.version_info < (3, 12) else "Unsupported",
            body("return 17") + """f"{exec(list(locals())[0] + " = lambda v: 18")}"\n""",
        ),
        # an end of the program before its end, with a value that nothing has shown
        "a return outside": ("Syntax", "x = 18\n" + body("y = x") + "return x"),
        "a return and no function": ("Syntax", "# def solution(\nreturn 18"),
        "a return of nothing": ("Syntax", body("return 17") + "return ()"),
        "a return of many digits": ("Syntax", body("return 17") + "return 10**9000"),
        "a return of a tree": (
            "Syntax",
            body("return 17") + "x = []\nfor _ in range(60): x = [x, x]\nreturn x",
        ),
        "a return in a loop": ("Syntax", body("return 17") + "for x in [18]:\n    return x"),
        "a return in a class": ("Syntax", body("return 17") + "class A:\n    return 18"),
        "a yield outside": ("Syntax", body("return 17") + "yield 18"),
        "an await outside": (
            "Syntax",
            body("return 17") + "import asyncio\nawait asyncio.sleep(0)",
        ),
        "a tree before the end": (
            "Syntax",
            body("return 18") + "x = [18]\nfor _ in range(40): x = [x, x]\nx or \\",
        ),
        # the code that reads messages
        "a module's name": ("Import", body(quoting_import("x", "this"))),
        "a module that runs": ("Import", body(quoting_import("x", "unittest.__main__"))),
        "a module's attribute": ("Attribute", body(quoting_module("idlelib.__main__", "x"))),
        "quotes without end": ("Attribute", body('raise AttributeError("\'" * 10**6)')),
        "control characters": ("WrongAnswer", body("return '\\x00\\x1b[2J\\u202e18'")),
        "half a character": ("Syntax", body("return '\ud800'")),
        "a nul byte": ("Syntax", body("return 18") + "\x00"),
        "a long message": ("Value", body("raise ValueError('18 ' * 10**6)")),
        "a message of another kind": ("Unsupported", body("raise ValueError(18)")),
        "leaving": ("SystemExit", body("raise SystemExit('18')")),
        "interrupting": ("KeyboardInterrupt", body("raise KeyboardInterrupt")),
        "a second definition": ("WrongAnswer", body("return 18") + "solution = lambda: 17"),
        "code after the call": ("Syntax", body("return 18") + "solution() or ("),
    }


VERDICTS = {"Unsupported": Verdict.UNSUPPORTED, "Timeout": Verdict.TIMEOUT}


def descendants(pid):
    """Every process below this one that exists."""
    found = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in pathlib.Path(f"/proc/{pid}/task").iterdir():
            found |= set(map(int, (thread / "children").read_text().split()))
    return found.union(*map(descendants, found))


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(scope="module")
def battle(tmp_path_factory):
    """Outcomes of all attacks, of the honest programs between them, and what is left behind."""
    folder = tmp_path_factory.mktemp("attacked")
    (folder / "secret").write_text("18")
    before = descendants(os.getpid())
    options = VerifyOptions(
        workers=1, timeout_s=30, cache=0, settings={"program": {"seconds": 0.5, "memory_mb": 32}}
    )
    with socket.create_server(("127.0.0.1", 0)) as server, Verifier(options) as verifier:
        plans = attacks(str(folder), server.getsockname()[1])
        tickets = []
        for number, (_, source) in enumerate(plans.values()):
            for text in (source, f"{HONEST} + {number} - {number}"):  # each another program
                tickets.append(verifier.submit(Problem("p", "", "18", "program"), text, text))
        outcomes = verifier.collect(tickets)
        during = descendants(os.getpid()) - before
        stats = verifier.stats
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    deadline = time.monotonic() + 5
    while any(map(alive, during)) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = {pid for pid in during if alive(pid)}
    return dict(zip(plans, outcomes[::2])), outcomes[1::2], during, left, stats, folder


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@LINUX
@pytest.mark.parametrize("name", list(attacks("", 0)))
def test_an_attack_costs_one_verdict_of_its_own_class(battle, name):
    outcome = battle[0][name]
    kind = attacks("", 0)[name][0]
    assert outcome.verdict == VERDICTS.get(kind, Verdict.WRONG), outcome
    assert outcome.detail.startswith(f"{kind}: "), outcome
    assert len(outcome.detail) < 600


@LINUX
def test_honest_programs_between_them_run_as_if_nothing_were(battle):
    _, honest, during, left, stats, folder = battle
    assert {outcome.verdict for outcome in honest} == {Verdict.CORRECT}
    assert stats["killed"] == stats["retried"] == 0  # no worker was lost
    assert len(during) <= 3 and not left  # the worker, its sandbox, a helper; and none in the end
    assert os.listdir(folder) == ["secret"]
    assert (folder / "secret").read_text() == "18"


@pytest.mark.parametrize("name", sorted(program._LISTS))
def test_a_program_may_speak_of_what_it_may_not_use(name):
    lines = [f"# {name}(18)", f"kinds = {{'{name}': 18}}", f"return kinds.get('{name}')"]
    assert program.check(Problem("p", "", "18"), "", body(*lines)) == (Verdict.CORRECT, "")


def test_the_sandbox_has_nothing_else_that_lists_or_binds_names():
    """An update of the sandbox may bring more, which `program._LISTS` would have to name."""
    for name in ("globals", "vars", "dir", "compile", "__import__", "__builtins__"):
        assert f"'{name}' is not defined" in program.value_of(body(f"return {name}")).message


def test_a_return_outside_is_not_compared_with_words():
    source = body("return 'xy'") + "return ('nb', 1)"
    verdict, detail = program.check(Problem("p", "", "nb"), "", source)
    assert verdict == Verdict.WRONG and detail.startswith("Syntax: ")


@pytest.mark.parametrize("value", ["()", "('nb', 1)", "[18]", "True", "b'18'", "1j"])
def test_what_the_sandbox_does_not_show_is_not_taken(value, monkeypatch):
    """Were there another way past its end."""
    monkeypatch.setattr(legal, "compiled", ast.parse)
    source = body("return 18") + f"return {value}"
    assert program.check(Problem("p", "", "nb"), "", source)[0] == Verdict.UNSUPPORTED


@pytest.mark.parametrize("value", ["1 << 10**6", "[1 << 10**6]", "'nb' * 10**5", "0.1", "None"])
def test_any_value_can_be_compared_with_words(value):
    found = program.check(Problem("p", "", "nb"), "", body(f"return {value}"))
    assert found[0] == Verdict.WRONG


@pytest.mark.parametrize(
    "module",
    ["this", "antigravity", "unittest.__main__", "idlelib.__main__", "lib2to3.tests", "__main__.x"],
)
@pytest.mark.parametrize("says", [quoting_import, quoting_module])
def test_what_a_message_names_is_not_imported(says, module):
    """The program chooses the message, and an import runs the module here."""
    names = (module, "x") if says is quoting_module else ("x", module)
    program.check(Problem("p", "", "18"), "", HONEST)  # what all programs need is there
    before = dict(sys.modules)
    verdict, detail = program.check(Problem("p", "", "18"), "", body(says(*names)))
    assert sys.modules == before
    assert verdict == Verdict.WRONG
    assert module in detail


@pytest.mark.parametrize(
    ("module", "name", "verdict"),
    [
        ("json", "scanner", Verdict.UNSUPPORTED),
        ("os", "fork", Verdict.UNSUPPORTED),
        ("os.path", "os", Verdict.UNSUPPORTED),
        ("math", "eggs", Verdict.WRONG),
    ],
)
def test_a_module_that_the_sandbox_has_in_part(module, name, verdict):
    for lines in ([f"from {module} import {name}"], [f"import {module}", f"{module}.{name}"]):
        found = program.check(Problem("p", "", "18"), "", body(*lines, "return 18"))
        assert found[0] == verdict, found


def test_every_module_of_the_sandbox_is_known_outside():
    """An update of the sandbox may bring more, whose missing names would be called wrong."""
    lines = [
        f"try:\n    import {name}\n    found.append('{name}')\nexcept ImportError: pass"
        for name in sorted(sys.stdlib_module_names)
    ]
    source = "found = []\n" + "\n".join(lines) + "\ndef solution(): return ' '.join(found)"
    assert set(program.value_of(source).value.split()) == legal.MODULES - {"os.path"}


@pytest.mark.parametrize(
    "text",
    ["`" * 200_000, "``` " * 50_000, f"```python\n{HONEST}\n" + "#" * 200_000 + "\n```"],
)
def test_a_response_of_noise_holds_no_program(text):
    start = time.monotonic()
    assert program.extract(text) is None
    assert time.monotonic() - start < 2
