"""Whole steps of ``prune``, on a model of Qwen2.5-1.5B's shape: a part of gpu.py.

    python gpu_step.py FOLDER [--cpu-smoke]       # writes the model, the settings and the workload

Random weights; a coin's rewards and a KL term, so that every row trains and there is a reference.
The workload is rl_step.py's, and the model serves the peers too (gpu_peers.py). The run is the
command line's own, in a process of its own; it is ended after the last step that counts, without
the test that would follow. This process, and so whoever imports this, leaves the GPU alone.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import gpu_sizes  # benchmarks/gpu_sizes.py
from gpu_sizes import Sizes
from rl_steps import ours  # benchmarks/rl_steps/ours.py

ROOT = pathlib.Path(__file__).parents[1]
KL = 0.001

Note = Callable[[str, Any], None]


def step(note: Note, sizes: Sizes, folder: pathlib.Path) -> int:
    """Seconds of a step, by the clock and by phase; the newest that was made stands."""
    name, out = sizes.stepped(sizes.step_limit), folder / "run"
    note("planned", [name])
    work = prepared(folder, sizes)
    command = [sys.executable, "-m", "pruner_jax", "prune", work["settings"], f"--out={out}"]
    process = subprocess.Popen(command + settings(sizes), cwd=ROOT, stdout=sys.stderr)
    made = 0
    while made < sizes.steps:
        ended = process.poll() is not None  # asked first: what it wrote before is then all there
        records = ours.records(out)
        if len(records) > max(1, made):
            note(name, figures(records[-1], sizes))
        made = len(records)
        if ended:
            break
        time.sleep(0.2)
    process.kill()  # what would follow is no part of a step
    process.wait()
    return 0 if made >= sizes.steps else process.returncode or 1


def prepared(folder: pathlib.Path, sizes: Sizes) -> dict[str, Any]:
    """The workload in that folder; written by another process, where it is not there yet."""
    file = folder / "workload.json"
    if not file.exists():
        smoke = ["--cpu-smoke"] * (sizes is gpu_sizes.SMOKE)
        command = [sys.executable, __file__, str(folder), *smoke]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return json.loads(file.read_text())


def forced(sizes: Sizes) -> dict[str, int]:
    """Settings that a run chooses by itself otherwise; they stand beside the figures."""
    return {
        # 2 sizes of the cache and not 7: fewer to compile, for a third more of it to read. A block
        # is as long as what the start writes to compare sampler and learner: there it is 1.
        "sample.slot_multiple": sizes.step_slots,
        "sample.block": 64,
        # As chosen for rows that all reach the limit, also where some end sooner: one program.
        "learn.row_tokens": sizes.step_row,
    }


def settings(sizes: Sizes) -> list[str]:
    """What differs from rl_step.py's settings."""
    rows = sizes.step_prompts * sizes.samples
    # The start model is measured with as many rows as a step has, so no program is its own.
    measured = f"problems: {sizes.step_prompts}, samples: {sizes.samples}"
    return [
        f"--rounds.limits=[{sizes.step_limit}]",
        f"--method.options.kl={KL}",
        f"--sample.rows={rows}",
        *(f"--{name}={value}" for name, value in forced(sizes).items()),
        f"--sample.dtype={sizes.dtype}",
        f"--learn.dtype={sizes.dtype}",
        f"--problems.options.monitor={sizes.step_prompts}",
        f"--monitor={{{measured}, limit: {sizes.step_limit // 16}}}",
    ]


def figures(record: dict[str, Any], sizes: Sizes) -> dict[str, Any]:
    """Of the record of a step."""
    found = ours.timed(record, sizes.step_prompts * sizes.samples)
    named = {
        "kl": "kl",
        "compiled": "perf/compiled",
        "slots": "perf/sample_slots",
        "sampler against learner": "sampling/sampling_logp_difference/mean",
    }
    return {
        "step": record["step"],
        **found,
        "tokens_per_s": found["tokens"] / found["seconds"],
        "generated_per_s": found["tokens"] / found["generate_seconds"],
        **{name: record[key] for name, key in named.items()},
        "settings": forced(sizes),
    }


def device(sizes: Sizes) -> Any:
    """JAX's GPU, or what there is for a smoke run; its programs are kept on disk, so that a second
    run has more time to measure. Exits where there is no GPU."""
    import jax

    from pruner_jax.run.compilation import keep_compiled_programs

    keep_compiled_programs()
    found = jax.devices()[0]
    if sizes is not gpu_sizes.SMOKE and found.platform != "gpu":
        sys.exit(f"gpu.py: no GPU here, only {found.device_kind}; --cpu-smoke")
    return found


def write(folder: pathlib.Path, sizes: Sizes) -> None:
    """The model, and the workload for all packages last."""
    import jax
    import learn  # benchmarks/learn.py
    import rl_step  # benchmarks/rl_step.py

    from pruner_jax.policy import handle, weights

    device(sizes)
    config, tiny = learn.MODELS[sizes.model], handle.describe(ROOT / "configs" / "tiny_reasoner")
    params = weights.init(config, jax.random.key(0), sizes.dtype)
    policy = handle.Policy(config, params, tiny.tokenizer, tiny.generation, tiny.folder)
    model = handle.save(policy, folder / "model")
    work = rl_step.prepare("capped", folder, sizes.steps, model=model, prompts=sizes.step_prompts)
    work |= {"samples": sizes.samples, "limit": sizes.step_limit, "dtype": sizes.dtype, "kl": KL}
    work["vocabulary"] = config.vocab_size
    (folder / "workload.json").write_text(json.dumps(work))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--cpu-smoke", action="store_true")
    given = parser.parse_args()
    write(given.folder, gpu_sizes.of(given.cpu_smoke))
