"""What a compiled program does between chips and with its buffers, read from its HLO text.

Takes the text that ``compiled.as_text()`` prints; gives collectives with the loops they stand in,
and copies of arrays of given shapes. A loop is named by how deep it stands; that a loop runs often
is known, not how often. Needs no JAX.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Iterator

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_BYTES = {
    "pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2,
    "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r" ([a-z][a-z0-9\-]*)\(")
_CALLS = re.compile(r"\b(\w+)=(?:%([\w.\-]+)|\{(%[^}]*)\})")
ELSEWHERE = "S("  # in a layout: not in main memory, so that a copy is a read or a write-back
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](\{[^}]*\})?")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    result: str  # its type: one array, or several in brackets
    text: str

    @property
    def arrays(self) -> list[tuple[str, tuple[int, ...], str]]:
        """Type, shape and layout of what it gives."""
        return [
            (kind, tuple(int(n) for n in shape.split(",") if n), layout)
            for kind, shape, layout in _ARRAY.findall(self.result)
        ]

    @property
    def operands(self) -> list[str]:
        """Names of what it takes."""
        given = self.text[len(self.result) :].partition("(")[2].partition(")")[0]
        return re.findall(r"%([\w.\-]+)", given)


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: its computations, and in which loops each of them runs."""

    computations: dict[str, list[Instruction]]
    loops: dict[str, tuple[str, ...]]  # bodies of the loops around, the outermost first

    @functools.cached_property
    def _named(self) -> dict[str, dict[str, Instruction]]:
        return {name: {x.name: x for x in some} for name, some in self.computations.items()}

    def named(self, computation: str) -> dict[str, Instruction]:
        """The instructions of a computation by their names."""
        return self._named[computation]

    def instructions(self) -> Iterator[tuple[tuple[str, ...], Instruction]]:
        """All of what runs, with the loops around it."""
        for name, around in self.loops.items():
            for instruction in self.computations[name]:
                yield around, instruction


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind that stand in the same loops."""

    kind: str
    loops: tuple[str, ...]
    count: int
    bytes: int  # of their results on a device (of what a reduce-scatter takes), each round


def parse(text: str) -> Module:
    """The program that ``text`` describes."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = None, None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif (found := _LINE.match(line)) and current is not None:
            opcode = _OPCODE.search(" " + found[2])
            if opcode:
                result = found[2][: max(0, opcode.start() - 1)]
                current.append(Instruction(found[1], opcode[1], result, found[2]))
    if entry is None:
        raise ValueError("the text holds no ENTRY computation; it is not the HLO of a program")
    loops: dict[str, tuple[str, ...]] = {}
    _visit(entry, (), computations, loops)
    return Module(computations, loops)


def _visit(
    name: str,
    around: tuple[str, ...],
    computations: dict[str, list[Instruction]],
    loops: dict[str, tuple[str, ...]],
) -> None:
    """Note the loops around a computation, the most it is found in, and around all it calls."""
    if name in loops and len(loops[name]) >= len(around):
        return
    loops[name] = around
    for instruction in computations[name]:
        for _, one, several in _CALLS.findall(instruction.text):
            for called in [one, *re.findall(r"%([\w.\-]+)", several)]:
                if called in computations:
                    inside = (*around, _body(instruction)) if _body(instruction) else around
                    _visit(called, inside, computations, loops)


def _body(instruction: Instruction) -> str | None:
    found = re.search(r"\bbody=%?([\w.\-]+)", instruction.text)
    return found[1] if instruction.opcode == "while" and found else None


def bytes_of(kind: str) -> float:
    """Of an element of a type."""
    return _BYTES.get(kind, 1)


def collectives(module: Module) -> list[Collective]:
    """The collectives by kind and loop. One that is spread over several steps of the schedule, as
    its channel tells, counts once."""
    found: dict[tuple[str, str], tuple[tuple[str, ...], int]] = {}
    for computation, around in module.loops.items():
        for one in module.computations[computation]:
            kind, size = one.opcode.removesuffix("-start"), _bytes
            if kind == "reduce-scatter":
                size = functools.partial(_taken, module.named(computation))
            elif kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"  # as XLA:TPU writes it: of the sum each keeps its part
            if kind in COLLECTIVES:
                channel = re.search(r"channel_id=(\d+)", one.text)
                found[kind, channel[1] if channel else one.name] = around, size(one)
    count: collections.Counter = collections.Counter()
    total: collections.Counter = collections.Counter()
    for (kind, _), (around, bytes_) in found.items():
        count[around, kind] += 1
        total[around, kind] += bytes_
    return [
        Collective(kind, around, n, total[around, kind])
        for (around, kind), n in sorted(count.items(), key=lambda x: (len(x[0][0]), x[0]))
    ]


def _bytes(one: Instruction) -> int:
    sizes = [
        int(bytes_of(kind) * math.prod(shape))
        for kind, shape, _ in one.arrays
        if shape or not one.opcode.endswith("-start")  # numbers that tell starts apart
    ]
    # The start of one that runs beside others gives its operands back as well.
    return sum(sizes[len(sizes) // 2 :] if one.opcode.endswith("-start") else sizes)


def _taken(named: dict[str, Instruction], one: Instruction) -> int:
    return sum(_bytes(named[name]) for name in one.operands if name in named)


def copies(module: Module, shapes: Iterable[tuple[int, ...]], kind: str) -> list[Instruction]:
    """Copies inside loops, from main memory to main memory, of arrays of these shapes and type."""
    wanted = set(shapes)
    found = []
    for name, around in module.loops.items():
        here = {one.name: one for one in module.computations[name]} if around else {}
        for one in here.values():
            if one.opcode not in ("copy", "copy-start", "transpose"):
                continue
            (t, shape, layout), *others = one.arrays
            operand = re.search(rf"{one.opcode}\(%?([\w.\-]+)", one.text)
            if operand and operand[1] in here:
                others = here[operand[1]].arrays
            ends = [layout, *(other[2] for other in others[:1])]
            if t == kind and shape in wanted and not any(ELSEWHERE in x for x in ends):
                found.append(one)
    return found


def usual_scope(module: Module, body: str, scopes: Iterable[str]) -> str | None:
    """Which of these named scopes of the source most of a loop's body comes from; None: none."""
    count: collections.Counter = collections.Counter()
    for around, one in module.instructions():
        source = re.search(r'op_name="([^"]*)"', one.text)
        if around and around[-1] == body and source:
            count.update(scope for scope in scopes if scope in source[1])
    return max(count, key=count.get, default=None)
