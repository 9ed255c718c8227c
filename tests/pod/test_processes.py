"""The helper that starts several processes: they meet, and none outlives a failure."""

import os
import sys
from pathlib import Path

import processes
import pytest

SUMS = Path(__file__).parent / "sums.py"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_processes_meet(tmp_path):
    outs = processes.run([SUMS], 2, tmp_path, devices=3)
    assert [out.split()[:4] for out in outs] == [["0", "2", "3", "15.0"], ["1", "2", "3", "15.0"]]


def test_one_that_fails_ends_all_and_is_shown(tmp_path):
    with pytest.raises(AssertionError, match=r"(?s)exit codes .*was told to fail"):
        processes.run([SUMS, "fail"], 2, tmp_path, timeout=40)


def test_none_outlives_its_time(tmp_path):
    sleep = ["-c", "import time; print('asleep at {address}', flush=True); time.sleep(600)"]
    python = [sys.executable, *sleep]
    with processes.started(python, 2, tmp_path) as group:
        with pytest.raises(AssertionError, match=r"(?s)still running.*asleep at 127.*asleep"):
            group.results(1.5)
        pids = [process.pid for process in group.processes]
        assert all(map(_runs, pids))
    assert not any(map(_runs, pids))
