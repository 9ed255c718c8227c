"""The same problems before and after, side by side: thought and answer apart, tokens and verdicts.

Of every problem the sample of median length is shown, of either model: neither the best nor the
worst. Problems with the longest saving come first; those whose verdict changed are kept too, so
that what was lost can be read as easily as what was saved.
"""

from __future__ import annotations

import dataclasses
from html import escape
from typing import Any

import numpy as np

from pruner_jax.report.read import Run, Table
from pruner_jax.report.words import number, percent, tokens
from pruner_jax.text import TextOptions, opens_thought, split_thought

SHOWN = 12  # problems with the longest saving, and as many whose verdict changed

_VERDICTS = {
    "correct": ("✓", "right"),
    "wrong": ("✗", "miss"),
    "unparsed": ("?", "miss"),
    "unfinished": ("…", "miss"),
}


@dataclasses.dataclass(frozen=True)
class Side:
    """One model on one problem: means over its samples and the row that is shown."""

    row: int
    tokens: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Pair:
    """A problem answered by both models."""

    problem_id: str
    base: Side
    final: Side
    changed: bool  # the verdicts of the two shown rows differ

    @property
    def saving(self) -> float:
        """Mean tokens saved."""
        return self.base.tokens - self.final.tokens


def pairs(base: Table, final: Table, shown: int = SHOWN) -> list[Pair]:
    """The problems to show, longest saving first: the top ones and the top ones that changed."""
    before, after = _sides(base), _sides(final)
    found = [
        Pair(
            name,
            before[name],
            after[name],
            base["verdict"][before[name].row] != final["verdict"][after[name].row],
        )
        for name in before
        if name in after
    ]
    found.sort(key=lambda pair: (-pair.saving, pair.problem_id))
    changed = [pair for pair in found if pair.changed]
    chosen = {pair.problem_id for pair in [*found[:shown], *changed[:shown]]}
    return [pair for pair in found if pair.problem_id in chosen]


def _sides(table: Table) -> dict[str, Side]:
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(table["problem_id"]):
        rows.setdefault(name, []).append(row)
    sides = {}
    for name, mine in rows.items():
        length = table["length"][mine]
        middle = mine[int(np.argsort(length, kind="stable")[(len(mine) - 1) // 2])]
        right = np.mean([table["verdict"][row] == "correct" for row in mine])
        sides[name] = Side(middle, float(length.mean()), float(right))
    return sides


def section(run: Run) -> str:
    """The transcripts as HTML, with their filter; empty when an evaluation is missing."""
    base, final = run.base_test, run.final_test
    if base is None or final is None:
        return ""
    chosen = pairs(base, final)
    if not chosen:
        return ""
    options = TextOptions(
        **{k: v for k in ("think_open", "think_close") if (v := run.setting(f"text.{k}"))}
    )
    samples = len(base) // len(set(base["problem_id"]))
    articles = "\n".join(_article(pair, base, final, options, samples) for pair in chosen)
    changed = sum(pair.changed for pair in chosen)
    return f"""<form class="filter" role="search">
<input type="search" placeholder="Search questions and answers" aria-label="Search transcripts">
<label><input type="checkbox"> only changed verdicts ({changed})</label>
<output></output>
</form>
{articles}"""


def _article(pair: Pair, base: Table, final: Table, options: TextOptions, samples: int) -> str:
    row = pair.base.row
    hard = base["difficulty"][row]
    facts = [escape(pair.problem_id), f"gold {escape(base['gold'][row])}"]
    if hard is not None:
        facts.insert(1, f"difficulty {hard:g}")
    scale = max(base["length"][row], final["length"][pair.final.row])
    return f"""<article class="pair" data-changed="{int(pair.changed)}">
<header>
<p class="question">{escape(base["question"][row])}</p>
<p class="facts">{" · ".join(facts)}</p>
<p class="saving"><b class="base">{tokens(pair.base.tokens)}</b> → <b class="final">{
        tokens(pair.final.tokens)
    }</b> tokens<span>mean of {samples} samples, accuracy {percent(pair.base.accuracy, 0)} → {
        percent(pair.final.accuracy, 0)
    }</span></p>
</header>
{_response("before", "base", base, row, options, scale)}
{_response("after", "final", final, pair.final.row, options, scale)}
</article>"""


def _response(
    title: str, name: str, table: Table, row: int, options: TextOptions, scale: int
) -> str:
    verdict = table["verdict"][row]
    sign, class_ = _VERDICTS.get(verdict, ("!", "miss"))
    thinking, length = int(table["thinking"][row]), int(table["length"][row])
    opened = opens_thought(table["prompt"][row], options)
    thought, answer = split_thought(table["text"][row], options, opened)
    bar = "".join(
        f'<i class="{part}" style="width:{100 * count / scale:.2f}%"></i>'
        for part, count in (("thought", thinking), ("answer", length - thinking))
    )
    body = "".join(
        f'<p class="{part}"{focus}>{escape(words.strip())}</p>'
        for part, focus, words in (("thought", ' tabindex="0"', thought), ("answer", "", answer))
        if words.strip()
    )
    return f"""<section class="{name}">
<h4>{title} <span class="verdict {class_}">{sign} {escape(verdict)}</span>
<span class="count">{number(thinking)} thinking + {number(length - thinking)} answer</span></h4>
<div class="bar {name}">{bar}</div>
<div class="words">{body or '<p class="answer">(empty)</p>'}</div>
</section>"""


def verdict_counts(run: Run) -> list[tuple[str, dict[str, Any]]]:
    """How often each verdict was given, before and after, as shares of the samples."""
    tables = {"base": run.base_test, "final": run.final_test}
    present = {name: table for name, table in tables.items() if table is not None}
    names = sorted({v for table in present.values() for v in table["verdict"]})
    return [
        (verdict, {side: t["verdict"].count(verdict) / len(t) for side, t in present.items()})
        for verdict in names
    ]
