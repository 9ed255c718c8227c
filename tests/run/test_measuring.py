"""Measuring a model with its thoughts ended at a budget, or after worked examples."""

import pathlib
import signal
import types

import pytest

from pruner_jax.config import EvaluateConfig, load
from pruner_jax.run import engine, evaluate
from pruner_jax.run.evaluate import evaluate_verb
from pruner_jax.run.interrupts import Interrupted
from pruner_jax.run.prune import prune
from pruner_jax.run.session import Session
from pruner_jax.run.state import Mark
from pruner_jax.store.folder import FolderError
from pruner_jax.store.records import read_rollouts
from pruner_jax.types import Origin

TINY = pathlib.Path(__file__).parents[2] / "configs" / "tiny_reasoner"


def test_budget_forcing_ends_the_thoughts_that_are_still_open(tmp_path):
    words = [f"--model={TINY}", f"--out={tmp_path}", "--problems.options.test=8"]
    words += ["--test.samples=2", "--test.limit=64", "--test.thinking_budget=6"]
    words += ["--test.thinking_end= again{think_close}", "--test.resamples=100"]
    words += ["--verify.workers=1"]
    evaluate_verb(load(EvaluateConfig, None, words))
    rows = read_rollouts(tmp_path / "model.parquet", ["thinking", "origin", "text", "tokens"])
    for thinking, origin, text, tokens in zip(*rows.values()):
        assert thinking == 8 and " again</think>" in text  # no sum takes less than 6 tokens
        assert [n for n, o in enumerate(origin) if o == Origin.FORCED] == [6, 7]
        assert len(tokens) > 8


def test_an_evaluation_goes_on_with_the_part_that_it_was_at(tmp_path, monkeypatch):
    """Three parts of two problems; a signal comes in the second."""
    monkeypatch.setattr(engine.Engine, "rows_together", lambda self, limit: 4)
    real, sampled = evaluate.measure, []

    def measure(large, params, problems, *args, **kwargs):
        sampled.append(len(problems))
        if len(sampled) == 2:
            signal.raise_signal(signal.SIGTERM)
        return real(large, params, problems, *args, **kwargs)

    monkeypatch.setattr(evaluate, "measure", measure)
    words = [
        f"--model={TINY}",
        "--problems.options.test=8",
        "--test.problems=6",
        "--test.samples=2",
    ]
    words += ["--test.limit=64", "--test.resamples=100", "--verify.workers=1"]
    out = f"--out={tmp_path / 'out'}"

    def play(*more):
        return evaluate_verb(load(EvaluateConfig, None, [*words, *more]))

    with pytest.raises(Interrupted, match="stopped by SIGTERM") as stop:
        play(out)
    assert stop.value.exit_code == 143
    found = play(out, "--sample.rows=32")
    assert sampled == [2, 2, 2, 2]  # the one that was interrupted twice
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.parquet", "model.settings.json", "evaluation.json",
    }  # fmt: skip
    assert found == play()  # in one call, of which nothing is kept
    sampled.clear()
    assert play(out, "--test.confidence=0.9")["model"]["accuracy"] == found["model"]["accuracy"]
    assert not sampled
    other = TINY.with_name("tiny_expander")
    for change, says in (("--seed=1", "seed: was 0, now 1"), (f"--model={other}", "weights: was")):
        with pytest.raises(FolderError, match=rf"(?s)of another evaluation \(model\):.*  {says}"):
            play(out, change)


EXAMPLES = [{"question": "C7 A4.", "response": f" C7=7 A{n}" + " A4=1" * 3} for n in range(2)]


def test_worked_examples_stand_before_the_question(monkeypatch, tmp_path):
    seen, real = [], engine.sample

    def sample(params, config, prompts, **others):
        seen.append(prompts.text)
        return real(params, config, prompts, **others)

    monkeypatch.setattr(engine, "sample", sample)
    words = [f"--model={TINY}", "--problems.options.test=2", "--test.limit=4", "--test.samples=1"]
    words += ["--test.resamples=100", "--verify.workers=1", f"--text.examples={EXAMPLES}"]
    evaluate_verb(load(EvaluateConfig, None, words))
    evaluate_verb(load(EvaluateConfig, None, [*words, "--test.examples=2"]))
    for bare, shown in zip(*seen):
        assert [shown.count(e["response"]) for e in EXAMPLES] == [1, 1]
        assert not any(e["response"] in bare for e in EXAMPLES)
    with pytest.raises(ValueError, match=r"3 worked examples, but text\.examples has 2;"):
        evaluate_verb(load(EvaluateConfig, None, [*words, "--test.examples=3"]))


@pytest.mark.parametrize("name", ["monitor", "test"])
def test_worked_examples_must_fit_before_a_run_starts(settings, tmp_path, name):
    long = [{"question": "C7 A4.", "response": " A4=1" * 300}]
    words = (f"--out={tmp_path / 'run'}", f"--text.examples={long}", f"--{name}.examples=1")
    with pytest.raises(ValueError, match=rf"{name} set, problem .* do not fit into the model"):
        prune(settings(*words))


def test_the_newest_evaluation_is_of_what_is_trained():
    """The first round went back to step 20 after 40; what was seen at 40 is of nobody any more."""
    history = [
        {"kind": "evaluate", "round": 0, "step": 0, "accuracy": 0.9},
        {"kind": "evaluate", "round": 1, "step": 20, "accuracy": 0.8, "margin": 0.1},
        {"kind": "evaluate", "round": 1, "step": 40, "accuracy": 0.1, "margin": -0.7},
        {"kind": "step", "round": 2, "step": 41},
    ]
    run = types.SimpleNamespace(history=history)

    def newest(round, origin, fresh=0):
        state = types.SimpleNamespace(current_round=round, origin=Mark(origin, "", ""), fresh=fresh)
        return Session.latest_evaluation(run, state)

    assert newest(1, 0)["monitor/step"] == 40
    assert newest(1, 20, fresh=45)["monitor/step"] == 20  # rolled back, the round goes on
    assert newest(2, 20) == {"monitor/step": 20, "monitor/accuracy": 0.8, "monitor/margin": 0.1}
    assert newest(2, 0) == {"monitor/step": 0, "monitor/accuracy": 0.9}
    history.append({"kind": "evaluate", "round": 2, "step": 60, "accuracy": 0.7})
    assert newest(2, 20)["monitor/step"] == 60
