"""launch/tpu_worker.sh: a command outlives its connection, is started once, is not forgotten."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "launch" / "tpu_worker.sh"


@pytest.fixture
def worker(tmp_path):
    """``worker(*arguments)``: the script started in a repository of its own."""
    (tmp_path / "launch").mkdir()
    shutil.copy(SCRIPT, tmp_path / "launch")

    def start(*arguments):
        command = ["bash", "launch/tpu_worker.sh", *arguments]
        return subprocess.Popen(command, cwd=tmp_path, stdout=-1, stderr=-1, text=True)

    start.folder = tmp_path
    return start


def ended(process):
    out, err = process.communicate(timeout=20)
    return process.returncode, out + err


COUNTS = ("bash", "-c", "echo started >>count; echo hello; sleep 1.5; echo 'the end'; exit 7")


def test_the_exit_code_and_the_output_come_back_and_the_same_attempt_starts_nothing(worker):
    for _ in range(2):
        code, said = ended(worker("attempt", "a", *COUNTS))
        assert code == 7 and "hello" in said and "the end" in said and "exit code 7" in said
    assert (worker.folder / "count").read_text() == "started\n"
    assert ended(worker("busy"))[0] != 0
    assert ended(worker("attempt", "b", "true"))[0] == 0


def test_a_broken_connection_leaves_it_running_and_the_next_one_attaches(worker):
    first = worker("attempt", "a", *COUNTS)
    while "hello" not in first.stdout.readline():
        pass
    first.send_signal(signal.SIGKILL)
    assert ended(worker("busy"))[0] == 0
    code, said = ended(worker("attempt", "a-second-launcher", *COUNTS))
    assert code == 7 and "the end" in said
    assert (worker.folder / "count").read_text() == "started\n"


def test_another_command_is_refused_while_one_runs(worker):
    first = worker("attempt", "a", *COUNTS)
    first.stdout.readline()
    code, said = ended(worker("attempt", "b", "echo", "other"))
    assert code == 1 and "another run is under way" in said
    assert ended(first)[0] == 7


def test_a_machine_that_was_restarted_asks_to_be_started_again(worker):
    first = worker("attempt", "a", "sleep", "50")
    pid = worker.folder / "runs/.launch/a.pid"
    while not pid.exists() or not pid.read_text().strip():
        time.sleep(0.05)
    os.killpg(int(pid.read_text().split()[0]), signal.SIGKILL)  # as a machine that goes down does
    assert ended(first)[0] == 75
    pid.write_text(f"{os.getpid()} another-boot\n")  # the number belongs to somebody else now
    assert ended(worker("busy"))[0] != 0


def test_an_installation_needs_no_version_and_no_user_site(worker, tmp_path, monkeypatch):
    """python3 stands in for pip, which puts uv, which is python3 again, where it was told to."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "python3").write_text(
        '#!/bin/bash\necho "$*" >>calls\n[[ " $* " != *" --user "* ]] || exit 1\n'
        f"mkdir -p .venv-uv/bin && cp {tools}/python3 .venv-uv/bin/uv\n"
    )
    (tools / "python3").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    assert ended(worker("install"))[0] == 0
    pip, venv, package = (worker.folder / "calls").read_text().splitlines()
    assert "--target .venv-uv uv" in pip and "--python 3.12 .venv" in venv
    assert package.endswith("-e .[tpu,gcs]")
