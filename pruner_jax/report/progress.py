"""What a person sees while a run works: one bar per phase on stderr, and the table at the end.

On a terminal: a live bar with accuracy, mean tokens and time left. Elsewhere (a log file, a pipe):
plain lines at the start, the end and every few seconds of a phase. Never anything on stdout, which
belongs to ``--json``.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from pruner_jax.report import headline
from pruner_jax.report.words import duration, number, percent, tokens

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.table import Table

_EVERY = 10.0  # seconds between the plain lines of a phase
_SHOWN: dict[str, tuple[str, Callable[[float], str]]] = {
    "accuracy": ("accuracy", percent),
    "mean_tokens": ("tokens", tokens),
    "truncated": ("cut", percent),
    "reward": ("reward", lambda value: number(value, 3)),
}


class Progress:
    """The progress of a run: ``start`` a phase, ``update`` it, ``log`` what happens.

    A context manager; at its end the terminal is as it was. ``live`` is whether bars are drawn; by
    default, when the stream is a terminal.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._stream = stream if stream is not None else sys.stderr
        self._live = _is_terminal(self._stream) if live is None else live
        self._clock = clock
        self._bars: RichProgress | None = None
        self._task: Any = None
        self._title = ""
        self._total = self._done = self._first = 0
        self._began = self._said = 0.0
        self._facts = ""

    def __enter__(self) -> Progress:
        if self._live:
            self._bars = _bars(self._stream)
            self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.finish()
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def start(self, total: int, title: str, done: int = 0) -> None:
        """Begin a phase of so many units, some ``done`` by an earlier process; ends the last."""
        self.finish()
        self._title, self._total, self._first, self._done = title, total, done, done
        self._began = self._said = self._clock()
        self._facts = ""
        if self._bars is not None:
            fields = {"completed": done, "facts": "", "left": ""}
            self._task = self._bars.add_task(title, total=total, **fields)
        else:
            self._say(f"{title}: {number(total - done)} to do")

    @property
    def live(self) -> bool:
        """Whether bars are drawn."""
        return self._live

    @property
    def running(self) -> bool:
        """Whether a phase has begun and not ended."""
        return bool(self._title)

    def update(self, done: int, **values: float | None) -> None:
        """So many units are done; ``accuracy``, ``mean_tokens`` or what else is worth a look."""
        self._done = done
        self._facts = describe(values)
        left = self._left()
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=done, facts=self._facts, left=left)
        elif self._clock() - self._said >= _EVERY:
            self._said = self._clock()
            self._say(self._line(left))

    def log(self, line: str) -> None:
        """One line that stays, above the bar."""
        if self._bars is not None:
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            self._say(line)

    def finish(self) -> None:
        """End the phase, if one is running; its last state stays as a line."""
        if not self._title:
            return
        line = self._line(f"in {duration(self._clock() - self._began)}")
        self._title = ""
        if self._bars is not None:
            self._bars.remove_task(self._task)
            self._task = None
        self.log(line)

    def show(self, summary: Mapping[str, Any]) -> None:
        """The final table."""
        self.finish()
        from rich.console import Console

        console = self._bars.console if self._bars is not None else Console(file=self._stream)
        console.print(summary_table(summary))

    def _left(self) -> str:
        fresh = self._done - self._first
        if fresh <= 0 or self._done >= self._total:
            return ""
        each = (self._clock() - self._began) / fresh
        return f"{duration(each * (self._total - self._done))} left"

    def _line(self, end: str) -> str:
        parts = [f"{self._title}: {number(self._done)} of {number(self._total)}", self._facts, end]
        return ", ".join(part for part in parts if part)

    def _say(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody reads it any more; the run goes on
            print(line, file=self._stream, flush=True)


def describe(values: Mapping[str, float | None]) -> str:
    """``accuracy 84.2 %, tokens 31.4``; unknown values are left out."""
    parts = []
    for name, value in values.items():
        if value is None:
            continue
        label, form = _SHOWN.get(name, (name.replace("_", " "), lambda v: f"{v:.4g}"))
        parts.append(f"{label} {form(value)}")
    return ", ".join(parts)


def summary_table(summary: Mapping[str, Any]) -> Table:
    """The result for the terminal: accuracy and tokens before and after, with intervals."""
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=headline.title(summary),
        caption=headline.basis(summary),
        title_style="bold",
        caption_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    table.add_column("", no_wrap=True)
    for name, style in (("before", "dim"), ("after", "bold"), ("change (interval)", "")):
        table.add_column(name, justify="right", style=style, no_wrap=True)
    for row in headline.rows(summary):
        table.add_row(*map(Text, row))
    return table


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _bars(stream: TextIO) -> RichProgress:
    """In a narrow terminal the facts go on a second line; nothing is cut."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column

    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16, table_column=Column(no_wrap=True)),
        TextColumn("{task.completed}/{task.total}"),
        TextColumn("{task.fields[facts]}", markup=False, table_column=Column()),
        TextColumn("{task.fields[left]}", style="dim"),
        console=Console(file=stream, force_terminal=True),
    )
