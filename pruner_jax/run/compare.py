"""``compare``: several methods or strengths with several seeds, on the same problems.

    plan -> check -> [ play a run -> the table so far ] ... -> compare.json and .md, frontier.svg

Runs are plain prune runs in OUT/runs/SET/LABEL[-STRENGTH]-seedN, one after the other in this
process or several at once in others. Each is continued where it was stopped, one that is finished
is taken as it is, and one that fails is noted while the others go on. What is written comes from
the folders of the runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from pruner_jax.config import CompareConfig, ConfigError, plain
from pruner_jax.measure import summary
from pruner_jax.pod.start import refuse
from pruner_jax.report import standings as tables
from pruner_jax.report.frontier import frontier
from pruner_jax.report.progress import Progress
from pruner_jax.report.words import duration
from pruner_jax.run.interrupts import Interrupts
from pruner_jax.run.planned import Run, runs_of
from pruner_jax.run.played import Played, read
from pruner_jax.run.processors import stay_with_one
from pruner_jax.run.prune import prune
from pruner_jax.run.session import finished_folder, open_session
from pruner_jax.run.standings import standings
from pruner_jax.run.workers import side_by_side
from pruner_jax.store.folder import steps_made, write_atomically
from pruner_jax.store.mirror import local

_FEW = 500  # resamples for the table so far


def compare_verb(settings: CompareConfig) -> dict[str, Any]:
    """The verb ``compare``."""
    return compare(settings)


def compare(settings: CompareConfig) -> dict[str, Any]:
    """Play what has not been played, and put all of it together; what OUT/compare.json holds.

    Raises:
      ConfigError: the settings cannot be compared; nothing was played.
      ValueError: a run cannot be started, and nothing was played; or runs failed, which are named,
        and all others are in what was written.
    """
    local(settings.out, "out")
    # The runs are checked in this process and may be played in others: all on one device.
    stay_with_one()
    runs = runs_of(settings)
    for run in runs:
        refuse("compare", run.settings.pod)
    if settings.workers > 1 and jax.default_backend() != "cpu":
        raise ConfigError(
            f"workers is {settings.workers}, but a run takes every {jax.default_backend()} device "
            "that it sees, so only one fits; allowed: 1 (above 1 on a CPU)"
        )
    # Runs in this process have bars of their own; of the others one bar says how far all are.
    with (
        Progress(live=None if settings.workers > 1 else False) as progress,
        Interrupts() as interrupts,
    ):
        finished = [run for run in runs if _is_finished(run)]
        progress.log(f"{len(runs)} runs, {len(finished)} of them finished")
        _check_new(runs, progress)
        interrupts.check()
        if settings.dry_run:
            return _list(runs, progress)
        try:
            played, failed = _play(settings, runs, finished, progress, interrupts)
        except KeyboardInterrupt:
            progress.log(f"{settings.out}: every run goes on where it was stopped")
            raise
    result = _write(settings, runs, played, failed)
    progress.log(tables.text(result))
    for name in ("compare.json", "compare.md", "frontier.svg"):
        progress.log(f"{pathlib.Path(settings.out) / name}")
    if failed:
        lines = [f"  {name}: {error}" for name, error in failed.items()]
        raise ValueError(
            f"{len(failed)} of {len(runs)} runs failed:\n" + "\n".join(lines) + "\n"
            "The same command tries them again."
        )
    return result


# -- before anything is played ---------------------------------------------------------------------


def _is_finished(run: Run) -> bool:
    """Whether the run is complete; refuses a folder that other settings were played in."""
    try:
        return finished_folder(run.settings) is not None
    except ValueError as error:
        raise ValueError(f"{run.name}: {error}") from None


def _check_new(runs: Sequence[Run], progress: Progress) -> None:
    """Open what has not been begun as a dry run does, so that a method that cannot be played says
    so now: a run of every point, and of every set."""
    seen: set[Any] = set()
    for run in runs:
        if {run.set, run.point} <= seen or (run.folder / "config.yaml").exists():
            continue
        seen |= {run.set, run.point}
        progress.log(f"checking {run.point.name} on {run.set}")
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # the run itself will say it again
                with open_session(dataclasses.replace(run.settings, dry_run=True)):
                    pass  # a signal is passed on at its end
        except ValueError as error:
            raise ValueError(f"entry {run.point.name!r} on set {run.set!r}: {error}") from None


def _list(runs: Sequence[Run], progress: Progress) -> dict[str, Any]:
    """What a dry run shows."""
    for run in runs:
        progress.log(run.name)
    return {"runs": [run.name for run in runs]}


# -- playing ---------------------------------------------------------------------------------------


def _play(
    settings: CompareConfig,
    runs: Sequence[Run],
    finished: Sequence[Run],
    progress: Progress,
    interrupts: Interrupts,
) -> tuple[list[Played], dict[str, str]]:
    """All runs that are finished in the end, in their order, and by name why others failed."""
    played = {run.name: read(run) for run in finished}
    failed: dict[str, str] = {}
    waiting = [run for run in runs if run.name not in played]
    start, places = time.monotonic(), itertools.count(len(runs) - len(waiting) + 1)

    def began(run: Run) -> None:
        spent, done = time.monotonic() - start, len(played) + len(failed) - len(finished)
        left = f", about {duration(spent / done * (len(waiting) - done))} left" if done else ""
        where = f"run {next(places)} of {len(runs)}: {run.name}"
        progress.log(f"\n{where}, {duration(spent)} so far{left}")

    results = _one_by_one(waiting, began, interrupts.check)
    if settings.workers > 1:
        logs = pathlib.Path(settings.out) / "logs"
        look = _Look(waiting, progress, interrupts.check)
        results = side_by_side(waiting, settings.workers, logs, began, look)
    with contextlib.closing(results):
        for run, error in results:
            if error is None:
                try:
                    played[run.name] = read(run)
                except Exception as failure:  # the others go on
                    error = f"it ended, but cannot be read: {failure!r}"
            if error is not None:
                failed[run.name] = error
                progress.log(f"failed: {run.name}: {error}")
            if len(played) + len(failed) < len(runs):
                in_order = [played[r.name] for r in runs if r.name in played]
                progress.log(tables.text(_write(settings, runs, in_order, failed, _FEW)))
    return [played[run.name] for run in runs if run.name in played], failed


def _one_by_one(
    runs: Sequence[Run], began: Callable[[Run], None], check: Callable[[], None]
) -> Iterator[tuple[Run, str | None]]:
    """Play the runs in this process; each with None or why it failed."""
    for run in runs:
        check()
        began(run)
        error = None
        try:
            prune(run.settings)
        except OSError:
            raise  # a full disk, a model that went away: no other run would do better
        except Exception as failure:
            error = str(failure) if isinstance(failure, ValueError) else repr(failure)
        yield run, error


class _Look:
    """Called while other processes play: passes signals on, and moves a bar over all their steps
    (of a terminal; a log has the tables)."""

    def __init__(self, runs: Sequence[Run], progress: Progress, check: Callable[[], None]) -> None:
        self._runs, self._progress, self._check = runs, progress, check
        self._next = 0.0
        if progress.live:
            progress.start(sum(map(_steps, runs)), "steps of all runs", done=self._done())

    def __call__(self) -> None:
        self._check()
        if self._progress.live and time.monotonic() >= self._next:
            self._next = time.monotonic() + 2.0
            self._progress.update(self._done())

    def _done(self) -> int:
        """Steps that have been made; a finished run counts whole, whenever it ended."""
        return sum(
            _steps(run) if (run.folder / "summary.json").exists() else steps_made(run.folder)
            for run in self._runs
        )


def _steps(run: Run) -> int:
    """Steps that a run is planned for; as if of one round where the limits are auto."""
    rounds = run.settings.rounds
    return rounds.steps * (1 if rounds.limits == "auto" else len(rounds.limits))


def _write(
    settings: CompareConfig,
    runs: Sequence[Run],
    played: Sequence[Played],
    failed: dict[str, str],
    resamples: int | None = None,
) -> dict[str, Any]:
    """The three files, of what is there; the content of compare.json."""
    result = standings(settings, played, resamples) | {
        "planned": len(runs),
        "failed": [{"run": name, "error": error} for name, error in failed.items()],
        "settings": summary.plain(plain(settings)),
        "versions": summary.versions(),
    }
    out = pathlib.Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "compare.json", json.dumps(result, indent=2) + "\n")
    write_atomically(out / "compare.md", tables.markdown(result))
    write_atomically(out / "frontier.svg", frontier(result))
    return result
