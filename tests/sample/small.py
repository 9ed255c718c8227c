"""A small model, prompts for it, one call of ``sample``, and the slow way to the same numbers."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pruner_jax.policy.config import ModelConfig, RopeConfig
from pruner_jax.policy.forward import forward, unembed
from pruner_jax.policy.weights import init, unstack
from pruner_jax.sample.decode import Program, Rows
from pruner_jax.sample.force import Hook, memory_of, window_of
from pruner_jax.sample.options import SampleOptions
from pruner_jax.sample.pick import Picking
from pruner_jax.sample.sampler import SampleStats, sample
from pruner_jax.types import Problem, Prompts, Purpose, Rollouts

CONFIG = ModelConfig(
    model_type="qwen2",
    vocab_size=61,
    width=32,
    layers=2,
    heads=4,
    kv_heads=2,
    head_width=8,
    mlp_width=48,
    context=64,
    rope=RopeConfig(theta=10000.0),
    norm_eps=1e-6,
    tied=False,
    qkv_bias=True,
    init_std=0.25,  # so that some tokens are much likelier than others
)
END = (3, 17)
CLOSE = (5,)
LIMIT = 24
OPTIONS = SampleOptions(rows=16, block=8, slot_multiple=16)


@functools.cache
def params():
    """Decode parameters of the small model."""
    make = jax.jit(lambda key: unstack(init(CONFIG, key, jnp.float32), jnp.float32))
    return make(jax.random.key(1))


def prompts(count: int = 5, *, order: Sequence[int] | None = None, visit: int = 0) -> Prompts:
    """Prompts of 1 to 14 tokens; the same id always has the same tokens."""
    order = list(range(count) if order is None else order)
    tokens = []
    for i in order:
        rng = np.random.default_rng(i)
        tokens.append(rng.integers(20, 61, (5 * i) % 14 + 1).astype(np.int32))
    problems = tuple(Problem(id=f"p{i}", question="?", answer="!") for i in order)
    text = tuple(problem.id for problem in problems)
    return Prompts(problems, text, tuple(tokens), Purpose.TRAIN, np.full(len(order), visit))


def run(asked: Prompts | None = None, **changes) -> tuple[Rollouts, SampleStats]:
    """``sample`` with the settings above, some of them changed; options by their names."""
    weights = changes.pop("params", None) or params()
    names = {field.name for field in dataclasses.fields(SampleOptions)}
    options = {name: changes.pop(name) for name in names & set(changes)}
    arguments = dict(
        samples=3,
        limit=LIMIT,
        seed=7,
        end_ids=END,
        close_ids=CLOSE,
        opened=True,
        decode=lambda tokens: " ".join(map(str, tokens)),
        options=dataclasses.replace(OPTIONS, **options),
    )
    return sample(weights, CONFIG, asked or prompts(), **{**arguments, **changes})


def program(hook: Hook | None = None, mesh: Mesh | None = None) -> Program:
    """What a block of the settings above is compiled from."""
    return Program(CONFIG, Picking(), END, OPTIONS.block, hook, mesh)


def rows(count: int, hook: Hook | None = None) -> Rows:
    """Live rows at their beginning."""
    zero = np.zeros(count, np.int32)
    return Rows(
        token_B=zero,
        start_B=zero,
        count_B=zero,
        limit_B=zero + LIMIT,
        alive_B=zero == 0,
        identity_B3=np.zeros((count, 3), np.uint32),
        mode_B=zero,
        budget_B=zero,
        memory_BM=np.zeros((count, memory_of(hook)), np.int32),
        recent_BW=np.zeros((count, window_of(hook)), np.int32),
    )


@functools.partial(jax.jit, static_argnames="temperature")
def _log_softmax(params, tokens_BT, temperature):
    position_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    hidden, _ = forward(params, CONFIG, tokens_BT, position_BT)
    return jax.nn.log_softmax(unembed(params, CONFIG, hidden) / temperature)


def distributions(rows: Sequence[np.ndarray], temperature: float = 1.0) -> np.ndarray:
    """log softmax(logits / temperature) after every token of every row, without a cache."""
    padded = np.stack([np.pad(row, (0, CONFIG.context - len(row))) for row in rows])
    return np.asarray(_log_softmax(params(), padded, temperature or 1.0))


def scored(rollouts: Rollouts, temperature: float = 1.0) -> np.ndarray:
    """Log-probabilities of the rows' tokens by one pass over whole rows, 0 past their end."""
    prompt_B = [rollouts.prompts.tokens[g] for g in rollouts.group_B]
    rows = [np.concatenate(pair) for pair in zip(prompt_B, rollouts.tokens_BT)]
    logp_BTV = distributions(rows, temperature)
    found = np.zeros(rollouts.tokens_BT.shape, np.float32)
    for b, prompt in enumerate(prompt_B):
        for t in range(rollouts.length_B[b]):
            found[b, t] = logp_BTV[b, len(prompt) + t - 1, rollouts.tokens_BT[b, t]]
    return found


def uniform(purpose: Purpose, problem: str, visit: int, number: int, position: int) -> float:
    """The random number of one token, spelled out."""
    key = jax.random.key(7)
    folds = (list(Purpose).index(purpose), zlib.crc32(problem.encode()), visit, number)
    for fold in (*folds, 0, position):
        key = jax.random.fold_in(key, np.uint32(fold))
    return float(jax.random.uniform(key))


def same(a: Rollouts, b: Rollouts, rows: Sequence[int] | None = None) -> None:
    """Asserts equal tokens and ends, log-probabilities within 1e-5; ``rows`` says which of b."""
    rows = np.arange(len(a)) if rows is None else np.asarray(rows)
    np.testing.assert_array_equal(a.length_B, b.length_B[rows])
    np.testing.assert_array_equal(a.finished_B, b.finished_B[rows])
    np.testing.assert_array_equal(a.sample_B, b.sample_B[rows])
    for i, row in enumerate(rows):
        n = a.length_B[i]
        np.testing.assert_array_equal(a.tokens_BT[i, :n], b.tokens_BT[row, :n])
        np.testing.assert_array_equal(a.origin_BT[i, :n], b.origin_BT[row, :n])
        np.testing.assert_allclose(a.logp_BT[i, :n], b.logp_BT[row, :n], atol=1e-5, rtol=0)
        assert a.text[i] == b.text[row]
