"""Run by ``test_devices.py`` in a process of its own: sampling on eight devices and on one."""

from __future__ import annotations

import jax
import numpy as np
import small
from jax.sharding import NamedSharding, PartitionSpec

from pruner_jax.mesh import make_mesh
from pruner_jax.sample import decode as device
from pruner_jax.sample.force import end_thinking_at
from pruner_jax.sample.records import cut

ASKED = small.prompts(9)
HOOK = end_thinking_at(11, (30, 31, 5))


def main() -> None:
    assert len(jax.devices()) == 8
    alone, _ = small.run(ASKED, force=HOOK)
    given = {b: cut(alone, b, min(3, int(alone.length_B[b]))) for b in (0, 5, 6, 20)}
    for data, fsdp, rows in ((8, 1, 2), (2, 2, 5)):
        mesh = make_mesh(data, fsdp, devices=jax.devices()[: data * fsdp])
        everywhere = NamedSharding(mesh, PartitionSpec())
        params = jax.device_put(small.params(), everywhere)
        found, stats = small.run(ASKED, force=HOOK, mesh=mesh, params=params, rows=rows, refill=0.3)
        small.same(alone, found)
        found, _ = small.run(
            ASKED, force=HOOK, given=given, mesh=mesh, params=params, rows=rows, refill=0.3
        )
        small.same(alone, found)
        assert stats.tokens == alone.length_B.sum()
    # All at once, so that those of a prompt share what they begin with.
    whole = small.prompts(8)
    found, stats = small.run(whole, samples=4, mesh=mesh, params=params, rows=8)
    small.same(small.run(whole, samples=4)[0], found)
    assert stats.slot_steps < 32 * stats.row_steps
    for group in (1, 2):
        no_collectives(mesh, params, group)


def no_collectives(mesh, params, group) -> None:
    """The compiled loop has none, although its rows lie on several devices."""
    seats = 8
    rows = small.rows(seats)
    kind = {"config": small.CONFIG, "dtype": params["embed"].dtype, "mesh": mesh}
    layers = device.empty(rows=seats, slots=32, **kind)
    prefix = device.empty(rows=seats // group, slots=16, **kind) if group > 1 else None
    assert layers[0][0].sharding.spec[0] is not None
    program = small.program(mesh=mesh)
    slot_s, limits = np.full(mesh.size, 5, np.int32), np.array([8, 0], np.int32)
    text = device.decode.lower(
        params, layers, prefix, rows, slot_s, limits, jax.random.key(0), program=program
    ).compile()
    for word in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
        assert word not in text.as_text(), word


if __name__ == "__main__":
    main()
    print("equal")
