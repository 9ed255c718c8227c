"""Measuring a model with its thoughts ended at a budget, told one, or after worked examples."""

import json
import pathlib
import shutil
import signal
import types

import huggingface_hub
import numpy as np
import pytest

from pruner_jax.config import EvaluateConfig, load
from pruner_jax.policy import hf
from pruner_jax.report import track
from pruner_jax.run import engine, evaluate, memory
from pruner_jax.run import prune as prune_module
from pruner_jax.run.evaluate import evaluate_verb
from pruner_jax.run.interrupts import Interrupted
from pruner_jax.run.prune import prune
from pruner_jax.run.session import Session
from pruner_jax.run.state import Mark
from pruner_jax.store import folder as folder_module
from pruner_jax.store.folder import FolderError
from pruner_jax.store.records import Metrics, read_rollouts
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


def test_a_run_tells_its_budgets_when_it_measures(settings, model, tmp_path, monkeypatch):
    """In the method's words, on monitor and test, and to ``evaluate --like`` the run; the model is
    a commit of the hub, which is written down."""
    cached = tmp_path / "snapshots" / "8b1f0c3"
    cached.parent.mkdir()
    cached.symlink_to(model)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **how: str(cached))
    sent = []
    writer = track.Writer(lambda numbers, step: sent.append((step, numbers)), lambda: None)
    monkeypatch.setitem(track._OPEN, "wandb", lambda place: writer)
    monkeypatch.setitem(track.PACKAGES, "wandb", "json")  # any that is installed
    out = tmp_path / "run"
    asked = [
        f"--out={out}",
        "--model=owner/tiny@v1",
        "--method={name: l1_max, options: {samples: 4, low: 4, high: 20}}",
        "--monitor.budget=8",
        "--test.budget=12",
        "--rounds.limits=[24]",
        "--rounds.steps=2",
    ]
    summary = prune(settings(*asked, "--track.to=[wandb]"))
    for name, budget in (("base-monitor", 8), ("final-test", 12)):
        rows = read_rollouts(out / "rollouts" / f"{name}.parquet", ["prompt", "budget", "length"])
        assert set(rows["budget"]) == {budget}
        assert all(f"Think for maximum {budget} tokens." in prompt for prompt in rows["prompt"])
    kept = summary["final"]["budget"]
    assert kept["tokens"] == 12
    assert kept["distance"]["value"] == np.abs(np.array(rows["length"]) - 12).mean()
    evaluated = [r for r in Metrics(out / "metrics.jsonl").read() if r["kind"] == "evaluate"]
    assert [r["budget/tokens"] for r in evaluated] == [8, 8]
    assert all(r["budget/within_low"] <= r["budget/within"] for r in evaluated)

    assert [step for step, _ in sent] == [0, 1, 2, 2]
    assert prune(settings(*asked)) == summary  # without a tracker it is the same run
    assert sent[1][1]["sampling/entropy"] > 0 and sent[3][1]["monitor/budget/tokens"] == 8

    words = [f"--model={out / 'export'}", f"--like={out}"]
    again = evaluate_verb(load(EvaluateConfig, None, words))
    assert again["model"]["budget"] == kept
    other = load(EvaluateConfig, None, [*words, "--test.budget=5"])
    assert other.test.note() == "Think for maximum 5 tokens."

    commit = {"name": "owner/tiny@v1", "commit": "8b1f0c3"}
    assert summary["models"] == {"model": commit}
    assert json.loads((out / "inputs.json").read_text())["owner/tiny@v1"] == "commit 8b1f0c3"


def test_trackers_open_before_anything_is_sampled(settings, tmp_path, monkeypatch):
    """With what the run has of the step whose evaluation is next."""
    places, sent = [], []

    def open_one(place):
        if not places:
            places.append(None)
            raise OSError("no login")
        places.append(place.step)
        return track.Writer(lambda numbers, step: sent.append((step, "loss" in numbers)), list)

    def stopped(run, state):
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setitem(track._OPEN, "wandb", open_one)
    monkeypatch.setitem(track.PACKAGES, "wandb", "json")  # any that is installed
    words = (f"--out={tmp_path / 'run'}", "--track.to=[wandb]", "--rounds.limits=[24]")
    asked = settings(*words, "--rounds.steps=2")
    with monkeypatch.context() as patch, pytest.raises(ValueError, match=r"opened .*no login"):
        patch.setattr(prune_module, "compare_sampler_with_learner", stopped)
        prune(asked)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(prune_module, "add_candidate", stopped)
        prune(asked)
    assert (places[1:], sent) == ([0], [(0, False), (1, True), (2, True)])
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(prune_module, "finish", stopped)
        patch.setattr(hf, "read_weights", None)  # of no use to a run that has a checkpoint
        prune(asked)
    assert (places[2:], sent[3:]) == ([2], [(2, True), (2, False)])
    prune(asked)
    assert (places[3:], sent[5:]) == ([3], [])


