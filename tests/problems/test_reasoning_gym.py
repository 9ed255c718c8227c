"""reasoning_gym: its problems carry what its own scorers need."""

from __future__ import annotations

import pickle
import sys

import pytest

from pruner_jax.problems.reasoning_gym import Options, load

reasoning_gym = pytest.importorskip("reasoning_gym")

SMALL = {"train": 20, "monitor": 5, "test": 8}


@pytest.mark.parametrize("dataset", ["chain_sum", "countdown", "knights_knaves", "word_ladder"])
def test_the_scorer_accepts_the_gold_answer(dataset):
    for problem in load(Options(dataset=dataset, **SMALL), "test"):
        columns = pickle.loads(pickle.dumps(problem)).columns
        scorer = reasoning_gym.create_dataset(columns["dataset"], **columns["config"])
        assert scorer.score_answer(problem.answer, columns["entry"]) == 1.0
        assert scorer.score_answer(None, columns["entry"]) < 0.1
        assert (
            problem.checker == "reasoning_gym" and columns["entry"]["question"] == problem.question
        )


def test_config_and_difficulty():
    config = {"min_terms": 3, "max_terms": 4}
    problems = load(Options(config=config, difficulty="num_terms", **SMALL), "train")
    assert {p.difficulty for p in problems} == {3.0, 4.0}
    with pytest.raises(ValueError, match="difficulty names 'terms'"):
        load(Options(difficulty="terms", **SMALL), "train")


def test_runs_with_other_seeds_never_test_on_train():
    """The generators draw entry i from seed + i: seeds 0 and 1 share nearly all entries."""
    train = {p.question for p in load(Options(seed=0, train=200), "train")}
    test = {p.question for p in load(Options(seed=1, test=100), "test")}
    again = {p.question for p in load(Options(seed=1, train=200), "train")}
    assert not train & test and len(train & again) > 150


def test_a_task_with_many_right_answers_has_no_gold_answer():
    problem = load(Options(dataset="graph_color", **SMALL), "test")[0]
    assert problem.answer == "" and problem.columns["entry"]["metadata"]["possible_answer"]


def test_errors(monkeypatch):
    with pytest.raises(ValueError, match=r"'sums'; reasoning-gym has .*chain_sum"):
        load(Options(dataset="sums"), "train")
    with pytest.raises(ValueError, match="does not fit chain_sum"):
        load(Options(config={"min_term": 2}), "train")
    with pytest.raises(ValueError, match=r"config sets seed; use .* instead"):
        Options(config={"seed": 2})
    with pytest.raises(ValueError, match="test is -1"):
        Options(test=-1)
    narrow = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    with pytest.raises(
        ValueError, match=r"train is 5000, but chain_sum .* gave only \d+ different"
    ):
        load(Options(config=narrow, train=5000), "train")
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(ValueError, match=r"pip install 'pruner-jax\[tasks\]'"):
        load(Options(seed=5), "train")
