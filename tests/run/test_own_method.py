"""The method of docs/adding_a_method.md, taken from the page, in a run and on rows made by hand."""

import json
import pathlib
import re

import numpy as np
from handmade import Row, graded, weights

from pruner_jax import methods
from pruner_jax.objective.context import Context
from pruner_jax.objective.weigh import weigh
from pruner_jax.run.prune import prune

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "adding_a_method.md"


def blocks():
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.S | re.M)


def test_the_method_of_the_page_runs(settings, tmp_path):
    file = tmp_path / "modest.py"
    file.write_text(blocks()[0])
    given = settings(
        f"--out={tmp_path / 'run'}",
        f"--method={{name: {file}, options: {{weight: 0.5, samples: 4}}}}",
        "--rounds.limits=[16]",
    )
    assert prune(given)["rounds"][0]["steps"] == 4
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [record for record in map(json.loads, lines) if record["kind"] == "step"]
    assert all("prune/reward_length" in step for step in steps)


def test_its_weights_are_what_the_page_says(tmp_path):
    """Correct rows of 10 and 30 tokens, mean 20, two of four right: u is -0.5 and 0.5, so the
    length channel is 0.2 x 0.5 x 0.5 = 0.05 for the short one and -0.05 for the long one; the task
    channel is 0.5 for right and -0.5 for wrong."""
    file = tmp_path / "modest.py"
    file.write_text(blocks()[0])
    phase = methods.load(str(file)).phases[0]
    rows = graded([Row(10, True), Row(30, True), Row(12), Row(40)])
    weighted, _, _ = weigh(phase, rows, {}, Context(limit=50))
    np.testing.assert_allclose(weights(weighted), [0.55, 0.45, -0.5, -0.5], atol=1e-6)


def test_the_reward_of_the_page_is_a_task(tmp_path):
    file = tmp_path / "modest.py"
    file.write_text(
        blocks()[0].replace('name="prune",', 'name="prune",\n        task=NoHedging(),')
        + "\n\n"
        + blocks()[1]
    )
    phase = methods.load(str(file), {"weight": 0.0}).phases[0]
    rows = graded([Row(10, True, text="Wait, wait."), Row(30, True), Row(12), Row(40)])
    weighted, _, _ = weigh(phase, rows, {}, Context(limit=50))
    # Worth 0, 1, 0, 0: the mean is 0.25.
    np.testing.assert_allclose(weights(weighted), [-0.25, 0.75, -0.25, -0.25], atol=1e-6)
