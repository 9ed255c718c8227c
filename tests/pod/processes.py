"""Several processes of one JAX program on the loopback interface, as on several hosts.

``started`` runs N copies of a command, each with its own forced CPU devices and its own logs, and
leaves none behind; ``run`` waits for all and gives what they printed. A script takes its place with
``join``; a program with flags of its own gets it by the words ``{address}``, ``{count}`` and
``{process}`` in its command.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_ADDRESS, _COUNT, _PROCESS = "POD_ADDRESS", "POD_COUNT", "POD_PROCESS"
_GRACE = 5.0  # seconds that the others get to say why they stop, once one has failed


@dataclasses.dataclass(frozen=True)
class Group:
    """Processes that run, in the order of their numbers, and where each writes."""

    processes: list[subprocess.Popen]
    logs: list[Path]  # of each, stdout; stderr lies beside it

    def out(self, process: int) -> str:
        """What a process has printed so far."""
        return self.logs[process].read_text()

    def err(self, process: int) -> str:
        """What a process has written to stderr so far."""
        return self.logs[process].with_suffix(".err").read_text()

    def story(self) -> str:
        """How every process stands, and the ends of its logs."""
        return "\n".join(
            f"== process {i}: exit code {process.poll()}\n{self.out(i)[-2000:]}"
            f"\n-- stderr\n{self.err(i)[-4000:]}"
            for i, process in enumerate(self.processes)
        )

    def wait(self, timeout: float) -> list[int]:
        """The exit codes of all (negative: the signal that ended it), whatever they are.

        Raises:
          AssertionError: some still run after ``timeout`` seconds; with the logs of all.
        """
        until = time.monotonic() + timeout
        while None in (codes := self.codes()):
            if time.monotonic() > until:
                raise AssertionError(f"still running after {timeout} s\n{self.story()}")
            time.sleep(0.05)
        return codes

    def results(self, timeout: float) -> list[str]:
        """What each printed, once all have ended well.

        Raises:
          AssertionError: one failed, or some still run after ``timeout`` seconds; with all logs.
        """
        until = time.monotonic() + timeout
        while None in (codes := self.codes()) and not any(codes):
            if time.monotonic() > until:
                raise AssertionError(f"still running after {timeout} s\n{self.story()}")
            time.sleep(0.05)
        if any(codes):  # the others may wait for it for ever
            with contextlib.suppress(AssertionError):
                self.wait(_GRACE)
            raise AssertionError(f"exit codes {self.codes()}\n{self.story()}")
        return [self.out(i) for i in range(len(self.processes))]

    def codes(self) -> list[int | None]:
        return [process.poll() for process in self.processes]

    def kill(self) -> None:
        """Ends every process that still runs, with the processes that it started."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def started(
    command: Sequence[str | Path],
    count: int,
    folder: Path,
    *,
    devices: int = 1,
    env: dict[str, str] | None = None,
) -> Iterator[Group]:
    """``count`` processes of a command, ``devices`` CPU devices each; logs go to ``folder``.

    A command that begins with a ``.py`` file, or with ``-m``, runs in this Python.
    """
    words = [str(word) for word in command]
    if words[0].endswith(".py") or words[0] == "-m":
        words = [sys.executable, *words]
    folder.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{free_port()}"
    group = Group([], [])
    try:
        for process in range(count):
            place = {"{address}": address, "{count}": str(count), "{process}": str(process)}
            log = folder / f"process_{process}.out"
            with log.open("w") as out, log.with_suffix(".err").open("w") as err:
                group.logs.append(log)
                group.processes.append(
                    subprocess.Popen(
                        [_filled(word, place) for word in words],
                        stdout=out,
                        stderr=err,
                        env=os.environ | _environment(place, devices) | (env or {}),
                        start_new_session=True,  # so that its own processes end with it
                    )
                )
        yield group
    finally:
        group.kill()


def run(
    command: Sequence[str | Path],
    count: int,
    folder: Path,
    *,
    devices: int = 1,
    timeout: float = 120.0,
    env: dict[str, str] | None = None,
) -> list[str]:
    """What each of ``count`` processes printed; as `started`, then `Group.results`."""
    with started(command, count, folder, devices=devices, env=env) as group:
        return group.results(timeout)


def print_alone() -> None:
    """From here on stdout is Python's alone: the collectives' library prints there too, in pieces,
    between which our lines could come; its words go to stderr."""
    sys.stdout.flush()
    ours = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(ours, "w")


def join() -> tuple[int, int]:
    """Called first by a script that ``started`` runs: (its number, how many there are)."""
    import jax

    print_alone()
    process, count = int(os.environ[_PROCESS]), int(os.environ[_COUNT])
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        os.environ[_ADDRESS],
        num_processes=count,
        process_id=process,
        heartbeat_timeout_seconds=10,
        shutdown_timeout_seconds=5,  # one that fails waits so long for the others to end too
    )
    return process, count


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _filled(word: str, place: dict[str, str]) -> str:
    for name, value in place.items():
        word = word.replace(name, value)
    return word


def _environment(place: dict[str, str], devices: int) -> dict[str, str]:
    return {
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # they compile for longer than they run
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        _ADDRESS: place["{address}"],
        _COUNT: place["{count}"],
        _PROCESS: place["{process}"],
    }
