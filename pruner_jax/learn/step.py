"""The edge where learning is compiled: one optimiser update, and the scores of given rows.

``make_update`` gives ``update(state, batch) -> (state, metrics)``: micro-batches one after the
other, gradients summed in float32, one division, one optimiser step. State is donated; parameters
and optimiser lie on the mesh as ``LEARN_RULES`` say, packed rows are spread over its data and fsdp
axes. ``score`` gives log-probabilities under any parameters. Leaves out packing and the order of
updates.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pruner_jax import masked
from pruner_jax.learn import pack
from pruner_jax.learn.logprob import logp_of
from pruner_jax.learn.loss import Sums, loss_of
from pruner_jax.learn.options import LearnOptions
from pruner_jax.learn.rows import Rows
from pruner_jax.mesh import LEARN_RULES, ROWS, left_to_the_compiler
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.policy import weights
from pruner_jax.policy.config import ModelConfig
from pruner_jax.policy.forward import forward
from pruner_jax.policy.rope import rotation

Params = dict[str, Any]
Update = Callable[["LearnState", pack.Batch, float], tuple["LearnState", dict[str, jax.Array]]]


@struct.dataclass
class LearnState:
    """What an update changes."""

    params: Params  # float32, stacked layers
    opt_state: optax.OptState


def init_state(
    params: Params, config: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> LearnState:
    """A fresh state from parameters, which are copied: the state's own will be donated."""
    to = state_shardings(config, optimizer, mesh)
    params = jax.device_put(_copied(params), to.params)
    opt_state = jax.jit(optimizer.init, out_shardings=to.opt_state)(params)
    return LearnState(params, opt_state)


@jax.jit
def _copied(params: Params) -> Params:
    return jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), params)


def state_shardings(
    config: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> LearnState:
    """Where a LearnState lies; moments lie like their weights, counters on every device."""
    params = weights.weight_shardings(config, mesh, LEARN_RULES)
    everywhere = NamedSharding(mesh, PartitionSpec())
    shape = jax.eval_shape(optimizer.init, weights.abstract(config, jnp.float32))
    opt_state = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        shape,
        params,
        transform_non_params=lambda _: everywhere,
    )
    return LearnState(params, opt_state)


def abstract_state(
    config: ModelConfig, optimizer: optax.GradientTransformation, mesh: Mesh
) -> LearnState:
    """Shapes and places of a LearnState, without numbers."""
    params = weights.abstract(config, jnp.float32)
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        LearnState(params, jax.eval_shape(optimizer.init, params)),
        state_shardings(config, optimizer, mesh),
    )


