"""Scales, ticks and labels of the charts."""

import itertools
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruner_jax.report import svg


def test_linear_and_logarithmic_scales():
    line = svg.Scale(0, 10, 100, 200)
    assert (line(0), line(5), line(10)) == (100, 150, 200)
    log = svg.Scale(1, 100, 0, 200, log=True)
    assert log(10) == pytest.approx(100)
    assert log.ticks() == [1, 2, 5, 10, 20, 50, 100]
    assert svg.Scale(3, 3, 0, 10)(3) == 5.0  # one value only: in the middle


def test_a_narrow_logarithmic_scale_still_has_ticks():
    assert len(svg.Scale(22, 44, 0, 100, log=True).ticks()) >= 3


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4), st.integers(2, 8))
def test_ticks_are_inside_even_and_few(low, span, count):
    ticks = svg.linear_ticks(low, low + span, count)
    assert 1 <= len(ticks) <= 2 * count + 1
    assert all(low - 1e-6 * span <= t <= low + span + 1e-6 * span for t in ticks)
    steps = [b - a for a, b in itertools.pairwise(ticks)]
    assert all(step == pytest.approx(steps[0], rel=1e-3) for step in steps)


def test_text_is_escaped():
    made = svg.text(1, 2, "<b> & co", "label") + svg.dot(1, 2, 3, "x", "a < b")
    root = ET.fromstring(f"<svg>{made}</svg>")
    assert root[0].text == "<b> & co" and root[1][0].text == "a < b"


def test_stairs_have_two_corners_a_step():
    scale = svg.Scale(0, 2, 0, 2)
    assert svg.stairs([0, 1, 2], [5, 7], scale, svg.Scale(0, 10, 0, 10)) == [
        (0, 5),
        (1, 5),
        (1, 7),
        (2, 7),
    ]


def test_labels_do_not_cover_each_other():
    taken = []
    spots = [svg.free_spot(200, 100 + i, "round 1, limit 4,000", taken, 300) for i in range(4)]
    assert len(set(spots)) == 4
    for a, b in itertools.combinations(taken, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    assert all(box[0] >= 0 and box[2] <= svg.WIDTH for box in taken)


def test_a_label_at_the_right_edge_turns_inwards():
    x, _, anchor = svg.free_spot(svg.WIDTH - 5, 100, "round 1", [], 300)
    assert anchor in ("end", "middle") and x < svg.WIDTH
