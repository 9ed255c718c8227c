"""Steps of ``pruner-jax prune`` on a workload of rl_step.py.

    python ours.py workload.json

Prints a JSON line for each step: its seconds, those of generation, and the tokens generated, from
the metrics of a whole run: answers checked by the worker pool, guards, records. Seconds are those
by the clock, from step to step; "parts" are those of the phases.
"""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import pruner_jax


def main() -> None:
    """Run as many steps as the workload says."""
    work = json.loads(pathlib.Path(sys.argv[1]).read_text())
    pruner_jax.prune(work["settings"], out=work["out"])
    rows = work["prompts_per_step"] * work["samples"]
    for record in records(pathlib.Path(work["out"])):
        print(json.dumps(timed(record, rows)), flush=True)


def records(out: pathlib.Path) -> list[dict[str, Any]]:
    """What a run, which may still be at it, has written down of its steps."""
    path = out / "metrics.jsonl"
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
    lines = map(json.loads, whole.splitlines())
    return [record for record in lines if record["kind"] == "step"]


def timed(record: dict[str, Any], rows: int) -> dict[str, Any]:
    """The figures of a step of so many rows; "seconds" from one record to the next, as of peers."""
    parts = {k[5:]: v for k, v in record.items() if k.startswith("time/")}
    return {
        "seconds": record["perf/wall_seconds"],
        "generate_seconds": parts["rollout"],
        "tokens": round(record["completions/mean_length"] * rows),
        "parts": parts,
    }


if __name__ == "__main__":
    main()
