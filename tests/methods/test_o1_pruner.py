"""O1-Pruner's options, against weights by hand; `test_contracts` has those of the default."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, differing_slots, graded, weights

from pruner_jax import methods
from pruner_jax.objective.context import Context
from pruner_jax.objective.groups import Groups
from pruner_jax.objective.weigh import weigh

GRPO = methods.load("grpo").phases[0]
METHOD = methods.load("o1_pruner")
PHASE = METHOD.phases[0]
ROWS = graded([Row(500, True), Row(2000), Row(500), Row(1000, True)])
# L0 1000, A0 .5, lam 2: 1 + 1, -.5 - 1, 1 - 1, 0 + 1
BY_HAND = [2.0, -1.5, 0.0, 1.0]
# mean .375; deviations 1.625, -1.875, -.375, .625; squares 2.640625 + 3.515625 + .140625 + .390625
#   = 6.6875, / 4 = 1.671875, population std 1.2930100
WHITE = [1.2567575, -1.4501048, -0.2900210, 0.4833683]
ALL = {"keep": 4}


def learned(rows=ROWS, **options):
    phase = methods.load("o1_pruner", options).phases[0]
    weighted, _, _ = weigh(phase, rows, {}, Context(limit=8192, reference=Groups.of(rows)))
    return weights(weighted), weighted


def test_weights_by_hand():
    np.testing.assert_allclose(learned(**ALL, whiten="none")[0], BY_HAND, atol=1e-6)
    np.testing.assert_allclose(learned(**ALL)[0], WHITE, atol=1e-6)
    grpo = weights(weigh(GRPO, ROWS, {}, Context(limit=8192))[0])
    np.testing.assert_allclose(grpo, [0.8660, -0.8660, -0.8660, 0.8660], atol=1e-4)


def test_lam_is_what_a_correct_answer_weighs():
    # Length alone: 1, -.5, 1, 0; and with lam 5, half of which goes either way.
    np.testing.assert_allclose(learned(**ALL, whiten="none", lam=0.0)[0], [1, -0.5, 1, 0])
    unbound = {"low": -10.0, "high": 10.0}
    five = learned(**ALL, **unbound, whiten="none", lam=5.0)[0]
    np.testing.assert_allclose(five, [3.5, -3.0, -1.5, 2.5], atol=1e-6)


def test_weights_are_clipped_before_they_are_whitened():
    # L0 1000, nobody right: 1000 / 100 - 1 = 9 becomes 4, 1000 / 1300 - 1 = -.2307692
    rows = graded([Row(100), Row(1300), Row(1300), Row(1300)])
    found = learned(rows, **ALL, whiten="none")[0]
    np.testing.assert_allclose(found, [4, *[-0.2307692] * 3], atol=1e-6)
    found = learned(rows, **ALL, whiten="none", high=100.0)[0]
    np.testing.assert_allclose(found, [9, *[-0.2307692] * 3], atol=1e-6)
    # One against three equal ones is sqrt(3) and -1 / sqrt(3), however far away.
    np.testing.assert_allclose(learned(rows, **ALL)[0], [1.7320508, *[-0.5773503] * 3], atol=1e-6)


def test_whitening_over_the_problem_or_over_all():
    easy = [Row(500, True), Row(1500, True)]  # 1, -1/3 (A0 is 1)
    hard = [Row(500), Row(1500)]  # the same
    short = [Row(90, True), Row(110, True)]  # 1/9, -1/11
    rows = graded(easy, hard, short)
    problem = learned(rows, keep=2, whiten="problem")[0]
    np.testing.assert_allclose(problem, [1, -1] * 3, atol=1e-6)
    bare = np.array([1, -1 / 3, 1, -1 / 3, 1 / 9, -1 / 11])
    everyone = (bare - bare.mean()) / bare.std()
    np.testing.assert_allclose(learned(rows, keep=2)[0], everyone, atol=1e-6)


def test_wrong_but_short():
    """Solved by nobody: the shorter one is pushed up, unless that is forbidden."""
    rows = graded([Row(500), Row(1500)], [Row(500, True), Row(1500, True)])
    free = learned(rows, keep=2)[0]
    bound, weighted = learned(rows, keep=2, wrong_at_most_zero=True)
    assert free[0] > 0.9
    np.testing.assert_allclose(bound, [0, *free[1:]], atol=1e-6)
    assert weighted.keep_B.all()


def test_two_of_each_problem_are_kept():
    weighted = learned(graded(*[[Row(n + 1, n % 2 == 0) for n in range(16)]] * 5))[1]
    np.testing.assert_array_equal(weighted.keep_B.reshape(5, 16).sum(1), [2] * 5)


def test_the_collection_is_that_of_the_start_model():
    collect = PHASE.collect
    assert (collect.policy, collect.every, collect.samples) == ("start", "once", 16)
    assert (collect.temperature, collect.top_p, collect.reference) == (0.5, 0.8, True)
    assert [collect.due(step, since) for step, since in ((0, None), (1, 0))] == [True, False]


def test_the_loss():
    loss = PHASE.loss
    assert (loss.ratio, loss.clip_low, loss.clip_high) == ("sequence", 0.2, 0.2)
    assert (loss.aggregation, loss.update_rows, loss.epochs) == ("sequence", 32, 1)
    assert (loss.temperature, loss.kl, loss.entropy) == (1.0, 0.0, 0.0)
    assert METHOD.wants == {"optimizer": {"learning_rate": 2e-7}}
    paper = methods.load("o1_pruner", {"ratio": "sequence_sum"}).phases[0].loss
    assert differing_slots(paper, loss) == ["ratio"]


def test_slots_that_differ_from_grpo():
    differing = set(differing_slots(PHASE, GRPO))
    assert differing == {"collect", "task", "length", "advantage", "adjust", "loss"}


@pytest.mark.parametrize("slot", ["task", "length", "advantage", "adjust"])
def test_every_slot_that_weighs_does_something(slot):
    # Two problems: of one alone, whitening hides the baseline.
    rows = graded([Row(500, True), Row(2000)], [Row(500), Row(1500), Row(1000), Row(1000)])
    phase = methods.load("o1_pruner", ALL).phases[0]
    context = Context(limit=8192, reference=Groups.of(rows))
    right = weights(weigh(phase, rows, {}, context)[0])
    fallen = dataclasses.replace(phase, **{slot: getattr(GRPO, slot)})
    assert np.abs(weights(weigh(fallen, rows, {}, context)[0]) - right).max() > 0.05


def test_a_word_that_is_not_known():
    with pytest.raises(ValueError, match=r"method\.options\.whiten is 'batch'; allowed: 'global'"):
        methods.load("o1_pruner", {"whiten": "batch"})
