"""What the learner refuses, how it counts, and the order of its updates."""

import dataclasses

import handmade
import little
import numpy as np
import pytest
from handmade import Row

from pruner_jax.learn.rows import (
    count,
    rows_of,
    rows_of_examples,
    rows_of_rollouts,
    share,
    shares,
    updates,
)
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.types import Origin, Weighted


def weighted(**changes):
    graded = handmade.graded([Row(5, correct=True), Row(3)], [Row(4), Row(2, finished=False)])
    rollouts = graded.rollouts
    made = Weighted(
        graded=graded,
        weight_BT=np.float32([[1.0], [-1.0], [0.5], [-0.5]]),
        train_BT=rollouts.origin_BT == Origin.SAMPLED,
        keep_B=np.ones(4, bool),
    )
    return dataclasses.replace(made, **changes)


def with_rollouts(made, **changes):
    rollouts = dataclasses.replace(made.graded.rollouts, **changes)
    return dataclasses.replace(made, graded=dataclasses.replace(made.graded, rollouts=rollouts))


def test_rows_of_a_collection():
    rows = rows_of(weighted(keep_B=np.array([True, False, True, True])), LossSpec())
    assert len(rows) == 3 and [len(r) for r in rows.response] == [5, 4, 2]
    assert rows.response[0].tolist() == [100, 101, 102, 103, handmade.END]
    assert rows.prompt[0].tolist() == [7, 7]
    assert rows.train_BT.sum(1).tolist() == [5, 4, 2]
    assert rows.weight_BT[:, 0].tolist() == [1.0, 0.5, -0.5]
    assert (rows.old_logp_BT[rows.train_BT] == -0.5).all() and rows.ref_logp_BT is None
    assert rows.limit == 10_000


def test_a_row_may_be_trained_under_a_prompt_of_its_own():
    made = weighted(loss="ce")
    made = with_rollouts(made, train_tokens=(None, np.array([1, 2, 3], np.int32), None, None))
    rows = rows_of(made, LossSpec(kind="ce"))
    assert rows.prompt[1].tolist() == [1, 2, 3] and rows.prompt[0].tolist() == [7, 7]


def test_rows_to_be_scored_are_all_rows():
    rollouts = weighted().graded.rollouts
    rows = rows_of_rollouts(rollouts, temperature=0.5)
    assert rows.train_BT.sum() == rollouts.length_B.sum() and rows.temperature == 0.5


def test_temperature():
    cold = with_rollouts(weighted(), temperature=0.5)
    assert rows_of(cold, LossSpec()).temperature == 0.5
    assert rows_of(cold, LossSpec(temperature=1.0)).temperature == 1.0
    ce = dataclasses.replace(cold, loss="ce")
    assert rows_of(ce, LossSpec(kind="ce")).temperature == 1.0
    with pytest.raises(ValueError, match=r"temperature 0.*loss\.temperature"):
        rows_of(with_rollouts(weighted(), temperature=0.0), LossSpec())


def bad_weight():
    weight_BT = np.ones((4, 5), np.float32)
    weight_BT[1, 2] = np.nan
    return weighted(weight_BT=weight_BT)


def bad_logp():
    logp_BT = weighted().graded.rollouts.logp_BT.copy()
    logp_BT[2, 1] = np.nan
    return with_rollouts(weighted(), logp_BT=logp_BT)


def no_prompt():
    prompts = weighted().graded.rollouts.prompts
    return with_rollouts(
        weighted(),
        prompts=dataclasses.replace(prompts, tokens=(prompts.tokens[0], np.zeros(0, np.int32))),
    )


