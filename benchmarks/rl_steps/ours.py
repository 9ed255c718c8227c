"""Steps of ``pruner-jax prune`` on a workload of rl_step.py.

    python ours.py workload.json

Prints a JSON line for each step: its seconds, those of generation, and the tokens generated, from
the metrics of a whole run: answers checked by the worker pool, guards, records.
"""

from __future__ import annotations

import json
import pathlib
import sys

import pruner_jax


def main() -> None:
    """Run as many steps as the workload says."""
    work = json.loads(pathlib.Path(sys.argv[1]).read_text())
    pruner_jax.prune(work["settings"], out=work["out"])
    rows = work["prompts_per_step"] * work["samples"]
    for line in (pathlib.Path(work["out"]) / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["kind"] == "step":
            parts = {k[5:]: v for k, v in record.items() if k.startswith("time/")}
            found = {
                "seconds": sum(parts.values()),
                "generate_seconds": parts["rollout"],
                "tokens": round(record["completions/mean_length"] * rows),
                "parts": parts,
            }
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
