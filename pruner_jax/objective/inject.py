"""Error injection (PaD): correct programs broken by one small edit, placed by the syntax tree.

Takes Python source with a function ``solution`` and gives it back with one piece of text exchanged,
so all the rest keeps its layout. Six kinds of error, each with the class of failure that it leads
to as a rule (an edit in a line that is never reached changes nothing: run the result to know):

    rename          a use of a variable has another name                  Name
    drop_return     a ``return`` of solution() has lost its keyword       NoResult
    break_bracket   a bracket, or the colon before a block, is missing    Syntax
    wrong_type      an operand stands in quotes, a value is left open     Type
    zero_division   a divisor is 0                                        ZeroDivision
    off_by_one      a number is one more or one less                      WrongAnswer

The paper (arXiv 2305.13888) names the first and the third; its code has no injector. Text only:
running the programs and making rows of them is left to `repair.Inject`.
"""

from __future__ import annotations

import ast
import builtins
import io
import itertools
import keyword
import math
import string
import tokenize
from collections.abc import Callable, Iterator

from pruner_jax.types import Problem, Verdict

Edit = tuple[int, int, str]  # first byte, byte after the last, what stands there instead

DEFINES = "def solution("
TEMPLATE = "{question}\n\nThis program fails:\n{attempt}\n\n{detail}\nCorrect it."
"""What a model is asked that is to repair a program, unless something else is said."""
_RESERVED = {*dir(builtins), *keyword.kwlist, *keyword.softkwlist}
_NOT_A_PROGRAM = (SyntaxError, ValueError, RecursionError, MemoryError)


def is_program(text: str | None) -> bool:
    """Whether an extracted answer is a program: it defines ``solution``."""
    return text is not None and DEFINES in text


def feedback(template: str, problem: Problem, attempt: str, verdict: Verdict, detail: str) -> str:
    """What a model is asked that is to repair an attempt; ``template``: see `check_template`."""
    return template.format(
        question=problem.question, attempt=attempt, verdict=verdict.name.lower(), detail=detail
    )


def check_template(template: str) -> None:
    """Refuse a template that names anything but {question}, {attempt}, {verdict} and {detail}, the
    class and message of the error. Other braces are doubled."""
    allowed = {"question", "attempt", "verdict", "detail"}
    try:
        named = {field for _, field, _, _ in string.Formatter().parse(template)} - {None}
    except ValueError as error:
        raise ValueError(f"template is {template!r}: {error}; double a brace that is one") from None
    if not named <= allowed:
        wrong = ", ".join(f"{{{name}}}" for name in sorted(named - allowed))
        raise ValueError(
            f"template is {template!r} and names {wrong}; allowed: {{question}}, {{attempt}}, "
            "{verdict} and {detail}, with other braces doubled"
        )


def variants(source: str, kind: str) -> list[str]:
    """Every version of the program with one error of that kind, in the order of their places.

    None of them is the program itself, all define ``solution``, and all parse, except where a
    bracket is missing. Empty for what is not a program.

    Raises:
      ValueError: there is no such kind.
    """
    if kind not in _EDITS:
        raise ValueError(f"kind is {kind!r}; allowed: {', '.join(KINDS)}")
    code = _Code(source)
    if not is_program(source) or (tree := _parse(code.text)) is None:
        return []
    found = []
    for edit in sorted(_EDITS[kind](tree, code)):
        text = code.edited(edit)
        parses = _parse(text) is not None
        if text != code.text and is_program(text) and parses == (kind != "break_bracket"):
            found.append(text)
    return list(dict.fromkeys(found))


