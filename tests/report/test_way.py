"""The way over the rounds, read back from the chart."""

import dataclasses

import pytest

from pruner_jax.report.read import read_run
from pruner_jax.report.way import picks, way


@pytest.fixture(scope="module")
def run(finished_run):
    return read_run(finished_run)


def test_every_evaluation_is_a_dot_and_every_pick_a_ring(run, drawing):
    found = drawing(way(run))
    assert len(found.marks("circle", "final")) == len(run.evaluations)
    assert len(found.marks("circle", "ring")) == 3
    assert len(found.marks("circle", "base")) == 1
    assert {"start", "round 1, limit 120", "round 3, limit 56"} <= set(found.texts())


def test_fewer_tokens_are_to_the_left_and_better_is_up(run, drawing):
    dots = drawing(way(run)).marks("circle", "final")
    places = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in dots]
    tokens = [record["mean_tokens"] for record in run.evaluations]
    accuracy = [record["accuracy"] for record in run.evaluations]
    by_tokens = sorted(range(len(dots)), key=lambda i: tokens[i])
    assert by_tokens == sorted(range(len(dots)), key=lambda i: places[i][0])
    assert max(range(len(dots)), key=lambda i: accuracy[i]) == min(
        range(len(dots)), key=lambda i: places[i][1]
    )


def test_picks_of_a_run_that_still_trains_come_from_the_marks(run):
    marked = picks(dataclasses.replace(run, summary=None))
    assert marked == picks(run)
    assert [label for _, label in marked][1] == "round 2, limit 80"


def test_picks_of_a_finished_run_need_no_marks(run):
    bare = [{k: v for k, v in r.items() if k != "picked"} for r in run.evaluations]
    assert picks(dataclasses.replace(run, evaluations=bare)) == picks(run)


def test_a_round_that_kept_its_start_is_named_there(run):
    rounds = [dict(entry) for entry in run.summary["rounds"]]
    rounds[1]["picked_step"] = rounds[0]["picked_step"]
    summary = {**run.summary, "rounds": rounds}
    found = picks(dataclasses.replace(run, summary=summary))
    assert [label for _, label in found] == [
        "round 1, limit 120; round 2, limit 80",
        "round 3, limit 56",
    ]


def test_steps_that_start_again_each_round_are_told_apart(run):
    again = [dict(r, step=(r["step"] - 1) % 40 + 1 if r["step"] else 0) for r in run.evaluations]
    rounds = [dict(r, picked_step=(r["picked_step"] - 1) % 40 + 1) for r in run.summary["rounds"]]
    changed = dataclasses.replace(run, evaluations=again, summary={**run.summary, "rounds": rounds})
    assert [i for i, _ in picks(changed)] == [i for i, _ in picks(run)]


def test_the_allowed_loss_is_drawn_when_the_settings_name_it(run, drawing):
    assert drawing(way(run)).marks("rect", "band")
    assert not drawing(way(dataclasses.replace(run, config={}))).marks("rect", "band")


def test_start_comes_from_the_metrics_when_its_rollouts_are_missing(run, drawing):
    found = drawing(way(dataclasses.replace(run, base_monitor=None)))
    (start,) = found.marks("circle", "base")
    first = found.marks("circle", "final")[0]
    assert (start.get("cx"), start.get("cy")) == (first.get("cx"), first.get("cy"))


def test_nothing_evaluated_nothing_drawn(run):
    assert way(dataclasses.replace(run, evaluations=[])) == ""
