"""What a compiled program of a run passes between chips and copies, in a run's own words.

Takes HLO text, or None where the compiler cannot print it, which is then what is said.
"""

from __future__ import annotations

from typing import Any

import jax

from pruner_jax.pod import hlo

UNKNOWN = "not available"
_TYPES = {"bfloat16": "bf16", "float32": "f32"}


def of_learner(text: str | None) -> dict[str, Any]:
    """Collectives of an update: once, for each micro-batch, for each layer."""
    if text is None:
        return {"collectives": UNKNOWN}
    return {"collectives": _collectives(hlo.parse(text), "each update", "each micro-batch")}


def of_decode(text: str | None, cache: Any) -> dict[str, Any]:
    """Collectives of a decode block, and whole copies of keys or values of a layer in its loop.

    ``cache``: shapes and places of the layers.
    """
    if text is None:
        return {"collectives": UNKNOWN, "cache_copies": UNKNOWN}
    module, leaves = hlo.parse(text), jax.tree.leaves(cache)
    shapes = [x.sharding.shard_shape(x.shape) for x in leaves]
    copied = hlo.copies(module, shapes, _TYPES[leaves[0].dtype.name])
    return {
        "collectives": _collectives(module, "each block", "each token"),
        "cache_copies": len(copied),
    }


def _collectives(module: hlo.Module, once: str, often: str) -> list[dict[str, Any]]:
    found = []
    for one in hlo.collectives(module):
        where = [once, often][min(len(one.loops), 1)]
        if len(one.loops) > 1:
            where += ", " + _inner(module, one.loops[-1])
        found.append({"kind": one.kind, "where": where, "count": one.count, "bytes": one.bytes})
    return found


def _inner(module: hlo.Module, body: str) -> str:
    """What a loop within goes over, by the named scopes of the source."""
    scope = hlo.usual_scope(module, body, ("logprob", "/attention", "/mlp"))
    over = {"logprob": "each chunk of logits", None: "each round of a loop"}
    way = hlo.usual_scope(module, body, ("transpose(jvp", "/jvp("))
    said = over.get(scope, "each layer")
    return f"{said}, {'backward' if way == 'transpose(jvp' else 'forward'}"
