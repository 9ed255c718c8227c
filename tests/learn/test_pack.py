"""Packing loses nothing, mixes nothing, and comes in few shapes."""

import dataclasses

import little
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruner_jax.learn import pack
from pruner_jax.learn.options import LearnOptions
from pruner_jax.learn.rows import share
from pruner_jax.objective.loss_spec import LossSpec

CPU = LearnOptions().resolve("cpu")


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 30),
    seed=st.integers(0, 1000),
    most=st.integers(1, 30),
    rows=st.integers(1, 5),
    slack=st.integers(0, 40),
    paired=st.booleans(),
)
def test_every_trained_token_is_there_once(count, seed, most, rows, slack, paired):
    spec = LossSpec(kind="pairs") if paired else LossSpec(ratio="sequence", kl=0.1)
    made = little.pairs(count, seed) if paired else little.rows(count, seed, most)
    sizes = pack.Sizes(int(pack.used(made).max()) + slack + 1, rows + paired)
    batch, places = pack.pack(made, spec, sizes)
    micro, seen = batch.micro, 0
    for b, spot in pack.spots(made, places):
        m, r, _ = spot
        sequence = np.concatenate([made.prompt[b], made.response[b]])
        train = np.flatnonzero(made.train_BT[b])
        # The hidden state at `place` has seen the segment up to the token before the target.
        inside = np.flatnonzero(micro.segments_RT[m, r] == places.segment_B[b])
        assert (np.diff(inside) == 1).all()
        np.testing.assert_array_equal(micro.tokens_RT[m, r, inside], sequence[: len(inside)])
        np.testing.assert_array_equal(micro.positions_RT[m, r, inside], np.arange(len(inside)))
        np.testing.assert_array_equal(
            micro.place_RN[spot] - inside[0], len(made.prompt[b]) + train - 1
        )
        assert micro.place_RN[spot].max() == inside[-1]
        np.testing.assert_array_equal(micro.target_RN[spot], made.response[b][train])
        for name in ("weight", "old_logp", "ref_logp"):
            given_BT = getattr(made, f"{name}_BT")
            np.testing.assert_array_equal(getattr(micro, f"{name}_RN")[spot], given_BT[b, train])
        np.testing.assert_array_equal(micro.share_RN[spot], share(made, spec)[b, train])
        assert (micro.unit_RN[spot] == micro.unit_RN[spot][0]).all()
        seen += len(train)
    assert seen == made.train_BT.sum() == (micro.share_RN > 0).sum() == micro.size_U.sum()
    assert (micro.segments_RT[batch.steps :] == 0).all()
    assert (micro.segments_RT[: batch.steps] > 0).any((1, 2)).all()
    assert (micro.segments_RT > 0).sum() == pack.used(made)[places.packed].sum()
    assert np.isfinite(micro.old_logp_RN).all() and np.isfinite(micro.ref_logp_RN).all()


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 12), seed=st.integers(0, 1000), rows=st.integers(2, 5))
def test_units_are_rows_or_pairs(count, seed, rows):
    made = little.pairs(count, seed)
    T = int(pack.used(made).max())
    batch, places = pack.pack(made, LossSpec(kind="pairs"), pack.Sizes(T, rows))
    for pair in range(count):
        a, b = np.flatnonzero(made.pair_B == pair)
        assert places.micro_B[a] == places.micro_B[b] >= 0
    units = {
        (spot[0], int(batch.micro.unit_RN[spot][0])): set() for _, spot in pack.spots(made, places)
    }
    for b, spot in pack.spots(made, places):
        units[spot[0], int(batch.micro.unit_RN[spot][0])].add(int(made.pair_B[b]))
    assert len(units) == count and all(len(pairs) == 1 for pairs in units.values())
    single, places = pack.pack(made, LossSpec(ratio="sequence"), pack.Sizes(T, rows))
    assert (single.micro.size_U > 0).sum() == 2 * count
    plain, _ = pack.pack(made, LossSpec(), pack.Sizes(T, rows))
    assert plain.micro.size_U.shape[1] == 1


