"""Generation of this package on a workload of sample.py.

    python sample_with_ours.py workload.json

Answers questions (``turns``): {"call": 3} with the seconds of one call, from the learner's float32
parameters and token ids to token ids, log-probabilities and text; {"memory": true} with the bytes
that the decode block and its cache take where the cache is largest, and the tokens it then holds.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import statistics
import sys
import time
from typing import Any

import gpu_speed  # benchmarks/gpu_speed.py
import jax
import numpy as np
import turns  # benchmarks/turns.py

import pruner_jax
from pruner_jax.learn.options import MeshOptions, PodOptions
from pruner_jax.mesh import make_mesh
from pruner_jax.run.compilation import Compiled, keep_compiled_programs
from pruner_jax.run.engine import Engine
from pruner_jax.run.processors import use_processors
from pruner_jax.sample import decode as device
from pruner_jax.sample.options import SampleOptions
from pruner_jax.text import TextOptions
from pruner_jax.types import Problem, Prompts, Purpose


def main() -> None:
    """Load the model, then do as asked."""
    work = json.loads(pathlib.Path(sys.argv[1]).read_text())
    keep_compiled_programs()
    use_processors([work["model"]], MeshOptions(), PodOptions())
    policy = pruner_jax.load(work["model"])
    engine = Engine.of(
        policy,
        text_options=TextOptions(),
        sampling=SampleOptions(rows=len(work["prompts"][0]) * work["samples"], dtype=work["dtype"]),
        verifier=None,
        seed=0,
        mesh=make_mesh(),
    )
    engine = dataclasses.replace(engine, end_ids=tuple(work["end_ids"]))
    on_gpu = jax.default_backend() == "gpu"
    rate = gpu_speed.copy_rate(2**32) if on_gpu else None
    turns.serve(functools.partial(answer, engine, policy.params, work, rate))


def answer(
    engine: Engine,
    params: Any,
    work: dict[str, Any],
    rate: float | None,
    call: int = 0,
    memory: bool = False,
) -> dict[str, Any]:
    """One call, timed; or, of the first one, the memory."""
    tokens = tuple(np.array(prompt, np.int32) for prompt in work["prompts"][call])
    prompts = Prompts(
        problems=tuple(Problem(f"{call}-{p}", "", "") for p in range(len(tokens))),
        text=("",) * len(tokens),
        tokens=tokens,
        purpose=Purpose.TRAIN,
        visit_P=np.zeros(len(tokens), np.int32),
    )
    watch = Watch(device.decode)
    if memory:
        device.decode = watch
    compiled, began = Compiled(), time.perf_counter()
    ready = engine.decode_params(params)
    rollouts, stats = engine.sample(ready, prompts, samples=work["samples"], limit=work["limit"])
    seconds = time.perf_counter() - began
    if memory:
        device.decode = watch.block
        return watch.memory()
    said = {
        "seconds": seconds,
        "tokens": int(rollouts.length_B.sum()),
        "median_length": statistics.median(rollouts.length_B.tolist()),
        "compiled": compiled.lap()["perf/compiled"],
    }
    if rate is not None:
        figures = gpu_speed.sampled(stats, ready, engine.config, rate)
        names = ("read_of_copy", "needed_of_copy", "read_of_maker", "needed_of_maker")
        said |= {name: figures[name] for name in names if name in figures}
    return said


class Watch:
    """Stands in for the decode block, and notes how it was called when the cache was largest."""

    def __init__(self, block: Any) -> None:
        self.block, self.largest, self.call = block, (0, 0), None

    def __call__(self, *arguments: Any, **static: Any) -> Any:
        """Run the block."""
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
        _, layers, prefix, rows, slot_s, *_ = arguments
        cache = sum(x.nbytes for x in jax.tree.leaves((layers, prefix)))
        found = self.block(*arguments, **static)
        written = found[-1]
        until = int(slot_s[0]) + int(written.steps_B[0])
        held = int(np.where(rows.alive_B, until - np.asarray(rows.start_B), 0).sum())
        if (cache, held) > self.largest:
            self.largest, self.call = (cache, held), (shapes, static)
        return found

    def memory(self) -> dict[str, Any]:
        """Bytes of cache and temporary memory for each token that a row had before it, so that a
        prompt counts for each of its samples."""
        shapes, static = self.call
        cache, held = self.largest
        planned = self.block.lower(*shapes, **static).compile().memory_analysis()
        temporary = planned.temp_size_in_bytes * jax.device_count()
        return {
            "cache_bytes": cache,
            "temporary_bytes": temporary,
            "tokens_held": held,
            "bytes_per_token": (cache + temporary) / held,
        }


if __name__ == "__main__":
    main()
