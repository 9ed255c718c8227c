"""Sampling: the cached, forked, shifted, refilled batch writes what a plain loop would write."""

from __future__ import annotations

import dataclasses
import functools
import gc

import jax
import numpy as np
import pytest
import small
from small import END, LIMIT, run, same

from pruner_jax.mesh import make_mesh
from pruner_jax.pod import programs
from pruner_jax.run.compilation import Compiled
from pruner_jax.sample import decode as device
from pruner_jax.sample.layout import Shapes
from pruner_jax.sample.records import Given, cut
from pruner_jax.types import Origin, Purpose, take_rows

FEW_PROGRAMS = {"block": 1000, "slot_multiple": 48}  # for tests of something else


@functools.cache
def usual():
    return run()[0]


def test_tokens_and_log_probabilities_are_those_of_a_plain_loop():
    """Prompt by prompt, token by token, without a cache: the whole of sampling in a few lines."""
    asked = small.prompts()
    prompt_B = [tokens for tokens in asked.tokens for _ in range(3)]
    rows, logp, alive = list(prompt_B), [[] for _ in prompt_B], [True] * len(prompt_B)
    for position in range(LIMIT):
        before = small.distributions(rows)
        for b, row in enumerate(rows):
            if not alive[b]:
                continue
            u = small.uniform(Purpose.TRAIN, f"p{b // 3}", 0, b % 3, position)
            share = before[b, len(row) - 1]
            token = int(np.searchsorted(np.cumsum(np.exp(np.float64(share))), u))
            rows[b] = np.append(row, token).astype(np.int32)
            logp[b].append(share[token])
            alive[b] = token not in END
    found = usual()
    assert found.length_B.tolist() == [len(x) for x in logp]
    assert found.finished_B.tolist() == [not x for x in alive]
    assert 3 < found.finished_B.sum() < 15  # both kinds are there
    for b, n in enumerate(found.length_B):
        np.testing.assert_array_equal(found.tokens_BT[b, :n], rows[b][len(prompt_B[b]) :])
        np.testing.assert_allclose(found.logp_BT[b, :n], logp[b], atol=1e-5, rtol=0)


def test_the_result_is_complete():
    found = usual()
    assert found.group_B.tolist() == np.repeat(np.arange(5), 3).tolist()
    assert found.sample_B.tolist() == [0, 1, 2] * 5
    assert found.tokens_BT.shape[1] == found.length_B.max() <= found.limit == LIMIT
    past = np.arange(found.tokens_BT.shape[1]) >= found.length_B[:, None]
    assert (found.origin_BT == np.where(past, Origin.PAD, Origin.SAMPLED)).all()
    assert (found.tokens_BT[past] == 0).all() and (found.logp_BT[past] == 0).all()
    for b, text in enumerate(found.text):
        words = found.tokens_BT[b, : found.length_B[b] - found.finished_B[b]]
        assert text == " ".join(map(str, words))
    closed = [np.flatnonzero(row == small.CLOSE[0]) for row in found.tokens_BT]
    wanted = [c[0] + 1 if len(c) else n for c, n in zip(closed, found.length_B)]
    assert found.thinking_B.tolist() == wanted
    assert (found.mode_B == 0).all() and (found.budget_B == -1).all()
    assert (found.parent_B == -1).all() and found.temperature == 1.0


@pytest.mark.parametrize(
    "options",
    [
        {"rows": 1},  # every row prefilled and decoded alone
        {"share_prompts": False},
        {"rows": 6, "refill": 0.0},
        {"rows": 8, "refill": 0.5, "block": 3},
        {"rows": 8, "refill": 1.0, "slot_multiple": 4, "slot_growth": 1.0},
        FEW_PROGRAMS,
    ],
    ids=str,
)
def test_rows_do_not_depend_on_how_they_are_decoded(options):
    found, stats = run(**options)
    same(usual(), found)
    assert stats.tokens == usual().length_B.sum()


@pytest.mark.parametrize("samples, places", [(3, 5), (np.array([2, 4, 2, 2, 4]), 7), (1, 0)])
def test_what_the_samples_of_a_prompt_begin_with_is_read_once(samples, places):
    """16 slots for each row, 16 for each group; where nothing is shared, 32 for each row."""
    _, stats = run(samples=samples, limit=16, end_ids=(small.CONFIG.vocab_size,), block=16)
    assert stats.steps == 16
    per_step = 16 * (stats.rows + places) if places else 32 * stats.rows
    assert stats.slot_steps == 16 * per_step


