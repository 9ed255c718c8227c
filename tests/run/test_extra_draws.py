"""Dynamic sampling: problems that selection leaves out are replaced, and none is skipped."""

import pathlib

import pytest
from some_problems_count import counts

from pruner_jax.problems.order import order
from pruner_jax.problems.source import load_sets
from pruner_jax.run.prune import prune
from pruner_jax.run.step import _expected
from pruner_jax.store.records import Metrics, read_rollouts

SOME = f"--method.name={pathlib.Path(__file__).parent / 'some_problems_count.py'}"


def play(settings, out, draws, *words):
    prune(
        settings(
            f"--out={out}",
            SOME,
            f"--method.options={{extra_draws: {draws}}}",
            "--rounds.log_rollouts_every=1",
            "--rounds.limits=[16]",
            *words,
        )
    )
    steps = [line for line in Metrics(out / "metrics.jsonl").read() if line["kind"] == "step"]
    return steps, [of_step(out, number) for number in range(1, 1 + len(steps))]


def of_step(out, number):
    """The problems of a step, in order, and those that reached the learner."""
    name = f"round-01-step-{number:05d}.parquet"
    rows = read_rollouts(out / "rollouts" / name, ["problem_id", "weight"])
    problems = list(dict.fromkeys(rows["problem_id"]))
    kept = {p for p, weight in zip(rows["problem_id"], rows["weight"]) if weight is not None}
    return problems, kept


def in_order(settings, count):
    train = load_sets(settings().problems)["train"]
    index, _ = order(len(train), 0, 0, count)
    return [train[i].id for i in index]


def test_a_step_draws_until_enough_problems_count(settings, tmp_path):
    steps, drawn = play(settings, tmp_path / "run", 6)
    assert all(len(kept) == 4 for _, kept in drawn)
    assert any(line["prune/draws"] > 1 for line in steps)
    # The last problem is one that counts; the next step goes on behind it.
    assert all(counts(problems[-1]) for problems, _ in drawn)
    every = [problem for problems, _ in drawn for problem in problems]
    assert every == in_order(settings, len(every))
    # What was let go of has been sampled, too.
    sampled = [2 * len(problems) for problems, _ in drawn]
    assert all(line["prune/generated_tokens"] >= n for line, n in zip(steps, sampled))


def test_it_stops_after_so_many_draws(settings, tmp_path):
    few, drawn = play(settings, tmp_path / "run", 1, "--rounds.steps=2")
    assert {line["prune/draws"] for line in few} == {2}
    assert all(kept == set(filter(counts, problems)) for problems, kept in drawn)
    plain, drawn = play(settings, tmp_path / "plain", 0, "--rounds.steps=2")
    assert all(len(problems) == 4 for problems, _ in drawn)
    assert not any("prune/draws" in line for line in plain)


def test_a_method_cannot_ask_for_it_where_it_makes_no_sense(settings, tmp_path):
    words = ("--method.name=o1_pruner", "--method.collect.extra_draws=2", "--method.options={}")
    with pytest.raises(ValueError, match=r"extra_draws is 2 and collect\.every 'once'"):
        prune(settings(f"--out={tmp_path / 'run'}", *words))
    assert not (tmp_path / "run").exists()


def test_draws_come_in_few_sizes():
    """Every number of rows is a program more."""
    sizes = {_expected(32, lacking, share / 64) for lacking in range(1, 33) for share in range(65)}
    assert sizes == {2, 4, 8, 16, 32}
    assert _expected(32, 5, 0.5) == 16  # 10 are expected to do, with a quarter more 12.5
    assert _expected(32, 1, 0.0) == 32


def test_a_method_with_a_table_beside_it_may_be_patient(settings, tmp_path):
    words = ("--method.name=adaptthink", "--method.options={}", "--dry_run=true")
    prune(settings(f"--out={tmp_path / 'run'}", "--rounds.patience=2", *words))
