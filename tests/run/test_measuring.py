"""Measuring a model with its thoughts ended at a budget."""

import pathlib

from pruner_jax.config import EvaluateConfig, load
from pruner_jax.run.evaluate import evaluate_verb
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
