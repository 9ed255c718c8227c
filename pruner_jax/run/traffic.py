"""What a compiled program of a run passes between chips, copies and moves, in a run's own words.

Takes HLO text, or None where the compiler cannot print it, which is then what is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from pruner_jax.pod import accessed, hlo
from pruner_jax.report.words import brief
from pruner_jax.run.memory import on_a_device, said_size

UNKNOWN = "not available"
_STEP = ("step_bytes", "step_bytes_least", "step_bytes_ratio")
_TYPES = {"bfloat16": "bf16", "float32": "f32"}


def of_learner(text: str | None, rounds: Mapping[str, int]) -> dict[str, Any]:
    """Collectives of an update: once, for each micro-batch, for each layer; and the bytes that a
    device passes in an update, where ``rounds`` says how often its loops go round (micro-batch,
    layer, chunk); the others, which stand inside these, count once."""
    if text is None:
        return {"collectives": UNKNOWN, "collective_bytes": UNKNOWN}
    found = _collectives(hlo.parse(text), "each update", "each micro-batch")
    return {"collectives": found, "collective_bytes": _passed(found, rounds)}


def _passed(found: Sequence[Mapping[str, Any]], rounds: Mapping[str, int]) -> int:
    """Bytes over the links of all rounds; an all-reduce passes its result twice."""
    times = (
        math.prod(n for loop, n in rounds.items() if f"each {loop}" in one["where"])
        * (2 if one["kind"] == "all-reduce" else 1)
        for one in found
    )
    return sum(n * one["bytes"] for n, one in zip(times, found))


def of_decode(text: str | None, weights: Any, cache: Any) -> dict[str, Any]:
    """Of a decode block: collectives; whole copies of keys or values of a layer in its loop; the
    bytes that a step moves to and from main memory, the least that it has to, and their ratio.

    ``weights``, ``cache``: shapes and places.
    """
    if text is None:
        return dict.fromkeys(("collectives", "collective_bytes", "cache_copies", *_STEP), UNKNOWN)
    module, leaves = hlo.parse(text), jax.tree.leaves(cache)
    shapes = [x.sharding.shard_shape(x.shape) for x in leaves]
    copied = hlo.copies(module, shapes, _TYPES[leaves[0].dtype.name])
    moved = accessed.heaviest_round(module)
    step = (UNKNOWN,) * 3
    if moved is not None:
        total, needed = sum(size for _, size in moved), least(weights, cache)
        step = total, needed, total / needed
    found = _collectives(module, "each block", "each token")
    return {
        "collectives": found,
        "collective_bytes": _passed([one for one in found if "each token" in one["where"]], {}),
        "cache_copies": len(copied),
        **dict(zip(_STEP, step, strict=True)),
    }


def least(weights: Any, cache: Any) -> int:
    """Bytes that a decode step has to read: the weights once, of a table that is only looked up
    nothing, and the cache once."""
    read = {k: v for k, v in weights.items() if k != "embed" or "unembed" not in weights}
    return on_a_device(read) + on_a_device(cache)


def said(traffic: dict[str, Any], links: float) -> list[str]:
    """The same in lines; ``links``: bytes that they carry in a second, one way."""
    lines = []
    for name, value in traffic.items():
        if not isinstance(value, list):
            if value or name != "collective_bytes":
                lines.append(f"{name.replace('_', ' ')}: {_said(name, value, links)}")
            continue
        shown = [one for one in value if one["bytes"] >= 0.005 * (1 << 20)]
        lines.extend(
            f"{one['count']} {one['kind']} {one['where']}: {one['bytes'] / (1 << 20):.2f} MiB"
            f"{' together' if one['count'] > 1 else ''}"
            for one in shown
        )
        if not shown:
            lines.append(f"{name}: {'small ones only' if value else 'none'}")
    return lines


def _said(name: str, value: Any, links: float) -> str:
    if value == UNKNOWN or name not in ("collective_bytes", *_STEP):
        return str(value)
    if name == "collective_bytes":
        return (
            f"{said_size(value)} in all rounds, {brief(value / links)} over the links (of loops "
            "inside of these one round)"
        )
    return f"{value:.3f}" if name.endswith("ratio") else said_size(value)


def _collectives(module: hlo.Module, once: str, often: str) -> list[dict[str, Any]]:
    """By kind and place, whatever the loops at one place; bytes of one round of them."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for one in hlo.collectives(module):
        where = ", ".join([[once, often][min(len(one.loops), 1)], *_inner(module, one.loops)])
        entry = found.setdefault(
            (where, one.kind), {"kind": one.kind, "where": where, "count": 0, "bytes": 0}
        )
        entry["count"] += one.count
        entry["bytes"] += one.bytes
    return list(found.values())


def _inner(module: hlo.Module, loops: tuple[str, ...]) -> list[str]:
    """What the loops within the outermost go over, by the named scopes of the source."""
    if len(loops) < 2:
        return []
    scope = hlo.usual_scope(module, loops[1], ("logprob", "/attention", "/mlp"))
    over = {"logprob": "each chunk of logits", None: "each round of a loop"}
    way = hlo.usual_scope(module, loops[1], ("transpose(jvp", "/jvp("))
    back = "backward" if way == "transpose(jvp" else "forward"
    within = ["in a loop there"] if len(loops) > 2 else []
    return [f"{over.get(scope, 'each layer')} {back}", *within]
