"""Generation alone, beside ``generate`` of ``transformers``: same model, prompts and sizes.

    python benchmarks/sample.py --transformers ENV/bin/python
    python benchmarks/sample.py --workloads 1.5b --dtype bfloat16    # one big GPU

Each sampler runs in a process of its own, and they take turns, call by call; the first ``--skip``
calls of each, which compile, do not count, of the others the median does. From token ids to token
ids and text at temperature 1; ours also gives the log-probabilities that training needs, and makes
its parameters from the learner's each time. Writes JSON, prints a table. Workloads:

* ``capped`` and ``reasoner`` of rl_step.py;
* the shapes of learn.py with random weights, random prompts of ``--prompt`` tokens, and responses
  that nothing ends before ``--limit``.

"bytes a token" is our decode block's cache and temporary memory at its largest, as the compiler
planned it, over the tokens that rows had then, and beside it what a token's keys and values take,
which is more where the samples of a prompt share its slots; for ``transformers`` what torch
allocated beside the weights (on a GPU only). On a GPU the bytes that our steps read, weights and
every slot of the cache, stand beside a measured copy's.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib
import statistics
import sys
import tempfile
from typing import Any

import jax
import learn  # benchmarks/learn.py
import numpy as np
import rl_step  # benchmarks/rl_step.py
import turns  # benchmarks/turns.py

from pruner_jax.policy import handle

HERE = pathlib.Path(__file__).parent
CACHES = ("dynamic", "static", "compiled")


def main() -> None:
    """Prepare the workloads, let the samplers take turns, tell what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    own = sys.executable if importlib.util.find_spec("torch") else None
    parser.add_argument(
        "--transformers", default=own, help="Python of an environment with transformers and torch"
    )
    parser.add_argument("--caches", nargs="+", choices=CACHES, default=list(CACHES[:2]))
    known = [*rl_step.LIMITS, *(name for name in learn.MODELS if name not in rl_step.LIMITS)]
    parser.add_argument("--workloads", nargs="+", choices=known, default=list(rl_step.LIMITS))
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--skip", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=rl_step.PROMPTS)
    parser.add_argument("--samples", type=int, default=rl_step.SAMPLES)
    parser.add_argument("--prompt", type=int, default=256, help="tokens of a random prompt")
    parser.add_argument("--limit", type=int, default=1024, help="tokens of a response to one")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--out", type=pathlib.Path, help="file of the JSON")
    given = parser.parse_args()
    found = {}
    for workload in given.workloads:
        with tempfile.TemporaryDirectory() as folder:
            found[workload] = compare(workload, given, pathlib.Path(folder))
    print(table(found))
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(found, indent=2) + "\n")


# -- what is sampled -------------------------------------------------------------------------------


def prepare(workload: str, given: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """What all samplers are told; writes the model."""
    calls, each = given.calls + given.skip, given.prompts
    said = {"samples": given.samples, "dtype": given.dtype}
    if workload not in rl_step.LIMITS:
        config = learn.MODELS[workload]
        draw = np.random.default_rng(0)
        prompts = draw.integers(0, config.vocab_size, (calls, each, given.prompt)).tolist()
        ends = [config.vocab_size]  # which is no token
        model = learn.write_model(config, folder / "model")
        return said | {"model": model, "prompts": prompts, "limit": given.limit, "end_ids": ends}
    work = rl_step.prepare(workload, folder, calls)
    if calls * each > len(work["tokens"]):
        sys.exit(f"{calls} calls of {each} prompts are more than the {len(work['tokens'])} there")
    prompts = [work["tokens"][i * each : (i + 1) * each] for i in range(calls)]
    return (
        said | {"prompts": prompts} | {name: work[name] for name in ("model", "limit", "end_ids")}
    )


# -- turns -----------------------------------------------------------------------------------------


def compare(workload: str, given: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """The medians of every sampler."""
    work = prepare(workload, given, folder)
    jax.clear_caches()
    file = folder / "workload.json"
    file.write_text(json.dumps(work))
    ours = turns.Worker("ours", [sys.executable, str(HERE / "sample_with_ours.py"), str(file)])
    asked = {"ours": (ours, {})}
    if given.transformers:
        script = str(HERE / "sample_with_transformers.py")
        theirs = turns.Worker("transformers", [given.transformers, script, str(file)])
        asked |= {f"transformers, {c}": (theirs, {"cache": c}) for c in given.caches}
    said: dict[str, list[dict[str, Any]]] = {name: [] for name in asked}
    for call in range(given.calls + given.skip):
        for name, (worker, more) in asked.items():
            said[name].append(worker.ask(call=call, **more))
            print(workload, call, name, round(said[name][-1]["seconds"], 3), file=sys.stderr)
    memory = ours.ask(memory=True)
    for worker in {id(worker): worker for worker, _ in asked.values()}.values():
        worker.close()
    found = {name: medians(calls[given.skip :]) for name, calls in said.items()}
    config = handle.describe(work["model"]).config
    width = 2 if given.dtype == "bfloat16" else 4
    each = 2 * config.layers * config.kv_heads * config.head_width * width
    found["ours"] |= memory | {"keys_and_values": each}
    return found


def medians(calls: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the calls that count."""
    for call in calls:
        call["tokens_per_s"] = call["tokens"] / call["seconds"]
    return {name: statistics.median(call[name] for call in calls) for name in calls[0]}


def table(found: dict[str, Any]) -> str:
    """All workloads, a line each sampler; the ratio is of tokens a second, ours over theirs."""
    lines = [
        "| workload | sampler | s a call | tokens | tokens/s | times ours | bytes a token | read |",
        "|---" * 8 + "|",
    ]
    for workload, samplers in found.items():
        for name, got in samplers.items():
            cells = [workload, name, f"{got['seconds']:.2f}", f"{got['tokens']:,.0f}"]
            cells.append(f"{got['tokens_per_s']:,.0f}")
            cells.append(f"{samplers['ours']['tokens_per_s'] / got['tokens_per_s']:.2f}")
            bytes_ = f"{got['bytes_per_token']:,.0f}" if "bytes_per_token" in got else ""
            each = got.get("keys_and_values")
            cells.append(f"{bytes_} (keys and values {each:,})" if each else bytes_)
            share = got.get("read_of_copy")
            cells.append("" if share is None else f"{share:.0%} of a copy's")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
