"""Whole runs of several processes: they are the run of one, stop together, and go on exactly."""

import json
import os
import pathlib
import signal
import time

import numpy as np
import pytest
from processes import started

from pruner_jax.policy.tensorfile import read_tensors
from pruner_jax.store.records import read_rollouts

ROOT = pathlib.Path(__file__).parents[2]
SHORT = [
    "prune",
    "configs/resume.yaml",
    # Tables, expert iteration on a store, a policy gradient with modes and a moving reference.
    "--method.name=tests/run/every_kind_of_phase.py",
    "--method.options={}",
    "--rounds.limits=[24]",
    "--rounds.steps=4",
    "--rounds.prompts=2",
    "--rounds.evaluate_every=2",
    "--rounds.save_every=1",
    "--rounds.log_rollouts_every=1",
    "--problems.options.train=8",
    "--problems.options.monitor=8",
    "--problems.options.test=8",
    "--optimizer.learning_rate=1e-3",
    "--sample.rows=16",
    "--verify.workers=1",
    "--mesh.fsdp=2",
    "--pick.rule=last",  # so that what is exported is what was learnt
]
POD = [
    "--pod.coordinator={address}",
    "--pod.processes={count}",
    "--pod.process={process}",
    "--pod.patience=10",
]
PATIENT = 400  # seconds; machines that run these tests may be busy


def pod(out, count, folder, *words, devices=None):
    """The run in ``out`` by so many processes, with two devices in all or one each."""
    command = ["-m", "pruner_jax", *SHORT, f"--out={out}", *(POD if count > 1 else ()), *words]
    env = {"PYTHONPATH": str(ROOT)}
    os.chdir(ROOT)
    return started(command, count, folder, devices=devices or max(1, 2 // count), env=env)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an undisturbed run of two processes; their parameters lie split over both. They
    have nothing in common but the folder of checkpoints."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "run-1").mkdir()
    (folder / "run-1" / "checkpoints").symlink_to(folder / "run-0" / "checkpoints")
    with pod(folder / "run-{process}", 2, folder) as group:
        group.results(PATIENT)
    assert [path.name for path in (folder / "run-1").iterdir()] == ["checkpoints"]
    return folder / "run-0"


def tokens(run):
    """What every file of rollouts holds, but for what depends on rounding."""
    found = {}
    for path in sorted((run / "rollouts").iterdir()):
        columns = read_rollouts(path)
        found[path.name] = {name: columns[name] for name in columns if "logp" not in name}
    return found


def parameters(run):
    return read_tensors(run / "export" / "model.safetensors")


def records(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    times = ("time/", "perf/")
    return [{k: v for k, v in json.loads(x).items() if not k.startswith(times)} for x in lines]


def assert_alike(one, other):
    """The same tokens, and parameters within the rounding of sums in another order."""
    assert tokens(one) == tokens(other)
    a, b = parameters(one), parameters(other)
    assert a.keys() == b.keys()
    assert max(np.abs(a[name] - b[name]).max() for name in a) < 1e-5
    start = read_tensors(ROOT / "configs" / "tiny_reasoner" / "model.safetensors")
    assert max(np.abs(a[name] - start[name]).max() for name in a) > 1e-4  # something was learnt


def steps(run):
    """How many steps the run has on record."""
    path = run / "metrics.jsonl"
    return path.read_text().count('"kind": "step"') if path.exists() else 0


def when(group, happened):
    """Wait for something to happen while the processes run."""
    until = time.monotonic() + PATIENT
    while not happened():
        assert time.monotonic() < until and None in group.codes(), group.story()
        time.sleep(0.05)


def test_two_processes_are_one(whole, tmp_path):
    with pod(tmp_path / "run", 1, tmp_path) as group:
        group.results(PATIENT)
    assert_alike(tmp_path / "run", whole)


def test_a_killed_process_ends_all_and_the_run_goes_on_exactly(whole, tmp_path):
    out = tmp_path / "run"
    with pod(out, 2, tmp_path / "first") as group:
        when(group, lambda: steps(out) >= 2)
        os.kill(group.processes[1].pid, signal.SIGKILL)
        began = time.monotonic()
        codes = group.wait(60)
        assert codes == [75, -signal.SIGKILL]
        assert time.monotonic() - began < 45
        assert "process 1" in group.err(0) and "same command" in group.err(0)
    with pod(out, 2, tmp_path / "again") as group:
        group.results(PATIENT)
        assert "continuing" in group.err(0)
    assert tokens(out) == tokens(whole)
    assert records(out) == records(whole)
    for name, x in parameters(out).items():
        np.testing.assert_array_equal(x, parameters(whole)[name])


def test_a_signal_to_one_of_four_stops_all_and_one_host_goes_on(whole, tmp_path):
    out = tmp_path / "run"
    with pod(out, 4, tmp_path / "first") as group:
        when(group, lambda: steps(out) >= 2)
        os.kill(group.processes[3].pid, signal.SIGTERM)
        assert group.wait(PATIENT) == [75] * 4
    assert 2 <= steps(out) < 4
    with pod(out, 1, tmp_path / "again") as group:
        group.results(PATIENT)
        assert "continuing" in group.err(0)
    assert_alike(out, whole)


def test_the_first_is_killed_where_two_share_a_model_and_four_go_on(whole, tmp_path):
    out = tmp_path / "run"
    with pod(out, 2, tmp_path / "first", "--mesh.tensor=2", devices=2) as group:
        when(group, lambda: steps(out) >= 2)
        os.kill(group.processes[0].pid, signal.SIGKILL)
        # JAX ends the other, for the first has its coordination service.
        assert group.wait(60) == [-signal.SIGKILL, -signal.SIGABRT]
    with pod(out, 4, tmp_path / "again") as group:
        group.results(PATIENT)
        assert "continuing" in group.err(0)
    assert_alike(out, whole)


def test_hosts_that_differ_are_told(tmp_path):
    with pod(tmp_path / "run", 2, tmp_path, "--seed={process}") as group:
        assert group.wait(PATIENT) == [1, 1]
        assert "seed is 0 on process 0 and 1 on process 1" in group.err(0)
    assert not (tmp_path / "run" / "config.yaml").exists()
