"""What Python itself makes of a program: whether it compiles, and whether the sandbox's failure is
the sandbox's own, which knows less than Python. Nothing of a program runs here.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import sys
import types
import warnings

MOST = 100_000  # characters of a program: Python's own compiler dies of a few times more

_LIBRARIES = {"numpy", "sympy", "scipy", "pandas", "mpmath", "networkx"}
# fmt: off
MODULES = {  # what the sandbox has, or has parts of
    "asyncio", "base64", "binascii", "bisect", "collections", "copy", "csv", "dataclasses",
    "datetime", "decimal", "functools", "hashlib", "itertools", "json", "math", "os", "os.path",
    "pathlib", "posixpath", "random", "re", "sys", "time", "tomllib", "typing", "unicodedata",
}
# fmt: on


def parse(source: str) -> ast.Module:
    """The syntax tree of a program that this Python compiles.

    Raises:
      SyntaxError: it does not, for whatever reason. The sandbox may: it takes a ``return`` outside
        of functions, and may be ahead of this Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the program, which nobody here reads
        try:
            compile(source, "solution", "exec", dont_inherit=True)
            return ast.parse(source)
        except (ValueError, RecursionError, MemoryError, OverflowError) as error:
            raise SyntaxError(str(error) or type(error).__name__) from None


def python_knows(error: BaseException, message: str) -> bool:
    """Whether the failure of a program that compiles is the sandbox's: a name, attribute, module
    or syntax that Python has.

    The program may have written the message: nothing that it names may be imported or called.
    """
    quoted = re.findall(r"'([\w.]*)'", message)
    match error:
        case NotImplementedError() | RuntimeError():
            return "monty" in message
        case SyntaxError():
            return True
        case NameError() if quoted:
            return hasattr(builtins, quoted[0])
        case ModuleNotFoundError() if quoted:
            return quoted[0].split(".")[0] in sys.stdlib_module_names | _LIBRARIES
        case ImportError() if len(quoted) == 2:  # cannot import name 'a' from 'b'
            return _has(quoted[1], quoted[0])
        case AttributeError() if len(quoted) == 2:  # module 'a' / 'a' object has no attribute 'b'
            return _has(quoted[0], quoted[1]) if "module" in message else _type_has(*quoted)
    return False


def _has(module: str, name: str) -> bool:
    return module in MODULES and hasattr(importlib.import_module(module), name)


def _type_has(kind: str, name: str) -> bool:
    owner = types.FunctionType if kind == "function" else getattr(builtins, kind, None)
    return isinstance(owner, type) and hasattr(owner, name)
