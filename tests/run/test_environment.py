"""The noisy testbed in a real run: its tokens are there, in every set, and they do not train."""

import numpy as np

from pruner_jax.problems import last_digit
from pruner_jax.run.environment import environment
from pruner_jax.run.prune import prune
from pruner_jax.store.records import read_rollouts
from pruner_jax.types import Origin


def test_noise_is_written_into_training_and_measurements(settings, tmp_path):
    out = tmp_path / "run"
    prune(settings(f"--out={out}", "--problems.options.noise=0.5", "--rounds.limits=[24]"))
    values = set(last_digit.noise_rule(last_digit.Options(noise=0.5)).values)
    seen = set()
    for path in (out / "rollouts").iterdir():
        columns = read_rollouts(path, ["purpose", "tokens", "origin", "logp"])
        for purpose, *row in zip(*columns.values()):
            tokens, origin, logp = map(np.array, row)
            noise = origin == Origin.FORCED
            assert set(tokens[noise]) <= values
            assert np.isfinite(logp).all()  # the policy's own, for the comparison with the learner
            seen |= {purpose} if noise.any() else set()
    assert seen == {"train", "monitor", "test"}


def test_a_source_without_noise_has_no_environment(settings):
    assert environment(settings("--out=x").problems, ((1,),)) is None
