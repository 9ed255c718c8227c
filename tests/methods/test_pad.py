"""PaD's options; `test_contracts` has repairs of attempts, `test_inject` of broken programs."""

import numpy as np
import pytest
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.objective.context import Context
from pruner_jax.objective.method import needs
from pruner_jax.objective.repair import Inject
from pruner_jax.objective.weigh import weigh
from pruner_jax.types import Verdict

GRPO = methods.load("grpo").phases[0]
METHOD = methods.load("pad")
PHASE = METHOD.phases[0]
ROWS = graded(
    [Row(30, True), Row(20, verdict=Verdict.ERROR), Row(25, verdict=Verdict.WRONG)],
    [Row(30, verdict=Verdict.TIMEOUT), Row(20, True), Row(9, True)],
)


def weighed(**options):
    return weigh(methods.load("pad", options).phases[0], ROWS, {}, Context(limit=256))[0]


def test_only_programs_that_gave_the_right_value_are_imitated():
    weighted = weighed()
    np.testing.assert_array_equal(weights(weighted), [1, 0, 0, 0, 1, 1])
    assert weighted.loss == "ce" and weighted.train_BT[0].sum() == 30


def test_without_the_filter_all_are():
    np.testing.assert_array_equal(weights(weighed(filter=False)), [1] * 6)


def test_broken_programs_on_purpose():
    shape = methods.load("pad", {"refine": "injected"}).phases[0].shape
    assert shape == (
        Inject(methods.load("pad", {"refine": "attempts"}).phases[0].shape[0].template),
    )
    with pytest.raises(
        ValueError, match=r"refine is 'yes'; allowed: 'none', 'injected', 'attempts'"
    ):
        methods.load("pad", {"refine": "yes"})


def test_the_teacher_is_asked_once():
    assert set(needs(PHASE)) == {"teacher"}
    assert [PHASE.collect.due(step, since) for step, since in ((0, None), (1, 0))] == [True, False]
    assert set(differing_slots(PHASE, GRPO)) == {"name", "collect", "select", "advantage", "loss"}
    assert (PHASE.loss.epochs, PHASE.loss.update_rows) == (10, 8)
    assert METHOD.wants == {"optimizer": {"learning_rate": 6e-5}}