def test_the_same_rows_are_packed_the_same():
    made = little.rows(20)
    first, second = (pack.pack(made, LossSpec(), pack.Sizes(24, 3))[0] for _ in range(2))
    for name in pack.Micro.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(first.micro, name), getattr(second.micro, name))


def test_what_follows_the_last_trained_token_is_not_fed():
    made = little.rows(1, most=8)
    train = np.zeros((1, 8), bool)
    train[0, 0] = True
    made = dataclasses.replace(
        made, prompt=(np.array([1, 2]),), response=(np.arange(8),), train_BT=train
    )
    assert pack.used(made).tolist() == [2]  # the prompt predicts the first token


def test_a_row_that_does_not_fit_is_refused():
    made = little.rows(5, most=30, prompt=4)
    longest = int(pack.used(made).max())
    with pytest.raises(ValueError, match=rf"takes {longest} tokens.*learn\.row_tokens is 8"):
        pack.plan(made, LossSpec(), dataclasses.replace(CPU, row_tokens=8))
    assert pack.plan(made, LossSpec(), dataclasses.replace(CPU, row_tokens=longest)).tokens == (
        longest
    )


def test_automatic_sizes_hold_the_rows_and_are_few():
    sizes = set()
    for seed in range(12):
        made = little.rows(64, seed, most=60 + seed)
        found = pack.plan(made, LossSpec(), CPU)
        assert found.tokens >= pack.used(made).max()
        assert found.rows * found.tokens <= CPU.micro_tokens
        sizes.add(found)
    assert len(sizes) <= 4  # 64, 96, 128 and a tight fit


def test_rows_cut_off_at_a_limit_are_packed_tightly():
    """Where nearly all rows are as long as the longest, a power of two would be half empty."""
    full = np.full(100, 4250)
    assert pack._cheapest(full, 8192) == 4608
    short = np.random.default_rng(0).normal(57, 10, 256).clip(5, 86).astype(int)
    assert pack._cheapest(short, 190) == 128


def test_a_size_between_powers_of_two_where_two_rows_share_it():
    most_are_half = np.random.default_rng(0).normal(85, 22, 512).clip(30, 150).astype(int)
    assert pack._cheapest(most_are_half, 400, room=160) == 192


def test_a_tight_fit_does_not_follow_the_longest_prompt_at_hand():
    """Responses of 60, all cut off; where the prompts' limit is known all have one size."""
    sizes = {0: set(), 30: set()}
    for longest in (22, 26, 30):
        made = little.rows(64, most=60, prompt=longest)
        full = [np.resize(tokens, 60) for tokens in made.response]
        train_BT = np.ones((64, 60), bool)
        made = dataclasses.replace(
            made, response=tuple(full), train_BT=train_BT, weight_BT=train_BT * 1.0, limit=60
        )
        for known, found in sizes.items():
            found.add(pack.plan(dataclasses.replace(made, prompt_limit=known), LossSpec(), CPU))
    assert {size.tokens for size in sizes[30]} == {96}
    assert len(sizes[30]) == 1 < len(sizes[0])


def test_short_rows_share_packed_rows():
    """Many rows of 10 among one of 60: packed, not padded to 60 each."""
    B = 2000
    train = np.zeros((B, 60), bool)
    train[:, 9] = train[0, 59] = True
    response = tuple(np.arange(60) for _ in range(B))
    made = dataclasses.replace(little.rows(B, most=60), train_BT=train, response=response)
    batch, _ = pack.pack(made, LossSpec(), pack.plan(made, LossSpec(), CPU))
    R, T = batch.micro.tokens_RT.shape[1:]
    assert (batch.micro.segments_RT > 0).sum() / (int(batch.steps) * R * T) > 0.8


def test_packed_rows_are_a_multiple_of_the_devices():
    for shards in (1, 4, 8):
        assert pack.plan(little.rows(3), LossSpec(), CPU, shards=shards).rows % shards == 0
