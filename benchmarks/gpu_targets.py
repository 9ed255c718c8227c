"""The numbers to reach on one H200, beside those that gpu.py found; and how ours stand to the
peers'. No JAX here.

``found`` is what gpu.py writes: part -> figure -> values, or a text that says why there are none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from gpu_sizes import SMOKE, Sizes  # benchmarks/gpu_sizes.py

LOGITS = 1e-4  # of the largest, as between this package and transformers

Found = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Target:
    """A value to reach: at least ``least``, or less than ``below``."""

    what: str
    part: str
    figure: str
    key: str
    least: float | None = None
    below: float | None = None
    timed: bool = True  # so that compiling spoils it

    @property
    def wanted(self) -> str:
        """As the table says it."""
        return f"at least {self.least:g}" if self.below is None else f"below {self.below:g}"

    def reached(self, value: float) -> bool:
        """Whether that is enough."""
        return value >= self.least if self.below is None else value < self.below


def targets(sizes: Sizes) -> tuple[Target, ...]:
    """All of them, in the order of the parts."""
    sampled = ("sampler", sizes.sampled(sizes.limits[-1]))
    stepped = ("step", sizes.stepped(sizes.step_limit))
    learned = [("learner", sizes.learned(remat)) for remat in sizes.remats]
    parity = ("parity", "full precision")
    return (
        Target("largest logit error against the CPU", *parity, "logits", below=LOGITS),
        Target("share of equal responses", *parity, "equal share", least=1.0),
        Target("tokens/s", *sampled, "tokens_per_s", least=60_000),
        Target("of the bandwidth roofline", *sampled, "needed_of_copy", least=0.55),
        *(Target("of a product's FLOPs (MFU)", *one, "of_product", least=0.45) for one in learned),
        Target("seconds", *stepped, "seconds", below=30),
        Target(
            "sampler against learner, log p",
            *stepped,
            "sampler against learner",
            below=0.02,
            timed=False,
        ),
    )


def judged(found: Found, sizes: Sizes) -> list[dict[str, Any]]:
    """Each target with what was measured, and whether that reaches it (None: it was not measured,
    or in a smoke run, whose figures say nothing, or while programs were compiled)."""
    rows = []
    for target in targets(sizes):
        figures = found.get(target.part, {}).get(target.figure, "not measured")
        value = figures.get(target.key) if isinstance(figures, dict) else figures
        value = "not measured" if value is None else value
        told = isinstance(value, (int, float)) and sizes is not SMOKE
        compiled = figures.get("compiled") if told and target.timed else 0
        rows.append(
            {
                "target": f"{target.part}, {target.figure}: {target.what}",
                "wanted": target.wanted,
                "measured": value,
                "reached": target.reached(value) if told and not compiled else None,
                **({"compiled": compiled} if compiled else {}),
            }
        )
    return rows


def beside(found: Found) -> None:
    """How many times as fast ours is, in each of the peers' figures that says what to look at."""
    for figures in found.get("peers", {}).values():
        if isinstance(figures, dict):
            part, figure = figures["beside"]
            ours = found.get(part, {}).get(figure)
            if isinstance(ours, dict) and "tokens_per_s" in ours:
                figures["times_ours"] = ours["tokens_per_s"] / figures["tokens_per_s"]


def table(rows: Sequence[dict[str, Any]], found: Found) -> str:
    """For people: the targets, then the peers."""
    lines = ["| | wanted | measured | reached |", "|---" * 4 + "|"]
    said = {None: "", True: "yes", False: "no"}
    for row in rows:
        verdict = "(it compiled)" if row.get("compiled") else said[row["reached"]]
        cells = [row["target"], row["wanted"], shown(row["measured"]), verdict]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| peer | tokens/s | ours |", "|---" * 3 + "|"]
    for name, figures in found.get("peers", {}).items():
        if isinstance(figures, dict):
            ours = shown(figures["times_ours"]) + "x" if "times_ours" in figures else "not measured"
            lines.append(f"| {name} | {shown(figures['tokens_per_s'])} | {ours} |")
        elif isinstance(figures, str):
            lines.append(f"| {name} | {figures} | |")
    return "\n".join(lines)


def shown(value: float | str) -> str:
    """A number to three digits."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
