"""Statistics over named subsets and sources, and what they remember."""

import numpy as np
import pytest
from handmade import Row, graded

from pruner_jax.objective import memory, statistics
from pruner_jax.objective.context import Context, NotOffered, Scene
from pruner_jax.objective.groups import Groups
from pruner_jax.objective.statistics import Budget, Limit, Own, Stat, evaluate

ROWS = graded(
    [Row(10, True, thinking=6), Row(20, True, thinking=16), Row(60, thinking=50)],
    [Row(30, finished=False), Row(50)],
    [Row(40, True)],
)


def value(stat, rows=ROWS, state=None, **context):
    scene = Scene.of(rows, Context(limit=100, **context), state or {})
    return np.squeeze(evaluate(stat, scene), axis=1)


def stat(reduce, over="all", empty=-1.0, **fields):
    return Stat(reduce=reduce, over=over, empty=empty, **fields)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (stat("mean"), [30, 40, 40]),
        (stat("mean", "correct"), [15, -1, 40]),
        (stat("mean", "wrong"), [60, 40, -1]),
        (stat("mean", "finished"), [30, 50, 40]),
        (stat("min", "correct"), [10, -1, 40]),
        (stat("max"), [60, 50, 40]),
        (stat("range"), [50, 20, -1]),
        (stat("range", "correct", empty=None), [10, np.nan, np.nan]),
        (stat("range", source="batch"), [50, 50, 50]),
        (stat("count", "correct"), [2, 0, 1]),
        (stat("std", "correct"), [np.sqrt(50), -1, -1]),
        (stat("std", "correct", ddof=0), [5, -1, 0]),
        (stat("quantile", "correct", q=0.25), [12.5, -1, 40]),
        (stat("mean", "correct", measure="thinking"), [11, -1, 39]),
        (stat("mean", measure="correct"), [2 / 3, 0, 1]),
        (stat("mean", measure="correct", low=0.25, high=0.9), [2 / 3, 0.25, 0.9]),
        (stat("mean", "correct", times=2.0, plus=1.0), [31, -1, 81]),
        (stat("min", "correct", empty=Stat(reduce="mean", over="all", empty=0)), [10, 40, 40]),
        (stat("min", "correct", empty=None), [10, np.nan, 40]),
        (stat("mean", source="batch"), [35, 35, 35]),
        (stat("quantile", "correct", source="batch"), [20, 20, 20]),
        (stat("mean", source="batch", buckets=(0.5, 0.9)), [30, 40, 40]),
        (stat("mean", source="batch", buckets=(0.5,)), [32.5, 40, 32.5]),
    ],
    ids=str,
)
def test_subsets_and_sources(made, expected):
    got = np.broadcast_to(value(made), (3,))
    np.testing.assert_allclose(got, expected)


def test_limit_and_budget():
    assert value(Limit(times=0.5, plus=-8.0)) == 42.0
    rows = graded([Row(5, budget=30), Row(5)])
    scene = Scene.of(rows, Context(limit=100), {})
    np.testing.assert_array_equal(evaluate(Budget(times=2.0), scene), [[60, np.nan]])


def test_a_measure_of_the_row_itself():
    scene = Scene.of(ROWS, Context(limit=100), {})
    got = evaluate(Own("thinking", times=2.0, plus=1.0), scene)
    np.testing.assert_array_equal(got[0], [13, 33, 101])


def test_reference_is_looked_up_by_problem():
    table = Groups.of(graded([Row(100, True), Row(300)], [Row(70)], ids=["c", "a"]))
    made = stat("mean", "correct", source="reference")
    np.testing.assert_array_equal(value(made, reference=table), [-1, -1, 100])
    with pytest.raises(NotOffered, match=r"collect\.reference: true"):
        value(made)


def test_history_is_of_earlier_visits_and_by_problem():
    least = stat("min", "correct", source="history")
    mean = stat("mean", "correct", source="history")
    phase = (least, mean)
    np.testing.assert_array_equal(value(least), [-1, -1, -1])
    state = statistics.after({}, phase, Groups.of(ROWS))
    np.testing.assert_array_equal(value(least, state=state), [10, -1, 40])
    later = graded([Row(12, True)], [Row(33, True)], ids=["a", "b"])
    state = statistics.after(state, phase, Groups.of(later))
    np.testing.assert_array_equal(value(least, state=state), [10, 33, 40])
    np.testing.assert_array_equal(value(mean, state=state), [14, 33, 40])
    state = statistics.after(state, phase, Groups.of(graded([Row(6, True)])))
    np.testing.assert_array_equal(value(least, state=state), [6, 33, 40])
    np.testing.assert_array_equal(value(mean, state=state), [12, 33, 40])


def test_history_with_decay_forgets():
    made = stat("mean", "correct", source="history", decay=0.75)
    state = statistics.after({}, (made,), Groups.of(graded([Row(100, True)])))
    state = statistics.after(state, (made,), Groups.of(graded([Row(20, True)])))
    np.testing.assert_array_equal(value(made, graded([Row(5)]), state), [80])


def test_running_averages_over_batches():
    made = stat("mean", "correct", source="running", decay=0.5)
    assert value(made) == -1
    state = statistics.after({}, (made,), Groups.of(ROWS))  # 10, 20, 40
    state = statistics.after(state, (made,), Groups.of(graded([Row(10, True)])))
    np.testing.assert_allclose(value(made, state=state), (70 / 3 + 10) / 2)


def test_memory_is_a_tree_of_number_arrays_and_old_states_stay_as_they_were():
    made = stat("min", "correct", source="history")
    first = statistics.after({}, (made,), Groups.of(ROWS))
    before = first["history"]["length-correct-mean"]["min"].copy()
    second = memory.observe(first, Groups.of(ROWS))
    statistics.after(second, (made,), Groups.of(graded([Row(1, True)])))
    np.testing.assert_array_equal(first["history"]["length-correct-mean"]["min"], before)
    assert "monitor" not in first

    def leaves(tree):
        for part in tree.values():
            yield from leaves(part) if isinstance(part, dict) else [part]

    for leaf in leaves(second):
        assert isinstance(leaf, np.ndarray) and leaf.dtype.kind in "ufb" and leaf.size


def test_monitor_by_difficulty():
    easy, hard = [Row(10, True), Row(14, True)], [Row(90), Row(50, True), Row(70)]
    state = memory.observe({}, Groups.of(graded(easy, hard)))
    made = stat("max", "correct", source="monitor", buckets=(0.5,))
    np.testing.assert_array_equal(value(made, state=state), [14, 50, 14])
    np.testing.assert_array_equal(value(made), [-1, -1, -1])  # before the first evaluation


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reduce": "median"}, "stat.reduce is 'median'; allowed: 'mean'"),
        ({"source": "ref"}, "stat.source is 'ref'"),
        ({"source": "history", "reduce": "std"}, "keeps no rows"),
        ({"source": "running", "reduce": "range"}, "keeps no rows"),
        ({"decay": 0.9}, "only history and running"),
        ({"buckets": (0.5,)}, "allowed with batch and monitor"),
    ],
)
def test_contradictions_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Stat(**{"reduce": "mean", "over": "all", "empty": 0.0, **fields})
