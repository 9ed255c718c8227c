"""benchmarks/learn.py --torch: a plain torch step on the same rows makes the same update."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parity
def test_loss_and_gradient_are_those_of_a_torch_step():
    sizes = ("--rows=12", "--mean=8", "--rounds=1", "--torch_rows", "5", "12")
    command = [sys.executable, str(ROOT / "benchmarks" / "learn.py"), *sizes]
    done = subprocess.run(
        [*command, "--torch", sys.executable], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ours, first, *others, last = map(json.loads, done.stdout.splitlines())
    assert first["loss"] == pytest.approx(ours["loss"], rel=1e-4)
    assert first["grad_norm"] == pytest.approx(ours["grad_norm"], rel=1e-4)
    assert last["torch"] in (first, *others) and last["ours"] == ours
    assert last["times ours"] == pytest.approx(last["torch"]["ms"] / ours["ms"], abs=0.01)
