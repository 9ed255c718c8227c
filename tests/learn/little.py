"""A little model, random rows and plain reference computations for the tests of learning."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pruner_jax.learn import step
from pruner_jax.learn.learn import learn
from pruner_jax.learn.options import LearnOptions
from pruner_jax.learn.rows import Rows
from pruner_jax.mesh import make_mesh
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.policy import weights
from pruner_jax.policy.config import ModelConfig, RopeConfig
from pruner_jax.policy.forward import forward, unembed

CONFIG = ModelConfig(
    model_type="qwen2", vocab_size=32, width=16, layers=2, heads=4, kv_heads=2, head_width=8,
    mlp_width=24, context=256, rope=RopeConfig(1e4), norm_eps=1e-6, tied=True,
)  # fmt: skip

# Gradient descent with rate 1: the parameters fall by exactly the gradient.
PLAIN = optax.sgd(1.0)

SPECS = {
    "ppo": LossSpec(clip_low=0.1, clip_high=0.3, clip_dual=1.5, kl=0.2, entropy=0.1),
    "grpo": LossSpec(aggregation="sequence", kl=0.1),
    "dr_grpo": LossSpec(aggregation="constant", clip_low=None, clip_high=None),
    "gspo": LossSpec(ratio="sequence", aggregation="sequence", clip_low=0.1, clip_high=0.1),
    "o1_paper": LossSpec(ratio="sequence_sum", aggregation="constant", constant=5),
    "ce": LossSpec(kind="ce"),
    "ce_rows": LossSpec(kind="ce", aggregation="sequence"),
    "dpo": LossSpec(kind="pairs", pair_beta=0.5),
    "dpo_mean": LossSpec(kind="pairs", pair_beta=2.0, aggregation="sequence"),
}


def params(seed=0, config=CONFIG):
    """Numpy's numbers; norms lie around one."""
    draw = np.random.default_rng(seed)
    flat, tree = jax.tree_util.tree_flatten_with_path(weights.abstract(config, jnp.float32))
    made = [("norm" in str(path)) + 0.3 * draw.normal(size=leaf.shape) for path, leaf in flat]
    return jax.tree.unflatten(tree, [jnp.asarray(x, jnp.float32) for x in made])


def mesh():
    return make_mesh(1, 1, 1, jax.devices()[:1])


def rows(count=7, seed=0, most=9, prompt=3, **changes) -> Rows:
    """Rows of ragged prompts and responses, some tokens untrained, with weights and both kinds of
    log-probabilities, which lie near those of a uniform model."""
    draw = np.random.default_rng(seed)
    length_B = draw.integers(1, most + 1, count)
    shape = count, most
    inside = np.arange(most) < length_B[:, None]
    train = inside & (draw.random(shape) < 0.8)
    train[np.arange(count), length_B - 1] = True
    made = Rows(
        prompt=tuple(draw.integers(1, 32, draw.integers(1, prompt + 1)) for _ in length_B),
        response=tuple(draw.integers(1, 32, n) for n in length_B),
        train_BT=train,
        weight_BT=np.broadcast_to(draw.normal(size=(count, 1)), shape).astype(np.float32),
        old_logp_BT=np.where(inside, draw.normal(-3.5, 0.3, shape), np.nan).astype(np.float32),
        ref_logp_BT=np.where(inside, draw.normal(-3.5, 0.3, shape), np.nan).astype(np.float32),
        temperature=1.0,
        limit=most,
    )
    return dataclasses.replace(made, **changes)


def pairs(count=4, seed=0) -> Rows:
    """Rows that make ``count`` preference pairs of different weights, in no particular order."""
    made = rows(2 * count, seed)
    pair_B = np.random.default_rng(seed).permutation(np.repeat(np.arange(count), 2))
    sign_B = np.ones(2 * count)
    sign_B[[np.flatnonzero(pair_B == p)[0] for p in range(count)]] = -1
    weight_B = (sign_B * (1 + 0.5 * pair_B)).astype(np.float32)
    weight_BT = np.broadcast_to(weight_B[:, None], made.train_BT.shape)
    return dataclasses.replace(made, weight_BT=weight_BT, pair_B=pair_B.astype(np.int32))


