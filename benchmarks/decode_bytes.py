"""Bytes that a decode step moves on a TPU, against the least: the table of docs/tpu.md.

    python benchmarks/decode_bytes.py
    python benchmarks/decode_bytes.py --models r1_distill_llama_8b --shapes 64x1280
    python benchmarks/decode_bytes.py --topologies v6e:2x2 --shapes 256x1280 --parts 20
    python benchmarks/decode_bytes.py --group 8    # samples that share their prompt's slots

Compiles the decode block of the sampler, a whole model on each chip, and counts as ``pruner-jax
plan`` does: half a minute a line. (A few layers do not tell of all: what XLA keeps on the chip
hangs on their number.) ``--parts`` lists what moves most. Needs the package libtpu and no TPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import pathlib
from typing import NamedTuple

from pruner_jax.learn.options import LearnOptions
from pruner_jax.mesh import make_mesh
from pruner_jax.pod import accessed, chips, hlo, programs
from pruner_jax.pod.compiled import compile_program
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


class Step(NamedTuple):
    """A decode step, on a device."""

    moved: float  # bytes
    least: float
    copies: int  # of keys or values of a layer
    collectives: int


def describe(name: str) -> ModelConfig:
    """A model of configs/models; Qwen2.5-1.5B is R1-Distill-Qwen-1.5B with its tables tied."""
    tied = name == "qwen2.5_1.5b"
    config = hf.read_config(MODELS / ("r1_distill_qwen_1p5b" if tied else name))
    return dataclasses.replace(config, tied=tied or config.tied)


def step(
    config: ModelConfig, topology: str, rows: int, slots: int, *, group: int = 1, parts: int = 0
) -> Step:
    """Of a whole replica on each chip, in a bucket of so many slots, up to a quarter a prompt's."""
    mesh = make_mesh(1, -1, 1, chips.devices(topology))
    _, options = programs.for_tpu(LearnOptions(), SampleOptions(rows=rows, slot_growth=1.01))
    prompt = max(128, slots // 4 // 128 * 128)
    limit = slots - prompt - (options.block if group == 1 else 0)
    sizes = {"count": rows * mesh.size, "prompt": prompt, "limit": limit, "group": group}
    made = programs.sampler(config, options, mesh, end_ids=(0,), **sizes)
    if (made.rows, made.slots) != (rows, slots):
        raise ValueError(f"{rows} x {slots} became {made.rows} x {made.slots}")
    compiled = compile_program(made.decode)
    if compiled.refusal:
        raise ValueError(f"{config.layers} layers, {rows} x {slots}: {compiled.refusal}")
    given = made.decode.arguments
    found = traffic.of_decode(compiled.text, given["weights"], given["cache"])
    moved = accessed.heaviest_round(hlo.parse(compiled.text))
    for one, size in sorted(moved, key=lambda x: -x[1])[:parts]:
        print(f"    {size / (1 << 20):9.2f} MiB {one.opcode} {one.result[:90]}")
    return Step(
        found["step_bytes"],
        found["step_bytes_least"],
        found["cache_copies"],
        len(found["collectives"]),
    )


def main() -> None:
    """Print the table, line by line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["qwen2.5_1.5b"])
    parser.add_argument("--topologies", nargs="+", default=["v5e:2x2", "v6e:2x2"])
    parser.add_argument("--shapes", nargs="+", default=["256x512", "256x1280"])
    parser.add_argument("--group", type=int, default=1)
    parser.add_argument("--parts", type=int, default=0)
    given = parser.parse_args()
    print(HEAD)
    for name, topology, shape in itertools.product(given.models, given.topologies, given.shapes):
        size = tuple(map(int, shape.split("x")))
        found = step(describe(name), topology, *size, group=given.group, parts=given.parts)
        cells = [name, topology, f"{size[0]} × {size[1]}"]
        cells += [f"{found.moved / GIB:.2f}", f"{found.least / GIB:.2f}"]
        cells += [f"{found.moved / found.least:.3f}", found.copies, found.collectives]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
