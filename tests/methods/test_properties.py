"""What every method of the package promises, on random rollouts.

A new file in methods/ is tested here without being named. The run that it sees offers everything:
likelihoods, an expander, a second try and a reference table, each a function of the row alone.
"""

import dataclasses

import numpy as np
import pytest
from handmade import END, Row, graded, weights
from hypothesis import given, settings
from hypothesis import strategies as st

from pruner_jax import methods
from pruner_jax.objective import slots
from pruner_jax.objective.advantage import Norm, Whiten
from pruner_jax.objective.context import Context
from pruner_jax.objective.groups import Groups
from pruner_jax.objective.length import Gate
from pruner_jax.objective.shape import Cut
from pruner_jax.objective.statistics import Stat
from pruner_jax.objective.weigh import weigh
from pruner_jax.types import Verdict, take_rows

PHASES = [
    pytest.param(phase, id=f"{name}-{phase.name}")
    for name in methods.available()
    for phase in methods.load(name).phases
    if phase.loss is not None
]
FEW = settings(max_examples=40, deadline=None)
row = st.builds(
    Row,
    length=st.integers(1, 60),
    correct=st.booleans(),
    finished=st.booleans(),
    mode=st.integers(0, 1),
)
batches = st.lists(st.lists(row, min_size=1, max_size=6), min_size=1, max_size=4)


def context(rows, limit=40):
    """A run that offers everything; what it says of a row depends on that row alone."""
    problems = [problem.id for problem in rows.rollouts.prompts.problems]
    table = graded(*([Row(50, True), Row(30)] for _ in problems), ids=problems)

    def expand(asked, mask_answers):
        right_B = asked.rollouts.length_B % 2 == 0
        return dataclasses.replace(asked, score_B=right_B.astype(np.float32))

    def resample(asked, prompts):
        assert len(prompts) == len(asked) and not asked.correct_B.any()
        right_B = (asked.rollouts.length_B % 3 == 0) & asked.rollouts.finished_B
        return dataclasses.replace(
            asked,
            verdict_B=np.where(right_B, np.int8(Verdict.CORRECT), asked.verdict_B),
            score_B=right_B.astype(np.float32),
        )

    return Context(
        limit=limit,
        reference=Groups.of(table),
        end_token=END,
        encode=lambda text: np.arange(len(text), dtype=np.int32),
        decode=lambda tokens: f"{len(tokens)} tokens",
        prompt=lambda problem, text: np.arange(3, dtype=np.int32),
        closing=lambda rollouts: [np.zeros(0, np.int32)] * len(rollouts),
        score=lambda policy, asked, what, template: -1.0 / (1.0 + asked.rollouts.thinking_B),
        expand=expand,
        resample=resample,
    )


def weighed(phase, rows, **more):
    return weigh(phase, rows, {}, context(rows, **more))


def looks_across_groups(phase):
    """Whether some slot compares a row with rows of other problems."""
    return any(
        (isinstance(slot, Norm) and {"batch", "varying"} & {slot.baseline, slot.scale})
        or (isinstance(slot, Whiten) and slot.over == "batch")
        or (isinstance(slot, Gate) and slot.top < 1)
        or (isinstance(slot, Stat) and slot.source == "batch")
        for _, slot in slots.walk(phase)
    )


@pytest.mark.parametrize("phase", PHASES)
@FEW
@given(batches)
def test_weights_are_finite_and_rows_that_do_not_count_have_none(phase, groups):
    weighted, _, metrics = weighed(phase, graded(*groups))
    assert np.isfinite(weighted.weight_BT).all() and np.isfinite(list(metrics.values())).all()
    assert not weights(weighted)[~weighted.keep_B].any()


@pytest.mark.parametrize("phase", PHASES)
@FEW
@given(st.lists(row, min_size=1, max_size=6), st.randoms())
def test_the_order_within_a_group_does_not_matter(phase, group, random):
    rows = graded(group)
    order = list(range(len(group)))
    random.shuffle(order)
    there, _, _ = weighed(phase, rows)
    turned, _, _ = weighed(phase, take_rows(rows, np.array(order)))
    np.testing.assert_allclose(
        weights(turned)[: len(group)], weights(there)[: len(group)][order], atol=1e-6
    )


@pytest.mark.parametrize("phase", [p for p in PHASES if not looks_across_groups(p.values[0])])
@FEW
@given(st.lists(row, min_size=1, max_size=6), st.lists(row, min_size=1, max_size=6))
def test_a_group_does_not_see_its_neighbours(phase, one, other):
    alone, _, _ = weighed(phase, graded(one))
    together, _, _ = weighed(phase, graded(one, other))
    count = len(alone.weight_BT)
    np.testing.assert_array_equal(weights(together)[:count], weights(alone))


@pytest.mark.parametrize("phase", PHASES)
@FEW
@given(batches)
def test_a_cut_that_no_row_reaches_changes_nothing(phase, groups):
    rows = graded(*groups)
    plain, _, _ = weighed(phase, rows, limit=60)
    again = dataclasses.replace(phase, shape=(Cut(at=(60.0,)), *phase.shape))
    np.testing.assert_array_equal(weights(weighed(again, rows, limit=60)[0]), weights(plain))


@pytest.mark.parametrize("phase", PHASES)
def test_the_same_twice_and_the_state_is_untouched(phase):
    rows = graded([Row(5, True), Row(50, True), Row(9)], [Row(7), Row(8)])
    first, state, metrics = weighed(phase, rows)
    second, _, again = weighed(phase, rows)
    np.testing.assert_array_equal(first.weight_BT, second.weight_BT)
    assert metrics == again and set(state) <= {"controllers", "history", "running", "monitor"}
