"""The tables of a comparison: markdown for a page, a short one for the terminal.

Takes the content of compare.json; nothing is computed here.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pruner_jax.report.words import duration, number, percent, points, tokens

Row = Sequence[str]
Form = Callable[[float | None], str]
Between = Callable[[Mapping[str, float | None], Form], str]

_NOTE = """\
Intervals: {confidence:g} %, percentiles of {resamples} draws over problems and seeds. Problems are
drawn together for all rows, so differences are paired by problem; each row has its own seeds, whose
mean is spread as Student's t with one degree of freedom less than there are seeds. One seed says
nothing about others. Every claim is judged by itself: of twenty differences that are none, one
shows at 95 %.

Frontier: the share of the draws in which no other row has at most the tokens and at least the
accuracy, one of them strictly; bold where that is so in the data.

AES: 1 x relative saving of tokens + 3 x relative gain of accuracy, or - 5 x its relative loss
(arXiv 2501.12570). Hard / easy: mean tokens on the hardest problems over those on the easiest.
Correlation: of difficulty and mean tokens over the problems. Per step: over the mean difficulty,
which is the number of steps that an answer needs. Training: generated tokens and time of a run,
means over seeds; evaluations on the monitor set are in them where method, limits or pick follow
these, tries with a hint and an expander's answers always, and so is a shared table in every run
that uses it."""


def markdown(result: Mapping[str, Any]) -> str:
    """The whole comparison as a page."""
    picture = "![accuracy against mean tokens](frontier.svg)"
    parts = ["# Comparison", f"{_progress(result)} {_cost(result)}".strip(), picture]
    for name, found in result["sets"].items():
        parts += [f"## {name}", _basis(found), _table(_results(found))]
        parts += ["### Where the tokens go", _table(_process(found))]
        parts += ["### Training", _table(_training(found))]
        parts += ["### Hypervolume", _reference(found), _table(_volumes(found))]
    if result["effects"]:
        parts += ["## Claims", _table(_claims(result, _between))]
    if result["failed"]:
        parts += ["## Failed runs", *(f"- `{f['run']}`: {f['error']}" for f in result["failed"])]
    note = _NOTE.format(
        confidence=100 * result["confidence"], resamples=number(result["resamples"])
    )
    return "\n\n".join([*parts, "## How to read this", note]) + "\n"


def text(result: Mapping[str, Any]) -> str:
    """The main numbers for the terminal."""
    parts = []
    for name, found in result["sets"].items():
        parts += [f"{name}: {_basis(found)}", _plain_table(_brief(found)), ""]
    if result["effects"]:
        parts += ["Claims:", _plain_table(_claims(result, _give_or_take)), ""]
    failed = [f"failed: {f['run']}: {f['error']}" for f in result["failed"]]
    return "\n".join([*parts, _progress(result), *failed])


def _progress(result: Mapping[str, Any]) -> str:
    words = f"{len(result['runs'])} of {result['planned']} runs are finished"
    return f"{words}, {len(result['failed'])} failed." if result["failed"] else f"{words}."


def _cost(result: Mapping[str, Any]) -> str:
    if not result["runs"]:
        return ""
    spent, seconds = (sum(r[n] for r in result["runs"]) for n in ("generated_tokens", "seconds"))
    return f"Together they generated {number(spent)} tokens and trained for {duration(seconds)}."


def _basis(found: Mapping[str, Any]) -> str:
    words = (
        f"{number(found['problems'])} test problems, {found['samples']} samples each, limit "
        f"{number(found['limit'])} tokens"
    )
    easy, hard = (", ".join(f"{d:g}" for d in found["difficulty"][n]) for n in ("easy", "hard"))
    return f"{words}; easy: difficulty {easy}, hard: {hard}." if easy else f"{words}."


# -- rows ------------------------------------------------------------------------------------------


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "base model", found["base"]
    for point in found["points"]:
        yield point["name"], point


def _results(found: Mapping[str, Any]) -> list[Row]:
    heads = ("", "seeds", "accuracy", "change, points", "tokens", "x base", "thinking", "AES")
    rows: list[Row] = [(*heads, "frontier")]
    for name, point in _rows(found):
        base = point is found["base"]
        rows.append(
            (
                name,
                "" if base else str(len(point["seeds"])),
                _between(point["accuracy"], percent),
                "" if base else _between(point["accuracy_change"], points),
                _between(point["tokens"], tokens),
                "" if base else _between(point["token_ratio"], _two),
                tokens(point["thinking_tokens"]["value"]),
                "" if base else _between(point["aes"], _two),
                _frontier(point, "**"),
            )
        )
    return rows


def _brief(found: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = [("", "seeds", "accuracy", "change", "tokens", "x base", "AES", "frontier")]
    for name, point in _rows(found):
        base = point is found["base"]
        rows.append(
            (
                name,
                "" if base else str(len(point["seeds"])),
                _give_or_take(point["accuracy"], percent),
                "" if base else _give_or_take(point["accuracy_change"], points),
                _give_or_take(point["tokens"], tokens),
                "" if base else _give_or_take(point["token_ratio"], _two),
                "" if base else _two(point["aes"]["value"]),
                _frontier(point, "*"),
            )
        )
    return rows


def _process(found: Mapping[str, Any]) -> list[Row]:
    counts = list(found["base"]["redundancy"])
    heads = [part for name in counts for part in (name.replace("_", " "), "per step")]
    rows: list[Row] = [
        ("", "hard / easy", "correlation", "accuracy, hard", "tokens, hard", "tokens, easy", *heads)
    ]
    for name, point in _rows(found):
        redundancy = [point["redundancy"][c][k] for c in counts for k in _PER]
        rows.append(
            (
                name,
                _between(point["adaptivity"], _two),
                _two(point["correlation"]),
                _between(point["hard_accuracy"], percent),
                _between(point["hard_tokens"], tokens),
                _between(point["easy_tokens"], tokens),
                *(_between(value, _two) for value in redundancy),
            )
        )
    return rows


_PER = ("per_response", "per_step")


def _training(found: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = [("", "generated tokens", "time", "picked at step", "alarms, end")]
    for point in found["points"]:
        steps = ["/".join(map(str, picked)) for picked in point["picked_steps"].values()]
        rows.append(
            (
                point["name"],
                number(point["generated_tokens"]),
                duration(point["seconds"]),
                ", ".join(steps),
                "; ".join(_events(point)),
            )
        )
    return rows


def _events(point: Mapping[str, Any]) -> Iterator[str]:
    """What went other than planned, by seed."""
    for seed, alarms in point["alarms"].items():
        said = [*dict.fromkeys(alarms)] + ([point["ended"][seed]] if point["ended"][seed] else [])
        if said:
            yield f"seed {seed}: {', '.join(said)}"


def _reference(found: Mapping[str, Any]) -> str:
    at = found["hypervolume"]["reference"]
    return (
        f"Share of the plane x = 1 - log(tokens) / log({at['tokens']}) against accuracy that the "
        f"strengths of a method dominate together; reference point: {number(at['tokens'])} tokens, "
        f"accuracy {at['accuracy']:g}."
    )


def _volumes(found: Mapping[str, Any]) -> list[Row]:
    of = sorted(found["hypervolume"]["of"].items(), key=lambda item: -item[1]["value"])
    rows: list[Row] = [("", "hypervolume")]
    return rows + [
        ("base model" if name == "base" else name, _between(value, _three)) for name, value in of
    ]


_SHARES = ("accuracy", "at_once")


def _claims(result: Mapping[str, Any], between: Between) -> list[Row]:
    rows: list[Row] = [("claim", "set", "of", "against", "measure", "difference", "holds")]
    for e in result["effects"]:
        signed = points if e["measure"].endswith(_SHARES) else _signed
        measure = e["measure"].replace("_", " ") + (", points" if signed is points else "")
        difference = between(e["difference"], signed)
        if e["within"]:
            bound = e["within"] * (-1 if e["expect"] == "more" else 1)
            difference += f", {signed(bound)} allowed"
        rows.append((e["claim"], e["set"], e["of"], e["against"], measure, difference, e["holds"]))
    return rows


# -- words -----------------------------------------------------------------------------------------


def _two(value: float | None) -> str:
    return number(value, 2)


def _three(value: float | None) -> str:
    return number(value, 3)


def _signed(value: float | None) -> str:
    return ("+" if value is not None and value > 0 else "") + _two(value)


def _between(estimate: Mapping[str, float | None], form: Form) -> str:
    """A value with its interval, where there is one."""
    value, low, high = (form(estimate[name]) for name in ("value", "low", "high"))
    return value if estimate["low"] is None else f"{value} ({low} to {high})"


def _give_or_take(estimate: Mapping[str, float | None], form: Form) -> str:
    """Shorter: the value and the longer side of its interval."""
    if estimate["low"] is None:
        return form(estimate["value"])
    reach = max(estimate["high"] - estimate["value"], estimate["value"] - estimate["low"])
    return f"{form(estimate['value'])} ±{form(reach).lstrip('+±')}"


def _frontier(point: Mapping[str, Any], mark: str) -> str:
    share = percent(point["frontier"]["probability"], 0)
    return f"{mark}{share}{mark if mark == '**' else ''}" if point["frontier"]["on"] else share


# -- tables ----------------------------------------------------------------------------------------


def _table(rows: Sequence[Row]) -> str:
    """Markdown; numbers to the right."""
    head, *body = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain_table(rows: Sequence[Row]) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    head, *body = rows
    table.add_column(head[0], no_wrap=len(head[0]) == 0)
    for name in head[1:]:
        table.add_column(name, justify="right")
    for row in body:
        table.add_row(*map(Text, row))
    shown = io.StringIO()
    # Never narrower: a broken line is better than a cut number.
    width = max(shutil.get_terminal_size().columns, 110)
    Console(file=shown, width=width, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in shown.getvalue().splitlines())
