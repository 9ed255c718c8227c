"""The programs of a run, made ready to be compiled for devices that are not there.

`learner` is the update of `learn.step`, `sampler` the decode block and the prefill of
`sample.decode`: those very functions, with shapes and places where a run has arrays. Takes options
that leave nothing to the backend (`for_tpu`), which here is not the one that would run them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pruner_jax.learn import pack
from pruner_jax.learn.options import LearnOptions
from pruner_jax.learn.rows import Rows, shares, updates
from pruner_jax.learn.step import abstract_state, batch_shardings, make_update, row_shards
from pruner_jax.mesh import DECODE_RULES, ROWS
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.policy import weights
from pruner_jax.policy.cache import init_cache
from pruner_jax.policy.config import ModelConfig
from pruner_jax.policy.handover import hand_over_layer, hand_over_rest
from pruner_jax.sample import decode as device
from pruner_jax.sample.layout import Shapes
from pruner_jax.sample.options import SampleOptions
from pruner_jax.sample.pick import Picking
from pruner_jax.sample.sampler import prefill_rows, shapes_of

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Program:
    """A program before it is traced, and the arrays it is called with by what they are."""

    lower: Callable[[], jax.stages.Lowered]
    arguments: Mapping[str, PyTree]


@dataclasses.dataclass(frozen=True)
class Learner:
    """An optimiser update, and how its rows are packed."""

    program: Program
    tokens: int  # T of a packed row
    rows: int  # of a micro-batch, on a device
    micro_batches: int  # of an update
    updates: int  # of a collection
    chunks: int  # of logits, of a micro-batch


@dataclasses.dataclass(frozen=True)
class Sampler:
    """A decode block, and the prefill that comes before."""

    decode: Program
    prefill: Program
    rows: int  # on a device
    slots: int  # of each
    fewer: int  # rows once half of them have ended


def for_tpu(learn: LearnOptions, sample: SampleOptions) -> tuple[LearnOptions, SampleOptions]:
    """The options with every choice made that a TPU would make."""
    return learn.resolve("tpu"), sample.resolve("tpu")


def learner(
    config: ModelConfig,
    spec: LossSpec,
    options: LearnOptions,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    rows: int,
    prompt: int,
    limit: int,
) -> Learner:
    """The update of a collection of so many rows that all get as long as they may.

    Args:
      config: of the model.
      spec: the loss.
      options: of `for_tpu`.
      optimizer: of the run.
      mesh: of the devices to compile for.
      rows: of a collection.
      prompt: tokens of a prompt.
      limit: tokens of a response.
    """
    collected = _longest(rows, spec, prompt, limit)
    sizes = pack.plan(
        collected, spec, options, shards=row_shards(mesh), shares=shares(collected, spec)
    )
    micro_rows = sizes.rows // row_shards(mesh)
    each = list(updates(collected, spec, seed=0))
    batch, _ = pack.pack(collected.take(each[0]), spec, sizes)
    state = abstract_state(config, optimizer, mesh)
    placed = _placed(batch, batch_shardings(mesh))
    rate = _shape((), jnp.float32, _whole(mesh))
    update = make_update(config, spec, options, optimizer, mesh)
    arguments = {"weights": state.params, "optimizer": state.opt_state, "batch": placed}
    return Learner(
        Program(functools.partial(update.lower, state, placed, rate), arguments),
        sizes.tokens,
        micro_rows,
        int(batch.steps),
        len(each),
        -(-batch.micro.place_RN.shape[-1] // options.chunk(micro_rows)),
    )


def _longest(rows: int, spec: LossSpec, prompt: int, limit: int) -> Rows:
    """A collection whose responses are all cut at the limit, in arrays without memory."""
    paired = spec.kind == "pairs"
    rows += rows % 2 if paired else 0
    shape = (rows, limit)
    token = np.zeros((), np.int32)
    number_B = np.arange(rows)
    weight_B = np.where(number_B % 2, -1.0, 1.0) if paired else np.ones(rows)
    nothing_BT = np.broadcast_to(np.float32(0), shape)
    return Rows(
        prompt=(np.broadcast_to(token, prompt),) * rows,
        response=(np.broadcast_to(token, limit),) * rows,
        train_BT=np.ones(shape, bool),
        weight_BT=np.broadcast_to(weight_B[:, None].astype(np.float32), shape),
        old_logp_BT=nothing_BT if spec.kind == "pg" else None,
        ref_logp_BT=nothing_BT if spec.needs_reference else None,
        pair_B=number_B // 2 if paired else None,
        limit=limit,
    )


def sampler(
    config: ModelConfig,
    options: SampleOptions,
    mesh: Mesh,
    *,
    count: int,
    prompt: int,
    limit: int,
    end_ids: tuple[int, ...],
    samples: int = 1,
    group: int = 1,
) -> Sampler:
    """The decode block with its cache at its largest, and the largest prefill of prompts.

    Args:
      config: of the model.
      options: of `for_tpu`.
      mesh: of the devices to compile for.
      count: rows to be written.
      prompt: tokens of a prompt.
      limit: tokens of a response.
      end_ids: tokens that end a response.
      samples: rows of a prompt.
      group: samples of a prompt that share its slots, 1: none do.

    Raises:
      ValueError: the rows of a device are not made of such groups.
    """
    shapes = shapes_of(options, mesh, count)
    if shapes.full % group:
        raise ValueError(f"{shapes.full} rows of a device are not groups of {group}")
    own, prefix = shapes.most_slots(prompt, limit, options.block), 0
    if group > 1:
        own, prefix = shapes.whole(limit), shapes.slots(prompt - 1)
    seats = _Seats(shapes.full * shapes.shards, own, group, prefix)
    params = _placed(
        weights.abstract(config, options.dtype, stacked=False),
        weights.weight_shardings(config, mesh, DECODE_RULES, stacked=False),
    )
    return Sampler(
        _decode(config, options, mesh, params, seats, end_ids),
        _prefill(config, mesh, params, shapes, prompt, shapes.most_prompts(count, samples)),
        shapes.full,
        own + prefix,
        shapes.rows(-(-shapes.full // 2)),
    )


def hand_over(config: ModelConfig, params: PyTree, dtype: str, mesh: Mesh) -> tuple[Program, ...]:
    """How the learner's weights come to the sampler: the program of a layer, and that of the rest.
    ``params``: shapes and places of the learner's."""
    rest = {name: x for name, x in params.items() if name != "layers"}
    given = (config, dtype, _alone(mesh))
    parts = ((hand_over_layer, (params["layers"], 0)), (hand_over_rest, (rest,)))
    return tuple(
        Program(functools.partial(part.lower, *first, *given), {"weights": first[0]})
        for part, first in parts
    )


