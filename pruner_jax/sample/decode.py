"""What runs on the device: prefill of prompts, re-laying of the cache, blocks of decode steps.

Everything a row has besides its keys and values is in ``Rows``: small arrays that the host may
rebuild between blocks. Keys and values stay on the device, one pair of arrays per layer. The row's
newest token is always the one that is not in the cache yet: a decode step feeds it, and picks the
next. So the prefill takes a prompt without its last token, gives no logits, and there is one place
where tokens are picked.

With a mesh every shard of the rows runs its own loop under ``shard_map``, and the slot may differ
from shard to shard. Shards never speak to each other: where each device has whole weights there are
no collectives. Where ``tensor`` splits heads, MLP and vocabulary inside a shard, the cache and the
products are split alike; the devices of the shard add up activations and statistics of the logits,
and no weight is gathered. (top_k and top_p gather the logits of the shard's rows.) These are the
``jit`` calls of the room.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pruner_jax.mesh import ROWS
from pruner_jax.policy.cache import Cache, Pair, init_cache, put, relay
from pruner_jax.policy.config import ModelConfig
from pruner_jax.policy.forward import forward, unembed
from pruner_jax.policy.rope import rotation
from pruner_jax.sample.force import ForceState, Hook
from pruner_jax.sample.pick import Picking, pick, score
from pruner_jax.types import Origin


@dataclasses.dataclass(frozen=True)
class Program:
    """What the compiled programs are made of; static under jit."""

    config: ModelConfig
    picking: Picking
    end_ids: tuple[int, ...]
    block: int  # most steps of a block
    force: Hook | None = None
    mesh: Mesh | None = None


@flax.struct.dataclass
class Rows:
    """The rows in the batch, without their keys and values. A seat without a row is not alive."""

    token_B: jax.Array  # int32, the newest token, not in the cache yet
    start_B: jax.Array  # int32, first live slot
    count_B: jax.Array  # int32, tokens generated
    limit_B: jax.Array  # int32, most tokens it may have
    alive_B: jax.Array  # bool
    identity_B3: jax.Array  # uint32: problem, visit and sample, which make the row's random key
    mode_B: jax.Array  # int32
    budget_B: jax.Array  # int32
    memory_BM: jax.Array  # int32, of the force hook
    recent_BW: jax.Array  # int32, last tokens, the newest last, for the force hook


@flax.struct.dataclass
class Written:
    """What a block wrote, T steps at most; PAD from where a row was not alive."""

    token_BT: jax.Array  # int32
    logp_BT: jax.Array  # float32
    origin_BT: jax.Array  # uint8
    entropy_B: jax.Array  # float32, nats, summed over the tokens in the loss
    steps_B: jax.Array  # int32, steps that the block made, the same for all rows of a shard


def _spread(mesh: Mesh | None, function: Callable, *, whole: tuple[int, ...] = ()) -> Callable:
    """The function on each shard of the rows; arguments numbered in ``whole`` are the same for all.
    How they lie over ``tensor``, inside a shard, is left as it is."""
    if mesh is None:
        return function

    def call(*args):
        rows, every = PartitionSpec(ROWS), PartitionSpec()
        spread = jax.shard_map(
            function,
            mesh=mesh,
            in_specs=tuple(every if i in whole else rows for i in range(len(args))),
            out_specs=rows,
            axis_names=set(ROWS),
            check_vma=False,
        )
        return spread(*args)

    return call


# -- the cache -------------------------------------------------------------------------------------


def cache_place(mesh: Mesh) -> NamedSharding:
    """Where keys and values [B, K, S, H] lie: rows on their shards, heads over ``tensor``."""
    return NamedSharding(mesh, PartitionSpec(ROWS, "tensor"))


@functools.partial(jax.jit, static_argnames=("config", "mesh"))
def prefill(
    params: Any,
    tokens_BT: jax.Array,
    start_B: jax.Array,
    *,
    config: ModelConfig,
    mesh: Mesh | None = None,
) -> list[Pair]:
    """Keys and values of right-aligned tokens, per layer; row b's begin at ``start_B[b]``."""

    def run(params, tokens_BT, start_B):
        rows, width = tokens_BT.shape
        cache = init_cache(config, rows, width, params["embed"].dtype).replace(start_B=start_B)
        position_BT = jnp.arange(width, dtype=jnp.int32) - start_B[:, None]
        return forward(params, config, tokens_BT, position_BT, cache=cache)[1].layers

    return _spread(mesh, run, whole=(0,))(params, tokens_BT, start_B)


@functools.partial(jax.jit, static_argnames=("config", "rows", "slots", "dtype", "mesh"))
def empty(
    *, config: ModelConfig, rows: int, slots: int, dtype: Any, mesh: Mesh | None = None
) -> list[Pair]:
    """Keys and values of no rows yet, in so many rows on all shards together."""
    layers = init_cache(config, rows, slots, dtype).layers
    if mesh is None:
        return layers
    return jax.lax.with_sharding_constraint(layers, cache_place(mesh))


