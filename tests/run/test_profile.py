"""A trace of the steps that were asked for, with the phases of the clock in it.

The traces are written by processes of their own: in one that has loaded libtpu they cannot be.
"""

import collections
import gzip
import json
import os
import subprocess
import sys

import pytest
import yaml

from pruner_jax.settings import plain

PARTS = """
import pathlib, sys
from pruner_jax.run.profile import Profile

for steps, made in (([3, 4], 2), ([2, 4], 3), ([], 2)):
    profile = Profile(steps, pathlib.Path(sys.argv[1]) / str(made), print)
    for number in range(made):
        with profile.step(number, lambda: ()):
            pass
    profile.close()
"""


def python(*words, platforms="cpu", code=0):
    """What a process writes, which by itself does without libtpu."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        env=os.environ | {"JAX_PLATFORMS": platforms},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    return done


def test_a_profile_holds_the_phases_of_its_steps_and_does_not_make_another_run(settings, tmp_path):
    out, config = tmp_path / "run", tmp_path / "config.yaml"
    given = settings(f"--out={out}", "--rounds.limits=[16]", "--rounds.evaluate_every=4")
    config.write_text(yaml.safe_dump(plain(given)))
    prune_verb = ("-m", "pruner_jax", "prune", config)
    done = python(*prune_verb, "--profile", "--profile_steps=[2,3]")
    assert f"profile of step 2 to 3 of this start: {out / 'profile'}" in done.stderr
    (trace,) = (out / "profile").rglob("*.trace.json.gz")
    assert list((out / "profile").rglob("*.xplane.pb"))
    with gzip.open(trace) as file:
        events = json.load(file)["traceEvents"]
    names = collections.Counter(event.get("name") for event in events)
    assert names["step"] == 2
    assert {event["args"]["step_num"] for event in events if event.get("name") == "step"} == {
        "2",
        "3",
    }
    # Rows are weighed once in a step, and learnt from; a save follows the second one.
    assert names["weigh"] == names["learn"] / 2 == 2
    assert names["rollout"] >= 2 and names["verify"] >= 2 and names["save"] >= 2
    assert names["evaluate"] == 0
    assert any("decode" in str(name) for name in names)  # the programs too
    # The run is the same one without it.
    (out / "summary.json").unlink()
    python(*prune_verb)
    assert len(list((out / "profile").rglob("*.trace.json.gz"))) == 1


def test_a_start_that_ends_before_its_profile_says_so(tmp_path):
    said = python("-c", PARTS, tmp_path).stdout.splitlines()
    assert len(said) == 2
    assert "nothing was traced, for this start made 2 steps" in said[0]
    assert "it ends after step 3" in said[1]
    assert not (tmp_path / "2").exists() and list((tmp_path / "3").rglob("*.xplane.pb"))


def test_no_trace_is_begun_beside_a_compiler_for_a_tpu_that_is_not_there(settings, tmp_path):
    pytest.importorskip("libtpu")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(plain(settings(f"--out={tmp_path / 'run'}", "--profile"))))
    done = python("-m", "pruner_jax", "prune", config, platforms="", code=1)
    assert "libtpu is installed" in done.stderr and "set JAX_PLATFORMS=cpu" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()