def test_a_run_goes_on_with_the_models_that_it_was_begun_with(
    settings, model, tmp_path, monkeypatch
):
    """Whose main branches on the hub have moved on meanwhile; a new run takes them as they are."""
    asked, main = [], ["aaa"]

    def snapshot_download(name, *, revision, allow_patterns):
        asked.append((name, revision))
        cached = tmp_path / name / "snapshots" / (revision or main[0])
        if not cached.exists():
            cached.parent.mkdir(parents=True, exist_ok=True)
            cached.symlink_to(model)
        return str(cached)

    def play_round(run, state):
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(prune_module, "play_round", play_round)
    parts = {"model": "o/large", "expander": "o/small", "teacher": "o/wise"}
    words = [f"--{part}.model={parts[part]}" for part in ("expander", "teacher")]
    words += ["--model=o/large", "--expander.limit=8", f"--out={tmp_path / 'run'}"]
    with pytest.raises(Interrupted):
        prune(settings(*words))
    assert {revision for _, revision in asked} == {None}
    asked.clear()
    main[0] = "bbb"
    with pytest.raises(Interrupted):
        prune(settings(*words))
    assert set(asked) == {(name, "aaa") for name in parts.values()}
    noted = json.loads((tmp_path / "run" / "inputs.json").read_text())
    assert {noted[name] for name in parts.values()} == {"commit aaa"}
    with pytest.raises(Interrupted):
        prune(settings(*words, f"--out={tmp_path / 'new'}"))
    noted = json.loads((tmp_path / "new" / "inputs.json").read_text())
    assert {noted[name] for name in parts.values()} == {"commit bbb"}


def test_a_budget_that_nothing_tells_is_refused_at_once(settings, tmp_path):
    with pytest.raises(ValueError, match=r"monitor: budget is 8, but nothing says .*l1_exact"):
        prune(settings(f"--out={tmp_path / 'run'}", "--monitor.budget=8"))
    words = [f"--model={TINY}", "--test.limit=9", "--test.budget=8"]
    with pytest.raises(ValueError, match=r"budget is 8, but nothing says"):
        evaluate_verb(load(EvaluateConfig, None, words))
    own = load(EvaluateConfig, None, [*words, "--test.budget_sentence=In {budget} tokens."])
    assert own.test.note() == "In 8 tokens."
    with pytest.raises(ValueError, match="budget_sentence is 'Be short'"):
        load(EvaluateConfig, None, [*words, "--test.budget_sentence=Be short"])


def test_a_budget_that_no_response_can_exceed_is_refused_at_once(settings, tmp_path):
    told = [f"--out={tmp_path / 'run'}", "--rounds.limits=[16,8]"]
    told += ["--test.budget=16", "--test.budget_sentence=In {budget} tokens."]
    with pytest.raises(ValueError, match="test: budget is 16, but responses are cut at 16 tokens"):
        prune(settings(*told))


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
    assert stop.value.exit_code == 75
    found = play(out, "--sample.rows=32")
    assert sampled == [2, 2, 2, 2]  # the one that was interrupted twice
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.parquet", "model.settings.json", "evaluation.json", ".lock",
    }  # fmt: skip
    assert found == play()  # in one call, of which nothing is kept
    sampled.clear()
    with monkeypatch.context() as patch:
        patch.setattr(hf, "read_weights", lambda *args, **how: pytest.fail("weights were loaded"))
        again = play(out, "--test.confidence=0.9")
    assert again["model"]["accuracy"] == found["model"]["accuracy"]
    assert not sampled
    other = TINY.with_name("tiny_expander")
    for change, says in (("--seed=1", "seed: was 0, now 1"), (f"--model={other}", "weights: was")):
        with pytest.raises(FolderError, match=rf"(?s)of another evaluation \(model\):.*  {says}"):
            play(out, change)


