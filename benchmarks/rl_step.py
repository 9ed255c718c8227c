"""A whole step of policy-gradient training, beside TRL and Tunix: same model, prompts and sizes.

    python benchmarks/rl_step.py --trl ENV/bin/python --tunix ENV/bin/python

Each package runs in an environment of its own (``pip install trl==1.16.0 transformers==5.23.0
torch==2.13.0``; ``pip install google-tunix==0.1.7 jax``), in a process of its own, and they take
turns ``--turns`` times. The first ``--skip`` steps of each process, which compile, do not count; of
the others the median does. Writes JSON, prints a table. Two workloads:

* ``capped``: a random Qwen2 (854 k parameters: 4 layers, width 128) whose end token is never drawn,
  so that all answers are 128 tokens long: arithmetic alone decides. Rewards are a coin's. The line
  ``products`` is the step's matrix products alone, in our shapes (``rl_steps/products.py``).
* ``reasoner``: configs/tiny_reasoner, whose answers end at very different lengths, up to 112.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import yaml

ROOT = pathlib.Path(__file__).parents[1]
HERE = pathlib.Path(__file__).parent / "rl_steps"
SCRIPTS = {
    "ours": "ours.py",
    "trl": "with_trl.py",
    "tunix": "with_tunix.py",
    "products": "products.py",
}
LIMITS = {"capped": 128, "reasoner": 112}
REWARDS = {"capped": "even", "reasoner": "correct"}
PROMPTS, SAMPLES, LEARNING_RATE = 32, 8, 1e-5

QWEN2 = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}


def main() -> None:
    """Prepare the workloads, let the packages take turns, tell what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--trl", help="Python of TRL's environment")
    parser.add_argument("--tunix", help="Python of Tunix's environment")
    parser.add_argument("--workloads", nargs="+", choices=LIMITS, default=list(LIMITS))
    parser.add_argument("--trl_rows", type=int, default=128, help="rows of TRL's micro-batches")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--skip", type=int, default=3)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, help="file of the JSON")
    given = parser.parse_args()
    pythons = {"ours": sys.executable, "trl": given.trl, "tunix": given.tunix}
    pythons = {name: python for name, python in pythons.items() if python}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for workload in given.workloads:
            work = prepare(workload, pathlib.Path(folder), given.steps)
            work["trl_micro_rows"] = given.trl_rows
            steps: dict[str, list[dict[str, Any]]] = {name: [] for name in pythons}
            for turn in range(given.turns):
                for name, python in pythons.items():
                    if name == "tunix" and workload == "reasoner":
                        continue  # its Llama has no biases
                    said = play(
                        name, python, work, pathlib.Path(folder) / f"{workload}-{name}-{turn}"
                    )
                    steps[name] += said[given.skip :]
                    print(name, [round(step["seconds"], 2) for step in said], file=sys.stderr)
            found[workload] = {name: medians(of) for name, of in steps.items() if of}
            if workload == "capped":  # all rows do the same; elsewhere there is no fixed amount
                (bound,) = play("products", sys.executable, work, pathlib.Path(folder) / "products")
                found[workload]["products"] = bound
    print(table(found))
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")


