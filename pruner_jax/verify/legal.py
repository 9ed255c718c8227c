"""What Python itself makes of a program: whether it compiles, and whether the sandbox's failure, or
its value, is the sandbox's own.

The sandbox knows less than Python, and makes a list at once of what Python makes one by one
(generator expressions, ``map``, ``filter``, ``zip``, ``enumerate``, ``reversed``). A program that
fails for such a reason is legal. Nothing of a program runs here.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
import itertools
import re
import sys
import types
import warnings
from collections.abc import Collection, Iterator
from typing import Any

MOST = 100_000  # characters of a program: Python's own compiler dies of a few times more

_LIBRARIES = {"numpy", "sympy", "scipy", "pandas", "mpmath", "networkx"}
# fmt: off
MODULES = {  # what the sandbox has, or has parts of
    "asyncio", "base64", "binascii", "bisect", "collections", "copy", "csv", "dataclasses",
    "datetime", "decimal", "functools", "hashlib", "itertools", "json", "math", "os", "os.path",
    "pathlib", "posixpath", "random", "re", "sys", "time", "tomllib", "typing", "unicodedata",
}
_WHOLE = {  # what takes all of its argument, once
    "Counter", "deque", "dict", "extend", "frozenset", "fsum", "join", "list", "max", "min", "prod",
    "reduce", "set", "sorted", "sum", "tuple", "update",
}
# fmt: on
_PAIRS = {"enumerate", "finditer", "reversed", "zip"}  # elements that are there before
_PASS_ON = {"enumerate", "filter", "map", "zip"}
_MAKE = _PAIRS | _PASS_ON


@functools.lru_cache(maxsize=1)  # a program that fails or is wrong is asked about again
def compiled(source: str) -> types.CodeType:
    """What this Python makes of a program that it compiles: a quarter of the work for its tree.

    Raises:
      SyntaxError: it does not, for whatever reason. The sandbox may: it takes a ``return`` outside
        of functions, and may be ahead of this Python.
    """
    return _compile(source)


def named(source: str, names: Collection[str]) -> set[str]:
    """Those of the names (in ASCII) that a program uses, whatever its spelling of them.

    Raises:
      SyntaxError: its tree is too deep to look for them.
    """
    if source.isascii() and not any(name in source for name in names):
        return set()  # in ASCII a name has one spelling
    return {node.id for node in ast.walk(_tree(source)) if isinstance(node, ast.Name)} & {*names}


def _tree(source: str) -> ast.Module:
    return _compile(source, ast.PyCF_ONLY_AST)


def _compile(source: str, flags: int = 0) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the program, which nobody here reads
        try:
            return compile(source, "solution", "exec", flags, dont_inherit=True, optimize=0)
        except (ValueError, RecursionError, MemoryError, OverflowError) as error:
            raise SyntaxError(str(error) or type(error).__name__) from None


def python_knows(error: BaseException, message: str) -> bool:
    """Whether the failure of a program that compiles is the sandbox's: a name, attribute, module,
    syntax or use that Python has.

    The program may have written the message: nothing that it names may be imported or called.
    """
    quoted = re.findall(r"'([\w.]*)'", message)
    match error:
        case _ if "not yet supported" in message:
            return True
        case NotImplementedError() | RuntimeError():
            return "monty" in message or "not supported" in message
        case SyntaxError():
            return True
        case ValueError():  # the inverse of a number
            return message.startswith("pow() 2nd argument cannot be negative")
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


# -- what is made one by one -----------------------------------------------------------------------


def is_lazy(source: str) -> bool:
    """Whether a program makes values one by one and may not take all of them, once, at once: then
    its value, or its failure, may be another in Python."""
    if not _makes(compiled(source)):
        return False
    try:
        tree = _tree(source)
    except SyntaxError:  # too deep to tell
        return True
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    endless = _counts(tree)
    return any(
        not _taken_whole(node, parent, _WHOLE - own, endless) for node, parent in _one_by_one(tree)
    )


def is_endless(source: str) -> bool:
    """Whether a program `is_lazy` and may count without end, or the like."""
    try:
        return _counts(_tree(source)) and is_lazy(source)
    except SyntaxError:  # too deep to tell
        return True


def _counts(tree: ast.Module) -> bool:
    imports = (node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)))
    return any("itertools" in ast.unparse(node) for node in imports)


def _makes(code: types.CodeType) -> bool:
    """Whether there is a generator expression in code, or one of those names: without, there is
    nothing to look for in the tree."""
    codes = [code]
    for each in codes:
        names = (each.co_names, each.co_varnames, each.co_cellvars, each.co_freevars)
        if each.co_name == "<genexpr>" or not _MAKE.isdisjoint(itertools.chain(*names)):
            return True
        codes += (inner for inner in each.co_consts if isinstance(inner, types.CodeType))
    return False


def _one_by_one(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.AST]]:
    """What makes values one by one, and where it stands."""
    for parent in ast.walk(tree):
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.GeneratorExp) or _called(node) in _MAKE:
                yield node, parent


def _taken_whole(node: ast.AST, parent: ast.AST, whole: set[str], endless: bool) -> bool:
    match parent:
        case ast.Call():
            return node in parent.args and _called(parent) in whole | _PASS_ON
        case ast.comprehension():  # that of a generator expression, which is judged itself, too
            return node is parent.iter
        case ast.Starred() | ast.Assign(targets=[ast.Tuple() | ast.List()]):
            return True
        case ast.For():
            return _called(node) in _PAIRS and not endless
    return False


def _called(node: ast.AST) -> str:
    """Name of what is called; "" for what is no call."""
    match node:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return name
    return ""
