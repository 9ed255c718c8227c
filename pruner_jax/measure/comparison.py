"""The settings of a comparison: its methods, its claims, and what it is made of.

`run.planned` turns them into runs, `run.standings` puts together what these came to.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from pruner_jax.measure.bootstrap import Estimate
from pruner_jax.measure.frontier import MEASURES


@dataclasses.dataclass(frozen=True)
class EntryOptions:
    """One method of a comparison: a point, or one for each of its strengths."""

    label: str
    """What it is called in tables, charts and folders."""

    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What differs from the settings that all runs share, nested ({method: {name: dler}}) or with
    dots ({rounds.limits: [48]})."""

    strengths: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Short names with further settings, the weakest pressure first; each makes a point. Empty: one
    point."""

    sets: list[str] = dataclasses.field(default_factory=list)
    """The sets it plays on. Empty: all of them."""


@dataclasses.dataclass(frozen=True)
class Effect:
    """A claim that a comparison tests: one point has more of something than another, or less."""

    claim: str
    """In words."""

    of: str
    """A point: label, or label/strength."""

    expect: Literal["more", "less"]
    """The sign that the claim says."""

    measure: str = "tokens"
    """What is compared."""

    against: str = "base"
    """Another point, or base: the model that all runs start with."""

    within: float = 0.0
    """How far the other way is still as claimed: with expect more and 0.01, at most 0.01 less is
    lost (a test of non-inferiority)."""

    set: str | None = None
    """The set it is tested on. null: every set where both points play."""

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ValueError(f"measure is {self.measure!r}; allowed: {', '.join(MEASURES)}")
        if not 0 <= self.within < np.inf:
            raise ValueError(f"within is {self.within}; allowed: 0 or more")

    def holds(self, difference: Estimate) -> str:
        """Whether the difference says so: "yes" or "no" where its interval lies on one side of
        what is allowed, else "undecided"."""
        low, high = difference.low, difference.high
        if self.expect == "less":
            low, high = -high, -low
        return "yes" if low > -self.within else "no" if high < -self.within else "undecided"


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Several methods and strengths, with several seeds, on the same problems."""

    out: str
    """Folder of the comparison; a run that is there already is continued or taken as it is."""

    base: str | None = None
    """YAML file of a prune run, whose settings all runs share."""

    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Changes of it for all runs."""

    sets: dict[str, Any] = dataclasses.field(default_factory=lambda: {"all": {}})
    """Testbeds: short names with further settings, e.g. {noisy: {problems.options.noise: 0.1}}."""

    seeds: list[int] = dataclasses.field(default_factory=lambda: [0, 1, 2])
    """Every point is played once with each."""

    entries: list[EntryOptions] = dataclasses.field(default_factory=list)
    """The methods."""

    effects: list[Effect] = dataclasses.field(default_factory=list)
    """Claims to be tested."""

    workers: int = 1
    """Runs that are played at once, each in a process of its own with its share of the cores. Above
    1 on a CPU only."""

    confidence: float = 0.95
    """Confidence of every interval."""

    resamples: int = 10_000
    """Draws over problems and seeds."""

    dry_run: bool = False
    """Check all runs, list them, and stop. --dry-run alone says true."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds is {self.seeds}; allowed: one or more, each once")
        if self.workers < 1:
            raise ValueError(f"workers is {self.workers}; allowed: 1 or more")
        if not self.sets:
            raise ValueError("sets is empty; allowed: one or more, or leave it out")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence is {self.confidence}; allowed: 0.5 < confidence < 1")
        if self.resamples < 100:
            raise ValueError(f"resamples is {self.resamples}; allowed: 100 or more")
