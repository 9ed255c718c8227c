"""Sampler and learner are one model: their log-probabilities at every step, in both precisions."""

import json
import pathlib

import pytest

from pruner_jax.run.prune import prune

REASONER = pathlib.Path(__file__).parents[2] / "configs" / "tiny_reasoner"


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("bfloat16", 2e-2)])
def test_sampler_and_learner_agree_at_every_step(settings, tmp_path, dtype, bound):
    """A trained model: the log-probabilities of a random one are all alike, and so agree."""
    words = [
        f"--model={REASONER}",
        f"--out={tmp_path / 'run'}",
        "--rounds.limits=[64,48]",
        "--rounds.steps=3",
        "--rounds.evaluate_every=3",
        "--monitor.limit=64",
        "--test.limit=64",
        f"--sample.dtype={dtype}",
        f"--learn.dtype={dtype}",
    ]
    prune(settings(*words))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [record for record in map(json.loads, lines) if record["kind"] == "step"]
    assert len(steps) == 6
    assert any(record["grad_norm"] > 0 for record in steps)
    for record in steps:
        mean, most = (record[f"sampling/sampling_logp_difference/{x}"] for x in ("mean", "max"))
        assert 0 < mean < bound and mean <= most
    # The single token that differs most tells the precisions apart.
    most = max(record["sampling/sampling_logp_difference/max"] for record in steps)
    assert (most > 1e-4) == (dtype == "bfloat16")
