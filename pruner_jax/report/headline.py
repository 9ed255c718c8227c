"""The result in a sentence, two intervals and a table, for the page and for the terminal.

Takes the dict of summary.json. ``rows`` is what both show, the page with the intervals of each
model; nothing is computed that the summary does not say, except differences of two of its numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

from pruner_jax.report import svg
from pruner_jax.report.words import number, percent, points, tick_labels, tokens

Row = tuple[str, str, str, str]  # what, before, after, change

_TOKENS = (
    ("mean tokens", "mean_tokens"),
    ("  thinking", "mean_thinking_tokens"),
    ("  answer", "mean_answer_tokens"),
    ("median tokens", "median_tokens"),
    ("90th percentile", "p90_tokens"),
    ("mean when correct", "mean_tokens_correct"),
    ("mean when wrong", "mean_tokens_wrong"),
)


def title(summary: dict[str, Any]) -> str:
    """The headline."""
    saved = 1.0 - summary["token_ratio"]["value"]
    kind = "fewer" if saved >= 0 else "more"
    change = points(summary["accuracy_change"]["value"])
    return f"{number(abs(100 * saved))} % {kind} tokens, accuracy {change} points"


def certainty(summary: dict[str, Any]) -> str:
    """What the intervals allow to be said, in plain words."""
    change, ratio = summary["accuracy_change"], summary["token_ratio"]
    sure = f"{100 * summary['confidence']:g} %"
    spread = f"{points(change['low'])} to {points(change['high'])} points"
    if change["low"] > 0:
        words = f"Accuracy rose: the {sure} interval of the change is {spread}."
    elif change["high"] < 0:
        words = f"Accuracy fell: the {sure} interval of the change is {spread}."
    else:
        words = (
            f"The accuracy did not change by more than chance explains: the {sure} interval is "
            f"{spread}."
        )
    return (
        f"{words} A response costs {number(ratio['value'], 2)} times the tokens of before "
        f"({number(ratio['low'], 2)} to {number(ratio['high'], 2)})."
    )


def basis(summary: dict[str, Any]) -> str:
    """Whom was asked how often."""
    base = summary["base"]
    samples = f"{base['samples_per_problem']:g} samples each"
    return (
        f"{number(base['n_problems'])} test problems, {samples}, "
        f"limit {number(base['limit'])} tokens. Intervals by paired bootstrap over problems, "
        f"{number(summary['resamples'])} resamples."
    )


def rows(summary: dict[str, Any], spread: bool = False) -> list[Row]:
    """What, before, after, change: the table. With ``spread`` the intervals of either model stand
    behind its numbers, where they have one."""
    base, final = summary["base"], summary["final"]
    change, ratio, aes = (summary[k] for k in ("accuracy_change", "token_ratio", "aes"))

    def cells(key: str, form: Callable[[float | None], str]) -> tuple[str, str]:
        sides = ((side[key], side.get(f"{key}_in_general")) for side in (base, final))
        return tuple(_cell(value, ends if spread else None, form) for value, ends in sides)

    moved = f"{points(change['value'])} ({points(change['low'])} to {points(change['high'])})"
    table: list[Row] = [("accuracy", *cells("accuracy", percent), moved)]
    for label, key in _TOKENS:
        cost = _times(base[key], final[key])
        if key == "mean_tokens":
            cost += f" ({number(ratio['low'], 2)} to {number(ratio['high'], 2)})"
        table.append((label, *cells(key, tokens), cost))
    cut = points(final["truncated"] - base["truncated"])
    table.append(("cut at the limit", *cells("truncated", percent), cut))
    table += _budget_rows(base.get("budget"), final.get("budget"), spread)
    table.append(
        (
            f"AES (a={aes['a']:g}, b={aes['b']:g}, g={aes['g']:g})",
            "0",
            number(aes["value"], 2),
            f"{number(aes['low'], 2)} to {number(aes['high'], 2)}",
        )
    )
    return table


def _cell(value: float | None, ends: Any, form: Callable[[float | None], str]) -> str:
    return form(value) + (f" ({form(ends['low'])} to {form(ends['high'])})" if ends else "")


def _budget_rows(base: Any, final: Any, spread: bool) -> list[Row]:
    """How well both models keep to the tokens that they were told, if they were told any."""
    if not base:
        return []

    def cells(part: str, form: Callable[[float | None], str]) -> list[str]:
        both = (base[part], final[part])
        return [_cell(side["value"], side if spread else None, form) for side in both]

    before, after = base["distance"]["value"], final["distance"]["value"]
    found = [(f"off {base['tokens']} tokens", *cells("distance", tokens), _times(before, after))]
    for name in ("within", "over"):
        gain = points(final[name]["value"] - base[name]["value"])
        found.append((f"  {name} them", *cells(name, percent), gain))
    return found


def _times(before: float | None, after: float | None) -> str:
    return f"×{number(after / before, 2)}" if before and after is not None else "–"


def html_table(summary: dict[str, Any]) -> str:
    """The table for the page; indented labels are parts of the row above."""
    body = "\n".join(
        f'<tr><th scope="row"{" class=part" if what.startswith(" ") else ""}>{escape(what.strip())}'
        f"</th>{''.join(map(_html_cell, numbers))}</tr>"
        for what, *numbers in rows(summary, spread=True)
    )
    return f"""<table class="numbers sides">
