"""Options of verification; no third-party import."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

ANSWERS = ("last_boxed", "first_boxed", "anywhere")


@dataclasses.dataclass(frozen=True)
class VerifyOptions:
    """How answers are found and compared, and what a single comparison may cost.

    The looser rules of the ThinkPrune code are ``answer=anywhere``, ``after_thought=false`` and
    ``unfinished_is_wrong=false``; O1-Pruner took ``answer=first_boxed``.
    """

    answer: str = "last_boxed"
    """Which answer counts. last_boxed, first_boxed: a complete ``\\boxed{}``. anywhere: what
    follows the last ``boxed``, closed or not, else a phrase such as "the answer is"."""

    after_thought: bool = True
    """The answer must stand after the end of the thought."""

    unfinished_is_wrong: bool = True
    """A response without an end token is never correct. Switched off, it is checked like others."""

    checker: str = ""
    """Replaces the checker of every problem: a name such as math, or path/to/file.py:function, also
    with the prefix trl:, trl-chat: or verl: for reward functions written for those libraries."""

    settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """Keyword settings by checker, e.g. {"number": {"percent": true}}."""

    correct_from: float = 1.0
    """A checker that returns a score says "correct" from this score on."""

    workers: int = 0
    """Worker processes; 0: one per core of this machine but one, from 1 to 16."""

    timeout_s: float = 5.0
    """Seconds for one item, counted from when a worker begins it; it is tried twice."""

    memory_mb: int = 2048
    """Address space of one worker in MiB (enforced on Linux); above it, allocation fails."""

    cache: int = 100_000
    """Verdicts kept by (checker, gold answer, answer); 0 keeps none."""

    def __post_init__(self) -> None:
        if self.answer not in ANSWERS:
            raise ValueError(f"verify.answer is {self.answer!r}; allowed: {', '.join(ANSWERS)}")
        for name, least in (("workers", 0), ("memory_mb", 256), ("cache", 0)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"verify.{name} is {getattr(self, name)}; allowed: {least} or more"
                )
        if not self.timeout_s > 0:
            raise ValueError(f"verify.timeout_s is {self.timeout_s}; allowed: more than 0")
        for checker, settings in self.settings.items():
            if not isinstance(settings, Mapping):
                raise ValueError(
                    f"verify.settings[{checker!r}] is {settings!r}; allowed: a mapping of keyword "
                    "settings for that checker"
                )
        if "program" in (*self.settings, self.checker):
            self.check_seconds()

    def check_seconds(self) -> None:
        """A program that runs out of time is found out by the sandbox, before the worker's own
        time is over: the sandbox may take as long again to stop, and half a second to start.

        Raises:
          ValueError: naming both settings.
        """
        seconds = self.settings.get("program", {}).get("seconds", 1.0)  # of `checkers.program`
        if isinstance(seconds, (int, float)) and 2 * seconds + 0.5 > self.timeout_s:
            raise ValueError(
                f"verify.timeout_s is {self.timeout_s:g}, but a program may run for {seconds:g} "
                "seconds (verify.settings['program'] seconds), and its sandbox may take as long to "
                f"stop it; allowed: a timeout_s of {2 * seconds + 0.5:g} or more, or fewer seconds"
            )
