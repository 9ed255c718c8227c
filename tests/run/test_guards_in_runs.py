"""Every guard rings in a run that really goes wrong in its way; a rollback saves the run."""

import json
import pathlib

import pytest

from pruner_jax.config import PruneConfig, load
from pruner_jax.measure import guards
from pruner_jax.measure.guards import Alarm
from pruner_jax.run.prune import prune
from pruner_jax.run.session import Session
from pruner_jax.store.records import Metrics

REPOSITORY = pathlib.Path(__file__).parents[2]
REWARDS = pathlib.Path(__file__).with_name("rewards_gone_wrong.py")


@pytest.fixture
def play(tmp_path):
    """``play(*overrides)``: the records of a run of the tiny reasoner on a reward that is wrong."""

    def run(*overrides):
        measured = [
            f"--{name}.{setting}"
            for name in ("monitor", "test")
            for setting in ("temperature=1.0", "top_p=1.0", "samples=2")
        ]
        out = tmp_path / "run"
        words = [
            f"--model={REPOSITORY / 'configs' / 'tiny_reasoner'}",
            f"--out={out}",
            "--problems.options={train: 512, monitor: 32, test: 16}",
            f"--method.name={REWARDS}",
            "--rounds.limits=[112]",
            "--rounds.steps=24",
            "--rounds.prompts=8",
            "--rounds.evaluate_every=8",
            "--optimizer.learning_rate=3e-3",
            "--sample.rows=64",
            *measured,
            "--test.resamples=200",
            "--pick.tolerance=0.3",
            "--verify.workers=1",
            "--guards.window=3",
            *overrides,
        ]
        summary = prune(load(PruneConfig, None, words))
        lines = (out / "metrics.jsonl").read_text().splitlines()
        return summary, [json.loads(line) for line in lines]

    return run


@pytest.mark.parametrize(
    ("pays_for", "guards"),
    [
        ("no thought", {"empty_thinking", "accuracy"}),
        ("long answers", {"moved_reasoning"}),
        ("repetition", {"repetition", "entropy"}),
    ],
)
def test_a_wrong_reward_rings(play, pays_for, guards):
    words = [f"--method.options.pays_for={pays_for}", "--guards.action=warn"]
    summary, records = play(*words, "--guards.entropy=0.3")  # 24 steps are few for 0.1
    rang = {record["guard"]: record["step"] for record in records if record["kind"] == "alarm"}
    assert guards <= rang.keys()
    assert min(rang.values()) > 3  # not before there is something to compare with
    # Warned only, the run goes on; no such checkpoint is ever picked.
    assert summary["rounds"][0]["steps"] == 24
    assert summary["rounds"][0]["picked_step"] == 0
    assert summary["token_ratio"]["value"] == 1.0


def test_numbers_that_are_none_any_more_end_the_round(play):
    summary, records = play(
        "--method.name=grpo",
        "--method.options.samples=8",
        "--optimizer.learning_rate=1e30",
        "--guards.action=rollback",
    )
    alarm = next(record for record in records if record["kind"] == "alarm")
    assert alarm["guard"] == "not_finite" and alarm["step"] < 24
    assert summary["token_ratio"]["value"] == 1.0


def test_imitation_may_be_sure_of_itself(play):
    """Taught its own shortest responses again and again, the model leaves nothing to chance."""
    _, records = play(
        "--method.name=sft_shortest",
        "--method.options={samples: 4, epochs: 12}",
        "--method.collect.problems=24",
        "--optimizer.learning_rate=2e-3",
        "--guards.entropy=0.9",
        "--guards.accuracy=null",
    )
    taught = [record["taught_entropy"] for record in records if "taught_entropy" in record]
    assert taught[-1] < 0.9 * taught[0]
    assert not [record for record in records if record["kind"] == "alarm"]


def test_imitation_at_every_step_has_no_entropy_to_watch(settings, tmp_path):
    """Not that of the sampler either; and a step of which nothing is kept goes by."""
    out = tmp_path / "run"
    prune(
        settings(
            f"--out={out}",
            "--method.name=sft_shortest",
            "--method.options.samples=4",
            "--method.collect={every: step, policy: current, top_p: null, temperature: null}",
            "--rounds.limits=[16]",
        )
    )
    steps = [r for r in Metrics(out / "metrics.jsonl").read() if r["kind"] == "step"]
    assert all("entropy" not in r and r["sampling/entropy"] > 0 for r in steps)
    assert any("taught_entropy" not in r and r["prune/updates"] == 0 for r in steps)


def test_after_a_rollback_the_next_round_plays_all_its_steps(play):
    """Paid for no thought in its first round, the run goes back to the start and goes on well."""
    summary, records = play(
        "--method.options={pays_for: no thought, rounds: 1}",
        "--optimizer.learning_rate=1e-3",
        "--rounds.limits=[112,96]",
        "--guards.accuracy=null",
        "--guards.rollbacks=0",
    )
    alarms = [record for record in records if record["kind"] == "alarm"]
    assert alarms and {record["round"] for record in alarms} == {1}
    first, second = summary["rounds"]
    assert first["steps"] < 24 and first["picked_step"] == 0
    assert second["steps"] == 24
    steps = [r for r in records if r["kind"] == "step" and r["round"] == 2]
    assert steps[0]["prune/empty_thinking"] < 0.1 and steps[0]["prune/accuracy"] > 0.8
    assert summary["final"]["accuracy"] > 0.8


def test_an_alarm_at_the_last_step_of_a_round_drops_the_moments_too(play, monkeypatch):
    """Though the method would carry the optimiser into the next round."""
    fresh = []
    real = Session.fresh_optimizer
    monkeypatch.setattr(Session, "fresh_optimizer", lambda *a: fresh.append(1) or real(*a))

    def ring(history, options):
        last = history[-1]
        return [Alarm("entropy", "of the test", {})] if last["step"] == 4 and last["round"] else []

    monkeypatch.setattr(guards, "watch", ring)
    summary, _ = play(
        "--method.name=grpo",
        "--method.options.samples=8",
        "--rounds.limits=[112,96]",
        "--rounds.steps=4",
        "--rounds.evaluate_every=4",
    )
    assert [entry["steps"] for entry in summary["rounds"]] == [4, 4]
    assert len(fresh) == 1
