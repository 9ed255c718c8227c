"""Thoughts that the tiny expander learns from."""

import collections
import re

import numpy as np
import pytest

from pruner_jax import text
from pruner_jax.problems import last_digit
from pruner_jax.problems import last_digit_expansion as source
from pruner_jax.text import TextOptions


def kind(name, masked=0.0, **others):
    options = source.Options(train=60, shares={name: 1.0}, masked=masked, **others)
    return source.load(options, "train")


def test_a_pass_is_what_a_chain_needs():
    for problem in kind("pass"):
        digits, labels = problem.columns["digits"], problem.columns["labels"]
        sums = np.cumsum(digits) % 10
        steps = [f" {a}{b}={c}" for a, b, c in zip(labels, digits, sums)]
        question, thought = problem.question.split("\n\n", 1)
        assert thought == problem.columns["thought"] == "".join(steps)
        assert question.startswith("Find the last digit") and problem.answer == str(sums[-1])


def test_masked_thoughts_do_not_say_the_answer():
    for problem in kind("trace", masked=1.0):
        assert problem.answer not in re.findall(r"\d", problem.columns["thought"])
        assert source.MASK in problem.columns["thought"]


def test_what_is_missing():
    assert not any(p.columns["thought"] for p in kind("empty"))
    ends = kind("end")
    assert all(p.columns["thought"].endswith(f"={p.answer}") for p in ends)
    left = collections.Counter(p.columns["thought"].count("=") < p.difficulty for p in ends)
    assert left[True] and left[False]


def test_every_sum_has_its_thoughts_and_its_set():
    problems = kind("trace", thoughts=2)
    sums = {p.id for p in last_digit.load(last_digit.Options(train=60), "train")}
    assert len(problems) == 120
    assert {p.id.replace("_expansion", "").partition("#")[0] for p in problems} == sums


def test_its_tokenizer_is_another_one_and_reads_masked_thoughts(tmp_path):
    source.write_tokenizer(tmp_path)
    tokenizer = text.load_tokenizer(tmp_path)
    last_digit.write_tokenizer(tmp_path / "large")
    assert tokenizer.get_vocab() != text.load_tokenizer(tmp_path / "large").get_vocab()
    for problem in kind("trace", masked=1.0):
        prompt = text.render(tokenizer, problem, TextOptions(), limit=8)
        ids = text.encode(tokenizer, prompt)
        assert tokenizer.unk_token_id not in ids
        assert text.decode(tokenizer, ids) == prompt
        assert prompt.endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("wrong", [{"shares": {"pass": 0.5}}, {"masked": 2.0}, {"thoughts": 0}])
def test_settings_have_ranges(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        source.Options(**wrong)