@pytest.mark.parametrize(
    ("made", "spec", "message"),
    [
        (bad_weight, LossSpec(), r"weight of token 2 of row 1 is nan"),
        (bad_logp, LossSpec(), r"old log-probability of token 1 of row 2 is nan.*score"),
        (no_prompt, LossSpec(), r"row 2 has no prompt"),
        (weighted, LossSpec(kind="ce"), r"'pg' but loss\.kind is 'ce'"),
        (weighted, LossSpec(kl=0.1), r"no ref_logp_BT; score"),
        (lambda: weighted(loss="pairs", ref_logp_BT=np.zeros((4, 5))), LossSpec(kind="pairs"),
         r"no pair_B"),
        (lambda: weighted(loss="pairs", ref_logp_BT=np.zeros((4, 5)),
                          pair_B=np.array([0, 0, 1, -1])), LossSpec(kind="pairs"), r"pair -1"),
        (lambda: weighted(loss="pairs", ref_logp_BT=np.zeros((4, 5)),
                          pair_B=np.array([0, 1, 0, 1])), LossSpec(kind="pairs"),
         r"pair 0 has rows \[0, 2\] with weights \[\[1.0\], \[0.5\]\]"),
    ],
)  # fmt: skip
def test_refused(made, spec, message):
    with pytest.raises(ValueError, match=message):
        rows_of(made(), spec)


def test_what_is_not_trained_may_be_anything():
    """NaN weights and log-probabilities of untrained tokens and dropped rows do no harm."""
    train_BT = weighted().train_BT.copy()
    train_BT[1, 2] = False
    assert len(rows_of(dataclasses.replace(bad_weight(), train_BT=train_BT), LossSpec())) == 4
    keep_B = np.array([True, False, True, True])
    assert len(rows_of(dataclasses.replace(bad_weight(), keep_B=keep_B), LossSpec())) == 3


def test_examples():
    rows = rows_of_examples([([1, 2], [3, 4, 5], 1.0), ([1], [2], 0.5)])
    assert rows.train_BT.tolist() == [[True] * 3, [True, False, False]]
    assert rows.weight_BT[:, 0].tolist() == [1.0, 0.5]
    with pytest.raises(ValueError, match="weight of token 0 of row 0 is inf"):
        rows_of_examples([([1], [2], np.inf)])
    with pytest.raises(ValueError, match="no examples"):
        rows_of_examples([])


def test_counts_and_shares():
    rows = rows_of(weighted(), LossSpec())
    assert count(rows, LossSpec()) == 14
    assert count(rows, LossSpec(aggregation="sequence")) == 4
    assert count(rows, LossSpec(aggregation="constant")) == 4 * 10_000
    assert count(rows, LossSpec(aggregation="constant", constant=8)) == 32
    assert share(rows, LossSpec()).sum() == 14
    np.testing.assert_allclose(share(rows, LossSpec(aggregation="sequence")).sum(1), 1)


def test_updates_share_the_rows_of_every_epoch():
    rows, spec = little.rows(11), LossSpec(minibatches=3, epochs=2)
    seen = [index.tolist() for index in updates(rows, spec, seed=5)]
    assert [len(part) for part in seen] == [4, 4, 3, 4, 4, 3]
    for epoch in (seen[:3], seen[3:]):
        assert sorted(b for part in epoch for b in part) == list(range(11))
    assert seen[:3] != seen[3:]
    assert seen == [index.tolist() for index in updates(rows, spec, seed=5)]
    assert seen != [index.tolist() for index in updates(rows, spec, seed=6)]


def test_one_minibatch_is_all_rows_in_their_order():
    assert next(updates(little.rows(5), LossSpec(), 3)).tolist() == [0, 1, 2, 3, 4]


def test_rows_per_update():
    rows = little.rows(10)
    assert shares(rows, LossSpec(update_rows=4)) == 3
    assert shares(rows, LossSpec(minibatches=50)) == 10


def test_pairs_stay_together():
    rows = little.pairs(5)
    spec = LossSpec(kind="pairs", minibatches=2)
    for index in updates(rows, spec, 0):
        _, members = np.unique(rows.pair_B[index], return_counts=True)
        assert (members == 2).all()
        assert count(rows.take(index), spec) == len(index) / 2
