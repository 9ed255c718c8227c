"""Handle of one worker process: start it, hand it a batch, know what it is doing, kill it.

Workers are started afresh by the interpreter (no fork, which would copy the parent's threads and
locks; no multiprocessing spawn, which would run the caller's script again and ask for its
``if __name__ == "__main__"``). Each leads its own process group, so that what a checker starts dies
with it and Ctrl-C reaches the parent alone.
"""

from __future__ import annotations

import contextlib
import enum
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pruner_jax.verify.worker import OUT_OF_MEMORY

STARTUP_S = 120.0  # to start Python, or to import a checker; seconds become many on a busy disk
_GRACE_S = 1.0


class Item(NamedTuple):
    """A pickled `outcome.Job` under its ticket; an empty job only loads the checker."""

    ticket: int
    spec: str
    job: bytes


class Phase(enum.Enum):
    """What a worker is doing, as far as its messages tell."""

    STARTING = "starting"
    IDLE = "idle"
    LOADING = "loading a checker"
    CHECKING = "checking"


class Worker:
    """One process and the batch that it holds."""

    def __init__(self, memory_mb: int, settings: Mapping[str, Any], correct_from: float) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        argv = [str(theirs.fileno()), str(memory_mb), str(os.getpid())]
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "pruner_jax.verify.worker", *argv],
            pass_fds=[theirs.fileno()],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self.connection.send((settings, correct_from))  # small: it waits in the socket's buffer
        self.phase = Phase.STARTING
        self.since = time.monotonic()
        self.used = False  # has begun an item
        self.spec = ""
        self.batch: deque[Item] = deque()  # the first one is being checked

    def give(self, batch: Sequence[Item]) -> None:
        """Hand over items of one checker. Only an idle worker, which reads: this cannot block."""
        self.spec, self.batch = batch[0].spec, deque(batch)
        self.connection.send((self.spec, [(item.ticket, item.job) for item in batch]))
        self.phase, self.since = Phase.LOADING, time.monotonic()

    def begin(self, ticket: int | None) -> None:
        """Note that the worker has begun an item, or finished its batch (None)."""
        self.phase = Phase.IDLE if ticket is None else Phase.CHECKING
        self.since, self.used = time.monotonic(), self.used or ticket is not None

    def deadline(self, timeout_s: float) -> float:
        """When (monotonic seconds) what it is doing has taken too long."""
        allowed = {Phase.IDLE: math.inf, Phase.CHECKING: timeout_s}
        return self.since + allowed.get(self.phase, STARTUP_S)

    def stop(self, *, at_once: bool) -> str:
        """End the process and all that it started; says how it ended.

        Without ``at_once`` it has a moment to end by itself, which idle and dying workers do.
        """
        self.connection.close()
        if not at_once:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_GRACE_S)
        code = self.process.poll()
        with contextlib.suppress(ProcessLookupError, PermissionError):  # the group is gone already
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if code is None:
            return "was killed"
        if code == OUT_OF_MEMORY:
            return "ran out of memory (see verify.memory_mb)"
        return f"died of {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


def _environment() -> dict[str, str]:
    """The parent's import path, one thread, and no accelerator whatever a checker imports."""
    path = [entry or os.getcwd() for entry in sys.path]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    hidden = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "TPU_VISIBLE_CHIPS": ""}
    return {**os.environ, **threads, **hidden, "PYTHONPATH": os.pathsep.join(path)}
