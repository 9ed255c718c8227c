"""How fast an update is, and how much memory it takes, for several ways to run it.

    python benchmarks/learn.py                                   # the tiny model, on any machine
    python benchmarks/learn.py --micro_tokens 512 2048 4096 --unrolled_layers 0 4
    python benchmarks/learn.py --model 1.5b --rows 64 --mean 1500 --remat dots full   # one big GPU
    python benchmarks/learn.py --model capped --mean 128 --spread 0 --torch ENV/bin/python

Random weights, random rows (normal lengths), policy gradient over all of them: one update as
``learn`` runs it. Every combination of the settings is compiled first, then they take turns, so
that a machine that slows down slows all of them; the median counts. Each has a state of its own, so
memory bounds how many. One JSON line each.

With ``--torch`` a plain torch step (learn_with_torch.py) takes its turns too, in a process of its
own: same weights, rows, loss, clipping and AdamW, several sizes of its micro-batches, rows as they
come and sorted by length. A last line has the fastest of either side and the ratio. Loss and norm
of the gradient are of each line's first update; those of the first torch line, which begins with
our weights, must be ours. (The others go on from where it left the weights.)
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import tempfile
import time

import jax
import numpy as np
import rl_step  # benchmarks/rl_step.py
import turns  # benchmarks/turns.py

from pruner_jax.learn import pack, step
from pruner_jax.learn.optimizer import make_optimizer
from pruner_jax.learn.options import LearnOptions, OptimizerOptions
from pruner_jax.learn.rows import Rows
from pruner_jax.mesh import make_mesh
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.policy import handle, weights
from pruner_jax.policy.config import ModelConfig, from_hf
from pruner_jax.run import processors

SHAPES = {
    "tiny": {
        "model_type": "qwen3", "vocab_size": 128, "hidden_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24,
        "intermediate_size": 256, "max_position_embeddings": 512, "rope_theta": 1e4,
        "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": True,
    },
    "capped": rl_step.QWEN2,
    "1.5b": {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 1536, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "intermediate_size": 8960,
        "max_position_embeddings": 32768, "rope_theta": 1e6, "rms_norm_eps": 1e-6,
        "hidden_act": "silu", "tie_word_embeddings": True,
    },
}  # fmt: skip
RATE = 1e-6
MODELS = {name: from_hf(shape) for name, shape in SHAPES.items()}
SETTINGS = (
    "micro_tokens",
    "row_tokens",
    "logp_chunk",
    "unrolled_layers",
    "remat",
    "dtype",
    "attention",
)


def main() -> None:
    """Read the settings, compile all combinations, let them take turns."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="tiny")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--prompt", type=int, default=12, help="tokens of a prompt")
    parser.add_argument("--mean", type=float, default=45, help="mean tokens of a response")
    parser.add_argument("--spread", type=float, default=0.25, help="their deviation over the mean")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--torch", help="Python of an environment with transformers and torch")
    parser.add_argument("--torch_rows", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    for name in SETTINGS:
        kind = str if name in ("remat", "dtype", "attention") else int
        parser.add_argument(f"--{name}", type=kind, nargs="+", default=[None])
    args = parser.parse_args()
    config = MODELS[args.model]
    if args.model != "1.5b":
        processors.make(processors.available())  # as a run has them
    rows = random_rows(args, config.vocab_size)
    chosen = itertools.product(*(getattr(args, name) for name in SETTINGS))
    runs = [Run(config, rows, dict(zip(SETTINGS, values))) for values in chosen]
    theirs = torch_runs(args, config, rows, runs[0].options.dtype) if args.torch else []
    for _ in range(args.rounds):
        for run in runs + theirs:
            run.update()
    found = [run.result(rows) for run in runs + theirs]
    for result in found:
        print(json.dumps(result), flush=True)
    if theirs:
        ours, torch = (
            min(some, key=lambda result: result["ms"])
            for some in (found[: len(runs)], found[len(runs) :])
        )
        ratio = round(torch["ms"] / ours["ms"], 2)
        print(json.dumps({"ours": ours, "torch": torch, "times ours": ratio}))
        theirs[0].worker.close()


def random_params(config: ModelConfig) -> dict:
    """Float32 weights, as the learner keeps them."""
    return weights.init(config, jax.random.key(0), "float32")


def write_model(config: ModelConfig, folder: pathlib.Path) -> str:
    """Those weights in Hugging Face format, with the tokenizer of the tiny reasoner, which knows
    only the first few of the tokens."""
    tiny = handle.describe(rl_step.ROOT / "configs" / "tiny_reasoner")
    params = random_params(config)
    policy = handle.Policy(config, params, tiny.tokenizer, tiny.generation, tiny.folder)
    return str(handle.save(policy, folder))


def random_rows(args: argparse.Namespace, vocabulary: int) -> Rows:
    """Rows with normal response lengths, cut off at twice the mean."""
    draw = np.random.default_rng(0)
    length_B = draw.normal(args.mean, args.spread * args.mean, args.rows)
    length_B = np.clip(length_B, 1, 2 * args.mean).astype(int)
    inside = np.arange(length_B.max()) < length_B[:, None]
    return Rows(
        prompt=tuple(draw.integers(0, vocabulary, args.prompt) for _ in length_B),
        response=tuple(draw.integers(0, vocabulary, n) for n in length_B),
        train_BT=inside,
        weight_BT=np.broadcast_to(draw.normal(size=(args.rows, 1)), inside.shape),
        old_logp_BT=np.full(inside.shape, -np.log(vocabulary), np.float32),
    )


class Run:
    """One combination: its program, its state and its times."""

    def __init__(self, config: ModelConfig, rows: Rows, settings: dict) -> None:
        said = {name: value for name, value in settings.items() if value is not None}
        options = LearnOptions(**said).resolve(jax.default_backend())
        spec, mesh = LossSpec(), make_mesh()
        optimizer = make_optimizer(OptimizerOptions(), config)
        update = step.make_update(config, spec, options, optimizer, mesh)
        self.sizes = pack.plan(rows, spec, options, shards=step.row_shards(mesh))
        batch, _ = pack.pack(rows, spec, self.sizes)
        self.slots = int(batch.steps) * self.sizes.rows * self.sizes.tokens
        self.batch = step.to_devices(batch, mesh)
        params = random_params(config)
        self.state = step.init_state(params, config, optimizer, mesh)
        del params
        start = time.perf_counter()
        self.program = update.lower(self.state, self.batch, RATE).compile()
        self.compile_s = time.perf_counter() - start
        self.settings, self.options, self.times = said, options, []
        first = self.update()
        self.first = {name: float(first[name]) for name in ("loss", "grad_norm")}
        self.times.clear()

    def update(self) -> dict:
        """One update, timed."""
        start = time.perf_counter()
        self.state, metrics = self.program(self.state, self.batch, RATE)
        jax.block_until_ready((self.state, metrics))
        self.times.append(time.perf_counter() - start)
        return metrics

    def result(self, rows: Rows) -> dict:
        """What is printed."""
        median, tokens = float(np.median(self.times)), int(pack.used(rows).sum())
        return {
            **self.settings,
            "T": self.sizes.tokens,
            "R": self.sizes.rows,
            "filled": round(tokens / self.slots, 3),
            "ms": round(median * 1e3, 1),
            "tokens_per_s": round(tokens / median),
            "temporary_MB": round(self.program.memory_analysis().temp_size_in_bytes / 1e6),
            "compile_s": round(self.compile_s, 1),
            **self.first,
        }


class TorchRun:
    """One way to cut the micro-batches of the torch step; all ways share its model."""

    def __init__(self, worker: turns.Worker, settings: dict) -> None:
        self.worker, self.settings, self.times = worker, settings, []
        self.first = worker.ask(**settings)

    def update(self) -> None:
        """One update, timed over there."""
        self.times.append(self.worker.ask(**self.settings)["seconds"])

    def result(self, rows: Rows) -> dict:
        """What is printed."""
        median, tokens = float(np.median(self.times)), int(pack.used(rows).sum())
        return {
            **{f"torch_{name}": value for name, value in self.settings.items()},
            "ms": round(median * 1e3, 1),
            "tokens_per_s": round(tokens / median),
            **{name: self.first[name] for name in ("loss", "grad_norm")},
        }


def torch_runs(
    args: argparse.Namespace, config: ModelConfig, rows: Rows, dtype: str
) -> list[TorchRun]:
    """Every way to run the torch step, in one process that has read all it needs."""
    optimizer, spec = OptimizerOptions(), LossSpec()
    with tempfile.TemporaryDirectory() as folder:
        work = {
            "model": write_model(config, pathlib.Path(folder) / "model"),
            "prompt": [tokens.tolist() for tokens in rows.prompt],
            "response": [tokens.tolist() for tokens in rows.response],
            "weight": rows.weight_BT[:, 0].tolist(),
            "old_logp": float(rows.old_logp_BT[0, 0]),
            "clip": [1 - spec.clip_low, 1 + spec.clip_high],
            "learning_rate": RATE,
            "betas": [optimizer.beta1, optimizer.beta2],
            "eps": optimizer.eps,
            "weight_decay": optimizer.weight_decay,
            "grad_clip": optimizer.grad_clip,
            "dtype": dtype,
        }
        file = pathlib.Path(folder) / "workload.json"
        file.write_text(json.dumps(work))
        script = pathlib.Path(__file__).parent / "learn_with_torch.py"
        worker = turns.Worker("torch", [args.torch, str(script), str(file)])
        sizes = sorted({min(size, len(rows)) for size in args.torch_rows})
        ways = itertools.product(sizes, (False, True))
        return [TorchRun(worker, {"rows": size, "sorted": by}) for size, by in ways]


if __name__ == "__main__":
    main()
