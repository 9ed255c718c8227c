"""The runs of a comparison: every entry at every strength, on its sets, with every seed.

``runs_of`` turns a ``CompareConfig`` into plain prune runs and refuses what cannot be compared,
before anything is played: names that are unknown or taken, an entry whose settings are invalid,
runs of one set that are not measured on the same problems.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pruner_jax import config
from pruner_jax.config import CompareConfig, ConfigError, EntryOptions, PruneConfig
from pruner_jax.measure.comparison import Effect

BASE = "base"  # the model that all runs start with, as a point
_NAME = re.compile(r"\w[\w.+-]*")


@dataclasses.dataclass(frozen=True)
class Point:
    """A method at one strength."""

    label: str
    strength: str | None = None

    @property
    def name(self) -> str:
        """As settings and tables have it."""
        return self.label if self.strength is None else f"{self.label}/{self.strength}"


@dataclasses.dataclass(frozen=True)
class Run:
    """A prune run of a comparison."""

    set: str
    point: Point
    seed: int
    settings: PruneConfig

    @property
    def name(self) -> str:
        """Its folder below OUT/runs."""
        return _folder(self.set, self.point, self.seed)

    @property
    def folder(self) -> pathlib.Path:
        """Where it is played."""
        return pathlib.Path(self.settings.out)


def runs_of(settings: CompareConfig) -> list[Run]:
    """All runs in the order in which they are played: the first seed of everything comes first, so
    that the whole table is there early.

    Raises:
      ConfigError: naming the entry.
    """
    _check_names(settings)
    made = {
        (name, point): _settings(settings, entry, point, name)
        for name in settings.sets
        for entry in settings.entries
        for point in _points(entry)
        if name in (entry.sets or settings.sets)
    }
    runs = [
        _run(settings.out, name, point, seed, shared)
        for seed in settings.seeds
        for (name, point), shared in made.items()
    ]
    _check_folders(runs)
    _check_comparable(runs)
    for effect in settings.effects:
        _check_effect(effect, settings, runs)
    return runs


def _points(entry: EntryOptions) -> list[Point]:
    return [Point(entry.label, strength) for strength in entry.strengths or (None,)]


def _run(out: str, name: str, point: Point, seed: int, shared: PruneConfig) -> Run:
    folder = pathlib.Path(out) / "runs" / _folder(name, point, seed)
    own = {"out": str(folder), "seed": seed, "reference_table": shared.reference_table}
    if own["reference_table"] is not None:  # which runs of a set and a seed can share
        table = shared.reference_table.replace("{set}", name).replace("{seed}", str(seed))
        if "{" in table:
            raise ConfigError(
                f"reference_table is {shared.reference_table!r}; in braces allowed: set, seed"
            )
        own["reference_table"] = table
    return Run(name, point, seed, dataclasses.replace(shared, **own))


def _folder(name: str, point: Point, seed: int) -> str:
    return f"{name}/{point.name.replace('/', '-')}-seed{seed}"


def _settings(settings: CompareConfig, entry: EntryOptions, point: Point, name: str) -> PruneConfig:
    """What the runs of a point on a set share, checked."""
    layers = {
        "settings": settings.settings,
        f"sets.{name}": settings.sets[name],
        f"entry {entry.label!r}, settings": entry.settings,
        f"entry {entry.label!r}, strength {point.strength!r}": entry.strengths.get(point.strength),
    }
    own = {"out": settings.out, "seed": settings.seeds[0], "dry_run": False}
    for where, layer in layers.items():
        if not isinstance(layer, Mapping | None):
            raise ConfigError(f"{where} is {layer!r}; allowed: a mapping of settings")
        for key in own.keys() & (layer or {}).keys():
            raise ConfigError(f"{where} sets {key}, which is the comparison's; leave it out")
    changes = [layer or {} for layer in layers.values()]
    try:
        return config.layered(settings.base, [*changes, own])
    except ValueError as error:
        raise ConfigError(f"entry {point.name!r} on set {name!r}: {error}") from None


# -- what is refused -------------------------------------------------------------------------------


def _check_names(settings: CompareConfig) -> None:
    """Names that can be folders, none twice, none unknown."""
    if not settings.entries:
        raise ConfigError("entries is empty; give one or more, each with a label and settings")
    labels = [entry.label for entry in settings.entries]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"two entries are called {label!r}; give each its own label")
    if BASE in labels:
        raise ConfigError(f"an entry is called {BASE!r}, as the model that all runs start with")
    for what, name in _names(settings):
        if not _NAME.fullmatch(str(name)):
            raise ConfigError(
                f"{what} {name!r} cannot be the name of a folder; allowed: letters, digits, and "
                "- + . _ inside"
            )
    for entry in settings.entries:
        for name in entry.sets:
            if name not in settings.sets:
                allowed = ", ".join(settings.sets)
                raise ConfigError(
                    f"entry {entry.label!r} plays on set {name!r}, which is unknown; allowed: "
                    f"{allowed}"
                )


def _names(settings: CompareConfig) -> Iterator[tuple[str, Any]]:
    for name in settings.sets:
        yield "set", name
    for entry in settings.entries:
        yield "label", entry.label
        for strength in entry.strengths:
            yield f"entry {entry.label!r}: strength", strength


def _check_folders(runs: list[Run]) -> None:
    """``a`` at ``b-c`` and ``a-b`` at ``c`` would meet."""
    owner: dict[str, Run] = {}
    for run in runs:
        other = owner.setdefault(run.name, run)
        if other is not run:
            raise ConfigError(
                f"{other.point.name!r} and {run.point.name!r} would share the folder {run.name}; "
                "rename a label or a strength"
            )


def _check_comparable(runs: list[Run]) -> None:
    """Runs of a set start with the same model and are measured alike."""
    first: dict[str, Run] = {}
    for run in runs:
        like = first.setdefault(run.set, run)
        for part in ("model", "problems", "test"):
            if getattr(run.settings, part) != getattr(like.settings, part):
                raise ConfigError(
                    f"entry {run.point.name!r} has another {part} than {like.point.name!r} on set "
                    f"{run.set!r}, so their results could not be compared; {part} belongs to "
                    "settings or sets"
                )
        if run.settings.test.limit is None:
            raise ConfigError(
                "test.limit is not set, so entries with other rounds.limits would be measured "
                "under other limits; set settings: {test.limit: N}"
            )


def _check_effect(effect: Effect, settings: CompareConfig, runs: list[Run]) -> None:
    """Both points exist, and play on the set that is named, or on one at least."""
    where = f"effect {effect.claim!r}"
    if effect.set is not None and effect.set not in settings.sets:
        allowed = ", ".join(settings.sets)
        raise ConfigError(f"{where}: set is {effect.set!r}; allowed: {allowed}")
    played: set[str] = set(settings.sets)
    for side in ("of", "against"):
        name = getattr(effect, side)
        if name == BASE:
            continue
        names = list(dict.fromkeys(run.point.name for run in runs))
        if name not in names:
            raise ConfigError(f"{where}: {side} is {name!r}; allowed: {', '.join([BASE, *names])}")
        played &= {run.set for run in runs if run.point.name == name}
    if not played or effect.set not in (None, *played):
        raise ConfigError(
            f"{where}: {effect.of!r} and {effect.against!r} do not both play on "
            f"{effect.set or 'any set'}"
        )
