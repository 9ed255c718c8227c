"""Run by test_hf.py with eight forced CPU devices: what is read of a folder, shard by shard."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from pruner_jax.mesh import DECODE_RULES, LEARN_RULES, make_mesh
from pruner_jax.policy import hf
from pruner_jax.policy.weights import unstack, weight_shardings


def shards_of(array: jax.Array) -> list[tuple]:
    """The distinct parts of an array that devices of this process hold."""
    places = array.sharding.addressable_devices_indices_map(array.shape)
    return sorted({tuple(part.indices(n)[:2] for part, n in zip(index, array.shape))
                   for index in places.values()})  # fmt: skip


def main(folder: Path) -> None:
    config = hf.read_config(folder)
    whole = hf.read_weights(folder, config)
    read_part, read = hf.read_part, []

    def recorded(views, index, dtype):
        part = read_part(views, index, dtype)
        shape = views.shape if isinstance(views, np.ndarray) else (len(views), *views[0].shape)
        read.append((shape, tuple(s.indices(n)[:2] for s, n in zip(index, shape)), part.nbytes))
        return part

    hf.read_part = recorded
    for rules, sizes, stacked in (
        (LEARN_RULES, (1, 8, 1), True),
        (LEARN_RULES, (2, 2, 2), True),
        (DECODE_RULES, (4, 1, 2), False),
    ):
        read.clear()
        mesh = make_mesh(*sizes)
        dtype = "float32" if stacked else "bfloat16"
        places = weight_shardings(config, mesh, rules, stacked=stacked)
        params = hf.read_weights(folder, config, dtype, places, stacked=stacked)
        wanted = whole if stacked else unstack(whole, jnp.bfloat16)
        jax.tree.map(np.testing.assert_array_equal, params, wanted)
        arrays = jax.tree.leaves(params)
        parts = [(array.shape, part) for array in arrays for part in shards_of(array)]
        assert sorted(parts) == sorted((shape, part) for shape, part, _ in read)  # no more, once
        assert sum(size for *_, size in read) == sum(array.nbytes for array in arrays)
        largest = max(array.addressable_shards[0].data.nbytes for array in arrays)
        assert max(size for *_, size in read) == largest < max(array.nbytes for array in arrays)
    print("only what is held is read")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