def _alone(mesh: Mesh) -> Mesh | None:
    """As `run.engine.Engine` has it."""
    return mesh if mesh.size > 1 else None


def _spread(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(ROWS))


def _whole(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


@dataclasses.dataclass(frozen=True)
class _Seats:
    """Of all devices that decode rows."""

    count: int
    own: int  # slots of each
    group: int  # of neighbours that share the first slots, 1: none do
    prefix: int  # how many these are


def _decode(
    config: ModelConfig,
    options: SampleOptions,
    mesh: Mesh,
    params: PyTree,
    seats: _Seats,
    end_ids: tuple[int, ...],
) -> Program:
    dtype = jnp.dtype(options.dtype)

    def cache(rows: int, slots: int) -> PyTree:
        layers = jax.eval_shape(lambda: init_cache(config, rows, slots, dtype).layers)
        return jax.tree.map(lambda x: _shape(x.shape, x.dtype, device.cache_place(mesh)), layers)

    layers = cache(seats.count, seats.own)
    prefix = cache(seats.count // seats.group, seats.prefix) if seats.prefix else None
    rows = _rows(seats.count, _spread(mesh))
    slot_s = _shape((row_shards(mesh),), jnp.int32, _spread(mesh))
    limits = _shape((2,), jnp.int32, _whole(mesh))
    key = _shape((), jax.eval_shape(lambda: jax.random.key(0)).dtype, _whole(mesh))
    picking = Picking(options.temperature, options.top_k, options.top_p, options.min_p)
    program = device.Program(config, picking, end_ids, options.block, None, _alone(mesh))
    arguments = (params, layers, prefix, rows, slot_s, limits, key)
    return Program(
        functools.partial(device.decoder(mesh).lower, *arguments, program=program),
        {"weights": params, "cache": (layers, prefix), "rows": rows},
    )


def _prefill(
    config: ModelConfig, mesh: Mesh, params: PyTree, shapes: Shapes, prompt: int, distinct: int
) -> Program:
    width = shapes.slots(prompt - 1)
    some = shapes.shards * prefill_rows(width, distinct)
    tokens = _shape((some, width), jnp.int32, _spread(mesh))
    start = _shape((some,), jnp.int32, _spread(mesh))
    return Program(
        functools.partial(
            device.prefill.lower, params, tokens, start, config=config, mesh=_alone(mesh)
        ),
        {"weights": params, "tokens": tokens},
    )


def _rows(seats: int, spread: NamedSharding) -> device.Rows:
    """Seats without a hook's memory."""
    kinds = {"alive_B": jnp.bool_, "identity_B3": jnp.uint32}
    widths = {"identity_B3": (3,), "memory_BM": (0,), "recent_BW": (0,)}
    return device.Rows(
        **{
            field.name: _shape(
                (seats, *widths.get(field.name, ())), kinds.get(field.name, jnp.int32), spread
            )
            for field in dataclasses.fields(device.Rows)
        }
    )


def _shape(shape: tuple[int, ...], dtype: Any, place: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=place)


def _placed(tree: PyTree, places: PyTree) -> PyTree:
    return jax.tree.map(lambda x, place: _shape(np.shape(x), x.dtype, place), tree, places)
