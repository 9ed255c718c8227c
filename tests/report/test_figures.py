"""What the charts show, read back from their marks."""

import dataclasses
import json
import re

import numpy as np
import pytest

from pruner_jax.report import figures, training
from pruner_jax.report.read import read_run


@pytest.fixture(scope="module")
def run(finished_run):
    return read_run(finished_run)


def test_bins_hold_equally_many_lengths_or_equal_factors():
    edges = figures._edges(7, 160, log=False)
    assert len(set(np.diff(edges))) == 1 and edges[0] == 6.5 and edges[-1] > 160
    log = figures._edges(7, 32768, log=True)
    assert log[0] == 6.5 and log[-1] >= 32768.5 and (np.diff(log) >= 1).all()


def test_length_chart_names_both_medians(run, drawing):
    shown = drawing(figures.lengths(run)).texts()
    for table, words in ((run.base_test, "median before"), (run.final_test, "median after")):
        assert f"{np.median(table['length']):,.0f}" in shown[shown.index(words) + 1]


def test_length_areas_hold_every_response(run, drawing):
    """Height times width over all bins is the same for both models: shares of one."""
    found = drawing(figures.lengths(run))
    areas = []
    for name in ("base", "final"):
        area = found.marks("path", name)[0].get("d").rstrip("Z")
        ground, *points, _ = [tuple(map(float, p.split())) for p in re.split("[ML]", area)[1:]]
        left, right, floor = points[0::2], points[1::2], ground[1]
        areas.append(sum((r[0] - p[0]) * (floor - p[1]) for p, r in zip(left, right)))
    assert areas[0] == pytest.approx(areas[1], rel=0.02)


def test_budget_chart_tells_the_price_of_the_base_accuracy(run, drawing):
    reach = run.summary["curve"]["reach"]
    assert f"{reach['base']} → {reach['final']}" in drawing(figures.budgets(run)).texts()


def test_difficulty_chart_has_a_row_per_group(run, drawing):
    rows = run.summary["by_difficulty"]
    found = drawing(figures.difficulty(rows, "by difficulty"))
    assert len(found.marks("line", "dumbbell")) == len(rows) == 5
    assert f"2 ({rows[0]['problems']})" in found.texts()
    assert figures.difficulty([], "by difficulty") == ""


def test_missing_data_give_no_chart(run):
    empty = dataclasses.replace(run, summary=None, base_test=None, final_test=None, steps=[])
    assert figures.lengths(empty) == figures.budgets(empty) == ""
    assert training.curves(empty) == []


def test_training_charts_break_at_rounds(run, drawing):
    drawn = [drawing(chart) for chart in training.curves(run)]
    assert len(drawn) == 4
    for found in drawn:
        assert len(found.marks("line", "boundary")) == 2
        assert len(found.marks("path", "thin")) == 3
    limits = drawn[1].marks("line", "limit")
    assert len(limits) == 3 and "limit 80" in drawn[1].texts()


def test_steps_that_start_again_each_round_are_laid_end_to_end():
    records = [{"step": s} for s in (1, 2, 3, 1, 2)]
    np.testing.assert_array_equal(training._places(records), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(training._places(records[:3]), [1, 2, 3])


def test_a_metric_that_was_not_recorded_has_no_chart(run):
    steps = [{k: v for k, v in r.items() if k != "reward"} for r in run.steps]
    assert len(training.curves(dataclasses.replace(run, steps=steps))) == 3


def test_a_gap_in_a_metric_is_left_out(run):
    steps = [dict(r, reward=None) if r["step"] % 3 else r for r in run.steps]
    chart = training.curves(dataclasses.replace(run, steps=steps))[3]
    assert "nan" not in chart.lower()


def test_running_mean_equals_a_plain_window():
    x = np.random.default_rng(0).normal(size=60)
    smooth = training.running_mean(x)
    for i in (0, 2, 30, 59):
        window = x[max(0, i - 3) : i + 4]
        assert smooth[i] == pytest.approx(window.mean())
    assert training.running_mean([5.0]) == [5.0]


def test_charts_are_drawn_from_json_alone(finished_run):
    """The file itself, not Python's objects, is what the charts are made from."""
    text = (finished_run / "summary.json").read_text()
    assert json.loads(text) == read_run(finished_run).summary
