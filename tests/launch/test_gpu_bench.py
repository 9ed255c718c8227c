"""benchmarks/gpu.sh: a smoke run measures every part, and one without time says so."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def bench(tmp_path, *arguments):
    command = [str(ROOT / "benchmarks" / "gpu.sh"), f"--out={tmp_path}/gpu.json", *arguments]
    settings = {"PYTHON": sys.executable, "JAX_PLATFORMS": "cpu"}
    env = {**os.environ, **settings}
    env.pop("XLA_FLAGS", None)
    return subprocess.run(command, env=env, capture_output=True, text=True)


def read(tmp_path):
    return json.loads((tmp_path / "gpu.json").read_text())


@pytest.mark.slow
def test_a_smoke_run_measures_every_part(tmp_path):
    done = bench(tmp_path, "--cpu-smoke", "--budget=2000")
    assert done.returncode == 0, done.stderr[-3000:]
    found = read(tmp_path)
    assert json.loads(done.stdout) == found
    assert "figures mean nothing" in found["smoke"] and "figures mean nothing" in done.stderr
    assert found["device"]["platform"] == "cpu" and found["versions"]["jax"] and not found["failed"]
    peers = found.pop("peers")
    peers.pop("seconds")
    assert len(peers) == 4 and set(peers.values()) == {"not measured (no torch with CUDA)"}
    assert "not measured" not in json.dumps(found)
    parity = found["parity"]["full precision"]
    assert parity["equal rows"] == {"greedy": parity["rows"], "drawn": parity["rows"]}
    assert found["quickstart"]["run"]["steps"] == 1 and found["quickstart"]["run"]["finished"]
    sampler, learner = found["sampler"]["4 prompts x 8, 17 + 32 tokens"], found["learner"]["8 rows"]
    assert sampler["tokens"] == 4 * 8 * 32 and sampler["slots"] == 48
    assert sampler["needed_of_copy"] < sampler["read_of_copy"]
    of_roofline = sampler["tokens_per_s"] / sampler["roofline_tokens_per_s"]
    assert of_roofline == pytest.approx(sampler["needed_of_copy"])
    assert not sampler["compiled"]  # what is timed was compiled before
    step = found["step"]["2 prompts x 8 x 16 tokens"]
    assert step["step"] == 2 and step["kl"] > 0 and not step["compiled"]
    assert step["seconds"] == pytest.approx(sum(step["parts"].values()))
    assert 0 < step["tokens"] <= 2 * 8 * 16 and step["generated_per_s"] > step["tokens_per_s"]
    assert learner["tokens_per_s"] > 0 and learner["of_product"] > 0


def test_what_there_is_no_time_for_is_not_measured(tmp_path):
    done = bench(tmp_path, "--cpu-smoke", "--budget=0", "--parts", "learner", "sampler")
    assert done.returncode == 0, done.stderr[-3000:]
    for part in ("learner", "sampler"):
        assert read(tmp_path)[part].pop(part) == "not measured (time)"


def test_without_a_gpu_it_says_so(tmp_path):
    done = bench(tmp_path, "--parts", "parity")
    assert done.returncode == 1 and "no GPU here" in done.stderr
    assert read(tmp_path)["failed"] == ["parity"]
