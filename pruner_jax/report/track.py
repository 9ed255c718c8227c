"""A run's numbers in TensorBoard, Weights & Biases or Trackio, as metrics.jsonl gets them.

Takes the records of steps and evaluations; of these the numbers, those of evaluations under
``monitor/``. A run that is continued goes on under the same name and id (in OUT/.track). One that
cannot be opened stops a start, before anything is sampled. What a tracker cannot do later is told
once and stops nothing; metrics.jsonl stays the record of the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import pathlib
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

Record = Mapping[str, Any]

PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}
_KINDS = ("step", "evaluate")
# What says where a record belongs; its numbers are those of the step.
_PLACE = ("kind", "step")


@dataclasses.dataclass(frozen=True)
class TrackOptions:
    """Where the numbers of a run are shown while it works."""

    to: list[Literal["tensorboard", "wandb", "trackio"]] = dataclasses.field(default_factory=list)
    """Any of tensorboard (files in OUT/tensorboard), wandb and trackio; empty: nowhere."""
    project: str = "pruner_jax"
    """Project of wandb and trackio."""
    name: str | None = None
    """Name of the run there. null: that of its folder."""


class Writer(NamedTuple):
    """An open tracker."""

    send: Callable[[dict[str, float], int], None]  # numbers by name, of a step
    close: Callable[[], None]


class _Place(NamedTuple):
    """What a tracker is opened with."""

    root: pathlib.Path
    project: str
    name: str
    id: str
    config: Mapping[str, Any]
    step: int  # the first one that comes


def _tensorboard(place: _Place) -> Writer:
    from tensorboardX import SummaryWriter

    # What an earlier start wrote of this step and later ones is not shown any more.
    writer = SummaryWriter(
        str(place.root / "tensorboard"),
        purge_step=place.step,
        filename_suffix=f".{place.step:08d}",  # two starts within a second
    )

    def send(numbers: dict[str, float], step: int) -> None:
        for name, value in numbers.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return Writer(send, writer.close)


def _wandb(place: _Place) -> Writer:
    import wandb

    run = wandb.init(
        project=place.project,
        name=place.name,
        id=place.id,
        resume="allow",  # steps that it has are not taken again
        config=dict(place.config),
        dir=str(place.root),
    )
    return Writer(lambda numbers, step: run.log(numbers, step=step), run.finish)


def _trackio(place: _Place) -> Writer:
    import trackio

    # A run is known by its name there.
    run = trackio.init(
        project=place.project, name=place.id, resume="allow", config=dict(place.config)
    )
    return Writer(lambda numbers, step: run.log(numbers, step=step), run.finish)


_OPEN = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}


def check_installed(options: TrackOptions) -> None:
    """Refuse a tracker whose package is not there."""
    for name in options.to:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise ValueError(
                f"track.to has {name!r}, but the package {PACKAGES[name]} is not installed; "
                "pip install 'pruner-jax[track]', or take it out of track.to"
            )


class Tracker:
    """Sends records to the trackers that a run asks for, once they are open."""

    def __init__(
        self,
        options: TrackOptions,
        root: pathlib.Path,
        config: Mapping[str, Any],
        log: Callable[[str], None],
    ):
        self._options, self._root, self._config, self._log = options, root, config, log
        self._writers: dict[str, Writer] = {}

    def open(self, step: int) -> None:
        """Open all, for records of this step and later ones. Those that the file has already are
        sent again, for what a tracker has of them goes.

        Raises:
          ValueError: one could not be opened.
        """
        if not self._options.to:
            return
        name = self._options.name or self._root.resolve().name
        place = _Place(
            self._root, self._options.project, name, _id(self._root, name), self._config, step
        )
        for tracker in self._options.to:
            try:
                with contextlib.redirect_stdout(sys.stderr):  # stdout belongs to --json
                    self._writers[tracker] = _OPEN[tracker](place)
            except Exception as error:
                raise ValueError(
                    f"track.to has {tracker!r}, which cannot be opened ({error!r}); see to its "
                    "login and its connection, or take it out of track.to"
                ) from error
        for record in self._since(step):
            self(record)

    def __call__(self, record: Record) -> None:
        """Send a record that metrics.jsonl has got."""
        if record["kind"] not in _KINDS:
            return
        for name, writer in list(self._writers.items()):
            with self._telling(name):
                writer.send(numbers_of(record), record["step"])

    def close(self) -> None:
        """All that was sent is there."""
        for name, writer in list(self._writers.items()):
            with self._telling(name):
                writer.close()

    def _since(self, step: int) -> list[Record]:
        """The file's records from this step on: a start may find it between a step and its
        evaluation."""
        path = self._root / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [r for r in map(json.loads, lines) if r["kind"] in _KINDS and r["step"] >= step]

    @contextlib.contextmanager
    def _telling(self, name: str) -> Iterator[None]:
        """What fails inside is told, and the tracker let go of."""
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout belongs to --json
                yield
        except Exception as error:
            self._writers.pop(name, None)
            self._log(f"track: {name} failed, the run goes on without it ({error!r})")


def numbers_of(record: Record) -> dict[str, float]:
    """The numbers of a record by name; ``monitor/`` goes before those of an evaluation."""
    before = "monitor/" if record["kind"] == "evaluate" else ""
    return {
        before + name: value
        for name, value in record.items()
        if name not in _PLACE and isinstance(value, int | float) and not isinstance(value, bool)
    }


def _id(root: pathlib.Path, name: str) -> str:
    """The id of the run in a folder, for good."""
    note = root / ".track"
    if not note.exists():
        note.write_text(f"{re.sub(r'[^A-Za-z0-9_.-]', '-', name)}-{secrets.token_hex(4)}\n")
    return note.read_text().strip()
