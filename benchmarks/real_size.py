"""Two complete steps at a real size on a CPU: peak memory of the whole program, and its seconds.

    python benchmarks/real_size.py

Writes a randomly initialised folder of Qwen2.5-0.5B shape (hidden 896, 24 layers, 14 heads over 2
key/value heads, vocabulary 151,936; tied) with the testbed's tokenizer, runs ``prune`` on it for
two steps (rollout, verify, learn, save) of 2 prompts x 2 samples x 32 tokens in a process of its
own, and prints the peak of its resident memory as JSON, with the seconds of the second step by
phase; ``save`` are those in which it stood still for the checkpoint of the first, which is written
in the background. The promise is to stay under 14 GB.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

LIMIT_GB = 14.0

ARCHITECTURE = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}

SETTINGS = (
    "--problems.name=last_digit",
    "--problems.options.train=16",
    "--problems.options.monitor=2",
    "--problems.options.test=2",
    "--rounds.limits=[32]",
    "--rounds.steps=2",
    "--rounds.prompts=2",
    "--rounds.evaluate_every=2",
    "--rounds.save_every=1",
    "--method.name=thinkprune",
    "--method.options.samples=2",
    "--sample.rows=4",
    "--monitor.samples=2",
    "--monitor.temperature=1.0",
    "--monitor.top_p=1.0",
    "--test.samples=2",
    "--test.temperature=1.0",
    "--test.top_p=1.0",
    "--pick.tolerance=0.99",
    "--guards.action=warn",
    "--verify.workers=1",
)


def write_model(folder: pathlib.Path) -> None:
    """The folder, in bfloat16."""
    import jax

    from pruner_jax import text
    from pruner_jax.policy import handle, weights
    from pruner_jax.policy.config import from_hf
    from pruner_jax.policy.handle import Policy
    from pruner_jax.problems import last_digit

    last_digit.write_tokenizer(folder / "tokenizer")
    generation = json.loads((folder / "tokenizer" / "generation_config.json").read_text())
    tokenizer = text.load_tokenizer(folder / "tokenizer")
    config = from_hf({**ARCHITECTURE, "eos_token_id": tokenizer.eos_token_id})
    params = weights.init(config, jax.random.key(0), "bfloat16")
    policy = Policy(config, params, tokenizer, generation, folder / "tokenizer")
    handle.save(policy, folder / "model")


def main() -> int:
    """Write the model, run two steps, print the peak."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--write", help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args()
    if options.write:
        write_model(pathlib.Path(options.write))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "--write", folder], check=True)
        began = time.perf_counter()
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        command = [sys.executable, "-m", "pruner_jax", "prune", *SETTINGS, *overrides]
        command += [f"--model={folder}/model", f"--out={folder}/run"]
        subprocess.run(command, check=True)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
        assert peak > before * 1024 / 1e9, "the model was larger than the run"
        lines = pathlib.Path(folder, "run", "metrics.jsonl").read_text().splitlines()
        steps = map(json.loads, lines)
        second = [record for record in steps if record["kind"] == "step"][1]
        found = {
            "peak_gb": round(peak, 2),
            "limit_gb": LIMIT_GB,
            "seconds": round(time.perf_counter() - began, 1),
            "step_seconds": {
                name.removeprefix("time/"): round(value, 2)
                for name, value in second.items()
                if name.startswith("time/")
            },
        }
    print(json.dumps(found))
    return 0 if peak < LIMIT_GB else 1


if __name__ == "__main__":
    sys.exit(main())