def batch_shardings(mesh: Mesh) -> pack.Batch:
    """Where a Batch lies: packed rows (the axis after M) are spread, the rest is everywhere."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    spread = NamedSharding(mesh, PartitionSpec(None, ROWS))
    names = pack.Micro.__dataclass_fields__
    micro = pack.Micro(**{n: everywhere if n.endswith("_U") else spread for n in names})
    return pack.Batch(micro, everywhere, everywhere, everywhere)


def row_shards(mesh: Mesh) -> int:
    """Over how many devices packed rows are spread."""
    return int(np.prod([mesh.shape[axis] for axis in ROWS]))


def to_devices(batch: pack.Batch, mesh: Mesh) -> pack.Batch:
    """A numpy batch on the mesh. Every process holds the whole of it and gives its own part."""
    return jax.tree.map(
        lambda x, to: jax.make_array_from_callback(np.shape(x), to, lambda at: np.asarray(x)[at]),
        batch,
        batch_shardings(mesh),
    )


@functools.lru_cache(maxsize=32)  # a further run of the process does not trace and compile again
def make_update(
    config: ModelConfig,
    spec: LossSpec,
    options: LearnOptions,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
) -> Update:
    """The compiled update of one batch at a learning rate; its state argument is donated.

    Metrics (float32 scalars): ``loss``, ``grad_norm`` (before clipping), ``lr``,
    ``prune/trained_tokens`` (those that went forward) and what the loss reports.
    """
    options = options.resolve(jax.default_backend())
    _check_attention(options, mesh)
    ready, restack, pin = _layout(config, options, mesh)
    losses = loss_of(spec.kind)

    def loss(params: Params, micro: pack.Micro, temperature: jax.Array) -> tuple[jax.Array, Sums]:
        logp_RN, entropy_RN = _logp(params, config, options, micro, temperature, bool(spec.entropy))
        sums = losses(spec, logp_RN, entropy_RN, micro)
        return sums.loss, sums

    def add_up(params: Params, batch: pack.Batch) -> tuple[Params, Sums]:
        def add(i: jax.Array, carry: tuple[Params, Sums]) -> tuple[Params, Sums]:
            micro = jax.tree.map(lambda x: x[i], batch.micro)
            grads, sums = jax.grad(loss, has_aux=True)(params, micro, batch.temperature)
            grads = jax.tree.map(lambda total, g: total + g.astype(jnp.float32), carry[0], grads)
            return pin(grads), carry[1] + sums

        first = jax.tree.map(lambda x: x[0], batch.micro)
        nothing = jax.eval_shape(loss, params, first, batch.temperature)[1]
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (params, nothing))
        # The trip count is data: a smaller batch costs less without another program.
        return jax.lax.fori_loop(0, batch.steps, add, (pin(zeros[0]), zeros[1]))

    # The rows of a pair may lie on different replicas, which then must speak at every micro-batch.
    add_up = add_up if spec.kind == "pairs" else _replica_by_replica(add_up, mesh)

    def update(
        state: LearnState, batch: pack.Batch, rate: jax.Array
    ) -> tuple[LearnState, dict[str, jax.Array]]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            params = ready(state.params)
            grads, sums = add_up(params, batch)
            grads = jax.tree.map(lambda g: masked.ratio(g, batch.count, 0.0), restack(grads))
            changes, opt_state = optimizer.update(grads, state.opt_state, state.params)
            changes = jax.tree.map(lambda change: rate * change, changes)
        metrics = {name: masked.ratio(*pair, empty=jnp.nan) for name, pair in sums.means.items()}
        metrics |= sums.peaks | {
            "loss": masked.ratio(sums.loss, batch.count, 0.0),
            "grad_norm": jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))),
            "lr": jnp.float32(rate),
            "prune/trained_tokens": sums.means["entropy"][1],
        }
        params = optax.apply_updates(state.params, changes)
        return LearnState(params, opt_state), metrics

    state_at = state_shardings(config, optimizer, mesh)
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        update,
        donate_argnums=0,
        in_shardings=(state_at, batch_shardings(mesh), everywhere),
        out_shardings=(state_at, everywhere),
    )


def _replica_by_replica(add_up: Callable, mesh: Mesh) -> Callable:
    """The same where each replica (the axis ``data``) adds up its own rows, and all of them once,
    at the end. Left to the compiler they would exchange gradients at every micro-batch."""
    if mesh.shape["data"] == 1:
        return add_up

    def one(params: Params, batch: pack.Batch) -> tuple[Params, Sums]:
        grads, sums = add_up(params, batch)
        loss, means = jax.lax.psum((sums.loss, sums.means), "data")
        return jax.lax.psum(grads, "data"), Sums(loss, means, jax.lax.pmax(sums.peaks, "data"))

    def places(of: NamedSharding) -> PartitionSpec:
        return PartitionSpec(None, "data") if len(of.spec) > 1 else PartitionSpec()

    return jax.shard_map(
        one,
        in_specs=(PartitionSpec(), jax.tree.map(places, batch_shardings(mesh))),
        out_specs=PartitionSpec(),
        axis_names={"data"},
        check_vma=False,
    )


def _check_attention(options: LearnOptions, mesh: Mesh) -> None:
    """A kernel for TPUs needs TPUs, also such as are only compiled for."""
    platform = mesh.devices.flat[0].platform
    if options.attention == "splash" and platform != "tpu":
        raise ValueError(
            f"learn.attention is 'splash', a kernel for TPUs, but the devices are of platform "
            f"{platform!r}; set it to auto or xla (or to splash_interpreted, to compare its values)"
        )


def _layout(config: ModelConfig, options: LearnOptions, mesh: Mesh) -> tuple[Callable, ...]:
    """How parameters are computed with: ``ready`` casts them (and makes the list of layers of a
    shallow model), ``restack`` brings gradients back, ``pin`` keeps sums of them where weights lie.
    """
    stacked = config.layers > options.unrolled_layers
    shardings = weights.weight_shardings(config, mesh, LEARN_RULES, stacked=stacked)
    at = jax.tree.map(lambda sharding: sharding.spec, shardings)

    def ready(params: Params) -> Params:
        if stacked or isinstance(params["layers"], list):
            return jax.tree.map(lambda x: x.astype(options.dtype), params)
        return weights.unstack(params, options.dtype)

    def restack(grads: Params) -> Params:
        if stacked:
            return grads
        return {**grads, "layers": jax.tree.map(lambda *x: jnp.stack(x), *grads["layers"])}

    def pin(grads: Params) -> Params:
        return jax.lax.with_sharding_constraint(grads, at)

    return ready, restack, pin


def _logp(
    params: Params,
    config: ModelConfig,
    options: LearnOptions,
    micro: pack.Micro,
    temperature: jax.Array,
    differentiate_entropy: bool,
) -> tuple[jax.Array, jax.Array]:
    """Log-probability and entropy at the trained places of one micro-batch, [R, N] each."""
    # Looked up, because XLA:CPU would work out sines and cosines for every head of every layer.
    table = rotation(config, jnp.arange(micro.tokens_RT.shape[1]))
    hidden_RTD, _ = forward(
        params,
        config,
        micro.tokens_RT,
        micro.positions_RT,
        segments_BT=micro.segments_RT,
        rotation=jax.tree.map(lambda x: x[micro.positions_RT], table),
        remat=options.remat,
        attention=options.attention,
    )
    spread = math.prod(size for axis, size in left_to_the_compiler().items() if axis in ROWS)
    rows_of_a_device = max(1, micro.tokens_RT.shape[0] // spread)
    return logp_of(
        params,
        config,
        hidden_RTD,
        micro.place_RN,
        micro.target_RN,
        temperature=temperature,
        chunk=options.chunk(rows_of_a_device),
        differentiate_entropy=differentiate_entropy,
    )


def score(
    params: Params, config: ModelConfig, rows: Rows, *, options: LearnOptions, mesh: Mesh
) -> np.ndarray:
    """Log-probabilities of the trained tokens of rows, float32 [B, T]; NaN where not trained.

    Under ``softmax(logits / rows.temperature)``. Serves the reference policy, old log-probabilities
    of collected data, answer likelihoods and the comparison of sampler and learner.

    Args:
      params: stacked (the learner's) or a list of layers (the sampler's).
      config: of the model.
      rows: prompts and responses; weights play no role.
      options: packing and precision.
      mesh: where to compute.
    """
    options = options.resolve(jax.default_backend())
    _check_attention(options, mesh)
    spec = LossSpec(kind="ce")
    rows = dataclasses.replace(  # of which limit and prompt limit decide the sizes
        rows,
        weight_BT=rows.train_BT.astype(np.float32),
        old_logp_BT=None,
        ref_logp_BT=None,
        pair_B=None,
    )
    sizes = pack.plan(rows, spec, options, shards=row_shards(mesh))
    batch, places = pack.pack(rows, spec, sizes)
    logp_MRN = np.asarray(_score(params, to_devices(batch, mesh), config, options, mesh))
    logp_BT = np.full(rows.train_BT.shape, np.nan, np.float32)
    for b, spot in pack.spots(rows, places):
        logp_BT[b, rows.train_BT[b]] = logp_MRN[spot]
    return logp_BT


@functools.partial(jax.jit, static_argnames=("config", "options", "mesh"))
def _score(
    params: Params, batch: pack.Batch, config: ModelConfig, options: LearnOptions, mesh: Mesh
) -> jax.Array:
    """Log-probabilities [M, R, N], whole on every device."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        ready, _, _ = _layout(config, options, mesh)
        params = ready(params)

        def one(i: jax.Array, logp_MRN: jax.Array) -> jax.Array:
            micro = jax.tree.map(lambda x: x[i], batch.micro)
            logp_RN, _ = _logp(params, config, options, micro, batch.temperature, False)
            return logp_MRN.at[i].set(logp_RN)

        nothing = jnp.zeros(batch.micro.share_RN.shape, jnp.float32)
        logp_MRN = jax.lax.fori_loop(0, batch.steps, one, nothing)
    return jax.lax.with_sharding_constraint(logp_MRN, NamedSharding(mesh, PartitionSpec()))
