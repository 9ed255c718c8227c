"""Several runs at once, each in a process of its own with its share of the cores.

For CPUs: the steps of a small model are too short to keep many cores busy, so runs side by side
take less time than runs one after the other. What a run says goes to a log of its own.
"""

from __future__ import annotations

import collections
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import yaml

from pruner_jax.config import plain
from pruner_jax.run.planned import Run

_LOOK = 0.2  # seconds between two looks at the processes
# The process narrows itself down to its cores before anything asks how many there are.
_PLAY = """
import os, signal, sys, threading, time
parent = os.getppid()
def follow():  # a comparison that was killed takes its runs along; they save first
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=follow, daemon=True).start()
cores = [int(core) for core in sys.argv.pop(1).split(",") if core]
if cores:
    os.sched_setaffinity(0, cores)
from pruner_jax.cli import console
console()
"""


def side_by_side(
    runs: Sequence[Run],
    workers: int,
    logs: pathlib.Path,
    began: Callable[[Run], None],
    check: Callable[[], None],
) -> Iterator[tuple[Run, str | None]]:
    """Play the runs, ``workers`` at a time; each as it ends, with None or why it failed.

    Args:
      runs: played in this order.
      workers: processes.
      logs: folder of SET/NAME.yaml and SET/NAME.log of every run.
      began: told of each run when it starts.
      check: called while waiting. Whatever it raises stops the processes, which save first.
    """
    waiting, idle = collections.deque(runs), _shares(workers)
    playing: dict[subprocess.Popen, tuple[Run, list[int]]] = {}
    try:
        while waiting or playing:
            while waiting and idle:
                run, cores = waiting.popleft(), idle.pop()
                began(run)
                playing[_start(run, cores, logs)] = (run, cores)
            check()
            time.sleep(_LOOK)
            for process in [process for process in playing if process.poll() is not None]:
                run, cores = playing.pop(process)
                idle.append(cores)
                yield run, _why(process, _paths(run, logs)[1])
    finally:
        _stop(list(playing))


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """End processes, which save first; a second signal that comes meanwhile ends them at once."""
    for process in processes:
        process.terminate()
    try:
        for process in processes:
            process.wait()
    except BaseException:
        for process in processes:
            process.kill()
        raise


def _shares(workers: int) -> list[list[int]]:
    """The cores of every worker; none where they cannot be assigned."""
    if not hasattr(os, "sched_setaffinity"):
        return [[] for _ in range(workers)]
    cores = sorted(os.sched_getaffinity(0))
    each = max(1, len(cores) // workers)  # all alike: sums may depend on the number of threads
    return [[cores[(n * each + i) % len(cores)] for i in range(each)] for n in range(workers)]


def _start(run: Run, cores: list[int], logs: pathlib.Path) -> subprocess.Popen:
    settings, log = _paths(run, logs)
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(yaml.safe_dump(plain(run.settings), sort_keys=False))
    # A session of its own: Ctrl-C is for the comparison, which tells its processes.
    with open(log, "w") as file:
        return subprocess.Popen(
            [sys.executable, "-c", _PLAY, ",".join(map(str, cores)), "prune", str(settings)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _paths(run: Run, logs: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    return logs / f"{run.name}.yaml", logs / f"{run.name}.log"


def _why(process: subprocess.Popen, log: pathlib.Path) -> str | None:
    """Why a process failed: its error, or where to read about it."""
    if process.returncode == 0:
        return None
    said = log.read_text(errors="replace").rpartition("pruner-jax: error: ")
    if said[1]:
        return said[2].strip()
    return f"the process ended with code {process.returncode}; see {log}"
