"""Two models as one: statistics and costs by hand, then the verbs and a run with an expander."""

import json

import numpy as np
import pytest
from test_prune import Died, at_visit, die, left_behind

from pruner_jax import cli
from pruner_jax.measure.options import EvaluateOptions
from pruner_jax.run import joint, second
from pruner_jax.run.prune import prune
from pruner_jax.run.second import Second
from pruner_jax.sample.second import ServingOptions
from pruner_jax.text import TextOptions, split_thought

FAST = EvaluateOptions(resamples=200)


def pair(accuracy=(1.0, 0.5), chain=(30.0, 50.0), **others):
    """A pipeline on two problems."""
    columns = {
        "accuracy_P": accuracy,
        "chain_tokens_P": chain,
        "answer_tokens_P": (4.0, 6.0),
        "leak_P": (1.0, 0.0),
        "masked_P": (1.0, 0.5),
        "bare_P": (0.0, 0.25),
        "alone_P": (1.0, 1.0),
        "alone_tokens_P": (60.0, 100.0),
        **others,
    }
    arrays = {name: np.array(column) for name, column in columns.items()}
    return joint.Joint(**arrays, large_read=20.0, expander_read=60.0)


def test_the_numbers_of_a_pipeline():
    found = joint.describe(pair(), FAST, seed=0)
    assert {name: part["value"] for name, part in found.items()} == {
        "accuracy": 0.75,
        "change": -0.25,
        "chain_tokens": 40.0,
        "answer_tokens": 5.0,
        "large_alone_accuracy": 1.0,
        "large_alone_tokens": 80.0,
        "expander_alone_accuracy": 0.125,
        "leak_rate": 0.5,
        "masked_accuracy": 0.75,
        "masked_gain": 0.625,
    }
    # Of two problems the draws are one, the other, or both: the gains are 1, 0.25 or between.
    gain = found["masked_gain"]
    assert gain["low"] == 0.25 and gain["high"] == 1.0


def test_two_pipelines_are_compared_by_problem():
    found = joint.compare(pair(), pair((1.0, 1.0), (10.0, 22.0)), FAST, seed=0)
    assert found["accuracy_change"]["value"] == 0.25
    assert found["change_from_alone"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["chain_ratio"]["value"] == pytest.approx(32 / 80)
    assert found["chain_ratio"]["low"] == pytest.approx(1 / 3)
    assert found["leak_change"]["value"] == 0.0


def test_what_a_thousand_requests_cost():
    """Alone 80 + 20 / 4 tokens; as a pipeline 40 + 20 / 4, and 5 + 60 / 4 of the expander, which
    has a tenth of the parameters."""
    large, small = (Second(None, {"w": np.zeros(n)}) for n in (100, 10))
    found = joint.costs(pair(), ServingOptions(large_price=2.0), large, small)
    assert found["large_alone"] == pytest.approx(2 * 85 / 1000)
    assert found["joint"] == pytest.approx((2 * 45 + 0.2 * 20) / 1000)
    assert found["ratio"] == pytest.approx(0.094 / 0.17) and found["price"] == pytest.approx(0.2)
    given = joint.costs(pair(), ServingOptions(price=0.5, read_share=0.0), large, small)
    assert given["joint"] == pytest.approx((40 + 0.5 * 5) / 1000)


@pytest.mark.parametrize(
    "wrong", [{"concurrency": [1, 0]}, {"requests": 0}, {"price": -1.0}, {"read_share": -0.1}]
)
def test_settings_of_serving_have_ranges(wrong):
    with pytest.raises(ValueError, match=r"serving\.concurrency"):
        ServingOptions(**wrong)


def verb(capsys, *words):
    assert cli.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_evaluate_measures_the_pipeline(model, tmp_path, capsys):
    found = verb(
        capsys,
        "evaluate",
        str(model),
        f"--against={model}",
        f"--expander.model={model}",
        "--expander.limit=6",
        "--problems.options.test=6",
        "--test.limit=12",
        "--test.samples=2",
        "--test.resamples=200",
        "--serving.concurrency=[1,3]",
        "--serving.requests=2",
        "--verify.workers=1",
        f"--out={tmp_path}",
    )
    assert found == json.loads((tmp_path / "evaluation.json").read_text())
    both = found["model"]["joint"]
    by_problem = json.loads((tmp_path / "model-joint.json").read_text())
    assert np.mean(by_problem["accuracy"]) == pytest.approx(both["accuracy"]["value"])
    assert {len(column) for column in by_problem.values()} == {6} and len(by_problem) == 8
    assert both["chain_tokens"]["value"] == found["model"]["mean_thinking_tokens"]
    assert both["large_alone_tokens"]["value"] == found["model"]["mean_tokens"]
    assert both["large_alone_accuracy"]["value"] == found["model"]["accuracy"]
    assert 0 < both["answer_tokens"]["value"] <= 6
    assert all(part["low"] <= part["value"] <= part["high"] for part in found["joint"].values())
    # The same model twice: the same draws, so nothing changes.
    assert found["joint"]["accuracy_change"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["joint"]["chain_ratio"]["value"] == 1.0
    assert both["cost"]["price"] == 1.0  # as large as the large one
    serving = [(part["concurrency"], part["requests"]) for part in both["serving"]]
    assert serving == [(1, 2), (3, 3)]
    assert all(part["joint"] > 0 and part["large_alone"] > 0 for part in both["serving"])


def test_sample_shows_chain_and_answer(model, capsys):
    words = ["sample", str(model), "Find the last digit of the sum: C7 A4.", "--max_tokens=12"]
    chosen = ["--sample.temperature=0", "--samples=2"]
    alone = verb(capsys, *words, *chosen)["responses"]
    both = ["--expander.model", str(model), "--expander.limit=6"]
    found = verb(capsys, *words, *chosen, *both)["responses"]
    for whole, part in zip(alone, found, strict=True):
        assert part["chain"] == split_thought(whole["text"], TextOptions(), opened=True)[0]
        assert part["chain_tokens"] == whole["thinking_tokens"]
        assert 0 < part["answer_tokens"] <= 6


def hawkeye(settings, model, out):
    return settings(
        f"--out={out}",
        "--method.name=hawkeye",
        "--method.options.leak=mask",
        f"--expander.model={model}",
        "--expander.limit=6",
        "--rounds.limits=[24]",
        "--rounds.steps=2",
        "--problems.options.train=8",
    )


def test_a_run_with_an_expander_goes_on_exactly(settings, model, tmp_path, monkeypatch):
    expand, written = second.expand, []

    def watched(*args, **kwargs):
        expanded = expand(*args, **kwargs)
        written.append(int(expanded.rollouts.length_B.sum()))
        return expanded

    with monkeypatch.context() as patch:
        patch.setattr(second, "expand", watched)
        prune(hawkeye(settings, model, tmp_path / "whole"))
    given = hawkeye(settings, model, tmp_path / "died")
    at_visit(monkeypatch, second, "expand", 2, die)
    with pytest.raises(Died):
        prune(given)
    prune(given)
    whole, again = (left_behind(tmp_path / name) for name in ("whole", "died"))
    for part, value in whole.items():
        assert again[part] == value, part
    steps = [line for line in whole["metrics"] if line["kind"] == "step"]
    for line, tokens in zip(steps, written, strict=True):  # 4 problems with 8 rows each
        rows = 32 * line["completions/mean_length"]
        assert line["prune/generated_tokens"] == pytest.approx(rows + tokens)
