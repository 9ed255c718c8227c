"""A process that works when it is asked to, so that several can take turns on one machine.

``Worker`` starts a script and speaks with it, a line of JSON each way; ``serve`` is the other end,
in the script. JAX and torch both keep threads, which disturb each other inside one process; a
process that waits for its next line does nothing. Standard library only: peers run it too.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any


class Worker:
    """A script in a process of its own."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, closed by ``close``
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def ask(self, **question: Any) -> dict[str, Any]:
        """What it answers; waits for it."""
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.process.wait()
            self.errors.seek(0)
            sys.exit(f"{self.name} failed:\n{self.errors.read()[-5000:]}")
        return json.loads(line)

    def close(self) -> None:
        """Let it end."""
        with contextlib.suppress(BrokenPipeError):  # it has ended, and what it failed with was told
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def serve(answer: Callable[..., dict[str, Any]]) -> None:
    """Answer every question of the process that started this one, until it has no more.

    What else is printed here goes to the standard error.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(answer(**json.loads(line))) + "\n")
        answers.flush()
