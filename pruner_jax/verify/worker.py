"""The child process that runs checkers: one item after the other, each under its own clock.

Started as ``python -m pruner_jax.verify.worker FD MEMORY_MB PARENT`` by `process`, with which it
speaks over one connection:

    it is sent   (settings, correct_from)          once
                 (spec, [(ticket, job), ...])      a batch; jobs are pickled one by one, and an
                                                   empty one only loads the checker
    it sends     None                              ready
                 str                               the checker of this batch cannot be loaded: why
                 (ended, begun)                    ended: (ticket, Outcome) or None, begun: the next
                                                   item's ticket, or None when the batch is done

So the parent knows at every moment which item is being checked and since when, whatever becomes of
this process. It leaves with the exit code OUT_OF_MEMORY when an item does not fit.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
from multiprocessing.connection import Connection

from pruner_jax.types import Verdict
from pruner_jax.verify.adapters import Check
from pruner_jax.verify.checkers import load
from pruner_jax.verify.outcome import Outcome, describe, settle

OUT_OF_MEMORY = 86  # exit code


def main() -> None:
    """Serve batches until the parent closes the connection."""
    fd, memory_mb, parent = (int(argument) for argument in sys.argv[1:])
    os.set_inheritable(fd, False)  # or what a checker starts would keep the connection open
    connection = Connection(fd)
    _confine(memory_mb, parent)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _serve(connection)


def _serve(connection: Connection) -> None:
    settings, correct_from = connection.recv()
    checks: dict[str, Check] = {}
    connection.send(None)
    while True:
        spec, jobs = connection.recv()
        if spec not in checks:
            try:
                checks[spec] = load(spec, settings.get(spec, {}))
            except BaseException as error:  # a user's file may do anything, exit included
                connection.send(describe(error))
                continue
        ended = None
        for ticket, job in jobs:
            connection.send((ended, ticket))
            ended = (ticket, _run(checks[spec], job, correct_from))
        connection.send((ended, None))


def _run(check: Check, job: bytes, correct_from: float) -> Outcome:
    if not job:
        return Outcome(Verdict.UNSUPPORTED)
    try:
        return settle(check(pickle.loads(job)), correct_from)
    except MemoryError:  # an earlier item may have taken it: this one deserves a fresh worker
        os._exit(OUT_OF_MEMORY)
    except BaseException as error:  # sys.exit() in a checker costs its own item only
        return Outcome(Verdict.ERROR, 0.0, describe(error))


def _confine(memory_mb: int, parent: int) -> None:
    """Limit memory, die with the parent, and keep stdout clean of what checkers print."""
    os.dup2(2, 1)
    if sys.platform != "linux":
        return  # RLIMIT_AS is Linux's; elsewhere a closed connection ends the worker
    import ctypes
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit("the parent of this verification worker is gone")


if __name__ == "__main__":
    main()
