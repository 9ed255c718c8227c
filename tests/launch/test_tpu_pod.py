"""launch/tpu_pod.sh against a stand-in gcloud whose workers really run what is sent to them."""

import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
STAND_IN = pathlib.Path(__file__).with_name("stand_in.py")
POD = ("--name=mine", "--zone=us-east5-b", "--type=v6e-16")
BUCKET = "--out=gs://bucket/mine"
CONFIG = ("configs/quickstart.yaml", "--seed=3", "--note=two words and a 'quote'")
DONE = {"codes": [0, 0]}


@pytest.fixture
def play(tmp_path):
    """``play(lives, *arguments)``: the script run on that plan; gives what there is to look at."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("gcloud", "python3"):
        script = f'#!/bin/bash\nexec {sys.executable} -S {STAND_IN} {name} "$@"\n'
        (commands / name).write_text(script)
        (commands / name).chmod(0o755)

    def run(lives, *arguments, fails=(), when=None, then=None, **settings):
        (tmp_path / "plan.json").write_text(json.dumps({"lives": lives, "fails": fails}))
        quick = {"POLL_S": "0.2", "BACKOFF_S": "0", "GRACE_S": "1", "ATTEMPT": "a", **settings}
        path = f"{commands}:{os.environ['PATH']}"
        command = ["bash", str(ROOT / "launch" / "tpu_pod.sh"), *POD]
        command += [f"--fetch-to={tmp_path}/fetched", *arguments]
        env = {**os.environ, **quick, "PATH": path, "WORLD": str(tmp_path)}
        process = subprocess.Popen(command, env=env, stdout=-1, stderr=-1, text=True)
        if when is not None:
            while not when(Played(tmp_path)):
                time.sleep(0.1)
            then(process)
        out, err = process.communicate(timeout=120)
        return Played(tmp_path, process.returncode, out, err)

    return run


class Played:
    """What a run of the script did."""

    def __init__(self, folder, code=None, out="", err=""):
        self.code, self.out, self.err = code, out, err
        self.fetched = folder / "fetched"
        self.calls = _lines(folder / "calls.txt", shlex.split)
        self.starts = _lines(folder / "program.txt", json.loads)
        self.log = "".join(path.read_text() for path in self.fetched.glob("launch/*.log"))

    def read(self, log):
        path = self.fetched / "launch" / log
        return path.read_text() if path.exists() else ""

    def verbs(self):
        """The calls without questions for the state."""
        calls = [[word for word in call if word != "alpha"] for call in self.calls]
        verbs = [call[4] if call[1] == "compute" else call[2] for call in calls]
        return [verb for verb in verbs if verb != "describe"]


def _lines(path, read):
    return [read(line) for line in path.read_text().splitlines()] if path.exists() else []


SMOOTH = ["create", "scp", "ssh", "ssh", "rsync", "delete"]


def test_a_smooth_run(play):
    played = play([{"states": ["WAITING_FOR_RESOURCES", "PROVISIONING"], "runs": [DONE]}],
                  "--spot", BUCKET, *CONFIG)  # fmt: skip
    assert played.code == 0, played.err
    assert played.verbs() == SMOOTH
    assert "--spot" in played.calls[1]
    assert {start["worker"] for start in played.starts} == {0, 1}
    expected = ["prune", CONFIG[0], BUCKET, *CONFIG[1:]]
    assert all(start["args"] == expected for start in played.starts)  # quotes and spaces arrive
    for verb in ("ssh", "scp"):  # neither waits for a pod that is gone
        call = next(call for call in played.calls if call[4:5] == [verb])
        assert f"--{verb}-flag=-oConnectTimeout=30" in call
    assert {start["pod"] for start in played.starts} == {"pod"}
    assert "WAITING_FOR_RESOURCES" in played.err and "step 1 of worker 1" in played.log
    assert "exit code 0" in played.log and "mine is deleted" in played.err


def test_dry_run_prints_what_a_run_calls_and_calls_nothing(play):
    dry = play([], "--dry-run", "--spot", "--project=p", BUCKET, *CONFIG)
    assert dry.code == 0 and not dry.calls and not dry.fetched.exists()
    printed = [shlex.split(x[2:]) for x in dry.out.splitlines() if x.startswith("+ gcloud")]
    real = play([{"runs": [DONE]}], "--spot", "--project=p", BUCKET, *CONFIG, POLL_S="20")
    assert real.code == 0 and printed == real.calls


def test_preemption_recreates_reinstalls_and_runs_the_same_command(play):
    lives = [{"runs": [{"taken": True}]}, {"states": ["WAITING_FOR_RESOURCES"], "runs": [DONE]}]
    played = play(lives, "--spot", BUCKET, *CONFIG)
    assert played.code == 0, played.err
    assert played.verbs() == [*SMOOTH[:4], "delete", *SMOOTH]
    first, again = (shlex.split(" ".join(call)) for call in played.calls if " attempt " in call[-1])
    assert [word for word in first if word != "a-1"] == [word for word in again if word != "a-2"]
    assert len({json.dumps(start["args"]) for start in played.starts}) == 1


def test_workers_that_fail_because_one_was_taken_away_before_the_service_says_so(play):
    lives = [{"runs": [{"codes": [1, 1], "late": 3}]}, {"runs": [DONE]}]
    played = play(lives, "--spot", BUCKET, *CONFIG, GRACE_S="60")
    assert played.code == 0, played.err
    assert played.verbs().count("create") == 2


@pytest.mark.parametrize("codes", [[75, 75], [1, 75]])
def test_saved_and_stopped_is_run_again_on_the_same_pod(play, codes):
    played = play([{"runs": [{"codes": codes}, DONE]}], BUCKET, *CONFIG)
    assert played.code == 0, played.err
    assert played.verbs() == ["create", "scp", "ssh", "ssh", "scp", "ssh", "ssh", "rsync", "delete"]
    assert len(played.starts) == 4


def test_a_broken_connection_attaches_and_starts_nothing(play):
    played = play([{"runs": [{"breaks": True, "seconds": 2}]}], BUCKET, *CONFIG)
    assert played.code == 0, played.err
    assert len(played.starts) == 2 and played.verbs().count("create") == 1


def test_a_launcher_that_is_stopped_ends_nothing_and_the_same_command_attaches(play, tmp_path):
    lives = [{"runs": [{"waits": True}]}]
    stopped = play(
        lives,
        *(BUCKET, *CONFIG),
        when=lambda played: len(played.starts) == 2 and "worker 1" in played.log,
        then=lambda process: process.send_signal(signal.SIGTERM),
    )
    assert stopped.code == 130 and "attaches to it" in stopped.err
    assert stopped.verbs() == SMOOTH[:4]
    again = play(
        lives,
        *(BUCKET, *CONFIG),
        when=lambda played: "worker 1" in played.read("b-1.log"),
        then=lambda process: (tmp_path / "go").touch(),
        ATTEMPT="b",
    )
    assert again.code == 0, again.err
    assert len(again.starts) == 2 and again.verbs().count("create") == 1


@pytest.mark.parametrize("at_end", ["keep", "delete"])
def test_a_failure_stops_and_says_where_the_log_is(play, at_end):
    played = play([{"runs": [{"codes": [0, 3]}]}], BUCKET, f"--at-end={at_end}", *CONFIG)
    assert played.code == 3
    assert ("delete" in played.verbs()) == (at_end == "delete")
    assert "failed with exit code 3, see" in played.err and "exit code 3" in played.log
    assert ("costs money" in played.err) == (at_end == "keep")
    assert len(played.starts) == 2


def test_a_request_that_fails_says_why_and_is_taken_back(play):
    played = play([{"states": ["WAITING_FOR_RESOURCES", "FAILED"]}], BUCKET, *CONFIG)
    assert played.code == 1
    assert "v6e-16 in us-east5-b failed: out of quota for v6e" in played.err
    assert played.verbs() == ["create", "delete"]


def test_flags_of_gcloud_are_passed_on(play):
    flags = (
        "--create-flag=--internal-ips",
        "--create-flag=--network=n",
        "--ssh-flag=--internal-ip",
    )
    played = play([{"runs": [DONE]}], *flags, "--out=runs/x", *CONFIG, GCLOUD_TRACK="alpha")
    assert played.code == 0, played.err
    assert {"--internal-ips", "--network=n"} <= set(played.calls[1])
    reached = [call for call in played.calls if {"ssh", "scp"} & set(call)]
    assert len(reached) == 5 and all("--internal-ip" in call for call in reached)
    assert all(call[1] == "alpha" for call in played.calls)


def test_an_installation_that_fails_is_in_the_log_that_is_named(play):
    played = play([{"runs": [DONE]}], BUCKET, *CONFIG, fails=["install"], GRACE_S="0")
    assert played.code == 1 and "a-1.log" in played.err
    assert "no permission to install" in played.read("a-1.log") and not played.starts


def test_a_node_that_cannot_be_asked_for_ends_the_wait(play):
    played = play([{}], BUCKET, *CONFIG, fails=["describe tpu-vm"], WAIT_S="9")
    assert played.code == 1 and "no permission to describe tpu-vm" in played.err
    assert "no pod within" not in played.err and played.verbs() == ["create"]


def test_why_a_request_failed_is_said_also_where_it_cannot_be_taken_back(play):
    played = play([{"states": ["FAILED"]}], BUCKET, *CONFIG, fails=["delete"])
    assert played.code == 1 and "out of quota for v6e" in played.err
    assert "could NOT be deleted and costs money until gcloud" in played.err


@pytest.mark.parametrize(
    ("out", "broken", "again"),
    [
        (BUCKET, "rsync", "gcloud storage rsync --recursive"),
        ("--out=runs/my run", "scp from", "--recurse mine:pruner_jax/runs/my\\ run "),
    ],
)
def test_results_that_do_not_come_can_be_fetched_by_hand(play, out, broken, again):
    played = play([{"runs": [DONE]}], out, *CONFIG, fails=[broken])
    assert played.code == 1 and "its results are not here" in played.err
    assert again in played.err.split("could not be fetched from")[1]


def test_a_worker_that_fails_again_and_again_is_no_lost_host(play):
    killed = {"codes": [75, 137]}
    played = play([{"runs": [killed] * 9}], BUCKET, *CONFIG)
    assert played.code == 137 and len(played.starts) == 6
    assert "failed three times on the same pod with exit code 137, see" in played.err


def test_other_failures_between_are_no_such_row(play):
    one, other = {"codes": [75, 137]}, {"codes": [75, 75]}
    played = play([{"runs": [one, one, other, one, DONE]}], BUCKET, *CONFIG)
    assert played.code == 0, played.err


def test_stopped_before_it_asked_for_anything_nothing_stands(play):
    played = play(
        [{}], *(BUCKET, *CONFIG), fails=["describe queued-resources"],
        when=lambda played: played.calls, then=lambda process: process.send_signal(signal.SIGTERM),
        BACKOFF_S="1",
    )  # fmt: skip
    assert played.code == 130 and "stopped before anything was asked for" in played.err


def test_without_gcloud_it_says_so_at_once(tmp_path):
    (tmp_path / "dirname").symlink_to(shutil.which("dirname"))
    command = [shutil.which("bash"), str(ROOT / "launch" / "tpu_pod.sh"), *POD, BUCKET, *CONFIG]
    env = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 2 and "there is no gcloud here" in done.stderr


def test_starts_are_bounded(play):
    saved = {"codes": [75, 75]}
    played = play([{"runs": [saved] * 3}], BUCKET, "--restarts=1", *CONFIG)
    assert played.code == 75
    assert "started 2 times" in played.err and len(played.starts) == 4


def test_a_folder_on_worker_0_is_fetched_without_checkpoints(play):
    played = play([{"runs": [DONE]}], "--out=runs/my run", *CONFIG)
    assert played.code == 0, played.err
    assert (played.fetched / "summary.json").exists()
    assert not (played.fetched / "checkpoints").exists()


def test_a_folder_that_went_with_the_pod_is_no_reason_to_begin_anew(play):
    played = play([{"runs": [{"taken": True}]}], "--spot", "--out=runs/x", *CONFIG)
    assert played.code == 1 and "--out=gs://" in played.err
    assert played.verbs().count("create") == 1


def test_nobody_waits_for_ever_and_the_request_is_taken_back(play):
    waiting = ["WAITING_FOR_RESOURCES"] * 50
    played = play([{"states": waiting}], BUCKET, *CONFIG, WAIT_S="1")
    assert played.code == 1 and "WAIT_S = 1" in played.err
    assert played.verbs() == ["create", "delete"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*CONFIG], "--out=... is missing"),
        ([BUCKET], "CONFIG is missing"),
        ([BUCKET, "configs/nothing.yaml"], "there is no configs/nothing.yaml"),
        ([BUCKET, "--type=v9-8", *CONFIG], "add --runtime"),
        ([BUCKET, "--at-end=sell", *CONFIG], "allowed: delete, keep"),
        ([BUCKET, "--restarts=many", *CONFIG], "allowed: 0 or more"),
        ([BUCKET, "--nme=x", *CONFIG], "--nme=x is no option"),
        ([BUCKET, *CONFIG, "--out=x"], "--out=x: give it before CONFIG"),
        ([BUCKET, *CONFIG, "--dry-run"], "--dry-run: give it before CONFIG"),
        ([BUCKET, *CONFIG, "--at-end=keep"], "--at-end=keep: give it before CONFIG"),
        ([BUCKET, "--name", "other", *CONFIG], "write --name=other"),
        ([BUCKET, "--type=v5e-16", *CONFIG], "calls it v5litepod-16"),
        ([BUCKET, "--name=My_pod", *CONFIG], "small letters"),
        (["--out=s3://bucket/mine", *CONFIG], "allowed: gs://"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_called(play, arguments, said):
    played = play([], *arguments)
    assert played.code == 2 and said in played.err and not played.calls
