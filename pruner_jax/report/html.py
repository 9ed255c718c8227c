"""report.html: one file that opens anywhere, with nothing fetched from anywhere.

``build`` reads a run folder, draws every section whose data are there, and says of the others what
is missing. The page, its style and its few lines of script are the files beside this one.
"""

from __future__ import annotations

import pathlib
import re
from html import escape

from pruner_jax.report import figures, headline, training, transcripts
from pruner_jax.report.read import Run, read_run
from pruner_jax.report.way import way
from pruner_jax.report.words import duration, number, percent, tokens

_HERE = pathlib.Path(__file__).parent


def build(run_folder: str | pathlib.Path) -> pathlib.Path:
    """Write report.html into the run folder and return its path. A run without a result gets one
    too."""
    run = read_run(run_folder)
    page = fill(
        (_HERE / "page.html").read_text(),
        {
            "style": (_HERE / "page.css").read_text(),
            "script": (_HERE / "page.js").read_text(),
            "title": escape(_title(run)),
            "lead": _lead(run),
            "result": _result(run),
            "rounds": _rounds(run),
            "lengths": _lengths(run),
            "difficulty": _difficulty(run),
            "training": _training(run),
            "transcripts": _transcripts(run),
            "making": _making(run),
        },
    )
    path = run.folder / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def fill(template: str, parts: dict[str, str]) -> str:
    """Put each part where the template has its name in double braces; text in parts is not
    scanned."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _missing(what: str) -> str:
    return f'<p class="missing">{escape(what)}</p>'


def _figure(drawing: str, caption: str, missing: str) -> str:
    if not drawing:
        return f"<figure>{_missing(missing)}</figure>"
    return f"<figure>{drawing}<figcaption>{caption}</figcaption></figure>"


def _name(run: Run) -> str:
    method = run.setting("method.name")
    return f"{run.folder.resolve().name}{f', {method}' if method else ''}"


def _title(run: Run) -> str:
    if run.summary is None:
        return f"{_name(run)}: not finished"
    return headline.title(run.summary)


def _lead(run: Run) -> str:
    if run.summary is None:
        done = run.steps[-1].get("step") if run.steps else 0
        return (
            f"<p>{escape(_name(run))} has no result yet: {number(done)} steps are recorded, and "
            "summary.json is written after the test evaluation.</p>"
        )
    return f"""<p>{escape(headline.certainty(run.summary))}</p>
<p class="basis">{escape(_name(run))}. {escape(headline.basis(run.summary))}</p>"""


def _result(run: Run) -> str:
    """The two intervals, then the way over the rounds beside the table of numbers."""
    chart = _figure(
        way(run),
        "Each dot is an evaluation on the monitor set, in order along the line, darker with every "
        "round; rings are the checkpoints that went on. Up is more accurate, left is shorter.",
        "No evaluation on the monitor set is recorded yet.",
    )
    if run.summary is None:
        return f'<div class="pairwise">{chart}</div>'
    return f"""<div class="pairwise intervals">{headline.intervals(run.summary)}</div>
<div class="pairwise">{chart}<div>{headline.html_table(run.summary)}</div></div>"""


def _rounds(run: Run) -> str:
    """What each round did and which checkpoint it handed on."""
    entries = (run.summary or {}).get("rounds", [])
    if not entries:
        return _missing("The table of rounds comes with summary.json.")
    body = "\n".join(
        f"<tr><td>{place}</td><td>{number(r['limit'])}</td><td>{number(r['steps'])}</td>"
        f"<td>{number(r['picked_step'])}</td><td>{percent(r['accuracy'])}</td>"
        f'<td>{tokens(r["mean_tokens"])}</td><td class="why">{escape(r["reason"])}</td></tr>'
        for place, r in enumerate(entries, 1)
    )
    return f"""<div class="wide"><table class="numbers rounds"><thead><tr><th>round</th>
