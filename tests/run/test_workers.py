"""Runs side by side: the same runs, a queue, failures that are told, processes that are stopped."""

import json
import os
import subprocess
import sys
import time
import types

import pytest
from test_compare import comparison, timeless  # noqa: F401

from pruner_jax.run import compare as compare_module
from pruner_jax.run import workers
from pruner_jax.run.compare import compare
from pruner_jax.run.workers import side_by_side


def test_runs_side_by_side_are_those_of_one_after_the_other(comparison, tmp_path):  # noqa: F811
    few = {"seeds": [0], "effects": []}
    one = compare(comparison(tmp_path / "one", **few))
    two = compare(comparison(tmp_path / "two", workers=2, **few))
    assert timeless(one["sets"]) == timeless(two["sets"])
    for name in ("thinkprune-seed0", "tlmre-weak-seed0"):
        log = (tmp_path / "two" / "logs" / "all" / f"{name}.log").read_text()
        assert "round 1" in log and (tmp_path / "two" / "logs" / "all" / f"{name}.yaml").exists()


def test_an_accelerator_is_not_shared(comparison, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(compare_module.jax, "default_backend", lambda: "tpu")
    with pytest.raises(ValueError, match="workers is 2, but a run takes every tpu device"):
        compare(comparison(tmp_path / "out", workers=2))


# -- with processes that only pretend --------------------------------------------------------------

PRETEND = """
import json, os, pathlib, signal, sys, time
name = pathlib.Path(sys.argv[3]).stem
cores, folder = sys.argv[1], pathlib.Path(sys.argv[3]).parent
def stop(*_):
    (folder / f"{name}.stopped").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
(folder / f"{name}.began").write_text(json.dumps([cores, time.monotonic()]))
if name.endswith("bad"):
    sys.exit("pruner-jax: error: method.name is 'x'; allowed: y")
if name.endswith("killed"):
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60 if name.endswith("long") else 0.3)
(folder / f"{name}.ended").write_text(json.dumps([cores, time.monotonic()]))
"""


@pytest.fixture
def pretended(monkeypatch):
    monkeypatch.setattr(workers, "_PLAY", PRETEND)
    monkeypatch.setattr(workers, "plain", lambda settings: {})

    def make(*names):
        return [types.SimpleNamespace(name=f"all/{name}", settings=None) for name in names]

    return make


def test_as_many_as_there_are_workers_in_order(pretended, tmp_path):
    began = []
    runs = pretended("a", "b", "c", "d")
    ended = list(side_by_side(runs, 2, tmp_path, began.append, lambda: None))
    assert began == runs and {run.name for run, error in ended if error is None} == {
        run.name for run in runs
    }
    spans = []
    for name in "abcd":
        (cores, start), (_, end) = (
            json.loads((tmp_path / "all" / f"{name}.{what}").read_text())
            for what in ("began", "ended")
        )
        spans.append((start, end, cores))
    for start, _, cores in spans:
        beside = [other for begin, end, other in spans if begin <= start < end]
        assert len(beside) <= 2
        if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1:
            assert len(set(beside)) == len(beside) and cores


def test_failures_are_told_and_the_others_go_on(pretended, tmp_path):
    runs = pretended("bad", "killed", "good")
    ended = {run.name: error for run, error in side_by_side(runs, 1, tmp_path, print, lambda: None)}
    assert ended["all/bad"] == "method.name is 'x'; allowed: y"
    assert "ended with code -9" in ended["all/killed"] and "all/killed.log" in ended["all/killed"]
    assert ended["all/good"] is None


def test_whoever_is_interrupted_stops_the_processes(pretended, tmp_path):
    until = time.monotonic() + 60

    def check():
        if len(list(tmp_path.glob("all/*.began"))) == 2:
            raise KeyboardInterrupt
        assert time.monotonic() < until

    with pytest.raises(KeyboardInterrupt):
        list(side_by_side(pretended("1-long", "2-long", "c"), 2, tmp_path, lambda _: None, check))
    assert sorted(path.name for path in tmp_path.glob("all/*.stopped")) == [
        "1-long.stopped",
        "2-long.stopped",
    ]
    assert not list(tmp_path.glob("all/c.began"))


def test_a_killed_comparison_takes_its_runs_along(tmp_path):
    """The part of the program that plays a run which follows the process that started it."""
    follow = workers._PLAY.partition("from pruner_jax")[0]
    child = f"""{follow}
import pathlib
def stop(*_):
    pathlib.Path({str(tmp_path / "stopped")!r}).touch()
    os._exit(143)
signal.signal(signal.SIGTERM, stop)
pathlib.Path({str(tmp_path / "began")!r}).touch()
time.sleep(60)
"""
    start = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}, '', 'prune'])"
    )
    parent = subprocess.Popen([sys.executable, "-c", start])
    until = time.monotonic() + 50
    while not (tmp_path / "began").exists() and time.monotonic() < until:
        time.sleep(0.1)
    parent.kill()
    while not (tmp_path / "stopped").exists() and time.monotonic() < until:
        time.sleep(0.1)
    assert (tmp_path / "stopped").exists()
