"""The sentence, the intervals and the table, against the summary they are made from."""

import copy
import json
import xml.etree.ElementTree as ET

import pytest

from pruner_jax.report import headline


@pytest.fixture
def summary(finished_run):
    return json.loads((finished_run / "summary.json").read_text())


def with_change(summary, value, low, high, ratio=0.4):
    changed = copy.deepcopy(summary)
    changed["accuracy_change"] = {"value": value, "low": low, "high": high}
    changed["token_ratio"] = {"value": ratio, "low": ratio - 0.02, "high": ratio + 0.02}
    return changed


def test_title(summary):
    assert headline.title(with_change(summary, 0.012, -0.01, 0.03)) == (
        "60 % fewer tokens, accuracy +1.2 points"
    )
    assert headline.title(with_change(summary, -0.02, -0.04, 0.0, 1.25)) == (
        "25 % more tokens, accuracy −2.0 points"
    )


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.001, 0.03, "Accuracy rose"),
        (-0.03, -0.001, "Accuracy fell"),
        (-0.01, 0.01, "did not change by more than chance explains"),
    ],
)
def test_certainty_follows_the_interval(summary, low, high, words):
    text = headline.certainty(with_change(summary, (low + high) / 2, low, high))
    assert words in text and "0.40 times the tokens of before (0.38 to 0.42)" in text


def test_rows_say_what_the_summary_says(summary):
    found = {what.strip(): cells for what, *cells in headline.rows(summary)}
    assert found["accuracy"][0] == f"{100 * summary['base']['accuracy']:.1f} %"
    assert found["mean tokens"][1] == f"{summary['final']['mean_tokens']:.1f}"
    assert found["AES (a=1, b=3, g=5)"][1] == f"{summary['aes']['value']:.2f}"


def test_the_page_shows_the_intervals_of_each_model(summary):
    page, ends = headline.html_table(summary), summary["final"]["mean_tokens_in_general"]
    shown = f"<small>{ends['low']:.1f} to {ends['high']:.1f}</small>"
    assert shown in page
    assert "(" not in headline.rows(summary)[1][2]  # the terminal has no room
    del summary["final"]["mean_tokens_in_general"]  # as older runs
    assert shown not in headline.html_table(summary)


def test_budgets_have_rows_of_their_own(summary):
    for side, off in (("base", 40.0), ("final", 10.0)):
        estimates = {name: {"value": 0.25, "low": 0.2, "high": 0.3} for name in ("within", "over")}
        away = {"value": off, "low": off - 1, "high": off + 1}
        summary[side]["budget"] = {"tokens": 30, "distance": away, **estimates}
    found = {what.strip(): cells for what, *cells in headline.rows(summary)}
    assert found["off 30 tokens"] == ["40.0", "10.0", "×0.25"]
    assert found["over them"] == ["25.0 %", "25.0 %", "±0.0"]
    assert "10.0<small>9.0 to 11.0</small>" in headline.html_table(summary)


def test_unknown_numbers_become_dashes(summary):
    summary["aes"].update(value=None, low=None, high=None)
    summary["final"]["mean_tokens_wrong"] = None
    found = {what.strip(): cells for what, *cells in headline.rows(summary)}
    assert found["AES (a=1, b=3, g=5)"][1] == "–"
    assert found["mean when wrong"][1:] == ["–", "–"]


@pytest.mark.parametrize("ratio", [0.4, 1.0, 1.7])
def test_intervals_are_drawn_inside_their_axes(summary, ratio):
    drawn = headline.intervals(with_change(summary, -0.2, -0.31, 0.02, ratio))
    for chart in ET.fromstring(f"<div>{drawn}</div>"):
        axis, *_ = [e for e in chart.iter("line") if e.get("class") == "axis"]
        (bar,) = [e for e in chart.iter("line") if e.get("class") == "interval"]
        ends = [float(axis.get("x1")), float(bar.get("x1")), float(bar.get("x2"))]
        assert ends == sorted(ends) and ends[-1] <= float(axis.get("x2"))
