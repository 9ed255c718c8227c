"""summary.json: the promised keys, plain types, agreement with the statistics."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from pruner_jax.measure import paired, stats
from pruner_jax.measure.summary import Round, plain, summary, versions


@pytest.fixture
def both(simulated):
    return simulated(0, tokens=60), simulated(1, tokens=25, rate=0.82)


def test_keys_that_are_promised(both):
    found = summary(
        *both,
        rounds=[Round(96, 40, 40, np.float64(0.8), 30.5)],
        seconds={"rollout": 12.5},
        versions=versions(),
        resamples=200,
    )
    for side in ("base", "final"):
        assert {
            "accuracy",
            "mean_tokens",
            "mean_thinking_tokens",
            "median_tokens",
            "truncated",
            "n_problems",
            "samples_per_problem",
        } <= set(found[side])
    for name in ("accuracy_change", "token_ratio", "aes"):
        assert {"value", "low", "high"} <= set(found[name])
    assert (found["aes"]["a"], found["aes"]["b"], found["aes"]["g"]) == (1, 3, 5)
    assert {"limit", "steps", "picked_step", "accuracy", "mean_tokens"} <= set(found["rounds"][0])
    assert found["seconds"] == {"rollout": 12.5}
    assert found["versions"]["numpy"] == np.__version__


def test_it_is_json_and_survives_the_trip(both):
    found = summary(*both, resamples=200)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_numbers_agree_with_the_statistics(both):
    base, final = both
    found = summary(base, final, resamples=500, seed=3)
    direct = paired.paired(base, final, resamples=500, seed=3)
    assert found["token_ratio"]["low"] == direct.token_ratio.low
    assert found["final"]["accuracy"] == stats.accuracy(final)
    change = found["final"]["accuracy"] - found["base"]["accuracy"]
    assert found["accuracy_change"]["value"] == pytest.approx(change)
    drawn = found["curve"]
    assert drawn["base"]["value"][-1] == pytest.approx(found["base"]["accuracy"])
    assert drawn["reach"]["final"] < drawn["reach"]["base"]
    assert drawn["area"]["final"] > drawn["area"]["base"]


def test_what_cannot_be_said_is_null(evaluation):
    one = evaluation([[1], [1]], [[5], [6]])
    found = summary(one, one, resamples=100)
    assert found["base"]["mean_tokens_wrong"] is None
    assert found["base"]["accuracy_on_these"] == {"low": None, "high": None}
    assert found["by_base_accuracy"] == [] and found["adaptation_ratio"]["base"] is None
    json.dumps(found, allow_nan=False)


def test_a_base_that_solves_nothing(evaluation):
    found = summary(
        evaluation([[0, 0], [0, 0]], [[50, 60], [70, 80]]),
        evaluation([[1, 0], [0, 0]], [[5, 6], [7, 8]]),
        resamples=100,
    )
    assert found["aes"]["value"] is None and found["accuracy_change"]["value"] == 0.25


def test_everything_truncated_at_once(evaluation):
    one = evaluation([[0, 0]], [[100, 100]])
    found = summary(one, one, resamples=100)
    assert found["base"]["truncated"] == 1.0 and found["curve"]["area"] == {}


def test_plain_types():
    value = plain({"a": np.float32(0.5), "b": [np.int64(3), math.nan], "c": np.array([True])})
    assert value == {"a": 0.5, "b": [3, None], "c": [True]}
    assert type(value["a"]) is float and type(value["b"][0]) is int and type(value["c"][0]) is bool


def test_the_room_needs_no_accelerator():
    code = (
        "import sys; import pruner_jax.measure.summary, pruner_jax.measure.pick, "
        "pruner_jax.measure.guards; "
        "assert not {'jax', 'flax', 'scipy', 'transformers', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
