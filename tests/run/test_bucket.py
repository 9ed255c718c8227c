"""A run in a bucket is the run in a folder: taken over, killed, continued on other machines."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest
from buckets import served
from test_prune import left_behind

from pruner_jax.store.mirror import Mirror

ROOT = pathlib.Path(__file__).parents[2]
ADDRESS = "gs://open/runs/mine"


@pytest.fixture(scope="module")
def act(model, tmp_path_factory):
    """``act(machine, *words)``: exit code, stdout and stderr of in_a_bucket.py."""
    room = tmp_path_factory.mktemp("machines")
    words = [
        f"--model={model}",
        "--problems.options.train=16",
        "--problems.options.monitor=4",
        "--problems.options.test=4",
        "--method.name=thinkprune",
        "--method.options.samples=2",
        "--rounds.limits=[24]",
        "--rounds.steps=3",
        "--rounds.prompts=2",
        "--rounds.evaluate_every=3",
        "--rounds.save_every=1",
        "--rounds.log_rollouts_every=1",
        "--optimizer.learning_rate=1e-3",
        "--sample.rows=4",
        *(f"--{name}.samples=1" for name in ("monitor", "test")),
        "--test.resamples=100",
        "--pick.tolerance=0.9",
        "--pick.rule=last",
        "--guards.action=warn",
        "--verify.workers=1",
    ]
    with served() as environment:
        env = os.environ | environment | {
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(room / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        }  # fmt: skip

        def run(machine, *said):
            done = subprocess.run(
                [sys.executable, pathlib.Path(__file__).with_name("in_a_bucket.py"), *said, *words],
                capture_output=True,
                text=True,
                timeout=300,
                env=env | {"XDG_CACHE_HOME": str(room / machine)},
            )
            return done.returncode, done.stdout, done.stderr

        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            yield run


def fetched(folder):
    """The bucket's files of the run, export and all."""
    for name, blob in Mirror(ADDRESS)._blobs().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        blob.download_to_filename(folder / name)
    return folder


def states():
    """Of the states in the bucket, which ones count."""
    mirror = Mirror(ADDRESS)
    names = [blob.name for blob in mirror._bucket.list_blobs(prefix=f"{mirror._prefix}checkpoints")]
    parts = [name.split("/") for name in names]
    found = {int(p[4]): False for p in parts if p[3] == "states"}
    return found | {int(p[4]): True for p in parts if p[-1] == "durable"}


@pytest.mark.slow
def test_a_run_in_a_bucket_is_taken_over_killed_and_ends_as_one_in_a_folder(act, tmp_path):
    code, out, err = act("first", "first", ADDRESS)
    assert code == -signal.SIGKILL, err
    assert "was taken over by another start" in out and "nothing" in out
    assert "continuing gs://open/runs/mine" in err
    after_first = states()
    assert not after_first[max(after_first)]  # was being saved
    code, out, err = act("second", "second", ADDRESS)
    assert code == -signal.SIGKILL and "continuing gs://open/runs/mine" in err, err
    after_second = states()
    assert after_second[max(after_second)] and max(after_second) > max(after_first)
    code, out, err = act("third", "last", ADDRESS, tmp_path / "whole")
    assert code == 0 and "continuing gs://open/runs/mine" in err, err
    assert err.count("model:  gs://open/runs/mine/export") == 2  # and shown again
    assert left_behind(fetched(tmp_path / "fetched")) == left_behind(tmp_path / "whole")


def test_buckets_that_cannot_be_used_end_with_a_message(act):
    code, out, err = act("first", "refused")
    assert code == 0 and out.split() == ["1", "1"], err
    assert "Traceback" not in err
    closed, nowhere = [line for line in err.splitlines() if line.startswith("pruner-jax: error")]
    assert "gs://closed/run" in closed and "Storage Object User" in closed
    assert "there is no bucket 'nowhere'" in nowhere
