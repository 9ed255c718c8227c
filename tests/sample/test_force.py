"""Force hooks: each writes what it says, where it says, marked as such, and disturbs no other."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import small
from small import LIMIT, run, same

from pruner_jax.run.compilation import Compiled
from pruner_jax.sample.force import (
    begin_with,
    chain,
    end_thinking_at,
    in_mode,
    noise,
)
from pruner_jax.sample.records import cut
from pruner_jax.types import Origin

FEW_PROGRAMS = {"rows": 8, "block": 1000, "slot_multiple": 48}


@functools.cache
def free():
    """Without a hook."""
    return run(**FEW_PROGRAMS)[0]


def forced(hook, **changes):
    return run(force=hook, **FEW_PROGRAMS, **changes)[0]


def follows_the_policy(rollouts, but=()) -> None:
    """Every token's log-probability is the policy's, except at the given (row, position)s."""
    wanted = small.scored(rollouts)
    for b, t in but:
        wanted[b, t] = rollouts.logp_BT[b, t]
    np.testing.assert_allclose(rollouts.logp_BT, wanted, atol=1e-5, rtol=0)


def modes(*texts, **how):
    """Rows of each mode begin with its tokens."""
    return chain(*(in_mode(n, begin_with(tokens, **how)) for n, tokens in enumerate(texts)))


def test_what_a_mode_begins_with_is_a_decision_with_its_own_probability():
    mode_B = np.arange(15) % 3
    found = forced(modes((42,), (43, 44), logp=math.log(0.5)), mode_B=mode_B)
    np.testing.assert_array_equal(found.mode_B, mode_B)
    assert found.tokens_BT[mode_B == 0, 0].tolist() == [42] * 5
    assert found.tokens_BT[mode_B == 1, :2].tolist() == [[43, 44]] * 5
    assert (found.origin_BT[:, :2] == Origin.SAMPLED).all()
    np.testing.assert_allclose(found.logp_BT[mode_B < 2, 0], math.log(0.5))
    np.testing.assert_array_equal(found.logp_BT[mode_B == 1, 1], 0.0)
    rows = np.flatnonzero(mode_B == 2)
    np.testing.assert_array_equal(found.tokens_BT[rows, :3], free().tokens_BT[rows, :3])
    places = [(b, 0) for b in np.flatnonzero(mode_B < 2)]
    follows_the_policy(found, [*places, *((b, 1) for b in np.flatnonzero(mode_B == 1))])


def test_a_beginning_out_of_the_loss_is_forced():
    found = forced(begin_with((42, 43), in_loss=False))
    assert (found.tokens_BT[:, :2] == [42, 43]).all()
    assert (found.origin_BT[:, :2] == Origin.FORCED).all()
    assert (found.origin_BT[:, 2] == Origin.SAMPLED).all()
    follows_the_policy(found)


def closes(row, length) -> int:
    at = np.flatnonzero(row[:length] == small.CLOSE[0])
    return int(at[0]) if len(at) else length


@pytest.mark.parametrize("by_budget", [False, True])
def test_a_thought_that_is_still_open_at_the_cap_is_ended(by_budget):
    ending = (30, 31, small.CLOSE[0])
    budget_B = np.where(np.arange(15) % 5, 4 + np.arange(15) % 4, -1)
    hook = end_thinking_at(None if by_budget else 6, ending, close=small.CLOSE)
    found = forced(hook, budget_B=budget_B)
    cap_B = np.where(budget_B < 0, LIMIT, budget_B) if by_budget else np.full(15, 6)
    for b in range(15):
        whole, n, cap = free(), free().length_B[b], cap_B[b]
        if n <= cap or closes(whole.tokens_BT[b], n) < cap:  # left alone
            assert found.length_B[b] == n and found.text[b] == whole.text[b]
            assert Origin.FORCED not in found.origin_BT[b]
            continue
        np.testing.assert_array_equal(found.tokens_BT[b, :cap], whole.tokens_BT[b, :cap])
        assert tuple(found.tokens_BT[b, cap : cap + 3]) == ending
        places = np.flatnonzero(found.origin_BT[b] == Origin.FORCED)
        assert places.tolist() == [cap, cap + 1, cap + 2]
        assert found.thinking_B[b] == cap + 3
    assert 3 < (found.origin_BT == Origin.FORCED).any(axis=1).sum() < 15
    follows_the_policy(found)


def test_noise_replaces_what_follows_and_leaves_the_policy_its_dice():
    values, after, until = (55, 56, 57), tuple(range(20, 45)), ((5, 40, 41),)
    found = forced(noise(0.5, values, after=after, until=until), samples=20)
    whole = run(samples=20, **FEW_PROGRAMS)[0]
    struck = chances = 0
    seen = []
    for b, n in enumerate(found.length_B):
        row, over, same_so_far = found.tokens_BT[b], False, True
        for t in range(n):
            before = row[t - 1] if t else found.prompts.tokens[found.group_B[b]][-1]
            over |= t > 0 and before in until[0]
            is_forced = found.origin_BT[b, t] == Origin.FORCED
            if is_forced:
                assert before in after and not over and row[t] in values
                seen.append(row[t])
            elif same_so_far:  # the policy draws what it would have drawn without noise
                assert row[t] == whole.tokens_BT[b, t]
            same_so_far &= not is_forced
            possible = before in after and not over
            chances, struck = chances + possible, struck + is_forced
    assert chances > 200 and abs(struck / chances - 0.5) < 4 * math.sqrt(0.25 / chances)
    counts = np.array([seen.count(value) for value in values])
    assert abs(counts / counts.sum() - 1 / 3).max() < 4 * math.sqrt(2 / 9 / counts.sum())
    follows_the_policy(found)


def both():
    return chain(
        in_mode(0, begin_with((42,), logp=math.log(0.5))),
        noise(0.3, (55, 56), until=small.CLOSE),
        noise(0.2, (57,)),
        end_thinking_at(9, (30, 31, 5)),
    )


def test_a_chain_gives_the_last_word_to_the_last_hook():
    mode_B = np.arange(15) % 2
    found = forced(both(), mode_B=mode_B)
    opening = found.tokens_BT[mode_B == 0, 0]
    assert set(opening) <= {42, 55, 56, 57} and 42 in opening
    kept = (mode_B == 0) & (found.tokens_BT[:, 0] == 42)
    np.testing.assert_allclose(found.logp_BT[kept, 0], math.log(0.5))
    assert (found.origin_BT[kept, 0] == Origin.SAMPLED).all()
    struck = found.tokens_BT[(found.origin_BT == Origin.FORCED)]
    assert {55, 56, 57, 30, 31, 5} == set(struck)
    for b, n in enumerate(found.length_B):
        # Nothing may break into the closing sequence, though noise comes before it in the chain.
        if n >= 12 and closes(found.tokens_BT[b], 9) == 9:
            assert found.tokens_BT[b, 9:12].tolist() == [30, 31, 5]
    follows_the_policy(found, [(b, 0) for b in np.flatnonzero(kept)])


def test_hooks_do_not_depend_on_how_rows_are_decoded_or_cut():
    """A hook's memory is worked out again where a row goes on, in its sequence and after it."""
    mode_B = np.arange(15) % 2
    whole = forced(both(), mode_B=mode_B)
    found, _ = run(force=both(), mode_B=mode_B, rows=6, block=3, refill=0.0)
    same(whole, found)
    given = {b: cut(whole, b, min(b, int(n))) for b, n in enumerate(whole.length_B)}
    found = forced(both(), mode_B=mode_B, given=given)
    same(whole, found)


def test_a_forced_end_token_ends_the_row():
    found = forced(begin_with((50, 51, 52, 53, small.END[1])))
    assert found.length_B.max() == 5 and found.finished_B.all()
    assert (found.tokens_BT[found.length_B == 5, 4] == small.END[1]).all()


def test_equal_hooks_share_their_programs():
    hook = both()
    assert hook == both() and hash(hook) == hash(both())
    first, _ = run(force=hook, **FEW_PROGRAMS)
    compiled = Compiled()
    again, _ = run(force=both(), **FEW_PROGRAMS)
    same(first, again)
    assert compiled.lap() == {"perf/compiled": 0}


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: begin_with(()), "tokens is empty"),
        (lambda: end_thinking_at(5, ()), "tokens is empty"),
        (lambda: noise(1.5, (1,)), "probability is 1.5"),
        (lambda: noise(0.5, ()), "at least one value"),
    ],
)
def test_hooks_that_cannot_work_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