<thead><tr><th></th><th>before</th><th>after</th><th>change</th></tr></thead>
<tbody>
{body}
</tbody></table>"""


def _html_cell(words: str) -> str:
    """A number with its interval below it."""
    value, _, ends = words.removesuffix(")").partition(" (")
    ends = ends.replace(" %", "")
    return f"<td>{escape(value)}{f'<small>{escape(ends)}</small>' if ends else ''}</td>"


def intervals(summary: dict[str, Any]) -> str:
    """The two numbers that matter, each on its own axis: accuracy around 0, tokens from 0 to 1."""
    change, ratio = summary["accuracy_change"], summary["token_ratio"]
    in_points = {name: 100 * value for name, value in change.items()}
    reach = 1.15 * max(abs(in_points["low"]), abs(in_points["high"]), 1.0)
    top = max(1.0, 1.05 * ratio["high"])
    value = f"{points(change['value'])} points"
    return _whisker(in_points, (-reach, reach), 0.0, "change of accuracy", value) + _whisker(
        ratio, (0.0, top), 1.0, "tokens, times those of before", f"×{number(ratio['value'], 2)}"
    )


def _whisker(
    estimate: dict[str, float], ends: tuple[float, float], same: float, name: str, value: str
) -> str:
    """A dot with its interval over a bare axis; the upright line stands at "no change"."""
    scale = svg.Scale(*ends, 6.0, svg.WIDTH - 6.0)
    level = 42.0
    marks = [
        svg.text(0, 12, name, "title"),
        svg.text(svg.WIDTH, 12, value, "title strong", "end"),
        svg.line(scale.start, level, scale.end, level, "axis"),
        svg.line(scale(same), level - 14, scale(same), level + 8, "same"),
    ]
    ticks = [tick for tick in scale.ticks(4) if tick != same]
    for tick, label in zip(ticks, tick_labels(ticks)):
        marks.append(svg.line(scale(tick), level, scale(tick), level + 5, "axis"))
        marks.append(svg.text(scale(tick), level + 22, label, "tick", "middle"))
    marks += [
        svg.text(scale(same), level + 22, "no change", "tick", "end" if same else "middle"),
        svg.line(scale(estimate["low"]), level, scale(estimate["high"]), level, "interval"),
        svg.dot(scale(estimate["value"]), level, 6, "final solid", value),
    ]
    box = f"0 0 {svg.WIDTH:g} 72"
    body = "".join(marks)
    return svg.element("svg", body, viewBox=box, class_="chart", role="img", aria_label=name)
