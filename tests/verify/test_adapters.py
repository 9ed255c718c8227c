"""Reward functions of TRL and verl run unchanged."""

import pathlib

import pytest

from pruner_jax.types import Problem, Verdict
from pruner_jax.verify import checkers
from pruner_jax.verify.outcome import Job, settle

REWARDS = pathlib.Path(__file__).with_name("rewards.py")


def run(spec, text, gold="72", tokens=None, messages=None, source="openai/gsm8k", **columns):
    problem = Problem("p", "How many?", gold, source=source, messages=messages, columns=columns)
    kind, _, name = spec.partition(":")
    check = checkers.load(f"{kind}:{REWARDS}:{name}", {})
    return settle(check(Job(problem, text, None, tokens)), 1.0)


def test_trl_plain():
    assert run("trl:correctness", "so 70+2\n#### 72").verdict == Verdict.CORRECT
    assert run("trl:correctness", "#### 71") == (Verdict.WRONG, 0.0, "")


def test_trl_chat():
    assert run("trl-chat:chat_correctness", "it is 72").verdict == Verdict.CORRECT
    assert run("trl-chat:chat_correctness", "it is 71").verdict == Verdict.WRONG
    with pytest.raises(TypeError):
        run("trl:chat_correctness", "it is 72")  # it indexes messages, not text


def test_trl_gets_token_ids():
    assert run("trl:shortness", "a b c", tokens=(5, 6, 7)).score == pytest.approx(0.97)
    assert checkers.plan(f"trl:{REWARDS}:shortness").needs_tokens
    assert not checkers.plan(f"verl:{REWARDS}:compute_score").needs_tokens


def test_trl_none_is_no_zero():
    assert run("trl:only_mathematics", "", task="math").verdict == Verdict.CORRECT
    assert run("trl:only_mathematics", "", task="code").verdict == Verdict.UNSUPPORTED


def test_trl_sees_what_trl_would_show():
    with pytest.raises(RuntimeError) as error:
        run("trl:seen", "text", tokens=(1, 2), task="math", answer="mine")
    expected = (["How many?"], ["text"], [[1, 2]], ["answer", "solution", "task"])
    assert str(error.value) == repr(expected)
    with pytest.raises(RuntimeError) as error:
        run("trl-chat:seen", "text", messages=({"role": "user", "content": "Why?"},))
    assert "[[{'role': 'user', 'content': 'Why?'}]]" in str(error.value)
    assert "[[{'role': 'assistant', 'content': 'text'}]]" in str(error.value)


def test_verl_float():
    assert run("verl:compute_score", "#### 72") == (Verdict.CORRECT, 1.0, "")
    assert run("verl:compute_score", "#### 1,072", gold="1072").verdict == Verdict.CORRECT
    verdict, score, _ = run("verl:compute_score", "#### 71")
    assert (verdict, score) == (Verdict.WRONG, 0.1)
    with pytest.raises(NotImplementedError, match="data_source='other'"):
        run("verl:compute_score", "#### 72", source="other")


def test_verl_dict():
    assert run("verl:compute_score_dict", "72") == (Verdict.CORRECT, 1.0, "")
    assert run("verl:compute_score_dict", "71") == (Verdict.WRONG, -1.0, "")
    assert run("verl:compute_score_soft", "71", weight=0.4) == (Verdict.WRONG, 0.4, "")
    assert run("verl:compute_score_soft", "71", weight=1.0).verdict == Verdict.CORRECT
