"""Logits against golden files that transformers made (see make_golden.py); needs no torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from pruner_jax.policy.config import from_hf
from pruner_jax.policy.handle import Policy, logits

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.npz"))


def test_every_tiny_model_has_a_golden_file():
    assert [path.stem for path in GOLDEN] == sorted(tiny.CONFIGS)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_logits_agree_with_transformers(path):
    golden = np.load(path)
    raw = json.loads(str(golden["config"]))
    assert raw == tiny.CONFIGS[path.stem]
    config = from_hf(raw)
    found = logits(Policy(config, tiny.params(config), None), golden["tokens"])
    assert tiny.relative(found, golden["logits"]) < 1e-5


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("qwen2_window", {"sliding_window": 6}),
        ("qwen2_layer_types", {"layer_types": ["full_attention"] * 3}),
        ("qwen2_yarn", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
        ("llama3", {"rope_scaling": None}),
        ("llama_linear", {"rope_scaling": {"type": "linear", "factor": 2.6}}),
        ("mistral", {"sliding_window": 7}),
        ("qwen3", {"rms_norm_eps": 1e-2}),
    ],
)
def test_the_golden_files_feel_each_odd_field(name, change):
    golden = np.load(Path(__file__).parent / "golden" / f"{name}.npz")
    config = from_hf(tiny.CONFIGS[name] | change)
    found = logits(Policy(config, tiny.params(config), None), golden["tokens"])
    assert tiny.relative(found, golden["logits"]) > 1e-4