@pytest.mark.parametrize(
    "changes, most",
    [
        ({}, 8),
        ({"rows": 8, "refill": 1.0, "slot_multiple": 4, "slot_growth": 1.0}, 4),
        ({"rows": 1}, 1),
    ],
)
def test_the_largest_prefill_is_known_beforehand(monkeypatch, changes, most):
    """Prompts that one program reads, as a plan has them."""
    sizes = {"count": 15, "samples": 3, "prompt": 11, "limit": LIMIT, "end_ids": END}
    options = dataclasses.replace(small.OPTIONS, **changes, dtype="float32")
    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    planned = programs.sampler(small.CONFIG, options, mesh, **sizes)
    seen, read = [], device.prefill

    def prefill(params, tokens, *rest, **named):
        seen.append(tokens.shape)
        return read(params, tokens, *rest, **named)

    monkeypatch.setattr(device, "prefill", prefill)
    run(**changes)
    assert max(seen) == planned.prefill.arguments["tokens"].shape and max(seen)[0] == most


def test_rows_that_go_on_share_nothing():
    given = {0: cut(usual(), 0, 1)}
    _, stats = run(given=given, limit=16, end_ids=(small.CONFIG.vocab_size,), block=16)
    assert stats.slot_steps == 16 * 32 * stats.rows


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 5, "refill": 1.0, "end_ids": (small.CONFIG.vocab_size,)},  # in three waves
        {"rows": 15, "block": 4},  # a prefix is given up
        {"rows": 6, "refill": 0.0},
    ],
    ids=str,
)
def test_no_more_than_one_layer_is_there_twice(monkeypatch, changes):
    """What `run.engine.Engine.cache_bytes` promises, whenever the cache is made anew."""
    held = []

    def keys_and_values():
        gc.collect()
        return sum(x.nbytes for x in jax.live_arrays() if x.ndim == 4)

    def watched(function):
        def call(*args, **kwargs):
            made = jax.block_until_ready(function(*args, **kwargs))
            held.append(keys_and_values())
            return made

        return call

    for name in ("empty", "relay_layer"):
        monkeypatch.setattr(device, name, watched(getattr(device, name)))
    before = keys_and_values()
    asked = small.prompts()
    run(asked, **changes)
    shapes = Shapes(changes["rows"], 1, small.OPTIONS.slot_multiple, small.OPTIONS.slot_growth)
    prompt = max(len(tokens) for tokens in asked.tokens)
    slots = shapes.most_slots(prompt, LIMIT, changes.get("block", small.OPTIONS.block))
    config = small.CONFIG
    layer = 2 * 4 * config.kv_heads * config.head_width * slots * changes["rows"]
    assert len(held) > config.layers and max(held) - before <= (config.layers + 1) * layer


def test_rows_do_not_depend_on_their_neighbours_or_the_order_of_prompts():
    order = [3, 0, 4, 1, 2]
    found, _ = run(small.prompts(order=order), rows=6, refill=0.0)
    same(usual(), found, [3 * order.index(p) + g for p in range(5) for g in range(3)])
    same(run(small.prompts(order=[2]))[0], usual(), [6, 7, 8])


def test_equal_prompts_of_other_problems_draw_other_samples():
    asked = small.prompts(order=[1, 2, 1])
    twin = dataclasses.replace(asked.problems[2], id="twin")
    asked = dataclasses.replace(asked, problems=(*asked.problems[:2], twin))
    found, _ = run(asked)
    assert len({tuple(row) for row in found.tokens_BT}) == 9


@pytest.mark.parametrize("change", ["seed", "visit", "purpose"])
def test_seed_visit_and_purpose_draw_other_samples(change):
    asked = small.prompts(visit=int(change == "visit"))
    if change == "purpose":
        asked = dataclasses.replace(asked, purpose=Purpose.MONITOR)
    found, _ = run(asked, seed=8 if change == "seed" else 7)
    width = min(found.tokens_BT.shape[1], usual().tokens_BT.shape[1])
    equal = (found.tokens_BT[:, :width] == usual().tokens_BT[:, :width]).all(axis=1)
    assert not equal.any()