@functools.partial(jax.jit, static_argnames=("slots", "mesh"))
def relay_layer(
    pair: Pair,
    source_B: jax.Array,
    shift_s: jax.Array,
    prefix: Pair | None = None,
    *,
    slots: int,
    mesh: Mesh | None = None,
) -> Pair:
    """One layer's keys and values with other rows, moved down by each shard's shift, in ``slots``.

    ``source_B`` numbers rows of the same shard, -1 for none. With a prefix each row gets its own
    copy of it. One layer at a time, so that old and new cache never exist whole together.
    """

    def move(pair, source_B, shift_s, prefix):
        return relay(pair, source_B, shift_s[0], slots, prefix)

    return _spread(mesh, move)(pair, source_B, shift_s, prefix)


@functools.partial(jax.jit, static_argnames="mesh", donate_argnames="pair")
def put_layer(
    pair: Pair, fresh: Pair, source_B: jax.Array, slot_s: jax.Array, *, mesh: Mesh | None = None
) -> Pair:
    """One layer with rows of a prefill forked into it, ending at their slot; -1 keeps a row."""

    def fork(pair, fresh, source_B, slot_s):
        return put(pair, fresh, source_B, slot_s[0])

    return _spread(mesh, fork)(pair, fresh, source_B, slot_s)


# -- decoding --------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="program", donate_argnames="layers")
def decode(
    params: Any,
    layers: list[Pair],
    prefix: list[Pair] | None,
    rows: Rows,
    slot_s: jax.Array,
    limits: jax.Array,
    key: jax.Array,
    *,
    program: Program,
) -> tuple[list[Pair], Rows, Written]:
    """At most ``limits[0]`` steps for all rows; ends early when ``limits[1]`` or fewer are alive.

    ``key`` holds seed and purpose; ``slot_s`` is the next slot of each shard; ``prefix`` has the
    slots before those in ``layers``, where groups of rows share them.
    """
    # Without a hook these have no entries; jaxlib 0.11.2 crashes where such an array goes through a
    # shard_map.
    both = {name: getattr(rows, name) for name in ("memory_BM", "recent_BW")}
    void = {name: x for name, x in both.items() if not x.size}

    def block(params, layers, prefix, rows, slot_s, limits, key):
        own = {name: jnp.zeros((len(rows.token_B), 0), x.dtype) for name, x in void.items()}
        rows = rows.replace(**own)
        layers, rows, written = _block(program, params, layers, prefix, rows, slot_s, limits, key)
        return layers, rows.replace(**dict.fromkeys(void)), written

    spread = _spread(program.mesh, block, whole=(0, 5, 6))
    rows = rows.replace(**dict.fromkeys(void))
    layers, rows, written = spread(params, layers, prefix, rows, slot_s, limits, key)
    return layers, rows.replace(**void), written


# XLA for v5e and v6e, which have 128 MiB on the chip, likes to fetch all keys or values of a layer
# into it, to update them there, and to write them all back, at every step. With so much of it kept
# for the working sets of single instructions it has no room to. Bytes moved a step, Qwen2.5-1.5B on
# a v6e by benchmarks/decode_bytes.py, against the least: 256 rows of 512 slots 1.49, then 1.25.
_TPU_OPTIONS = {"xla_tpu_scoped_vmem_limit_kib": "98304"}
_OF_KIND = {"TPU v5 lite": _TPU_OPTIONS, "TPU v6 lite": _TPU_OPTIONS}


def decoder(mesh: Mesh | None) -> Any:
    """``decode`` with what the compiler is to be told for the devices of a mesh, or of here."""
    kind = (jax.local_devices()[0] if mesh is None else mesh.devices.flat[0]).device_kind
    return _decoder(kind) if kind in _OF_KIND else decode


@functools.cache
def _decoder(kind: str) -> Any:
    return jax.jit(
        decode.__wrapped__,
        static_argnames="program",
        donate_argnames="layers",
        compiler_options=_OF_KIND[kind],
    )


def _block(program, params, layers, prefix, rows, slot_s, limits, key):
    """The loop. Only the cache and the parts of Rows that change are carried round it."""
    streams = _streams(key, rows.identity_B3)
    width = len(rows.token_B)
    # Sines and cosines of the whole block: inside the loop XLA:CPU works them out again for every
    # head of every layer (5 % of a step of a model with 4 layers of width 128).
    position_TB1 = slot_s[0] + jnp.arange(program.block)[:, None, None] - rows.start_B[:, None]
    turns = jax.vmap(functools.partial(rotation, program.config))(position_TB1)

    def goes_on(carry):
        step, _, rows, *_ = carry
        return (step < limits[0]) & (jnp.sum(rows.alive_B) > limits[1])

    def one(carry):
        step, layers, rows, written, entropy_B = carry
        hidden, cache = forward(
            params,
            program.config,
            rows.token_B[:, None],
            position_TB1[step],
            cache=Cache(layers, rows.start_B, slot_s[0] + step, prefix),
            rotation=jax.tree.map(lambda x: x[step], turns),
        )
        logits = _turn(unembed(params, program.config, hidden[:, 0]))
        rows, new, entropy = _next(program, rows, logits, *streams)
        written = jax.tree.map(lambda all_TB, new_B: all_TB.at[step].set(new_B), written, new)
        return step + 1, cache.layers, rows, written, entropy_B + entropy

    written = tuple(jnp.zeros((program.block, width), t) for t in (jnp.int32, jnp.float32, "uint8"))
    steps, layers, rows, written, entropy_B = jax.lax.while_loop(
        goes_on, one, (jnp.int32(0), layers, rows, written, jnp.zeros(width))
    )
    return layers, rows, Written(*(x.T for x in written), entropy_B, jnp.full(width, steps))


