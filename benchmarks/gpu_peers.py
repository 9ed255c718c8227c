"""``transformers`` and TRL on the same GPU as ours: a part of gpu.py.

They run in an environment of their own, after our processes have left the GPU. Generation is
``generate`` with its dynamic cache, on random prompts; a step is GRPOTrainer's, on the workload of
gpu_step.py, its weights, reference and optimiser in bfloat16 altogether. Of two sizes each, the
smaller one, whose cache is shorter, is the easier one for these packages; of TRL it stands beside
our larger one too. What fails says so in its own row, and the others are measured all the same. No
JAX here.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import gpu_step  # benchmarks/gpu_step.py
import turns  # benchmarks/turns.py
from gpu_sizes import SMOKE, Sizes  # benchmarks/gpu_sizes.py

HERE = pathlib.Path(__file__).parent
NEEDS = {
    "transformers": ("torch", "transformers"),
    "TRL": ("torch", "transformers", "accelerate", "datasets", "trl"),
}
UNASKED = "not measured (a smoke run has peers only with --peers)"
CUDA = "torch with CUDA"
LOOK = f"""
import importlib.util, json, sys
lacking = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]
if "torch" not in lacking:
    import torch
    lacking += [] if torch.cuda.is_available() else ["{CUDA}"]
print(json.dumps(lacking))
"""
# The newest of TRL's steps counts. Its micro-batches have 8 rows of 1,050 tokens, for all that a
# layer computes is kept (some 4 MB a token) and logits several times over (300 KB each): 55 GB.
STEPS, MICRO_ROWS = 2, 8

Note = Callable[[str, Any], None]


def peers(note: Note, sizes: Sizes, folder: pathlib.Path, python: str | None) -> int:
    """Tokens a second of both, each at two sizes; "beside" says which of our figures is theirs.
    Fails where a row fails, or cannot be measured with the Python that was asked for."""
    sampled = {f"transformers, {sizes.sampled(limit)}": limit for limit in sizes.limits}
    # TRL's larger one first: it has as many tokens as ours.
    trained = {f"TRL, {sizes.stepped(limit)}": limit for limit in sizes.peers_limits[::-1]}
    note("planned", [*sampled, *trained])
    # A smoke run, which needs no CUDA, plays the peers only where it is asked to.
    asked, python = bool(python), python or sys.executable
    absent = lacking(python, sizes) if asked or sizes is not SMOKE else None
    bad = False
    for name, rows in (("transformers", sampled), ("TRL", trained)):
        reason = UNASKED if absent is None else absent[name]
        if reason:
            bad |= asked
            for row in rows:
                note(row, reason)
            rows.clear()
    if sampled or trained:
        work = gpu_step.prepared(folder, sizes)
    if sampled:  # its process leaves the GPU before TRL's come, which may need what it holds
        bad |= generate(note, sizes, generator(work, folder, python, sizes), sampled)
    for name, limit in trained.items():
        with kept_in(note, name) as failures:
            for number, said in enumerate(steps(work, folder / f"trl-{limit}", python, limit)):
                beside = ("step", sizes.stepped(sizes.step_limit))
                note(name, {"step": number + 1, **figures(said, *beside)})
        bad |= bool(failures)
    return int(bad)


def lacking(python: str, sizes: Sizes) -> dict[str, str | None]:
    """Of each peer why that Python cannot play it, if so."""
    command = [python, "-c", LOOK, *NEEDS["TRL"]]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    absent = set(json.loads(done.stdout.splitlines()[-1])) - ({CUDA} if sizes is SMOKE else set())
    reasons = {}
    for peer, needed in NEEDS.items():
        missing = [f"no {name}" for name in (*needed, CUDA) if name in absent]
        reasons[peer] = f"not measured ({', '.join(missing)})" if missing else None
    return reasons


@contextlib.contextmanager
def kept_in(note: Note, name: str) -> Iterator[list[str]]:
    """What fails inside is a row's own; the list has what was said of it."""
    failures: list[str] = []
    try:
        yield failures
    except SystemExit as error:  # of a peer's process; it tells what that said
        print(error, file=sys.stderr)
        failures.append(f"failed: {str(error).strip().splitlines()[-1][:200]}")
        note(name, failures[0])


def figures(said: dict[str, Any], *beside: str) -> dict[str, Any]:
    """Of what a peer did."""
    return {**said, "tokens_per_s": said["tokens"] / said["seconds"], "beside": beside}


def generate(note: Note, sizes: Sizes, worker: turns.Worker, sampled: dict[str, int]) -> bool:
    """Let ``transformers`` generate; whether something failed."""
    bad = False
    with contextlib.closing(worker):
        for number, (name, limit) in enumerate(sampled.items()):
            with kept_in(note, name) as failures:
                if not number:
                    worker.ask(call=0, cache="dynamic", limit=4)  # makes everything ready
                said = worker.ask(call=0, cache="dynamic", limit=limit)
                note(name, figures(said, "sampler", sizes.sampled(limit)))
            bad |= bool(failures)
    return bad


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
) -> Iterator[dict[str, Any]]:
    """The steps of TRL, as they are made. Exits where it fails."""
    folder.mkdir()
    told = {"limit": limit, "steps": STEPS, "trl_micro_rows": MICRO_ROWS, "out": str(folder)}
    file = folder / "workload.json"
    file.write_text(json.dumps({**work, **told}))
    command = [python, str(HERE / "rl_steps" / "with_trl.py"), str(file)]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        with process:
            for line in process.stdout:
                if line.startswith('{"seconds"'):
                    yield json.loads(line)
        if process.returncode:
            errors.seek(0)
            sys.exit(f"TRL failed:\n{errors.read()[-5000:]}")
