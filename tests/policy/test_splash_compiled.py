"""The kernel with its largest blocks, compiled for TPUs that are not there."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

from pruner_jax.policy.attention import attend
from pruner_jax.policy.splash import BLOCKS, blocks_of, splash

pytest.importorskip("libtpu", reason="compiling for TPUs needs libtpu, which is not installed")

B, T, N, K = 4, 1024, 16, 2
SCORES = B * N * T * T * 2  # bytes of all of them in bfloat16, the shortest they are kept in


def by_xla(q, k, v, segments):
    positions = jnp.broadcast_to(jnp.arange(T), (B, T))
    return attend(
        q, k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3),
        q_position_BT=positions, k_position_BS=positions,
        q_segment_BT=segments, k_segment_BS=segments,
    )  # fmt: skip


def temporary(mix, topology, H, N=N) -> int:
    """Bytes that one chip takes for the gradient of attention, beside what goes in and out."""
    chips = topologies.get_topology_desc(topology_name=topology, platform="tpu").devices
    there = SingleDeviceSharding(chips[0])

    def shape(*sizes, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct((B, T, *sizes), dtype, sharding=there)

    def loss(q, k, v, segments):
        return jnp.square(mix(q, k, v, segments).astype(jnp.float32)).sum()

    inputs = shape(N, H), shape(K, H), shape(K, H), shape(dtype=jnp.int32)
    program = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*inputs).compile()
    return program.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    ("topology", "H"), [("v5e:2x2", 128), ("v5e:2x2", 64), ("v5p:2x2x1", 128), ("v6e:2x2", 128)]
)
def test_there_is_room_for_the_largest_blocks_and_no_scores_are_kept(topology, H):
    assert blocks_of(T) == (T, BLOCKS[0])
    assert temporary(splash, topology, H) < SCORES


def test_there_is_room_for_them_with_a_sliding_window():
    windowed = functools.partial(splash, window=300)
    assert temporary(windowed, "v5e:2x2", 128, N=K) < SCORES * K / N


def test_xla_keeps_them():
    assert temporary(by_xla, "v5e:2x2", 128) > SCORES / 2  # those ahead are left out