def prepare(
    workload: str,
    folder: pathlib.Path,
    steps: int,
    *,
    model: pathlib.Path | None = None,
    prompts: int = PROMPTS,
    limit: int | None = None,
) -> dict[str, Any]:
    """What all packages are told; writes our settings, and the model unless it is given."""
    from pruner_jax import text
    from pruner_jax.config import PruneConfig, load
    from pruner_jax.problems.source import load_sets
    from pruner_jax.types import Purpose

    reasoner = ROOT / "configs" / "tiny_reasoner"
    if model is None:
        model = write_model(folder / "model", reasoner) if workload == "capped" else reasoner
    limit = limit or LIMITS[workload]
    measured = {"problems": 8, "samples": 1, "temperature": 1.0, "top_p": 1.0, "limit": limit}
    settings = {
        "out": str(folder / "unused"),
        "model": str(model),
        "problems": {"name": "last_digit", "options": {"train": 2000, "monitor": 8, "test": 8}},
        "method": {"name": "grpo", "options": {"samples": SAMPLES, "kl": 0.0, "entropy": 0.0}},
        "rounds": {
            "limits": [limit],
            "steps": steps,
            "prompts": prompts,
            "evaluate_every": steps,
            "save_every": steps,
            "log_rollouts_every": steps,
        },
        "sample": {"rows": PROMPTS * SAMPLES},
        "optimizer": {"learning_rate": LEARNING_RATE},
        "monitor": measured,
        "test": measured,
        "pick": {"rule": "last"},
        "guards": {"action": "warn"},
    }
    if workload == "capped":
        checker = f"trl:{HERE / 'rewards.py'}:{REWARDS[workload]}"
        settings["verify"] = {"checker": checker, "unfinished_is_wrong": False}
    file = folder / f"{workload}.yaml"
    file.write_text(yaml.safe_dump(settings))
    config = load(PruneConfig, str(file))
    problems = load_sets(config.problems)["train"]
    tokenizer = text.load_tokenizer(model)
    generation = json.loads((model / "generation_config.json").read_text())
    rendered = text.make_prompts(
        tokenizer, problems, config.text, limit=limit, purpose=Purpose.TRAIN, visit_P=0
    )
    return {
        "settings": str(file),
        "model": str(model),
        "prompts": list(rendered.text),
        "tokens": [tokens.tolist() for tokens in rendered.tokens],
        "reward": REWARDS[workload],
        "golds": [problem.answer for problem in problems],
        "prompts_per_step": prompts,
        "samples": SAMPLES,
        "end_ids": text.end_token_ids(tokenizer, generation),
        "limit": limit,
        "steps": steps,
        "learning_rate": LEARNING_RATE,
        "dtype": "float32",
        "seed": 0,
    }


def write_model(folder: pathlib.Path, like: pathlib.Path) -> pathlib.Path:
    """The random model with the tokenizer of another: one entry of the hidden state is always
    large, and the tokens that end an answer have a large negative weight there."""
    import jax
    import numpy as np

    from pruner_jax import text
    from pruner_jax.policy import handle, weights
    from pruner_jax.policy.config import from_hf
    from pruner_jax.policy.handle import Policy

    tokenizer = text.load_tokenizer(like)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = from_hf({**QWEN2, **ids})
    params = weights.init(config, jax.random.key(0), "float32")
    generation = json.loads((like / "generation_config.json").read_text())
    ends = np.array(generation["eos_token_id"])
    params["embed"] = params["embed"].at[:, 0].set(1.0)
    params["unembed"] = params["unembed"].at[ends].set(0.0).at[ends, 0].set(-20.0)
    handle.save(Policy(config, params, tokenizer, generation, like), folder)
    return folder


def play(
    name: str, python: str, work: dict[str, Any], folder: pathlib.Path
) -> list[dict[str, Any]]:
    """The steps of one process of a package."""
    folder.mkdir(parents=True)
    file = folder / "workload.json"
    file.write_text(json.dumps({**work, "out": str(folder / "run")}))
    done = subprocess.run(
        [python, str(HERE / SCRIPTS[name]), str(file)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-5000:]}")
    lines = (line for line in done.stdout.splitlines() if line.startswith('{"seconds"'))
    return [json.loads(line) for line in lines]


def medians(steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the steps that count."""
    found = {
        name: statistics.median(step[name] for step in steps)
        for name in ("seconds", "generate_seconds", "tokens")
    }
    if "parts" in steps[0]:
        found["parts"] = {
            name: statistics.median(step["parts"].get(name, 0.0) for step in steps)
            for name in steps[0]["parts"]
        }
    return found


def table(found: dict[str, Any]) -> str:
    """All workloads, a line each package; ratios are to ours."""
    lines = [
        "| workload | package | s a step | times ours | s generating | times ours | tokens |",
        "|---" * 7 + "|",
    ]
    for workload, packages in found.items():
        ours = packages["ours"]
        for name, got in packages.items():
            cells = [workload, name, f"{got['seconds']:.2f}"]
            cells.append(f"{got['seconds'] / ours['seconds']:.2f}")
            cells.append(f"{got['generate_seconds']:.2f}")
            cells.append(f"{got['generate_seconds'] / ours['generate_seconds']:.2f}")
            cells.append(f"{got['tokens']:,.0f}")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
