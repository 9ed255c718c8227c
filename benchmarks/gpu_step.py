"""Whole steps of ``prune``, on a model of Qwen2.5-1.5B's shape: a part of gpu.py.

    python gpu_step.py FOLDER [--cpu-smoke]       # writes the model, the settings and the workload

Random weights and a coin's rewards, so that every row trains; a KL term, so that there is a
reference. The workload is rl_step.py's, and the model serves the peers too (gpu_peers.py). The run
is the command line's own, in a process of its own; it is ended after the last step that counts,
without the test that would follow. This process, and so whoever imports this, leaves the GPU alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from rl_steps import ours  # benchmarks/rl_steps/ours.py

ROOT = pathlib.Path(__file__).parents[1]
KL = 0.001

Note = Callable[[str, Any], None]


@dataclasses.dataclass(frozen=True)
class Size:
    """How much there is in a step."""

    model: str  # of learn.py
    prompts: int
    limit: int
    dtype: str
    samples: int = 8
    steps: int = 3  # the first one compiles, the last one counts

    def name(self, limit: int | None = None) -> str:
        """For the table."""
        return f"{self.prompts} prompts x {self.samples} x {limit or self.limit} tokens"


SIZE = Size("1.5b", 64, 1024, "bfloat16")
SMOKE = Size("tiny", 2, 16, "float32", steps=2)


def of(smoke: bool) -> Size:
    """The one to play."""
    return SMOKE if smoke else SIZE


def prepared(folder: pathlib.Path, smoke: bool) -> dict[str, Any]:
    """The workload in that folder; written by another process, where it is not there yet."""
    file = folder / "workload.json"
    if not file.exists():
        command = [sys.executable, __file__, str(folder), *["--cpu-smoke"] * smoke]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return json.loads(file.read_text())


def step(note: Note, smoke: bool, left: Callable[[], float], folder: pathlib.Path) -> int:
    """Seconds of a step, in all and by phase; the newest that was made stands."""
    size = of(smoke)
    note("planned", [size.name()])
    work, out = prepared(folder, smoke), folder / "run"
    command = [sys.executable, "-m", "pruner_jax", "prune", work["settings"], f"--out={out}"]
    process = subprocess.Popen(command + settings(size), cwd=ROOT, stdout=sys.stderr)
    made = 0
    while made < size.steps:
        ended = process.poll() is not None  # asked first: what it wrote before is then all there
        records = ours.records(out)
        if len(records) > max(1, made):
            note(size.name(), figures(records[-1], size))
        made = len(records)
        if ended:
            break
        time.sleep(0.2)
    process.kill()  # what would follow is no part of a step
    process.wait()
    return 0 if made >= size.steps else process.returncode or 1


def settings(size: Size) -> list[str]:
    """What differs from rl_step.py's settings."""
    rows = size.prompts * size.samples
    # The start model is measured with as many rows as a step has, so no program is its own.
    measured = f"{{problems: {size.prompts}, samples: {size.samples}, limit: {size.limit // 16}}}"
    return [
        f"--rounds.limits=[{size.limit}]",
        f"--method.options.kl={KL}",
        f"--sample.rows={rows}",
        # 2 sizes of the cache and not 6: fewer to compile, for about a third more to read.
        "--sample.slot_growth=3.0",
        f"--sample.dtype={size.dtype}",
        f"--learn.dtype={size.dtype}",
        f"--problems.options.monitor={size.prompts}",
        f"--monitor={measured}",
    ]


def figures(record: dict[str, Any], size: Size) -> dict[str, Any]:
    """Of the record of a step."""
    found = ours.timed(record, size.prompts * size.samples)
    named = {
        "kl": "kl",
        "compiled": "perf/compiled",
        "sampler against learner": "sampling/sampling_logp_difference/mean",
    }
    return {
        "step": record["step"],
        **found,
        "tokens_per_s": found["tokens"] / found["seconds"],
        "generated_per_s": found["tokens"] / found["generate_seconds"],
        **{name: record.get(key) for name, key in named.items()},
    }


def write(folder: pathlib.Path, size: Size) -> None:
    """The model, and the workload for all packages last."""
    import jax
    import learn  # benchmarks/learn.py
    import rl_step  # benchmarks/rl_step.py

    from pruner_jax.policy import handle, weights

    config, tiny = learn.MODELS[size.model], handle.describe(ROOT / "configs" / "tiny_reasoner")
    params = weights.init(config, jax.random.key(0), size.dtype)
    policy = handle.Policy(config, params, tiny.tokenizer, tiny.generation, tiny.folder)
    model = handle.save(policy, folder / "model")
    work = rl_step.prepare("capped", folder, size.steps, model=model, prompts=size.prompts)
    work |= {"samples": size.samples, "limit": size.limit, "dtype": size.dtype, "kl": KL}
    work["vocabulary"] = config.vocab_size
    (folder / "workload.json").write_text(json.dumps(work))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--cpu-smoke", action="store_true")
    given = parser.parse_args()
    write(given.folder, of(given.cpu_smoke))
