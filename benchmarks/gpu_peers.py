"""``transformers`` and TRL on the same GPU as ours: a part of gpu.py.

They run in an environment of their own, after our processes have left the GPU. Generation is
``generate`` with its dynamic cache, on random prompts; a step is GRPOTrainer's, on the workload of
gpu_step.py, its weights and optimiser in bfloat16 altogether. Sizes go up while there is time: the
smaller ones, whose cache is shorter, are the easier ones for these packages. No JAX here.
"""

from __future__ import annotations

import json
import pathlib
import random
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import gpu_step  # benchmarks/gpu_step.py
import turns  # benchmarks/turns.py

HERE = pathlib.Path(__file__).parent
ABSENT = "not measured (no torch with CUDA)"
LOOK = """
import sys, torch, transformers, trl
sys.exit(not ("--cpu-smoke" in sys.argv or torch.cuda.is_available()))
"""
STEPS, MICRO_ROWS = 2, 16  # of TRL; the last step counts

Note = Callable[[str, Any], None]


def peers(
    note: Note, smoke: bool, left: Callable[[], float], folder: pathlib.Path, python: str | None
) -> int:
    """Tokens a second of both, each at two sizes; "beside" says which of our figures is theirs."""
    size, (prompts, prompt) = gpu_step.of(smoke), (4, 17) if smoke else (32, 256)
    rungs = []
    for drawn, limit in ((16, 8), (32, 16)) if smoke else ((128, 256), (1024, 1024)):
        name = f"{prompts} prompts x 8, {prompt} + {drawn} tokens"  # as in gpu_speed.py
        rungs.append((f"transformers, {name}", drawn, ("sampler", name)))
        rungs.append((f"TRL, {size.name(limit)}", limit, ("step", size.name())))
    note("planned", [name for name, *_ in rungs])
    # A smoke run, which needs no CUDA, plays the peers only where it is asked to.
    if (smoke and not python) or not usable(python or sys.executable, smoke):
        for name, *_ in rungs:
            note(name, ABSENT)
        if python:
            print(f"gpu.py: {python} lacks torch with CUDA, transformers or trl", file=sys.stderr)
        return 1 if python else 0
    work, python = gpu_step.prepared(folder, smoke), python or sys.executable
    worker = generator(work, folder, python, prompts, prompt)
    worker.ask(call=0, cache="dynamic", limit=4)  # its first call makes everything ready
    took: dict[str, float] = {}  # seconds a token of a response, by package
    for name, limit, at in rungs:
        package, began = at[0], time.monotonic()
        if took.get(package, 0.0) * limit > left():
            continue
        if package == "sampler":
            said = [worker.ask(call=0, cache="dynamic", limit=limit)]
        else:
            said = train(work, folder / f"trl-{limit}", python, limit)
        rate = said[-1]["tokens"] / said[-1]["seconds"]
        note(name, {**said[-1], "tokens_per_s": rate, "beside": at})
        took[package] = (time.monotonic() - began) / limit
    worker.close()
    return 0


def usable(python: str, smoke: bool) -> bool:
    """Whether that Python has what the peers need."""
    command = [python, "-c", LOOK, *["--cpu-smoke"] * smoke]
    return not subprocess.run(command, capture_output=True).returncode


def generator(
    work: dict[str, Any], folder: pathlib.Path, python: str, prompts: int, prompt: int
) -> turns.Worker:
    """``transformers``, loaded; tokens that no end token cuts short."""
    draw, vocabulary = random.Random(0), work["vocabulary"]
    tokens = [[draw.randrange(vocabulary) for _ in range(prompt)] for _ in range(prompts)]
    said = {name: work[name] for name in ("model", "samples", "dtype", "limit")}
    file = folder / "generate.json"
    file.write_text(json.dumps({**said, "prompts": [tokens], "end_ids": [vocabulary]}))
    script = str(HERE / "sample_with_transformers.py")
    return turns.Worker("transformers", [python, script, str(file)])


def train(
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
