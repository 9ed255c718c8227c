"""The two studies of Hawkeye: their verbs on a tiny model, their tables from numbers by hand."""

import dataclasses
import json
import pathlib
import re
import sys

import numpy as np
import pytest
import yaml

from pruner_jax.config import EvaluateConfig, load
from pruner_jax.sample.second import ServingOptions

ROOT = pathlib.Path(__file__).parents[2]
SMALL = {
    "--problems.options.test": "6",
    "--test.samples": "2",
    "--test.limit": "16",
    "--test.resamples": "200",
    "--expander.limit": "4",
    "--sample.rows": "16",
    "--verify.workers": "1",
}


@pytest.fixture(scope="module")
def hawkeye(benchmark):
    """benchmarks/hawkeye.py."""
    return benchmark("hawkeye")


def cells(lines, first):
    """The cells of the line of a table that begins so."""
    (line,) = [line for line in lines.splitlines() if line.startswith(f"| {first} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_redundancy_takes_more_and_more_of_the_chains(hawkeye, model, monkeypatch, capsys):
    words = [f"{name}={value}" for name, value in SMALL.items()]
    words += [f"--expander.model={model}", "--again=again", "--seeds", "0", "1"]
    monkeypatch.setattr(sys, "argv", ["hawkeye.py", "redundancy", str(model), *words])
    drawn, measure, expand = [], hawkeye.measure, hawkeye.expand

    def watched_measure(engine, *args, **kwargs):
        drawn.append(("chains", engine.seed))
        return measure(engine, *args, **kwargs)

    def watched_expand(expander, *args, **kwargs):
        drawn.append(("answers", expander.engine.seed))
        return expand(expander, *args, **kwargs)

    monkeypatch.setattr(hawkeye, "measure", watched_measure)
    monkeypatch.setattr(hawkeye, "expand", watched_expand)
    hawkeye.main()
    assert set(drawn) == {("chains", 0), ("answers", 0), ("chains", 1), ("answers", 1)}
    lines = capsys.readouterr().out.splitlines()[-6:]
    assert len(lines) == len(hawkeye.REMOVED)
    removed = [int(line.split("%")[0].strip("| ")) for line in lines]
    assert removed[0] == 0 and removed[-1] == 100 and removed == sorted(removed)
    assert all(len(re.findall(r"[\d.]+ \([\d.]+ to [\d.]+\)", line)) == 2 for line in lines)


def test_redundancy_is_over_problems_and_sampling_seeds(hawkeye):
    """Three seeds with 40, 42 and 44 % on every problem: 42 +- 4.303 * 2 / sqrt(3)."""
    settings = load(EvaluateConfig, None, ["--model=m"])
    values_SPQ = np.full((3, 50, len(hawkeye.SHOWN)), 0.0)
    values_SPQ[:, :, 1] = [[0.40], [0.42], [0.44]]
    lines = hawkeye.by_share(np.array([0.0, 0.21, 0.4, 0.6, 0.8, 1.0]), values_SPQ, settings)
    assert lines[1] == "| 21% | 0.0 (0.0 to 0.0) | 0.0 (0.0 to 0.0) |"
    shown, masked = re.findall(r"([\d.]+) \(([\d.]+) to ([\d.]+)\)", lines[0])
    assert shown == ("0.0", "0.0", "0.0") and masked[0] == "42.0"
    assert float(masked[1]) == pytest.approx(42 - 4.97, abs=0.4)
    assert float(masked[2]) == pytest.approx(42 + 4.97, abs=0.4)


def test_runs_plays_and_measures_with_the_expander_and_without(
    hawkeye, model, tmp_path, monkeypatch, capsys
):
    config = {
        "model": str(model),
        "problems": {"options": {"train": 8, "monitor": 4, "test": 4}},
        "method": {"name": "hawkeye", "options": {"samples": 2}},
        "expander": {"model": str(model), "limit": 4},
        "rounds": {"limits": [16], "steps": 1, "prompts": 2, "evaluate_every": 1},
        "sample": {"rows": 8},
        **{name: {"samples": 2, "temperature": 1.0, "top_p": 1.0} for name in ("monitor", "test")},
        "pick": {"rule": "last", "tolerance": 0.9},
        "guards": {"action": "warn", "accuracy": None},
        "verify": {"workers": 1},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    evaluate_verb, measured = hawkeye.evaluate_verb, []

    def briefly(settings):
        timed = bool(settings.serving.concurrency)
        measured.append(timed)
        few = ServingOptions(concurrency=[1] * timed, requests=1, seconds=0.0)
        return evaluate_verb(dataclasses.replace(settings, serving=few))

    monkeypatch.setattr(hawkeye, "evaluate_verb", briefly)
    words = ["runs", str(tmp_path / "run.yaml"), "--seeds", "0", "--out", str(tmp_path / "runs")]
    monkeypatch.setattr(sys, "argv", ["hawkeye.py", *words])
    hawkeye.main()
    said = capsys.readouterr().out
    assert measured == [True, False]  # the control is not timed
    found = json.loads((tmp_path / "runs" / "with-0" / "joint" / "evaluation.json").read_text())
    answer = found["model"]["joint"]["answer_tokens"]["value"]
    (heading,) = [line.split(" | ") for line in said.splitlines() if line.startswith("| | joint")]
    assert heading[5] == "answer tokens"
    assert cells(said, "**all seeds**")[5].startswith(f"{answer:.1f} (")
    assert said.count("| seed 0 |") == 2 and "speed-up" in said and "Cost of 1,000" in said

    hawkeye.main()
    assert measured == [True, False]  # what is there is not made again


def test_all_seeds_together(hawkeye):
    """Two seeds, each the same on every problem; the model before is always the same."""

    def measured(accuracy, answer):
        before = [1.0, 40.0, 4.0, 1.0, 0.8, 0.1, 0.9]
        after = [accuracy, 10.0, answer, 0.5, 0.7, 0.1, 0.6]
        values_MPQ = np.broadcast_to(np.array([before, after])[:, None], (2, 20, 7))
        return hawkeye.Measured({}, values_MPQ)

    line = hawkeye.together("all", [measured(0.8, 5.0), measured(0.8, 5.0)])
    expected = ["80.0 (80.0 to 80.0)", "-10.0 (-10.0 to -10.0)", "10.0 (10.0 to 10.0)"]
    expected += ["25.0 (25.0 to 25.0)", "5.0 (5.0 to 5.0)", "60.0 (60.0 to 60.0)"]
    expected += ["50.0 (50.0 to 50.0)", "+60.0 (+60.0 to +60.0)"]
    assert cells(line, "**all**")[1:] == expected
    apart = cells(hawkeye.together("all", [measured(0.7, 4.0), measured(0.9, 6.0)]), "**all**")
    assert apart[1] == "80.0 (0.0 to 100.0)"  # two seeds: 80 +- 12.7 * 10
