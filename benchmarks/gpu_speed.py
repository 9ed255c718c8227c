"""How fast a model of Qwen2.5-1.5B's shape samples and learns: two parts of gpu.py.

Random weights. Each figure stands beside what the same device did in a plain copy (bandwidth) or a
plain product (FLOPs), measured first; and beside the maker's figures, where the device is known.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import learn  # benchmarks/learn.py
import numpy as np
from gpu_sizes import SMOKE, Sizes  # benchmarks/gpu_sizes.py

from pruner_jax.policy import weights
from pruner_jax.policy.config import ModelConfig
from pruner_jax.run.compilation import Compiled
from pruner_jax.sample.options import SampleOptions
from pruner_jax.sample.sampler import SampleStats, sample
from pruner_jax.types import Problem, Prompts, Purpose

# Bytes a second, dense bfloat16 FLOPs a second, as the maker says.
MAKERS = {"NVIDIA H200": (4.8e12, 989e12), "NVIDIA H100 80GB HBM3": (3.35e12, 989e12)}

Note = Callable[[str, Any], None]


# -- sampling --------------------------------------------------------------------------------------


def sampler(note: Note, sizes: Sizes) -> int:
    """Tokens a second of the whole sampler, and the share of the bandwidth that its reading is."""
    config, dtype = learn.MODELS[sizes.model], sizes.dtype
    note("planned", ["copy_bytes_per_s", *map(sizes.sampled, sizes.limits)])
    rate = copy_rate(2**20 if sizes is SMOKE else 2**30)
    note("copy_bytes_per_s", rate)
    options = SampleOptions(
        rows=sizes.prompts * sizes.samples, slot_multiple=sizes.slots, dtype=dtype
    )
    params = jax.jit(
        lambda: weights.unstack(weights.init(config, jax.random.key(0), dtype), dtype)
    )()
    for limit in sizes.limits:  # the first one's programs serve the second one too
        draw(params, config, sizes, limit, options, seed=0)
        compiled = Compiled()
        stats = draw(params, config, sizes, limit, options, seed=1)
        figures = sampled(stats, params, config, rate)
        note(sizes.sampled(limit), figures | {"compiled": compiled.lap()["perf/compiled"]})
    return 0


def draw(
    params: Any,
    config: ModelConfig,
    sizes: Sizes,
    limit: int,
    options: SampleOptions,
    seed: int,
) -> SampleStats:
    """Responses of ``limit`` tokens to random prompts; no token ends one."""
    count, shape = sizes.prompts, (sizes.prompts, sizes.prompt)
    tokens = np.random.default_rng(seed).integers(0, config.vocab_size, shape, np.int32)
    prompts = Prompts(
        problems=tuple(Problem(id=str(p), question="", answer="") for p in range(count)),
        text=("",) * count,
        tokens=tuple(tokens),
        purpose=Purpose.TRAIN,
        visit_P=np.zeros(count, np.int64),
    )
    _, stats = sample(
        params,
        config,
        prompts,
        samples=sizes.samples,
        limit=limit,
        seed=0,  # which is compiled in
        end_ids=(config.vocab_size,),
        close_ids=((0,),),
        opened=False,
        decode=lambda tokens: "",
        options=options,
    )
    return stats


def sampled(stats: SampleStats, params: Any, config: ModelConfig, rate: float) -> dict[str, Any]:
    """What a call took, prefill and host included. "read": all slots. "needed": only live ones, of
    a prompt once for all its samples, so that its share of the bandwidth is that of the roofline;
    left out unless all rows came in at once and ended together."""
    width = params["embed"].dtype.itemsize
    slot = 2 * config.layers * config.kv_heads * config.head_width * width
    whole = sum(x.nbytes for x in jax.tree.leaves(params)) * stats.steps
    read = whole + stats.slot_steps * slot
    figures = {
        "rows": stats.rows,
        "tokens": stats.tokens,
        "seconds": stats.seconds,
        "tokens_per_s": stats.tokens / stats.seconds,
        "ms_per_step": stats.seconds / stats.steps * 1e3,
        "slots": stats.slot_steps / stats.row_steps,
        "read_bytes_per_s": read / stats.seconds,
    }
    moved = {"read": read}
    if stats.tokens == stats.row_steps == stats.rows * stats.steps:
        live = stats.tokens * stats.steps / 2 + stats.prompt_tokens * stats.steps
        moved["needed"] = whole + live * slot
        figures["roofline_tokens_per_s"] = stats.tokens * rate / moved["needed"]
    bandwidths = {"copy": rate}
    if maker := MAKERS.get(jax.devices()[0].device_kind):
        bandwidths["maker"] = maker[0]
    for name, size in moved.items():
        for whose, bandwidth in bandwidths.items():
            figures[f"{name}_of_{whose}"] = size / stats.seconds / bandwidth
    return figures


def copy_rate(size: int) -> float:
    """Bytes a second, read and written, of adding 1 to so many bytes."""
    return rate_of(2 * size, jax.jit(lambda x: x + 1), jnp.zeros(size // 2, jnp.bfloat16))


def rate_of(amount: float, function: Callable[..., jax.Array], *args: jax.Array) -> float:
    """So much a second, where each call does ``amount``. Calls wait in the device's queue, so that
    it never waits for the host: a limit must not be measured too low."""
    jax.block_until_ready(function(*args))
    times = []
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready([function(*args) for _ in range(10)])
        times.append((time.perf_counter() - began) / 10)
    return amount / float(np.median(times))


# -- learning --------------------------------------------------------------------------------------


def learner(note: Note, sizes: Sizes) -> int:
    """Tokens a second of an update on packed rows, and its share of what products reach."""
    config = learn.MODELS[sizes.model]
    note("planned", ["product_flops_per_s", *map(sizes.learned, sizes.remats)])
    rate = product_rate(256 if sizes is SMOKE else 8192, sizes.dtype)
    note("product_flops_per_s", rate)
    args = argparse.Namespace(
        rows=sizes.rows, prompt=sizes.row_prompt, mean=sizes.row_mean, spread=0.25
    )
    rows = learn.random_rows(args, config.vocab_size)
    lengths = [len(prompt) + len(answer) for prompt, answer in zip(rows.prompt, rows.response)]
    for remat in sizes.remats:
        run = learn.Run(config, rows, {"remat": remat, "dtype": sizes.dtype})
        for _ in range(3):
            run.update()
        found = run.result(rows)
        flops = flops_per_token(config, lengths) * found["tokens_per_s"]
        figures = {"rows": sizes.rows, **found, "flops_per_s": flops, "of_product": flops / rate}
        if maker := MAKERS.get(jax.devices()[0].device_kind):
            figures["mfu_of_maker"] = flops / maker[1]
        note(sizes.learned(remat), figures)
        del run  # the next one has a state of its own
    return 0


def flops_per_token(config: ModelConfig, lengths: Sequence[int]) -> float:
    """Forward and backward, nothing counted that is computed again: 6 for each weight of a product,
    and causal attention, 6 x layers x heads x head width x the length of the token's own row."""
    tree = weights.abstract(config, "float32")
    count = sum(x.size for x in jax.tree.leaves(tree))
    if not config.tied:
        count -= tree["embed"].size  # looked up, not multiplied
    length = np.square(lengths).sum() / np.sum(lengths)
    return 6.0 * count + 6.0 * config.layers * config.heads * config.head_width * float(length)


def product_rate(size: int, dtype: str) -> float:
    """FLOPs a second of a product of two square matrices."""
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)
    return rate_of(2 * size**3, jax.jit(lambda a, b: a @ b), a, a)
