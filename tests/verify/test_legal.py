"""What Python itself makes of a program."""

import subprocess
import sys

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
    code = "from pruner_jax.verify.legal import compiled\n"
    code += f"for source in {[*MANY, *ODD]!r}:\n    try: compiled(source)\n"
    code += "    except SyntaxError as error: assert str(error)\n"
    code += "compiled(\"1 is 1, '\\\\d'\")\n"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-"], input=code.encode(), capture_output=True
    )
    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.parametrize("source", ODD)
def test_what_python_refuses_is_refused(source):
    with pytest.raises(SyntaxError):
        legal.compiled(source)
