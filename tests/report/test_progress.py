"""Progress on a terminal and in a log file; stdout stays empty."""

import io
import json

import pytest

from pruner_jax.report.progress import Progress, describe, summary_table


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_plain_lines_at_start_end_and_now_and_then(clock, capsys):
    stream = io.StringIO()
    with Progress(stream, clock=clock) as progress:
        progress.start(40, "round 1, limit 96")
        for done in range(1, 41):
            clock.now += 1.0
            progress.update(done, accuracy=0.5, mean_tokens=31.26)
    assert stream.getvalue().splitlines() == [
        "round 1, limit 96: 40 to do",
        "round 1, limit 96: 10 of 40, accuracy 50.0 %, tokens 31.3, 30 s left",
        "round 1, limit 96: 20 of 40, accuracy 50.0 %, tokens 31.3, 20 s left",
        "round 1, limit 96: 30 of 40, accuracy 50.0 %, tokens 31.3, 10 s left",
        "round 1, limit 96: 40 of 40, accuracy 50.0 %, tokens 31.3",
        "round 1, limit 96: 40 of 40, accuracy 50.0 %, tokens 31.3, in 40 s",
    ]
    assert capsys.readouterr().out == ""


def test_what_an_earlier_process_did_does_not_make_the_rest_look_fast(clock):
    stream = io.StringIO()
    with Progress(stream, clock=clock) as progress:
        progress.start(100, "evaluate", done=90)
        clock.now += 30.0
        progress.update(93)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "evaluate: 10 to do"
    assert lines[1] == "evaluate: 93 of 100, 1 min 10 s left"


def test_a_new_phase_ends_the_last(clock):
    stream = io.StringIO()
    with Progress(stream, clock=clock) as progress:
        progress.start(2, "one")
        progress.update(2)
        progress.start(3, "two")
        progress.log("picked step 40")
    assert stream.getvalue().splitlines() == [
        "one: 2 to do",
        "one: 2 of 2, in 0.0 s",
        "two: 3 to do",
        "picked step 40",
        "two: 0 of 3, in 0.0 s",
    ]


def test_a_live_bar_shows_the_same_facts(capsys):
    stream = io.StringIO()
    with Progress(stream, live=True) as progress:
        progress.start(4, "round 1")
        progress.update(2, accuracy=0.75, mean_tokens=12.0)
        progress.log("a line with [brackets] in it")
        progress._bars.refresh()
    shown = stream.getvalue()
    assert "a line with [brackets] in it" in shown
    assert "2/4" in shown and "accuracy 75.0 %, tokens 12.0" in shown
    assert "round 1: 2 of 4, accuracy 75.0 %, tokens 12.0, in" in shown
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == ""


def test_a_failure_ends_the_bar_and_goes_on(clock):
    with pytest.raises(RuntimeError), Progress(io.StringIO(), live=True) as progress:
        progress.start(4, "round 1")
        raise RuntimeError("out of memory")
    assert progress._bars is None


def test_values_without_a_name_of_their_own():
    assert describe({"kl": 0.00123, "accuracy": None, "reward": 0.5}) == "kl 0.00123, reward 0.500"


def test_the_table_at_the_end(finished_run, capsys):
    summary = json.loads((finished_run / "summary.json").read_text())
    assert summary_table(summary).row_count == 10
    stream = io.StringIO()
    with Progress(stream) as progress:
        progress.show(summary)
    shown = stream.getvalue()
    assert f"{100 * summary['final']['accuracy']:.1f} %" in shown
    assert f"×{summary['token_ratio']['value']:.2f}" in shown
    assert capsys.readouterr().out == ""