def test_a_second_call_is_identical_and_compiles_nothing():
    first = run(rows=6, refill=0.0)[0]
    compiled = Compiled()
    again, _ = run(rows=6, refill=0.0)
    same(first, again)
    np.testing.assert_array_equal(first.logp_BT, again.logp_BT)  # to the last bit
    assert compiled.lap() == {"perf/compiled": 0}


def test_log_probabilities_are_of_logits_over_temperature():
    found, _ = run(temperature=0.6, **FEW_PROGRAMS)
    np.testing.assert_allclose(found.logp_BT, small.scored(found, 0.6), atol=1e-5, rtol=0)
    assert found.temperature == 0.6


def test_log_probabilities_are_taken_before_truncation():
    found, _ = run(top_k=3, top_p=0.8, **FEW_PROGRAMS)
    np.testing.assert_allclose(found.logp_BT, small.scored(found), atol=1e-5, rtol=0)


def test_greedy_takes_the_likeliest_and_scores_it_at_temperature_one():
    found, _ = run(temperature=0.0, samples=1, **FEW_PROGRAMS)
    np.testing.assert_allclose(found.logp_BT, small.scored(found), atol=1e-5, rtol=0)
    for b, n in enumerate(found.length_B):
        row = np.concatenate([found.prompts.tokens[b], found.tokens_BT[b, :n]])
        before = small.distributions([row])[0, len(row) - n - 1 : -1][:n]
        np.testing.assert_array_equal(before.argmax(-1), found.tokens_BT[b, :n])


def test_a_smaller_limit_cuts_rows_and_changes_nothing_before():
    limit_B = np.arange(15) + 1
    found, _ = run(limit=limit_B)
    whole = usual()
    np.testing.assert_array_equal(found.length_B, np.minimum(whole.length_B, limit_B))
    np.testing.assert_array_equal(found.finished_B, whole.finished_B & (whole.length_B <= limit_B))
    for b, n in enumerate(found.length_B):
        np.testing.assert_array_equal(found.tokens_BT[b, :n], whole.tokens_BT[b, :n])
    assert found.limit == 15


