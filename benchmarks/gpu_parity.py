"""Whether a GPU gives what the CPU gives: one part of gpu.py, which says what is compared."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from gpu_targets import LOGITS  # benchmarks/gpu_targets.py

import pruner_jax as pj
from pruner_jax.policy import handle
from pruner_jax.problems.options import ProblemsOptions
from pruner_jax.problems.source import load_problems
from pruner_jax.sample.options import SampleOptions

MODEL = pathlib.Path(__file__).parents[1] / "configs" / "tiny_reasoner"
PRECISIONS = {"full precision": "highest", "the device's own precision": None}


def compare(note: Callable[[str, Any], None], smoke: bool) -> int:
    """The same on both backends of this process?"""
    note("planned", [*PRECISIONS])
    policy = handle.load(MODEL, "float32")
    sizes = {"train": 8, "monitor": 2, "test": 2 if smoke else 64}
    problems = load_problems(ProblemsOptions(name="last_digit", options=sizes), "test")
    questions = [problem.question for problem in problems]
    limit = 24 if smoke else 112
    ours = responses(policy, questions, limit, jax.devices("cpu")[0])
    kept = {}
    for name, precision in PRECISIONS.items():
        with jax.default_matmul_precision(precision):
            theirs = responses(policy, questions, limit, jax.devices()[0])
        error = np.abs(theirs["logits"] - ours["logits"]).max() / np.abs(ours["logits"]).max()
        same = {key: equal_rows(ours[key], theirs[key]) for key in ("greedy", "drawn")}
        share = min(same.values()) / len(questions)
        figures = {"logits": float(error), "rows": len(questions), "equal rows": same}
        note(name, figures | {"equal share": share})
        kept[name] = bool(error < LOGITS) and share == 1
    note("kept", {**kept, "tolerance": LOGITS})
    return 0 if kept["full precision"] else 1


def responses(policy: pj.Policy, questions: list[str], limit: int, device: jax.Device) -> dict:
    """Logits of random tokens, and responses, greedy and drawn with one seed, on that device."""
    there = dataclasses.replace(policy, params=jax.device_put(policy.params, device))
    tokens_BT = np.random.default_rng(0).integers(0, policy.config.vocab_size, (8, 96))
    # One shape of batch and cache, for compiling takes longer than all the rest.
    options = SampleOptions(dtype="float32", rows=8, refill=1.0, slot_multiple=256)
    shared = {"max_tokens": limit, "options": options, "seed": 7}
    with jax.default_device(device):
        return {
            "logits": np.asarray(pj.logits(there, tokens_BT)),
            "greedy": pj.generate(there, questions, temperature=0.0, **shared),
            "drawn": pj.generate(there, questions, temperature=1.0, **shared),
        }


def equal_rows(one: Any, other: Any) -> int:
    """How many responses are the same tokens."""
    return sum(
        a[:m].tolist() == b[:n].tolist()
        for a, m, b, n in zip(one.tokens_BT, one.length_B, other.tokens_BT, other.length_B)
    )
