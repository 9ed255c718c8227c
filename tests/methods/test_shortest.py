"""The two baselines of O1-Pruner: imitate the shortest, prefer the shortest."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.objective.context import Context
from pruner_jax.objective.weigh import weigh

GRPO = methods.load("grpo").phases[0]
SFT = methods.load("sft_shortest").phases[0]
DPO = methods.load("dpo_shortest").phases[0]
ROWS = graded(
    [Row(30, True), Row(20, True), Row(5), Row(90, True), Row(60, True), Row(40, True)],
    [Row(30, True), Row(20)],
    [Row(7, True), Row(7, True), Row(9, True)],
    [Row(3), Row(4)],
)


def learned(phase):
    return weigh(phase, ROWS, {}, Context(limit=100))[0]


def test_the_two_shortest_correct_responses_are_imitated():
    weighted = learned(SFT)
    np.testing.assert_array_equal(np.flatnonzero(weighted.keep_B), [0, 1, 6, 8, 9])
    np.testing.assert_array_equal(weights(weighted), weighted.keep_B)
    one = methods.load("sft_shortest", {"keep": 1}).phases[0]
    np.testing.assert_array_equal(np.flatnonzero(learned(one).keep_B), [1, 6, 8])


def test_the_shortest_is_preferred_to_the_longest():
    weighted = learned(DPO)
    # a: 20 against 90, then 30 against 60. b: one correct response. c: 7 against 9.
    expected = [1, 1, 0, -1, -1, 0, 0, 0, 1, 0, -1, 0, 0]
    np.testing.assert_array_equal(weights(weighted), expected)
    np.testing.assert_array_equal(weighted.keep_B, np.array(expected) != 0)
    pair = np.array([1, 0, -1, 0, 1, -1, -1, -1, 2, -1, 2, -1, -1])
    np.testing.assert_array_equal(weighted.pair_B, pair)
    one = methods.load("dpo_shortest", {"pairs": 1}).phases[0]
    assert np.flatnonzero(learned(one).keep_B).tolist() == [1, 3, 8, 10]


@pytest.mark.parametrize(
    ("phase", "slot"),
    [(SFT, "select"), (DPO, "select"), (DPO, "length"), (DPO, "advantage")],
    ids=["sft-select", "dpo-select", "dpo-length", "dpo-advantage"],
)
def test_every_slot_that_weighs_does_something(phase, slot):
    fallen = dataclasses.replace(phase, **{slot: getattr(GRPO, slot)})
    assert (weights(learned(fallen)) != weights(learned(phase))).any()


@pytest.mark.parametrize("phase", [SFT, DPO], ids=["sft", "dpo"])
def test_one_collection_of_the_start_model(phase):
    collect = phase.collect
    assert (collect.policy, collect.every, collect.samples) == ("start", "once", 16)
    assert (collect.temperature, collect.top_p) == (0.5, 0.8)


def test_the_losses():
    shared = {"name", "collect", "select", "advantage", "loss"}
    assert set(differing_slots(SFT, GRPO)) == shared
    assert set(differing_slots(DPO, GRPO)) == {*shared, "length"}
    assert (SFT.loss.kind, SFT.loss.epochs, SFT.loss.update_rows) == ("ce", 1, 32)
    assert (DPO.loss.kind, DPO.loss.pair_beta, DPO.loss.update_rows) == ("pairs", 0.1, 32)
    assert DPO.loss.needs_reference and not SFT.loss.needs_reference
