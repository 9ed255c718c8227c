"""The matrix products of a workload of rl_step.py alone, as this package shapes them.

    python products.py workload.json

Prints a JSON line with the seconds that the products of a step take, and those of generation among
them: no norm, softmax, rotation, mask, loss, optimiser, random number or host in between. Rows are
spread over as many devices as there are processors, as a run has them; nothing is padded, every
answer is as long as the limit, every row is learnt from. Weights are read from the model's folder.
"""

from __future__ import annotations

import json
import pathlib
import statistics
import sys
import time

import jax

from pruner_jax.learn.options import LearnOptions, MeshOptions, PodOptions
from pruner_jax.mesh import ROWS, make_mesh
from pruner_jax.policy import handle
from pruner_jax.policy.config import ModelConfig
from pruner_jax.run.processors import use_processors

Product = tuple[str, tuple[int, ...], tuple[int, ...]]  # of einsum: what is multiplied, shapes


def main() -> None:
    """Time the products of one decode step at several lengths, and of one micro-batch."""
    work = json.loads(pathlib.Path(sys.argv[1]).read_text())
    use_processors([work["model"]], MeshOptions(), PodOptions())
    policy = handle.load(work["model"])
    config, mesh = policy.config, make_mesh()
    prompts = [len(ids) for ids in policy.tokenizer(work["prompts"])["input_ids"]]
    prompt, limit = round(statistics.mean(prompts)), work["limit"]
    rows = work["prompts_per_step"] * work["samples"]
    own = rows // mesh.size  # of a device
    group = work["samples"]
    generate = limit * statistics.mean(
        seconds(decode_step(config, own, group, prompt, slots), mesh)
        for slots in range(16, limit + 1, 16)
    )
    tokens = prompt + limit - 1
    micro = max(1, LearnOptions().resolve(jax.default_backend()).micro_tokens // tokens)
    learn = own / micro * seconds(micro_batch(config, micro, tokens, limit), mesh)
    found = {"seconds": generate + learn, "generate_seconds": generate, "tokens": rows * limit}
    print(json.dumps(found), flush=True)


def weights_of(config: ModelConfig) -> list[tuple[int, int]]:
    """Width of result and of input of every product with a weight in a layer."""
    D, H = config.width, config.head_width
    into = [config.heads * H, config.kv_heads * H, config.kv_heads * H]
    mlp = [(config.mlp_width, D), (config.mlp_width, D), (D, config.mlp_width)]
    return [(out, D) for out in into] + [(D, config.heads * H)] + mlp


def decode_step(
    config: ModelConfig, rows: int, group: int, prompt: int, slots: int
) -> list[Product]:
    """All products of a decode step; keys and values of every layer are arrays of their own, and
    those of a prompt are there once for its group."""
    K, n, H = config.kv_heads, config.heads // config.kv_heads, config.head_width
    found = []
    for _ in range(config.layers):
        found += [("td,fd->tf", (rows, d), (f, d)) for f, d in weights_of(config)]
        for B, q, S in ((rows // group, group * n, prompt), (rows, n, slots)):
            found.append(("bkqh,bkhs->bkqs", (B, K, q, H), (B, K, H, S)))
            found.append(("bkqs,bksh->bkqh", (B, K, q, S), (B, K, S, H)))
    return [*found, ("td,vd->tv", (rows, config.width), (config.vocab_size, config.width))]


def micro_batch(config: ModelConfig, rows: int, tokens: int, trained: int) -> list[Product]:
    """All products of a forward and backward pass."""
    K, n, H = config.kv_heads, config.heads // config.kv_heads, config.head_width
    found = []
    for _ in range(config.layers):
        for f, d in weights_of(config):
            found += with_weight(rows * tokens, f, d)
        q, k = (rows, K, n * tokens, H), (rows, K, tokens, H)
        shares = (rows, K, n * tokens, tokens)
        found += [("bkqh,bksh->bkqs", q, k), ("bkqs,bksh->bkqh", shares, k)]  # scores, mix
        found += [("bkqh,bksh->bkqs", q, k), ("bkqs,bksh->bkqh", shares, k)]  # of shares, of q
        found += [("bkqh,bkqs->bkhs", q, shares)] * 2  # of k, of v
    return found + with_weight(rows * trained, config.vocab_size, config.width)


def with_weight(tokens: int, out: int, width: int) -> list[Product]:
    """The result, the gradient of what goes in, and that of the weight."""
    x, g, w = (tokens, width), (tokens, out), (out, width)
    turned = ("td,tf->df", x, g) if width <= out else ("tf,td->fd", g, x)
    return [("td,fd->tf", x, w), ("tf,fd->td", g, w), turned]


def seconds(products: list[Product], mesh: jax.sharding.Mesh) -> float:
    """Of all of them, on every device at once; the best of some tries."""
    keys = iter(jax.random.split(jax.random.key(0), 2 * len(products)))
    pairs = [
        (jax.random.normal(next(keys), a), jax.random.normal(next(keys), b)) for _, a, b in products
    ]

    def multiply(pairs):
        return [jax.numpy.einsum(spec, *pair)[None] for (spec, _, _), pair in zip(products, pairs)]

    everywhere, rows = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(ROWS)
    spread = jax.shard_map(
        multiply, mesh=mesh, in_specs=(everywhere,), out_specs=rows, check_vma=False
    )
    pairs = jax.device_put(pairs, jax.sharding.NamedSharding(mesh, everywhere))
    program, times = jax.jit(spread), []
    for _ in range(20):
        began = time.perf_counter()
        jax.block_until_ready(program(pairs))
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    main()
