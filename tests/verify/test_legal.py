"""What Python itself makes of a program."""

import argparse
import ast
import difflib
import fractions
import itertools
import statistics
import subprocess
import sys
import textwrap

import pytest

from pruner_jax.verify import legal

MANY = [
    "(" * 99_000,
    "-" * 99_000 + "1",
    "not " * 24_000 + "1",
    "x" + ".x" * 49_000,
    "f(" * 49_000,
    "1" + "+1" * 49_000,
    "1" + "**1" * 33_000,
    "lambda:" * 14_000 + "1",
    "a" + "=a" * 49_000,
    "{1:" * 33_000,
    "x" + "[0]" * 33_000,
    "1" + " if 1 else 1" * 8_000,
    "1" + " and 1 or 1" * 8_000,
    "if 1:1\n" + "elif 1:1\n" * 11_000,
    "\n".join(" " * depth + "if 1:" for depth in range(400)),
    "9" * 99_000,
]
ODD = ["\0", "\ufeff", "\ud800", "\r\f\\", "'''", "return 18", "await x", "x = yield"]


def test_no_source_ends_the_compiler():
    """Each would end a process that let it; a warning is no error, even where all are."""
    code = "from pruner_jax.verify.legal import _tree, compiled\n"
    code += f"for source in {[*MANY, *ODD]!r}:\n    for read in (compiled, _tree):\n"
    code += "        try: read(source)\n"
    code += "        except SyntaxError as error: assert str(error)\n"
    code += "compiled(\"1 is 1, '\\\\d'\")\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-"], input=code.encode(), capture_output=True
    )
    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.parametrize("source", ODD)
def test_what_python_refuses_is_refused(source):
    with pytest.raises(SyntaxError):
        legal.compiled(source)


# -- what is read from the code instead of the tree ------------------------------------------------

HIDDEN = [
    "class A:\n    x = map(abs, [1])",
    "def f(map): return map(1)",
    "def f():\n    zip = 3\n    def g(): return zip(1)\n    return g",
    "def f(x=reversed([1])): pass",
    "@filter(1)\ndef f(): pass",
    "x.finditer(1)",
    "f'{next(n for n in [1])}'",
    "ｍａｐ(1)",
    "lambda:" * 900 + "(n for n in x)",
    "map = 3",
    "for n in range(7): n",
    "[n for n in x]",
]


def functions():
    """Sources of the functions of modules that Python comes with."""
    for module in (argparse, difflib, fractions, statistics):
        with open(module.__file__) as file:
            text = file.read()
        top = ast.parse(text).body
        for node in [*top, *itertools.chain(*(getattr(node, "body", ()) for node in top))]:
            if isinstance(node, ast.FunctionDef):
                yield textwrap.dedent(ast.get_source_segment(text, node, padded=True))


def test_the_code_of_a_program_tells_as_much_as_its_tree(monkeypatch):
    sources = [*HIDDEN, *functions()]
    told = [legal.is_lazy(source) for source in sources]
    monkeypatch.setattr(legal, "_makes", lambda code: True)
    assert [legal.is_lazy(source) for source in sources] == told
    assert len(HIDDEN) < sum(told) < len(told) - 100


def test_a_tree_too_deep_to_read_may_hold_anything(monkeypatch):
    """What compiles and has no tree, for which Python has a limit of its own."""

    def refuse(source):
        raise SyntaxError("too deep")

    monkeypatch.setattr(legal, "_tree", refuse)
    assert legal.is_lazy("map(1)") and legal.is_endless("map(1)")
    assert not legal.is_lazy("1")


@pytest.mark.parametrize(
    "source", ["eval", "x = ｅｖａｌ", "'é'; eval(1)", "f'{eval}'", "def f(a=eval): 1"]
)
def test_a_name_is_found_however_it_is_spelled(source):
    assert legal.named(source, {"eval", "exec"}) == {"eval"}


@pytest.mark.parametrize(
    "source", ["# eval", "x.eval", "def eval(): 1", "x = 'eval'", "evaluate = 1"]
)
def test_what_is_no_such_name_is_not_found(source):
    assert not legal.named(source, {"eval", "exec"})
