"""Bytes that a round of a loop moves to and from main memory, counted in a program's HLO text.

Takes what `hlo.parse` gives. Counted are the instructions of the loop's body, fusions as units:
what each reads and writes of arrays that lie in main memory, padding and all. What stays on the
chip (a layout with ``S(``) costs nothing, what is fetched ahead costs its fetching. Of an array
that is sliced or gathered from, what is taken counts. An update in place counts whole tiles, read
and written where it covers them in part. ``cost_analysis`` will not do: it counts arrays on the
chip like others, no padding, and adds up what stands before, in and behind a loop. Left out: an
operand that an instruction reads more than once, of which the text says nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from pruner_jax.pod.hlo import ELSEWHERE, Instruction, Module, bytes_of

_NOTHING = (
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id",
    "replica-id", "opt-barrier",
)  # fmt: skip
_NAMES_ONLY = ("ConcatBitcast", "AllocateBuffer")  # custom calls that say where something lies
_ORDER = re.compile(r"\{([\d,]*)")
_TILE = re.compile(r"T\(([\d,]+)\)")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|branch_computations)=\{?(%[^}\s]+(?:, %[^}\s]+)*)")
_TIMES = re.compile(r'"known_trip_count":\{"n":"(\d+)"')

Array = tuple[str, tuple[int, ...], str]  # type, shape, layout


def heaviest_round(module: Module) -> list[tuple[Instruction, int]] | None:
    """The instructions of the outermost loop that moves most, with the bytes of one round of it.

    None where a loop within it goes round nobody knows how often.
    """
    bodies = {around[0] for around in module.loops.values() if around}
    try:
        rounds = [list(_accesses(module, body)) for body in sorted(bodies)]
    except _Unknown:
        return None
    return max(rounds, key=lambda found: sum(n for _, n in found), default=[])


class _Unknown(Exception):
    """A loop whose rounds are not known."""


def _accesses(module: Module, name: str) -> Iterator[tuple[Instruction, int]]:
    """Of a computation and what it calls."""
    for one in module.computations[name]:
        if one.opcode not in ("call", "conditional", "while"):
            yield one, _bytes(module, name, one)
            continue
        times = _TIMES.search(one.text) if one.opcode == "while" else None
        if one.opcode == "while" and not times:
            raise _Unknown
        for called in _called(one):
            for inner, n in _accesses(module, called):
                yield inner, n * (int(times[1]) if times else 1)


def _bytes(module: Module, name: str, one: Instruction) -> int:
    """Read and written by one instruction."""
    if one.opcode in _NOTHING or one.opcode.endswith("-done"):
        return 0
    if any(f'custom_call_target="{target}"' in one.text for target in _NAMES_ONLY):
        return 0
    given = [_arrays_of(module, name, operand) for operand in one.operands]
    if one.opcode in ("copy-start", "slice-start"):  # (to, from, flag), ((from), to, flag)
        moved = one.arrays[0] if one.opcode == "copy-start" else one.arrays[1]
        ends = [given[0][0], moved]
        return sum(_size((end[0], moved[1], end[2])) for end in ends)
    if one.opcode == "dynamic-update-slice":
        return _updated(given[0][0], given[1][0]) + _size(given[1][0])
    if one.opcode in ("slice", "dynamic-slice", "gather"):
        return 2 * _size(one.arrays[0]) if _size(given[0][0]) else _size(one.arrays[0])
    if one.opcode == "scatter":
        return 3 * sum(map(_size, given[-1]))
    called = _called(one) if one.opcode in ("fusion", "async-start") else []
    if called:
        read = sum(
            _read(module, called[0], i, sum(map(_size, arrays))) for i, arrays in enumerate(given)
        )
        return read + sum(_written(module, called[0], one.arrays))
    return sum(_size(x) for arrays in given for x in arrays) + sum(map(_size, one.arrays))


def _read(module: Module, name: str, number: int, whole: int) -> int:
    """Of an operand of a fusion, which is a parameter of its computation."""
    if not whole:
        return 0
    here = module.computations[name]
    parameter = next(x for x in here if re.search(rf"\bparameter\({number}\)", x.text))
    return min(whole, _used(module, name, parameter, whole))


def _used(module: Module, name: str, source: Instruction, whole: int) -> int:
    """Of what an instruction of a fusion gives, by all those that take it."""
    total = 0
    takers = [one for one in module.computations[name] if source.name in one.operands]
    if not takers:  # it is the result
        return whole
    for one in takers:
        place = one.operands.index(source.name)
        if one.opcode in ("slice", "dynamic-slice", "gather") and place == 0:
            kind, _, layout = source.arrays[0]
            shape = one.arrays[0][1]
            total += _size((kind, shape, layout if len(shape) == len(source.arrays[0][1]) else ""))
        elif one.opcode in ("dynamic-update-slice", "scatter") and place == 0:
            pass  # in place: what is written of it says how much
        elif one.opcode == "bitcast":
            total += _used(module, name, one, whole)
        elif one.opcode == "fusion":
            total += _read(module, _called(one)[0], place, whole)
        else:
            return whole
    return total


def _written(module: Module, name: str, results: list[Array]) -> Iterator[int]:
    """Of the results of a fusion; one that updates an array in place writes the update."""
    here = {one.name: one for one in module.computations[name]}
    root = list(here.values())[-1]
    roots = [here[x] for x in root.operands] if root.opcode == "tuple" else [root]
    for result, source in zip(results, roots, strict=False):
        while source.opcode == "bitcast":
            source = here[source.operands[0]]
        if source.opcode == "dynamic-update-slice":
            yield _updated(result, here[source.operands[1]].arrays[0])
        elif source.opcode == "fusion":
            yield from _written(module, _called(source)[0], [result])
        else:
            yield _size(result)


def _updated(target: Array, update: Array) -> int:
    """To write an update into an array: whole tiles, read as well unless it covers them."""
    kind, _, layout = target
    tiles = _size((kind, update[1], layout))
    covers = tiles == math.prod(update[1]) * bytes_of(kind)
    return tiles if covers else 2 * tiles


def _size(array: Array) -> int:
    """Bytes of main memory that an array lies in."""
    kind, shape, layout = array
    if ELSEWHERE in layout:
        return 0
    padded = list(shape)
    order, tile = _ORDER.search(layout), _TILE.search(layout)
    if order and order[1] and tile:
        sides = [int(n) for n in tile[1].split(",")][::-1]
        for axis, side in zip(map(int, order[1].split(",")), sides, strict=False):
            padded[axis] = -(-padded[axis] // side) * side
    return int(math.prod(padded) * bytes_of(kind))


def _called(one: Instruction) -> list[str]:
    found = _CALLED.search(one.text)
    return [name.strip().lstrip("%") for name in found[1].split(",") if name] if found else []


def _arrays_of(module: Module, name: str, operand: str) -> list[Array]:
    return module.named(name)[operand].arrays
