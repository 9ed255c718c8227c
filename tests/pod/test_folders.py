"""Several processes read of a folder what each holds, and write it as one would."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import processes
import pytest

from pruner_jax.policy.config import from_hf
from pruner_jax.policy.handle import Policy, load, save
from pruner_jax.policy.weights import abstract

CONFIG = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 128,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A folder of random float32 weights."""
    config = from_hf(CONFIG)
    draw = np.random.default_rng(0).standard_normal
    params = jax.tree.map(lambda x: draw(x.shape, np.float32), abstract(config, np.float32))
    return save(Policy(config, params, None), tmp_path_factory.mktemp("model") / "model")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_processes_read_their_slices_and_write_one_folder(model, tmp_path):
    outs = processes.run(
        [Path(__file__).with_name("folders.py"), model, tmp_path], 2, tmp_path / "logs", devices=2
    )
    first, second = ([line.split(" ", 1) for line in out.splitlines()] for out in outs)
    assert [name for name, _ in first[:3]] == ["fsdp", "tensor", "replicas"]
    # Half of what is split over both; norms of heads are whole everywhere. Replicas are whole.
    shares = [[float(share) for _, share in found[:3]] for found in (first, second)]
    assert shares[0] == shares[1] == [pytest.approx(0.5, abs=0.001)] * 2 + [1.0]
    alone = load(model)
    half = contents(save(alone, tmp_path / "alone", dtype="bfloat16"))
    for name in ("fsdp", "tensor", "replicas"):
        assert contents(tmp_path / name) == contents(model)
        assert contents(tmp_path / f"{name}_half") == half
    assert first[3][0] == "ValueError" and "thesis.txt, which is no part" in first[3][1]
    assert second[3] == ["PodError", f"process 0 failed: ValueError: {first[3][1]}"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]
    assert first[4][0] == "OSError" and "nothing left behind" in first[4][1]  # full on the way
    assert second[4] == ["PodError", f"process 0 failed: OSError: {first[4][1]}"]
    assert not (tmp_path / "broken").exists() and not list(
        tmp_path.glob(".*")
    )  # nothing half-written
    says = "tensor = 4, but process 0 has 2 devices"
    assert says in " ".join(first[5]) and says in " ".join(second[5])
