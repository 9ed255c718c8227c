"""Bytes that a decode step moves on a TPU, against the least: the table of docs/tpu.md.

    python benchmarks/decode_bytes.py
    python benchmarks/decode_bytes.py --models qwen2.5_1.5b --topologies v6e:2x2 --shapes 256x1280

Compiles the decode block of the sampler, a whole model on each chip, and counts as ``pruner-jax
plan`` does. Needs the package libtpu and no TPU. With ``--layers`` fewer layers than the model has,
to look at one; ``--parts`` lists what moves most.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib

from pruner_jax.learn.options import LearnOptions
from pruner_jax.mesh import make_mesh
from pruner_jax.pod import accessed, chips, hlo, programs
from pruner_jax.pod.compiled import Compiled, compile_program
from pruner_jax.policy import hf
from pruner_jax.policy.config import ModelConfig
from pruner_jax.run import traffic
from pruner_jax.sample.options import SampleOptions

MODELS = pathlib.Path(__file__).parents[1] / "configs" / "models"
GIB = 1 << 30
HEAD = (
    "| model | slice | rows × slots | GiB a step | least GiB | ratio | cache copies | "
    "collectives |\n" + "|---" * 8 + "|"
)


def describe(name: str, layers: int | None) -> ModelConfig:
    """A model of configs/models; Qwen2.5-1.5B is R1-Distill-Qwen-1.5B with its tables tied."""
    tied = name == "qwen2.5_1.5b"
    config = hf.read_config(MODELS / ("r1_distill_qwen_1p5b" if tied else name))
    layers = layers or config.layers
    windows = config.sliding_window[:layers]
    tied = tied or config.tied
    return dataclasses.replace(config, layers=layers, sliding_window=windows, tied=tied)


def decode(config: ModelConfig, topology: str, rows: int, slots: int) -> programs.Sampler:
    """The sampler of a whole replica on each chip, in a bucket of so many slots."""
    mesh = make_mesh(1, -1, 1, chips.devices(topology))
    _, options = programs.for_tpu(LearnOptions(), SampleOptions(rows=rows, slot_multiple=slots))
    prompt = slots // 4
    limit = slots - prompt - options.block
    count = rows * mesh.size
    return programs.sampler(
        config, options, mesh, count=count, prompt=prompt, limit=limit, end_ids=(0,)
    )


def row(name: str, topology: str, made: programs.Sampler, compiled: Compiled) -> str:
    """A line of the table."""
    cells = [name, topology, f"{made.rows} × {made.slots}"]
    if compiled.refusal:
        return "| " + " | ".join([*cells, "does not fit", "–", "–", "–", "–"]) + " |"
    given = made.decode.arguments
    found = traffic.of_decode(compiled.text, given["weights"], given["cache"])
    cells += [f"{found[x] / GIB:.2f}" for x in ("step_bytes", "step_bytes_least")]
    cells += [f"{found['step_bytes_ratio']:.3f}", found["cache_copies"], len(found["collectives"])]
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """Print the table, line by line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["qwen2.5_1.5b"])
    parser.add_argument("--topologies", nargs="+", default=["v5e:2x2", "v6e:2x2"])
    parser.add_argument("--shapes", nargs="+", default=["256x512", "256x1280"])
    parser.add_argument("--layers", type=int)
    parser.add_argument("--parts", type=int, default=0)
    given = parser.parse_args()
    print(HEAD)
    for name in given.models:
        config = describe(name, given.layers)
        for topology in given.topologies:
            for shape in given.shapes:
                rows, slots = map(int, shape.split("x"))
                made = decode(config, topology, rows, slots)
                compiled = compile_program(made.decode)
                print(row(name, topology, made, compiled), flush=True)
                parts(compiled, given.parts)


def parts(compiled: Compiled, count: int) -> None:
    """The instructions that move most."""
    if count and compiled.text:
        moved = accessed.heaviest_round(hlo.parse(compiled.text)) or []
        for one, size in sorted(moved, key=lambda x: -x[1])[:count]:
            print(f"    {size / (1 << 20):9.2f} MiB {one.opcode} {one.result[:90]}")


if __name__ == "__main__":
    main()
