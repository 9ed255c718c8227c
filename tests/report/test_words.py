"""Numbers as people read them."""

import math

import pytest

from pruner_jax.report.words import duration, number, percent, points, tick_labels, tokens


def test_numbers():
    assert number(12345.6) == "12,346"
    assert number(-0.25, 2) == "−0.25"
    assert number(None) == number(math.nan) == "–"
    assert tokens(31.26) == "31.3" and tokens(4049.3) == "4,049" and tokens(None) == "–"
    assert percent(0.8421) == "84.2 %" and percent(None) == "–"


@pytest.mark.parametrize(
    ("change", "text"),
    [(0.012, "+1.2"), (-0.0061, "−0.6"), (0.0, "±0.0"), (-0.0001, "±0.0"), (None, "–")],
)
def test_points_are_signed_unless_they_round_to_nothing(change, text):
    assert points(change) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7620, "2 h 07 min"),
        (273600, "3 d 04 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_tick_labels_say_the_tick_exactly():
    assert tick_labels([0.0, 0.25, 0.5]) == ["0.00", "0.25", "0.50"]
    assert tick_labels([0.825, 0.85], percents=True) == ["82.5 %", "85.0 %"]
    assert tick_labels([2000.0, 4000.0]) == ["2,000", "4,000"]
