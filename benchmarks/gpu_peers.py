"""``transformers`` and TRL on the same GPU as ours: a part of gpu.py.

They run in an environment of their own, after our processes have left the GPU. Generation is
``generate`` with its dynamic cache, on random prompts; a step is GRPOTrainer's, on the workload of
gpu_step.py, its weights, reference and optimiser in bfloat16 altogether. Of two sizes each, the
smaller one, whose cache is shorter, is the easier one for these packages; of TRL it stands beside
our larger one too. No JAX here.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gpu_step  # benchmarks/gpu_step.py
import turns  # benchmarks/turns.py
from gpu_sizes import SMOKE, Sizes  # benchmarks/gpu_sizes.py

HERE = pathlib.Path(__file__).parent
ABSENT = "not measured (no torch with CUDA)"
LOOK = """
import sys, torch, transformers, trl
sys.exit(not ("--cpu-smoke" in sys.argv or torch.cuda.is_available()))
"""
# TRL's last step counts. Its micro-batches have 8 rows of 1,050 tokens, for all that a layer
# computes is kept (some 4 MB a token) and logits several times over (300 KB each): 55 GB or so.
STEPS, MICRO_ROWS = 2, 8

Note = Callable[[str, Any], None]


def peers(note: Note, sizes: Sizes, folder: pathlib.Path, python: str | None) -> int:
    """Tokens a second of both, each at two sizes; "beside" says which of our figures is theirs."""
    generating = [f"transformers, {sizes.sampled(limit)}" for limit in sizes.limits]
    training = [f"TRL, {sizes.stepped(limit)}" for limit in sizes.peers_limits]
    planned = [name for pair in zip(generating, training) for name in pair]
    note("planned", planned)
    # A smoke run, which needs no CUDA, plays the peers only where it is asked to.
    asked, python = bool(python), python or sys.executable
    if (sizes is SMOKE and not asked) or not usable(python, sizes):
        for name in planned:
            note(name, ABSENT)
        if asked:
            print(f"gpu.py: {python} lacks torch with CUDA, transformers or trl", file=sys.stderr)
        return int(asked)
    work = gpu_step.prepared(folder, sizes)

    def found(name: str, said: dict[str, Any], *at: str) -> None:
        note(name, {**said, "tokens_per_s": said["tokens"] / said["seconds"], "beside": at})

    def generate(number: int) -> None:
        limit = sizes.limits[number]
        said = worker.ask(call=0, cache="dynamic", limit=limit)
        found(generating[number], said, "sampler", sizes.sampled(limit))

    def train(number: int) -> None:
        limit = sizes.peers_limits[number]
        said = steps(work, folder / f"trl-{limit}", python, limit)
        found(training[number], said[-1], "step", sizes.stepped(sizes.step_limit))

    with contextlib.closing(generator(work, folder, python, sizes)) as worker:
        worker.ask(call=0, cache="dynamic", limit=4)  # makes everything ready
        generate(0)
        train(0)
        generate(1)
    train(1)  # which may need what the other one holds of the GPU
    return 0


def usable(python: str, sizes: Sizes) -> bool:
    """Whether that Python has what the peers need."""
    command = [python, "-c", LOOK, *["--cpu-smoke"] * (sizes is SMOKE)]
    return not subprocess.run(command, capture_output=True).returncode


def generator(
    work: dict[str, Any], folder: pathlib.Path, python: str, sizes: Sizes
) -> turns.Worker:
    """``transformers``, loaded; tokens that no end token cuts short."""
    draw, vocabulary = random.Random(0), work["vocabulary"]
    prompts = [
        [draw.randrange(vocabulary) for _ in range(sizes.prompt)] for _ in range(sizes.prompts)
    ]
    said = {name: work[name] for name in ("model", "samples", "dtype", "limit")}
    file = folder / "generate.json"
    file.write_text(json.dumps({**said, "prompts": [prompts], "end_ids": [vocabulary]}))
    script = str(HERE / "sample_with_transformers.py")
    return turns.Worker("transformers", [python, script, str(file)])


def steps(
    work: dict[str, Any], folder: pathlib.Path, python: str, limit: int
) -> list[dict[str, Any]]:
    """The steps that TRL made."""
    folder.mkdir()
    told = {"limit": limit, "steps": STEPS, "trl_micro_rows": MICRO_ROWS, "out": str(folder)}
    file = folder / "workload.json"
    file.write_text(json.dumps({**work, **told}))
    command = [python, str(HERE / "rl_steps" / "with_trl.py"), str(file)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"seconds"')]
    return [json.loads(line) for line in lines]