def _parse(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except _NOT_A_PROGRAM:
        return None


class _Code:
    """Source text, by lines as the syntax tree counts them and by bytes as it counts columns."""

    def __init__(self, source: str) -> None:
        self.text = source.replace("\r\n", "\n").replace("\r", "\n")
        self.data = self.text.encode()
        lengths = [len(line) + 1 for line in self.data.split(b"\n")]
        self.first = [0, *itertools.accumulate(lengths)]  # byte at which each line begins

    def span(self, node: ast.AST) -> tuple[int, int]:
        """First byte of a node and the byte after its last."""
        start = self.first[node.lineno - 1] + node.col_offset
        return start, self.first[node.end_lineno - 1] + node.end_col_offset

    def at(self, row: int, column: int) -> int:
        """The byte of a token's place, which is counted in characters."""
        line = self.data[self.first[row - 1] : self.first[row]].decode()
        return self.first[row - 1] + len(line[:column].encode())

    def edited(self, edit: Edit) -> str:
        """The text after one edit."""
        start, stop, new = edit
        return (self.data[:start] + new.encode() + self.data[stop:]).decode()


def _walk(tree: ast.AST, without: tuple[type[ast.AST], ...]) -> Iterator[ast.AST]:
    """A node and all below it, in the order of the text, but nothing of the given types."""
    left = [tree]
    while left:
        node = left.pop()
        yield node
        children = [c for c in ast.iter_child_nodes(node) if not isinstance(c, without)]
        left.extend(reversed(children))


_FSTRING = (ast.JoinedStr,)  # Python 3.11 says wrongly where the parts of one are
_INNER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


# -- the six kinds ---------------------------------------------------------------------------------


def _rename(tree: ast.Module, code: _Code) -> Iterator[Edit]:
    variables, taken = set(), set(_RESERVED)
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                variables.add(name)
            case ast.Name(id=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                taken.add(name)
            case ast.alias(name=name, asname=other):
                taken.add(other or name)
    taken |= variables
    for node in _walk(tree, _FSTRING):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in variables:
            yield *code.span(node), _misspelt(node.id, taken)


def _misspelt(name: str, taken: set[str]) -> str:
    """A free name close to it: for a letter the nearest one, else with a letter less or more."""
    if len(name) == 1:
        letters = string.ascii_uppercase if name.isupper() else string.ascii_lowercase
        near = sorted(letters, key=lambda letter: abs(ord(letter) - ord(name)))
    else:
        near = [name[:-1]]
    more = (name + name[-1] * n for n in itertools.count(1))
    return next(other for other in itertools.chain(near, more) if other not in taken)


def _drop_return(tree: ast.Module, code: _Code) -> Iterator[Edit]:
    for function in tree.body:
        if isinstance(function, ast.FunctionDef) and function.name == "solution":
            for node in _walk(function, _INNER):
                if isinstance(node, ast.Return) and node.value is not None:
                    start, stop = code.span(node)
                    rest = code.data[start:stop].removeprefix(b"return").lstrip(b" \t")
                    yield start, stop - len(rest), ""


def _break_bracket(tree: ast.Module, code: _Code) -> Iterator[Edit]:
    tokens = list(tokenize.generate_tokens(io.StringIO(code.text).readline))
    words = [token for token in tokens if token.type != tokenize.COMMENT]
    for token, following in itertools.pairwise(words):
        opens_block = token.string == ":" and following.type == tokenize.NEWLINE
        if token.type == tokenize.OP and (token.string in "()[]{}" or opens_block):
            start = code.at(*token.start)
            yield start, start + 1, ""


def _wrong_type(tree: ast.Module, code: _Code) -> Iterator[Edit]:
    for node in _walk(tree, _FSTRING):
        for operand in _operands(node):
            if isinstance(operand, ast.Name) or _is_number(operand):
                start, stop = code.span(operand)
                yield start, stop, f"'{code.data[start:stop].decode()}'"
        if isinstance(node, ast.Assign) and _is_number(node.value):
            yield *code.span(node.value), "..."


def _operands(node: ast.AST) -> tuple[ast.expr, ...]:
    """What an arithmetic operation takes and a string cannot stand for (it can be multiplied)."""
    match node:
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Div() | ast.FloorDiv() | ast.Pow()):
            return node.left, node.right
        case ast.BinOp(op=ast.Mod()):
            return (node.right,)
        case ast.AugAssign(op=ast.Add() | ast.Sub() | ast.Div() | ast.FloorDiv() | ast.Mod()):
            return (node.value,)
    return ()


def _zero_division(tree: ast.Module, code: _Code) -> Iterator[Edit]:
    for node in _walk(tree, _FSTRING):
        match node:
            case ast.BinOp(op=ast.Div() | ast.FloorDiv() | ast.Mod(), right=divisor):
                yield *code.span(divisor), "0"
            case ast.AugAssign(op=ast.Div() | ast.FloorDiv() | ast.Mod(), value=divisor):
                yield *code.span(divisor), "0"


def _off_by_one(tree: ast.Module, code: _Code) -> Iterator[Edit]:
    for node in _walk(tree, _FSTRING):
        if _is_number(node):
            for value in (node.value - 1, node.value + 1):
                if value >= 0 and math.isfinite(value):
                    yield *code.span(node), repr(value)


def _is_number(node: ast.AST) -> bool:
    """An integer or float as it is written (True is an int, but is not written as one)."""
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


_EDITS: dict[str, Callable[[ast.Module, _Code], Iterator[Edit]]] = {
    "rename": _rename,
    "drop_return": _drop_return,
    "break_bracket": _break_bracket,
    "wrong_type": _wrong_type,
    "zero_division": _zero_division,
    "off_by_one": _off_by_one,
}
KINDS = tuple(_EDITS)