<th>limit</th><th>steps</th><th>picked step</th><th>accuracy</th><th>tokens</th>
<th class="why">why that checkpoint</th></tr></thead><tbody>
{body}
</tbody></table></div>"""


def _lengths(run: Run) -> str:
    curve = (run.summary or {}).get("curve", {})
    reach = curve.get("reach", {})
    price = (
        f" {percent(reach['share'], 0)} of the accuracy of before takes {number(reach['base'])} "
        f"tokens before and {number(reach['final'])} after."
        if reach.get("base") is not None and reach.get("final") is not None
        else ""
    )
    return (
        '<div class="pairwise">'
        + _figure(
            figures.lengths(run),
            "Share of the test responses by length. What was cut off counts with the limit.",
            "The length distributions need rollouts/base-test.parquet and final-test.parquet.",
        )
        + _figure(
            figures.budgets(run),
            "Accuracy if generation stopped at b tokens and unfinished responses were wrong "
            f"(truncate and fail), with pointwise intervals.{price}",
            "The budget curves come with summary.json.",
        )
        + "</div>"
    )


def _difficulty(run: Run) -> str:
    summary = run.summary or {}
    ratio = summary.get("adaptation_ratio", {})
    spread = (
        f" Hardest over easiest: ×{number(ratio['base'], 2)} before, ×{number(ratio['final'], 2)} "
        "after."
        if ratio.get("base") and ratio.get("final")
        else ""
    )
    return (
        '<div class="pairwise">'
        + _figure(
            figures.difficulty(summary.get("by_difficulty", []), "by difficulty"),
            f"Mean tokens per difficulty that the problem source states.{spread}",
            "No test result yet, or the problem source states no difficulty.",
        )
        + _figure(
            figures.difficulty(summary.get("by_base_accuracy", []), "by solve rate before"),
            "Problems by how often the model solved them before; the groups come from one half of "
            "its samples, the values from the other half.",
            "Needs a test result with two samples or more of every problem.",
        )
        + "</div>"
    )


def _training(run: Run) -> str:
    drawn = training.curves(run)
    if not drawn:
        return _missing("metrics.jsonl holds no training steps yet.")
    return f'<div class="pairwise">{"".join(f"<figure>{d}</figure>" for d in drawn)}</div>'


def _transcripts(run: Run) -> str:
    return transcripts.section(run) or _missing(
        "Transcripts need rollouts/base-test.parquet and rollouts/final-test.parquet, which are "
        "written by the test evaluation after the last round."
    )


def _making(run: Run) -> str:
    summary = run.summary or {}
    parts = []
    if run.config_text:  # the settings below name the model and the folder: they are the command
        command = f"pruner-jax prune {run.folder / 'config.yaml'}"
        parts.append(f"<h3>Command</h3><pre>{escape(command)}</pre>")
    columns = [
        _seconds(summary.get("seconds", {})),
        _small_table("Versions", [(k, v) for k, v in summary.get("versions", {}).items()]),
        _verdicts(run),
    ]
    parts.append(f'<div class="columns">{"".join(columns)}</div>')
    if run.config_text:
        parts.append(
            "<details><summary>config.yaml, as resolved</summary>"
            f"<pre>{escape(run.config_text)}</pre></details>"
        )
    return "\n".join(parts)


def _seconds(seconds: dict[str, float]) -> str:
    whole = sum(seconds.values())
    rows = [
        (name, duration(value), f"{percent(value / whole, 0)}" if whole else "")
        for name, value in sorted(seconds.items(), key=lambda item: -item[1])
    ]
    return _small_table("Time", [*rows, ("together", duration(whole), "")] if rows else [])


def _verdicts(run: Run) -> str:
    rows = [
        (verdict, percent(shares.get("base")), percent(shares.get("final")))
        for verdict, shares in transcripts.verdict_counts(run)
    ]
    return _small_table("Verdicts on the test set, before and after", rows)


def _small_table(title: str, rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(str(cell))}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f'<div><h3>{escape(title)}</h3><table class="numbers">{body}</table></div>'