def test_responses_of_an_evaluation_are_of_one_model_and_one_process(tmp_path, monkeypatch):
    """Whatever a model's folder has beside weights counts, of the one to compare with as well. A
    note of an older version, which knew fewer settings and files, is one of today's defaults."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        shutil.copytree(TINY, folder)
    words = [f"--model={first}", f"--against={second}", "--problems.options.test=2"]
    words += ["--test.samples=1", "--test.limit=8", "--test.resamples=100", "--verify.workers=1"]
    out = tmp_path / "out"

    def play(*more):
        return evaluate_verb(load(EvaluateConfig, None, [*words, f"--out={out}", *more]))

    found = play()
    monkeypatch.setattr(evaluate, "measure", lambda *args, **how: pytest.fail("sampled again"))
    note = out / "model.settings.json"
    written = json.loads(note.read_text())
    older = json.loads(note.read_text())
    del older["described"], older["programs"], older["test"]["top_k"]
    older["files"][f"{first}/config.json"] = "0"
    note.write_text(json.dumps(older))
    assert play() == found and json.loads(note.read_text()) == written
    for name, folder in (("model", first), ("against", second)):
        for path in ("tokenizer_config.json", "generation_config.json", "config.json"):
            kept = (folder / path).read_text()
            (folder / path).write_text(kept + " ")
            with pytest.raises(FolderError, match=rf"(?s)evaluation \({name}\):.*described.{path}"):
                play()
            (folder / path).write_text(kept)
    with folder_module.lock(out), pytest.raises(FolderError, match="another process"):
        play()
    note.unlink()
    with pytest.raises(FolderError, match=r"model\.settings\.json, which would say .* not there"):
        play()


def test_an_evaluation_that_does_not_fit_is_refused_before_weights_are_loaded(monkeypatch):
    """The expander lies beside each of two models; 3 problems of 2 samples share the cache."""
    expander = TINY.with_name("tiny_expander")
    words = [f"--model={TINY}", f"--against={TINY}", f"--expander.model={expander}"]
    words += ["--expander.limit=8", "--test.problems=3", "--test.samples=2", "--test.limit=32"]
    words += ["--problems.options.test=4", "--verify.workers=1"]
    seen = []

    def check(stages, most):
        seen.append(stages)
        return memory.check_memory(stages, most)

    monkeypatch.setattr(evaluate, "check_memory", check)
    monkeypatch.setattr(hf, "read_weights", lambda *args, **how: pytest.fail("weights were loaded"))
    monkeypatch.setattr(evaluate, "device_bytes", lambda mesh: 1)
    asked = load(EvaluateConfig, None, words)
    with pytest.raises(ValueError, match=r"'model' .* a smaller model$"):
        evaluate_verb(asked)
    stages = seen[0]
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (TINY, expander)]
    assert stages["model"] == stages["against"] and stages["model"].rows == 6
    assert stages["model"].weights == pytest.approx(sum(sizes), rel=0.1)  # float32, as the files
    monkeypatch.setattr(evaluate, "device_bytes", lambda mesh: stages["model"].bytes - 1)
    with pytest.raises(ValueError, match=r"'model' .*sample\.rows to 5 \(6 share .*test\.limit$"):
        evaluate_verb(asked)


def test_an_evaluation_goes_on_with_the_commit_that_it_was_begun_with(tmp_path, monkeypatch):
    """Whose main branch has moved on to another model; a new evaluation takes that."""
    asked, main = [], ["aaa"]
    models = {"aaa": TINY, "bbb": TINY.with_name("tiny_expander")}

    def snapshot_download(name, *, revision, allow_patterns):
        asked.append(revision)
        commit = revision or main[0]
        cached = tmp_path / name / "snapshots" / commit
        if not cached.exists():
            cached.parent.mkdir(parents=True, exist_ok=True)
            cached.symlink_to(models[commit])
        return str(cached)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    words = ["--model=o/large", "--problems.options.test=2", "--test.samples=1"]
    words += ["--test.limit=8", "--test.resamples=100", "--verify.workers=1"]

    def play(out):
        return evaluate_verb(load(EvaluateConfig, None, [*words, f"--out={tmp_path / out}"]))

    found = play("out")
    assert found["model"]["commit"] == "aaa" and set(asked) == {None}
    asked.clear()
    main[0] = "bbb"
    assert play("out") == found and set(asked) == {"aaa"}
    assert play("out") == found and set(asked) == {"aaa"}
    assert play("new")["model"]["commit"] == "bbb"


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
