"""What an update of the learner takes of a TPU's memory by either attention, without a TPU.

    pip install libtpu
    python benchmarks/attention_memory.py                        # v5e, v5p and v6e, rows of 4096
    python benchmarks/attention_memory.py --topologies v5e:2x4 --row_tokens 1024 --rows 4

Two layers with the heads of Qwen2.5-1.5B, a narrow MLP and a small vocabulary, so that what
attention takes is not hidden by what they take. Rows are cut over all chips. Compiled, not run: it
says nothing of speed. One JSON line each: temporary memory of a chip, that is without parameters
and optimiser state.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh

from pruner_jax.learn import pack, step
from pruner_jax.learn.optimizer import make_optimizer
from pruner_jax.learn.options import LearnOptions, OptimizerOptions
from pruner_jax.mesh import make_mesh
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.policy import weights
from pruner_jax.policy.config import ModelConfig, RopeConfig

CONFIG = ModelConfig(
    model_type="qwen2", vocab_size=2048, width=1536, layers=2, heads=12, kv_heads=2, head_width=128,
    mlp_width=1536, context=32768, rope=RopeConfig(1e6), norm_eps=1e-6, tied=True, qkv_bias=True,
)  # fmt: skip


def main() -> None:
    """Read what to compile, compile it by both kinds of attention, print what it takes."""
    # libtpu only compiles here: others may use it meanwhile, and no TPU's host is to be asked.
    os.environ |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--topologies", nargs="+", default=["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
    parser.add_argument("--row_tokens", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=1, help="rows that a chip takes at once")
    parser.add_argument("--remat", nargs="+", default=["full"])
    args = parser.parse_args()
    for name, remat, kind in itertools.product(args.topologies, args.remat, ("splash", "xla")):
        mesh = mesh_of(name, fsdp=-1)
        rows = args.rows * step.row_shards(mesh)
        options = LearnOptions(attention=kind, remat=remat)
        program = lowered(CONFIG, mesh, rows, args.row_tokens, options)
        found = program.compile().memory_analysis().temp_size_in_bytes
        line = vars(args) | {"topologies": name, "remat": remat, "attention": kind}
        print(json.dumps(line | {"temporary_mib": round(found / 2**20, 1)}), flush=True)


def mesh_of(topology: str, **sizes: int) -> Mesh:
    """The chips of a slice that need not exist, such as ``v5e:2x2``."""
    chips = topologies.get_topology_desc(topology_name=topology, platform="tpu").devices
    return make_mesh(**{"data": 1} | sizes, devices=chips)


def lowered(
    config: ModelConfig, mesh: Mesh, rows: int, tokens: int, options: LearnOptions
) -> jax.stages.Lowered:
    """The update of packed rows ``[rows, tokens]`` with every token trained, traced for TPUs."""
    optimizer = make_optimizer(OptimizerOptions(), config)
    params = weights.abstract(config, jnp.float32)
    state = step.LearnState(params, jax.eval_shape(optimizer.init, params))
    update = step.make_update(config, LossSpec(), options.resolve("tpu"), optimizer, mesh)
    return update.lower(state, shapes_of(rows, tokens), jax.ShapeDtypeStruct((), jnp.float32))


def shapes_of(rows: int, tokens: int) -> pack.Batch:
    """A batch of eight micro-batches, without numbers."""
    whole = ("tokens_RT", "positions_RT", "segments_RT", "place_RN", "target_RN", "unit_RN")

    def shape(name: str) -> jax.ShapeDtypeStruct:
        sizes = (2 * rows,) if name.endswith("_U") else (rows, tokens)
        return jax.ShapeDtypeStruct((8, *sizes), jnp.int32 if name in whole else jnp.float32)

    micro = pack.Micro(**{name: shape(name) for name in pack.Micro.__dataclass_fields__})
    number = functools.partial(jax.ShapeDtypeStruct, ())
    return pack.Batch(micro, number(jnp.int32), number(jnp.float32), number(jnp.float32))


if __name__ == "__main__":
    main()
