"""``warmup``: what is checked before a step is made, and what it says."""

import json
import math
import os

import pytest

from pruner_jax import cli
from pruner_jax.policy import hf, weights
from pruner_jax.run import imitate


@pytest.fixture
def words(tmp_path):
    """A warm-up of a tiny model from nothing."""
    shape = (
        "{model_type: qwen2, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, "
        "num_attention_heads: 2, num_key_value_heads: 1, max_position_embeddings: 512, "
        "rms_norm_eps: 1e-6, rope_theta: 10000.0, tie_word_embeddings: true, hidden_act: silu}"
    )
    options = "{train: 32, monitor: 4, test: 4}"
    return [
        "warmup",
        f"--out={tmp_path / 'model'}",
        f"--architecture={shape}",
        f"--problems.options={options}",
        "--problems=last_digit",
        "--batch=4",
        "--json",
    ]


def test_a_dry_run_checks_and_shows_sizes_and_leaves_nothing(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(imitate, "learn", None)  # no step is made
    assert cli.main([*words, "--dry-run"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layers"] == 2 and found["problems"] == {"train": 32, "monitor": 4, "test": 4}
    assert found["learner_state_bytes"] >= 3 * 4 * found["parameters"] > 0  # Adam: two moments
    assert os.listdir(tmp_path) == []
    assert cli.main([*words, "--dry-run", "--limit=3"]) == 1
    assert "raise limit" in capsys.readouterr().err


def test_a_dry_run_makes_and_loads_no_weights(words, model, monkeypatch, capsys):
    monkeypatch.setattr(weights, "init", None)
    monkeypatch.setattr(hf, "read_weights", None)
    for more in ((), (f"--model={model}", "--test.limit=128")):
        assert cli.main([*words, "--dry-run", *more]) == 0
        assert json.loads(capsys.readouterr().out)["parameters"] == 17_696


def test_a_folder_of_something_else_is_refused_before_training(
    words, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(imitate, "_begin", None)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.tex").write_text("years of work")
    assert cli.main(words) == 1
    assert "thesis.tex, which is no part of a model folder" in capsys.readouterr().err


def test_a_budget_that_no_response_can_exceed_is_refused_before_training(
    words, monkeypatch, capsys
):
    monkeypatch.setattr(imitate, "_begin", None)
    told = ["--limit=40", "--test.budget=40", "--test.budget_sentence=In {budget} tokens."]
    assert cli.main([*words, *told]) == 1
    assert "budget is 40, but responses are cut at 40 tokens" in capsys.readouterr().err


def test_a_test_that_does_not_fit_into_the_model_is_refused_before_training(
    words, monkeypatch, capsys
):
    monkeypatch.setattr(imitate, "_train", None)
    assert cli.main([*words, "--test.limit=500"]) == 1
    assert "of up to 500 (test.limit, or else limit) do not fit" in capsys.readouterr().err


def test_what_cannot_be_said_is_null_in_json(words, monkeypatch, capsys):
    monkeypatch.setattr(imitate, "_train", lambda settings, policy, *_: policy)
    monkeypatch.setattr(imitate, "measure", lambda *_, **__: None)
    monkeypatch.setattr(imitate, "outcomes", lambda _: None)
    monkeypatch.setattr(
        imitate.stats, "describe", lambda *_, **__: {"mean_correct_tokens": math.nan}
    )
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out) == {"mean_correct_tokens": None}
