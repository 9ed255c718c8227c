"""Run by ``test_devices.py`` in a process of its own: replicas split over several devices each."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

import jax
import numpy as np
import small

from pruner_jax.mesh import DECODE_RULES, make_mesh
from pruner_jax.policy.weights import weight_shardings
from pruner_jax.sample import decode as device
from pruner_jax.sample.force import end_thinking_at
from pruner_jax.types import take_rows

jax.config.update("jax_disable_most_optimizations", True)  # compiling is what takes time
small.CONFIG = dataclasses.replace(small.CONFIG, vocab_size=64, kv_heads=4, heads=8)  # all divide
ASKED = small.prompts(9)
HOOK = end_thinking_at(11, (30, 31, 5))
SEATS = 8
_SPOKEN = re.compile(
    r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


def main() -> None:
    assert len(jax.devices()) == 8
    alone, _ = small.run(ASKED, force=HOOK)
    mesh = make_mesh(1, 2, 4)
    places = weight_shardings(small.CONFIG, mesh, DECODE_RULES, stacked=False)
    params = jax.device_put(small.params(), places)
    # With 12 rows for each shard those of a prompt share what they begin with.
    for asked, rows in ((ASKED, 5), (small.prompts(8), 12)):
        found, _ = small.run(
            asked, force=HOOK, mesh=mesh, params=params, rows=rows, slot_multiple=64
        )
        small.same(take_rows(alone, np.arange(len(found))), found)
    nothing_whole(mesh, params)


def nothing_whole(mesh, params) -> None:
    """No program gathers a weight or keys and values; the loop sends activations of its rows."""
    tensor, shards = mesh.shape["tensor"], mesh.size // mesh.shape["tensor"]
    shape = {"config": small.CONFIG, "mesh": mesh}
    layers = device.empty(rows=SEATS, slots=32, dtype=params["embed"].dtype, **shape)
    parts = {x.addressable_shards[0].data.size * shards * tensor == x.size for x in layers[0]}
    assert parts == {True}, layers[0][0].sharding  # split over rows and heads
    slot_s, limits = np.full(shards, 24, np.int32), np.array([8, 0], np.int32)
    prefix = device.empty(rows=SEATS // 2, slots=16, dtype=params["embed"].dtype, **shape)
    least = min(x.size for x in jax.tree.leaves(params) if x.ndim > 1 and x.size > 64)
    for shared in (None, prefix):
        rows, key = small.rows(SEATS), jax.random.key(0)
        arguments = (params, layers, shared, rows, slot_s, limits, key)
        decode = device.decode.lower(*arguments, program=small.program(mesh=mesh)).compile()
        spoken = list(collectives(decode.as_text()))
        most = SEATS // shards * small.CONFIG.width
        assert spoken and max(size for _, size in spoken) <= most < least
        assert {word for word, _ in spoken} == {"all-reduce"}, spoken
    tokens_BT, start_B = np.zeros((SEATS, 16), np.int32), np.zeros(SEATS, np.int32)
    prefill = device.prefill.lower(params, tokens_BT, start_B, **shape).compile()
    assert {word for word, _ in collectives(prefill.as_text())} == {"all-reduce"}
    fresh = device.prefill(params, tokens_BT, start_B, **shape)
    put = device.put_layer.lower(layers[0], fresh[0], start_B, slot_s, mesh=mesh)
    relay = device.relay_layer.lower(layers[0], start_B, slot_s, slots=48, mesh=mesh)
    join = device.relay_layer.lower(layers[0], start_B, slot_s, prefix[0], slots=48, mesh=mesh)
    for program in (put, relay, join):
        assert not list(collectives(program.compile().as_text()))
    made = device.relay_layer(layers[0], start_B, slot_s, slots=48, mesh=mesh)
    joined = device.relay_layer(layers[0], start_B, slot_s, prefix[0], slots=48, mesh=mesh)
    for pair in (fresh[0], made, joined):  # every program gives the cache on as it lies
        assert all(x.sharding == layers[0][0].sharding for x in pair), pair[0].sharding


def collectives(text: str) -> Iterator[tuple[str, int]]:
    """Every collective of a compiled program: its word, and numbers in its largest array."""
    for what, word in _SPOKEN.findall(text):
        sizes = [math.prod(map(int, dims.split(","))) for dims in re.findall(r"\[([\d,]+)\]", what)]
        yield word, max(sizes, default=1)


if __name__ == "__main__":
    main()
    print("equal")
