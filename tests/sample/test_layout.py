"""Layouts: few shapes, nobody lost, and a new one only where it pays."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruner_jax.sample.layout import Shapes, admitted, nobody, rearrange


def shapes(full: int = 16, shards: int = 1, multiple: int = 32, growth: float = 1.25) -> Shapes:
    return Shapes(full, shards, multiple, growth)


def test_rows_come_in_halves():
    assert [shapes(256).rows(n) for n in (256, 129, 128, 65, 9, 1)] == [256, 256, 128, 128, 16, 8]
    assert [shapes(100).rows(n) for n in (100, 51, 50, 13, 1)] == [100, 100, 50, 13, 8]
    assert shapes(3).rows(1) == 3


def test_slots_grow_by_a_factor_in_multiples():
    found = sorted({shapes().slots(n) for n in range(1, 1000)})
    assert found == [32, 64, 96, 128, 160, 224, 288, 384, 480, 608, 768, 960, 1216]
    assert shapes(multiple=128, growth=2.0).slots(1025) == 2048


def test_the_largest_cache_is_known_beforehand():
    how = shapes(64, multiple=128)
    assert [how.most_slots(300, limit, 32) for limit in (16384, 32768)] == [18944, 37120]
    # A long prompt is padded before the first block comes behind it.
    layout, _, _ = begin(how, 4, length=800, limit=32)
    assert layout.slots == how.most_slots(800, 32, 32) == 1152


def test_waiting_rows_come_in_when_enough_seats_are_free():
    assert admitted(shapes(16), live=0, waiting=40, refill=1.0) == 16
    assert admitted(shapes(16), live=9, waiting=40, refill=0.5) == 0
    assert admitted(shapes(16), live=8, waiting=40, refill=0.5) == 8
    assert admitted(shapes(16), live=15, waiting=40, refill=0.0) == 1
    assert admitted(shapes(16), live=2, waiting=3, refill=0.5) == 3


def begin(how: Shapes, count: int, *, length: int = 10, limit: int = 100, block: int = 32):
    left, history = np.full(count, limit), np.full(count, length)
    move = rearrange(how, nobody(how), left, history, np.arange(count), block)
    return move.layout, left, history


def test_a_layout_that_is_good_enough_stays():
    layout, left, history = begin(shapes(16), 16)
    assert (layout.rows, layout.slots, layout.slot_s.tolist()) == (16, 64, [32])
    assert rearrange(shapes(16), layout, left, history, np.arange(0), 32) is None
    left[:7] = 0  # nine are left: not yet half
    assert rearrange(shapes(16), layout, left, history, np.arange(0), 32) is None


def test_finished_rows_make_it_smaller_and_a_full_cache_larger():
    layout, left, history = begin(shapes(16), 16)
    left[:8] = 0
    move = rearrange(shapes(16), layout, left, history, np.arange(0), 32)
    assert move.layout.row_X.tolist() == list(range(8, 16))
    assert move.source_X.tolist() == list(range(8, 16)) and not move.fresh_X.any()
    # Nine tokens each are in the cache, down to its first slot.
    assert move.shift_s.tolist() == [23] and move.layout.start_X.tolist() == [0] * 8
    layout, left, history = begin(shapes(16), 16, length=33)
    full = type(layout)(layout.row_X, layout.start_X, np.array([64], np.int32), 64)
    assert rearrange(shapes(16), full, left, history, np.arange(0), 32).layout.slots == 96
    assert rearrange(shapes(16), full, np.minimum(left, 1), history, np.arange(0), 32) is not None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_nobody_is_lost_whatever_happens(data):
    how = shapes(data.draw(st.integers(1, 20)), data.draw(st.sampled_from([1, 2, 4])), 8)
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    count = data.draw(st.integers(1, 80))
    length, total = rng.integers(1, 30, count), rng.integers(1, 60, count)
    refill, block = data.draw(st.sampled_from([0.0, 0.5, 1.0])), data.draw(st.integers(1, 20))
    made, waiting, layout, shard_of = np.zeros(count, int), np.arange(count), nobody(how), {}
    samples = data.draw(st.integers(1, 6))
    prompt = np.arange(count) // samples
    length = length[prompt]
    most = how.most_slots(int(length.max()), int(total.max()), block)
    for _ in range(10000):
        left = total - made
        live = int((left[layout.seated()] > 0).sum())
        if not live and not len(waiting):
            break
        n = admitted(how, live, len(waiting), refill)
        assert live or n
        begin = prompt if n == len(waiting) else None
        move = rearrange(how, layout, left, length + made, waiting[:n], block, begin)
        waiting = waiting[n:]
        if move is not None:
            old, layout = layout, move.layout
            seats = layout.row_X.reshape(how.shards, -1)
            assert seats.shape[1] <= how.full and len(set(layout.seated())) == len(layout.seated())
            for s, seat in np.argwhere(seats >= 0):
                source = move.source_X.reshape(seats.shape)[s, seat]
                if source >= 0:  # the same row, in the same shard
                    assert old.row_X.reshape(how.shards, -1)[s, source] == seats[s, seat]
                    assert shard_of[seats[s, seat]] == s
                shard_of[seats[s, seat]] = s
        seated = layout.row_X >= 0
        rows = layout.row_X[seated]
        slot_X = np.repeat(layout.slot_s, layout.rows)
        going = left[rows] > 0
        # A live row holds all its tokens but the newest one, and there is room for the block.
        held = (slot_X - layout.start_X)[seated][going]
        np.testing.assert_array_equal(held, (length + made)[rows][going] - 1)
        assert (layout.start_X[seated][going] >= 0).all()
        steps = min(block, int(left[rows].max()))
        assert layout.slot_s.max() + steps <= layout.slots
        assert layout.slots_read <= layout.rows * most
        for seats in layout.row_X.reshape(-1, layout.group):  # what it shares is its prompt's
            assert len(set(prompt[seats[seats >= 0]])) <= (1 if layout.prefix else layout.group)
        made[rows[going]] = np.minimum(total, made + steps)[rows[going]]
        layout = dataclasses.replace(layout, slot_s=layout.slot_s + steps)
    assert (made == total).all() and not len(waiting)


def test_slots_are_shared_where_that_takes_no_more_memory():
    how = shapes(32, multiple=128)
    assert how.may_share(16, 512, 4096, 32) and not how.may_share(1, 512, 4096, 32)
    tight = shapes(32, multiple=128, growth=1.0)  # 64 and 4224 slots against 4224
    assert tight.may_share(4, 512, 4096, 32) and not tight.may_share(2, 8, 4100, 32)


def test_the_most_prompts_that_come_in_together_are_known():
    assert shapes(32, shards=4).most_prompts(128, 16) == 2  # all at once
    assert shapes(32, shards=4).most_prompts(2048, 16) == 3  # others come in later, anywhere
    assert shapes(6).most_prompts(6, 4) == 3 and shapes(6).most_prompts(6, 1) == 6


def test_neighbours_that_begin_alike_share_slots_until_rows_move():
    how, left, history = shapes(16), np.full(16, 100), np.repeat([5, 40, 1, 9], 4)
    begin = np.repeat(np.arange(4), 4)
    layout = rearrange(how, nobody(how), left, history, np.arange(16), 32, begin).layout
    assert (layout.group, layout.prefix, layout.own) == (4, 64, 32)
    assert layout.slots_read == 16 * 32 + 4 * 64
    assert layout.start_X.tolist() == np.repeat([60, 25, 64, 56], 4).tolist()
    left[:3] = 0
    full = dataclasses.replace(layout, slot_s=layout.slot_s + 32)
    grown = rearrange(how, full, left, history + 32, np.arange(0), 32, begin)
    assert (grown.layout.own, grown.layout.group) == (64, 4)
    assert grown.layout.row_X.tolist() == [-1] * 3 + list(range(3, 16))
    left[:8] = 0  # the others move, and take what they shared with them
    moved = rearrange(how, full, left, history + 32, np.arange(0), 32, begin)
    assert (moved.layout.group, moved.layout.prefix, moved.layout.own) == (1, 0, 96)
    assert moved.shift_s.tolist() == [56] and moved.layout.start_X.tolist() == [8] * 4 + [0] * 4


@pytest.mark.parametrize(
    "samples, shards, group",
    [((4, 4, 4), 1, 4), ((4, 6, 2), 1, 2), ((4, 4, 3), 1, 1), ((4, 4, 4), 2, 2), ((3, 3), 2, 3)],
)
def test_a_group_is_what_divides_the_samples_of_all_prompts(samples, shards, group):
    count = sum(samples)
    how = shapes(count // shards, shards)
    begin = np.repeat(np.arange(len(samples)), samples)
    left, history = np.full(count, 100), np.full(count, 10)
    layout = rearrange(how, nobody(how), left, history, np.arange(count), 32, begin).layout
    assert layout.group == group


@pytest.mark.parametrize("multiple", [32, 128])
def test_samples_of_usual_prompts_share_them_whatever_the_limit(multiple):
    how, begin = shapes(256, multiple=multiple), np.repeat(np.arange(32), 8)
    for prompt in (20, 60, 122, 123, 256, 512, 2000):
        for limit in (100, 128, 1000, 1024, 2048, 4096, 8192, 16384):
            left, history = np.full(256, limit), np.full(256, prompt)
            move = rearrange(how, nobody(how), left, history, np.arange(256), 32, begin)
            assert move.layout.group == 8, (prompt, limit)


def test_a_long_prompt_is_shared_until_its_rows_have_ended():
    """Of pairs, on seats that are too few to be halved."""
    how, group = shapes(8, multiple=128), np.repeat(np.arange(4), 2)
    left, history = np.full(8, 500), np.repeat([2000, 100, 90, 80], 2)
    layout = rearrange(how, nobody(how), left, history, np.arange(8), 32, group).layout
    assert layout.group == 2 and layout.prefix > 2000
    later = dataclasses.replace(layout, slot_s=layout.slot_s + 32)
    assert rearrange(how, later, left, history + 32, np.arange(0), 32, group) is None
    left[:2] = 0
    moved = rearrange(how, later, left, history + 32, np.arange(0), 32, group).layout
    assert (moved.group, moved.slots) == (1, 256)


def test_nothing_is_shared_that_would_take_more_memory():
    """Of a cache of 128 slots at the most, pairs would have 32 for each besides 128 of its own."""
    how, begin = shapes(8, multiple=64), np.repeat(np.arange(4), 2)
    for limit, group in ((66, 1), (97, 2)):
        left, history = np.full(8, limit), np.full(8, 2)
        layout = rearrange(how, nobody(how), left, history, np.arange(8), 32, begin).layout
        assert layout.group == group, limit


def test_nothing_is_shared_by_rows_that_come_in_later():
    how, left, history = shapes(8), np.full(12, 50), np.full(12, 10)
    begin = np.repeat(np.arange(3), 4)
    layout = rearrange(how, nobody(how), left, history, np.arange(8), 32).layout
    left[:8] = 0
    later = rearrange(how, layout, left, history, np.arange(8, 12), 32, begin).layout
    assert later.row_X.tolist()[:4] == [8, 9, 10, 11] and later.group == 1


def test_shards_are_filled_evenly():
    how = shapes(16, shards=4)
    layout, _, _ = begin(how, 30)
    assert [(part >= 0).sum() for part in np.split(layout.row_X, 4)] == [8, 8, 8, 6]
    assert layout.rows == 8


@pytest.mark.parametrize("field", ["rows", "slots"])
def test_shapes_are_few(field):
    how = shapes(256)
    assert len({getattr(how, field)(n) for n in range(1, 257)}) <= 8