def test_a_row_of_limit_0_stays_empty_whatever_its_prompt():
    limit_B = np.where(np.arange(15) // 3 == 2, 0, LIMIT)
    asked = small.prompts()
    tokens = tuple(np.resize(t, 99) if p == 2 else t for p, t in enumerate(asked.tokens))
    found, _ = run(dataclasses.replace(asked, tokens=tokens), limit=limit_B)
    rest = np.flatnonzero(limit_B)
    same(take_rows(found, rest), usual(), rest)
    assert not found.length_B[6:9].any() and not found.finished_B[6:9].any()
    assert not run(limit=np.zeros(15, int))[0].length_B.any()


def test_prompts_may_have_different_numbers_of_samples():
    found, _ = run(samples=np.array([2, 0, 3, 0, 1]))
    assert found.group_B.tolist() == [0, 0, 2, 2, 2, 4]
    assert found.sample_B.tolist() == [0, 1, 0, 1, 2, 0]
    same(found, usual(), [0, 1, 6, 7, 8, 12])


# -- rows that go on from a cut --------------------------------------------------------------------


def test_a_row_goes_on_from_a_cut_as_if_it_had_never_been_cut():
    whole = usual()
    given = {b: cut(whole, b, int(n) * b // 15) for b, n in enumerate(whole.length_B) if b % 4}
    found, stats = run(given=given)
    same(whole, found)
    had = sum(len(start.tokens) for start in given.values())
    assert stats.tokens == whole.length_B.sum() - had
    assert found.parent_B.tolist() == [b if b % 4 else -1 for b in range(15)]
    for b, start in given.items():  # what it had is carried over, to the last bit
        np.testing.assert_array_equal(found.logp_BT[b, : len(start.logp)], start.logp)


def test_rows_of_a_cut_may_be_some_of_the_old_ones():
    some = take_rows(usual(), np.array([1, 7, 8, 12]))
    given = {i: cut(some, i, min(2, int(n))) for i, n in enumerate(some.length_B)}
    found, _ = run(samples=np.bincount(some.group_B, minlength=5), given=given)
    same(some, found)


def test_given_rows_that_are_done_are_not_decoded():
    whole = usual()
    finished = int(np.flatnonzero(whole.finished_B)[0])
    long = int(np.flatnonzero(~whole.finished_B)[0])
    given = {b: cut(whole, b, int(whole.length_B[b])) for b in (finished, long)}
    seen = []
    found, _ = run(given=given, on_row=lambda *row: seen.append(row[0]))
    same(whole, found)
    assert sorted(seen) == list(range(15)) and set(seen[:2]) == {finished, long}


def test_a_given_row_keeps_its_old_log_probabilities_and_origins():
    tokens = np.array([40, 41], np.int32)
    logp, origin = np.array([-9.0, np.nan], np.float32), np.array([Origin.EDITED, Origin.FORCED])
    found, _ = run(samples=1, given={2: Given(tokens, logp, origin, parent=11)})
    np.testing.assert_array_equal(found.tokens_BT[2, :2], tokens)
    np.testing.assert_array_equal(found.logp_BT[2, :2], logp)
    assert found.origin_BT[2, :3].tolist() == [Origin.EDITED, Origin.FORCED, Origin.SAMPLED]
    assert found.parent_B.tolist() == [-1, -1, 11, -1, -1]
    scored = small.scored(found)
    np.testing.assert_allclose(found.logp_BT[2, 2:], scored[2, 2:], atol=1e-5, rtol=0)


# -- what callers hear -----------------------------------------------------------------------------


def test_every_row_is_reported_once_as_soon_as_it_is_done():
    rows, progress = {}, []

    def on_row(row, tokens, finished):
        assert row not in rows
        rows[row] = (tokens, finished)

    found, stats = run(
        rows=8,
        block=3,
        on_row=on_row,
        on_progress=lambda *how: progress.append((*how, len(rows))),
    )
    assert sorted(rows) == list(range(15))
    for b, (tokens, finished) in rows.items():
        np.testing.assert_array_equal(tokens, found.tokens_BT[b, : found.length_B[b]])
        assert finished == found.finished_B[b]
    assert progress[-1] == (15, 15, found.length_B.sum(), 15)
    assert [done for done, *_ in progress] == sorted(done for done, *_ in progress)
    assert all(reported >= done for done, _, _, reported in progress)
    assert len(progress) == stats.blocks + 1


def test_the_numbers_of_a_call():
    found, stats = run()
    assert stats.rows == 15 and stats.tokens == stats.drawn == found.length_B.sum()
    assert stats.prompt_tokens == sum(len(tokens) - 1 for tokens in found.prompts.tokens)
    assert stats.tokens <= stats.row_steps <= 16 * stats.steps
    assert found.length_B.max() == stats.steps
    entropy = []
    for b, n in enumerate(found.length_B):
        row = np.concatenate([found.prompts.tokens[found.group_B[b]], found.tokens_BT[b, :n]])
        before = small.distributions([row])[0, len(row) - n - 1 : len(row) - 1]
        entropy.extend(-(np.exp(before) * before).sum(-1))
    metrics = stats.metrics()
    assert metrics["sampling/entropy"] == pytest.approx(np.mean(entropy), rel=1e-4)
    assert metrics["perf/sample_live_rows"] == stats.tokens / stats.row_steps
    assert metrics["perf/sample_tokens_per_second"] > 0


# -- what is refused -------------------------------------------------------------------------------


def test_a_prompt_that_leaves_no_room_for_the_limit_is_refused():
    with pytest.raises(ValueError, match=r"'p2'.*11 tokens.*limit of 54.*context is 64.*Lower"):
        run(small.prompts(order=[0, 2]), limit=54)
    assert len(run(small.prompts(order=[0]), samples=1, limit=63)[0]) == 1


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"limit": 0}, "limit is 0"),
        ({"samples": -1}, "samples is -1"),
        ({"limit": np.array([1, 2])}, r"limit has shape \(2,\).*15 rows"),
        ({"budget_B": np.zeros(4)}, r"budget_B has shape \(4,\)"),
        ({"given": {15: Given(np.zeros(1), np.zeros(1), np.zeros(1))}}, "given names row 15"),
        ({"given": {0: Given(np.zeros(2), np.zeros(1), np.zeros(2))}}, "2 tokens, 1 log-prob"),
        ({"given": {0: Given(*[np.zeros(LIMIT + 1)] * 3)}}, f"limit of {LIMIT}"),
    ],
)
def test_what_does_not_fit_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        run(**changes)