def rows_for(spec: LossSpec, count=8) -> Rows:
    if spec.kind == "pairs":
        return pairs(count // 2)
    return rows(count, temperature=0.7 if spec.kind == "pg" else 1.0)


def dense_logp(tree, made: Rows):
    """Log-probability and entropy of every response token: no packing, all logits at once."""
    B, T = made.train_BT.shape
    prompt_B = np.array([len(p) for p in made.prompt])
    tokens = np.zeros((B, prompt_B.max() + T), np.int32)
    target_BT = np.zeros((B, T), np.int32)
    for b, (prompt, response) in enumerate(zip(made.prompt, made.response)):
        tokens[b, : len(prompt) + len(response)] = np.concatenate([prompt, response])
        target_BT[b, : len(response)] = response
    place_BT = prompt_B[:, None] - 1 + np.arange(T)
    return _dense_logp(tree, tokens, place_BT, target_BT, made.temperature)


@jax.jit
def _dense_logp(tree, tokens, place_BT, target_BT, temperature):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden, _ = forward(tree, CONFIG, tokens, positions)
    logits = unembed(tree, CONFIG, hidden) / temperature
    logp_BTV = jnp.take_along_axis(jax.nn.log_softmax(logits), place_BT[..., None], 1)
    entropy_BT = -(jnp.exp(logp_BTV) * logp_BTV).sum(-1)
    return jnp.take_along_axis(logp_BTV, target_BT[..., None], 2)[..., 0], entropy_BT


@functools.partial(jax.jit, static_argnames="spec")
def aggregate(logp, entropy, made, spec: LossSpec):
    """The loss written out over unpacked rows; ``made`` comes from ``plain``."""
    train, w, old, ref, members, limit = made
    length = train.sum(1)

    def mean(loss):
        loss = jnp.where(train, loss, 0)
        if spec.aggregation == "token":
            return loss.sum() / train.sum()
        if spec.aggregation == "sequence":
            return (loss.sum(1) / length).mean()
        return loss.sum() / (len(train) * (spec.constant or limit))

    if spec.kind == "ce":
        return mean(-w * logp)
    gain = jnp.where(train, logp - ref, 0)
    if spec.kind == "pairs":
        per_row = gain.sum(1) / (length if spec.aggregation == "sequence" else 1)
        margin = spec.pair_beta * (per_row[members[:, 0]] - per_row[members[:, 1]])
        return (-w[members[:, 0], 0] * jax.nn.log_sigmoid(margin)).mean()
    log_ratio = jnp.where(train, logp - old, 0)
    if spec.ratio != "token":
        scale = length if spec.ratio == "sequence" else 1
        log_ratio = jnp.broadcast_to((log_ratio.sum(1) / scale)[:, None], train.shape)
    ratio = jnp.exp(log_ratio)
    low = -jnp.inf if spec.clip_low is None else 1 - spec.clip_low
    high = jnp.inf if spec.clip_high is None else 1 + spec.clip_high
    loss = -jnp.minimum(ratio * w, jnp.clip(ratio, low, high) * w)
    if spec.clip_dual is not None:
        loss = jnp.where(w < 0, jnp.minimum(loss, -spec.clip_dual * w), loss)
    return mean(loss + spec.kl * (jnp.exp(-gain) + gain - 1) - spec.entropy * entropy)


def plain(made: Rows):
    """What ``aggregate`` takes: numbers without NaN, and (preferred, rejected) of every pair."""
    members = np.zeros((0, 2), int)
    if made.pair_B is not None:
        order = [np.flatnonzero(made.pair_B == p) for p in np.unique(made.pair_B)]
        members = np.array([sorted(two, key=lambda b: -made.weight_BT[b, 0]) for two in order])
    numbers = (np.nan_to_num(x) for x in (made.weight_BT, made.old_logp_BT, made.ref_logp_BT))
    return (made.train_BT, *numbers, members, made.limit)


def dense_gradient(tree, made: Rows, spec: LossSpec):
    """Loss and gradient without packing."""
    (logp, entropy), back = jax.vjp(lambda t: dense_logp(t, made), tree)
    loss, slopes = jax.value_and_grad(aggregate, argnums=(0, 1))(logp, entropy, plain(made), spec)
    return float(loss), back(slopes)[0]


def learn_once(tree, made: Rows, spec: LossSpec, optimizer=PLAIN, **options):
    """State and metrics after ``learn``."""
    options, where = LearnOptions(**options), mesh()
    state = step.init_state(tree, CONFIG, optimizer, where)
    update = step.make_update(CONFIG, spec, options, optimizer, where)
    return learn(
        state, made, update, spec=spec, options=options, mesh=where, seed=0, rate=lambda *_: 1.0
    )


def learned_gradient(tree, made: Rows, spec: LossSpec, **options):
    """Loss and gradient as the compiled update computes them, micro-batches and all."""
    after, metrics = learn_once(tree, made, spec, **options)
    return metrics["loss"], jax.tree.map(lambda a, b: np.asarray(a - b), tree, after.params)


def assert_close(found, wanted, tolerance=1e-5):
    """Trees agree relative to the largest number of each leaf."""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted)):
        a, b = np.asarray(a), np.asarray(b)
        worst = np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)
        assert np.isfinite(a).all() and worst < tolerance, (path, worst)