def _turn(logits_BV):
    """On a TPU with the rows along the lanes, as sums over chunks of the vocabulary read them. XLA
    lets the product write them the other way and copies them: at every step 297 MiB, 4 % of what
    Qwen2.5-1.5B moves (256 rows x 512 slots, by benchmarks/decode_bytes.py)."""
    turned = Layout(major_to_minor=(1, 0))
    return jax.lax.platform_dependent(
        logits_BV, tpu=lambda x: with_layout_constraint(x, turned), default=lambda x: x
    )


def _next(program, rows, logits_BV, draw_B, force_B):
    """The rows one token longer; the tokens with log-probability and origin; their entropy."""
    alive, forced = rows.alive_B, None
    with jax.named_scope("pick"):
        at = jax.vmap(jax.random.fold_in)
        uniform_B = jax.vmap(jax.random.uniform)(at(draw_B, rows.count_B))
        token, in_loss = pick(logits_BV, uniform_B, program.picking), alive
        if program.force is not None:
            forced = _force(program.force, rows, token, at(force_B, rows.count_B))
            token, in_loss = forced.token, forced.in_loss & alive
        logp, entropy = score(logits_BV, token, program.picking)
        if forced is not None:
            logp = jnp.where(jnp.isnan(forced.logp), logp, forced.logp)
    origin = jnp.where(in_loss, Origin.SAMPLED, Origin.FORCED)
    token = jnp.where(alive, token, 0)
    count = rows.count_B + alive
    ended = functools.reduce(jnp.logical_or, (token == i for i in program.end_ids))
    rows = rows.replace(
        token_B=token,
        count_B=count,
        alive_B=alive & ~ended & (count < rows.limit_B),
        memory_BM=rows.memory_BM if forced is None else forced.memory,
        recent_BW=_remember(rows.recent_BW, token),
    )
    origin = jnp.where(alive, origin, Origin.PAD).astype(jnp.uint8)
    return rows, (token, jnp.where(alive, logp, 0), origin), jnp.where(in_loss, entropy, 0)


def _streams(key: jax.Array, identity_B3: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each row's own keys [B]: of the policy's draws, and of the force hook."""

    def fold(identity_3):
        row = functools.reduce(jax.random.fold_in, identity_3, key)
        return jax.random.fold_in(row, 0), jax.random.fold_in(row, 1)

    return jax.vmap(fold)(identity_B3)


def _force(hook: Hook, rows: Rows, token_B: jax.Array, key_B: jax.Array):
    """What the hook makes of the drawn tokens, row by row."""
    state = ForceState(
        token=token_B,
        logp=jnp.full(token_B.shape, jnp.nan),
        in_loss=jnp.ones(token_B.shape, bool),
        count=rows.count_B,
        recent=rows.recent_BW,
        mode=rows.mode_B,
        budget=rows.budget_B,
        limit=rows.limit_B,
        memory=rows.memory_BM,
        key=key_B,
    )
    return jax.vmap(hook)(state)


def _remember(recent_BW: jax.Array, token_B: jax.Array) -> jax.Array:
    if not recent_BW.shape[1]:
        return recent_BW
    return jnp.concatenate([recent_BW[:, 1:], token_B[:, None]], axis=1)


@functools.partial(jax.jit, static_argnames="program")
def replay(
    rows: Rows, tokens_BT: jax.Array, count_B: jax.Array, key: jax.Array, *, program: Program
) -> jax.Array:
    """The force hook's memory [B, M] after ``count_B`` tokens that were written before.

    For rows that go on from a cut: ``rows`` as at their beginning, ``tokens_BT`` what they have.
    """
    _, force_B = _streams(key, rows.identity_B3)

    def one(rows, token_B):
        keys = jax.vmap(jax.random.fold_in)(force_B, rows.count_B)
        memory = _force(program.force, rows, token_B, keys).memory
        on = rows.count_B < count_B
        return rows.replace(
            count_B=rows.count_B + on,
            memory_BM=jnp.where(on[:, None], memory, rows.memory_BM),
            recent_BW=jnp.where(on[:, None], _remember(rows.recent_BW, token_B), rows.recent_BW),
        ), None

    return jax.lax.scan(one, rows, tokens_BT.T)[0].memory_BM
