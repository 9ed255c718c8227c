import collections
import dataclasses
import json
import re

import numpy as np
import pytest

from pruner_jax.problems import last_digit
from pruner_jax.problems.last_digit import Options
from pruner_jax.types import Verdict
from pruner_jax.verify.checkers import program

SMALL = Options(train=300, monitor=60, test=60)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    last_digit.write_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def problem_of(digits, labels="CAFBDEHG"):
    """A problem with the given digits, made by hand."""
    options = Options(train=1, min_terms=len(digits), max_terms=len(digits))
    (problem,) = last_digit.load(options, "train")
    columns = {"labels": labels[: len(digits)], "digits": tuple(digits)}
    return dataclasses.replace(problem, answer=str(sum(digits) % 10), columns=columns)


# --- questions ------------------------------------------------------------------------------------


def test_questions_are_right_distinct_and_balanced():
    problems = last_digit.load(SMALL, "train")
    assert len({p.id for p in problems}) == len({p.question for p in problems}) == 300
    assert np.bincount([int(p.difficulty) for p in problems])[2:].tolist() == [60] * 5
    for problem in problems:
        pairs = re.findall(r" ([A-H])(\d)", problem.question)
        assert len({label for label, _ in pairs}) == len(pairs) == problem.difficulty
        assert str(sum(int(digit) for _, digit in pairs))[-1] == problem.answer


def test_splits_share_no_question_whatever_the_seeds_and_ranges():
    ids = {split: set() for split in last_digit.SPLITS}
    for seed, (low, high) in enumerate([(2, 2), (2, 6), (2, 3)]):
        options = Options(
            train=900, monitor=200, test=200, min_terms=low, max_terms=high, seed=seed
        )
        for split in last_digit.SPLITS:
            ids[split] |= {p.id for p in last_digit.load(options, split)}
    assert not ids["train"] & ids["monitor"]
    assert not (ids["train"] | ids["monitor"]) & ids["test"]


def test_loading_is_repeatable_and_a_longer_set_begins_with_the_shorter():
    short = last_digit.load(SMALL, "test")
    longer = last_digit.load(dataclasses.replace(SMALL, test=90), "test")
    assert short == longer[:60]
    assert short != last_digit.load(dataclasses.replace(SMALL, seed=1), "test")


def test_more_questions_than_there_are_is_an_error():
    with pytest.raises(ValueError, match=r"train=6000: only \d+ distinct"):
        last_digit.load(Options(train=6000, max_terms=2), "train")
    with pytest.raises(ValueError, match="split='dev'"):
        last_digit.load(SMALL, "dev")


@pytest.mark.parametrize(
    "wrong",
    [{"min_terms": 1}, {"max_terms": 9}, {"min_terms": 5, "max_terms": 4}, {"slip": 1.5}]
    + [{"checks": -0.1}, {"max_checks": 0}, {"test": -1}, {"mistakes": 0.5}]
    + [{"mistakes": 1.5, "target": "program"}],
)
def test_options_name_the_field_that_is_wrong(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        Options(**wrong)


def test_a_target_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="target='proof': must be one of answer, program"):
        Options(target="proof")


def test_other_words_ask_for_the_same_sums(tokenizer):
    usual = last_digit.load(SMALL, "test")
    other = last_digit.load(dataclasses.replace(SMALL, transfer=True), "test")
    assert [(p.answer, p.columns) for p in usual] == [(p.answer, p.columns) for p in other]
    assert not {p.id for p in usual} & {p.id for p in other}
    for a, b in zip(usual, other):
        terms = a.question.removeprefix("Find the last digit of the sum:").removesuffix(".")
        assert b.question == f"Use the total of{terms}.\nFind the last digit."
        ids = tokenizer(b.question).input_ids
        assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == b.question


# --- traces ---------------------------------------------------------------------------------------


def test_the_docstring_shows_a_trace_that_can_be_drawn():
    problem = problem_of((7, 4, 9))
    shortest = Options(slip=0, checks=0, second_pass=0)
    text = last_digit.trace(problem, np.random.default_rng(0), shortest)
    assert text == " C7=7 A4=1 F9=0</think>\n\\boxed{0}"
    assert last_digit.redundancy(text) == last_digit.Redundancy(checks=0, second_passes=0)


@pytest.mark.parametrize("terms", range(2, 9))
def test_minimal_tokens_is_the_length_of_the_shortest_trace(tokenizer, terms):
    problem = problem_of(range(terms))
    shortest = Options(slip=0, checks=0, second_pass=0)
    text = last_digit.trace(problem, np.random.default_rng(0), shortest)
    assert len(tokenizer(text + last_digit.END).input_ids) == last_digit.minimal_tokens(terms)


def test_every_wrong_value_is_repaired_and_every_other_value_is_right():
    rng, slips, steps = np.random.default_rng(0), 0, 0
    for problem in last_digit.load(SMALL, "train"):
        sums = np.cumsum(problem.columns["digits"]) % 10
        thought = last_digit.trace(problem, rng, Options()).split("</think>")[0]
        for one_pass in thought.split(" again"):
            found = re.findall(r" ([A-H])(\d)=(\d)((?: check=\d)*)", one_pass)
            assert [label for label, *_ in found] == list(problem.columns["labels"])
            assert tuple(int(digit) for _, digit, *_ in found) == problem.columns["digits"]
            for total, (_, _, first, checks) in zip(sums, found):
                checked = re.findall(r"\d", checks)
                assert set(checked) <= {str(total)}
                assert len(checked) <= 3
                assert first == str(total) or checked
                slips, steps = slips + (first != str(total)), steps + 1
    assert 0.08 < slips / steps < 0.12


def test_the_traces_overthink_by_construction(tokenizer):
    """At least 2.2 times the minimal length, half of the surplus in each kind of redundancy."""
    rng = np.random.default_rng(0)
    problems = last_digit.load(Options(train=1500), "train")
    texts = [last_digit.trace(p, rng, Options()) for p in problems]
    length = np.mean([len(tokenizer(t).input_ids) + 1 for t in texts])
    minimal = np.mean([last_digit.minimal_tokens(int(p.difficulty)) for p in problems])
    counts = [last_digit.redundancy(t) for t in texts]
    assert length / minimal > 2.2
    assert np.mean([c.second_passes for c in counts]) == pytest.approx(0.85, abs=0.03)
    checks = 2 * np.mean([c.checks for c in counts])
    assert 0.3 < checks / (length - minimal) < 0.7


def test_direct_traces_are_for_two_terms_alone():
    rng, options = np.random.default_rng(0), Options(direct=1.0)
    assert last_digit.trace(problem_of((7, 4)), rng, options) == "</think>\n\\boxed{1}"
    assert last_digit.trace(problem_of((7, 4, 9)), rng, options).startswith(" C7=")


def test_redundancy_reads_the_thought_only():
    text = " C7=7 check=7 again C7=7 check=7 check=7</think> check=7 again\\boxed{7}"
    assert last_digit.redundancy(text) == last_digit.Redundancy(checks=3, second_passes=1)


# --- programs -------------------------------------------------------------------------------------


def test_right_programs_run_to_the_answer_and_wrong_ones_never_do(tokenizer):
    def run(text):
        names = {}
        exec(text, names)
        return names["solution"]()

    fails = (SyntaxError, NameError, TypeError)
    rng = np.random.default_rng(0)
    for problem in last_digit.load(Options(train=60), "train"):
        text = last_digit.program(problem, rng)
        assert str(run(text)) == problem.answer
        for wrong in (True, *last_digit.MISTAKES):
            text = last_digit.program(problem, rng, wrong)
            assert tokenizer.decode(tokenizer(text).input_ids) == text
            try:
                assert str(run(text)) != problem.answer
            except fails:
                assert wrong in (True, "syntax", "name", "type")


def test_programs_as_answers_are_checked_in_the_sandbox_and_err_as_often_as_asked(tokenizer):
    rng = np.random.default_rng(0)
    options = Options(train=400, target="program", mistakes=0.25)
    classes = collections.Counter()
    for problem in last_digit.load(options, "train"):
        assert problem.checker == "program"
        text = last_digit.trace(problem, rng, options)
        assert tokenizer.decode(tokenizer(text).input_ids) == text
        thought, source = text.split("</think>\n")
        assert thought == "" and source == program.extract(source)
        verdict, detail = program.check(problem, "", source)
        assert (verdict == Verdict.CORRECT) == (detail == "")
        classes[detail.split(":")[0]] += 1
    assert 0.7 < classes.pop("") / 400 < 0.8
    assert set(classes) == {"WrongAnswer", "Name", "Type", "NoResult", "Syntax"}
    assert (
        last_digit.load(options, "train")[0].question == last_digit.load(SMALL, "train")[0].question
    )
    right = dataclasses.replace(options, mistakes=0.0)
    for problem in last_digit.load(right, "train")[:50]:
        source = last_digit.trace(problem, rng, right).removeprefix("</think>\n")
        assert program.check(problem, "", source) == (Verdict.CORRECT, "")


def test_mistakes_that_the_tokenizer_has_no_words_for_fail_in_classes_of_their_own(tokenizer):
    problem, rng = problem_of((1, 2)), np.random.default_rng(0)
    found = {}
    for name in last_digit.UNSPEAKABLE:
        source = last_digit.program(problem, rng, name)
        assert tokenizer.decode(tokenizer(source).input_ids) != source
        verdict, detail = program.check(problem, "", source, seconds=0.2)
        found[name] = (verdict, detail.split(":")[0])
    assert found == {
        "divide": (Verdict.WRONG, "ZeroDivision"),
        "loop": (Verdict.TIMEOUT, "Timeout"),
        "module": (Verdict.UNSUPPORTED, "Unsupported"),
    }


def test_a_reading_repeats_the_terms_and_a_share_of_questions_has_other_words(tokenizer):
    options = Options(train=200, target="reading", reworded=0.25)
    usual = {p.id: p.question for p in last_digit.load(Options(train=200), "train")}
    problems = last_digit.load(options, "train")
    other = [p for p in problems if p.id not in usual]
    assert all(p.question == usual[p.id] for p in problems if p not in other)
    assert 30 < len(other) < 70 and all("Use the total" in p.question for p in other)
    text = last_digit.trace(problem_of((1, 2)), np.random.default_rng(0), options)
    assert text == "</think>\n" + " again".join([" C1 A2"] * last_digit.READINGS)
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_an_unknown_mistake_is_refused():
    with pytest.raises(ValueError, match="wrong='typo': must be a bool or one of digit"):
        last_digit.program(problem_of((1, 2)), np.random.default_rng(0), "typo")


# --- tokenizer ------------------------------------------------------------------------------------


def test_no_piece_is_the_beginning_of_another():
    assert len(set(last_digit.VOCABULARY)) == len(last_digit.VOCABULARY) == 64
    for piece in last_digit.VOCABULARY:
        others = [p for p in last_digit.VOCABULARY if p != piece and p.startswith(piece)]
        assert others == []


def test_any_ids_survive_decoding_and_encoding(tokenizer):
    assert len(tokenizer) == 64
    rng = np.random.default_rng(0)
    for _ in range(50):
        ids = rng.integers(4, 64, size=40).tolist()
        assert tokenizer(tokenizer.decode(ids)).input_ids == ids


def test_questions_and_traces_read_naturally_and_have_no_unknown_words(tokenizer):
    rng = np.random.default_rng(0)
    for problem in last_digit.load(SMALL, "monitor"):
        text = problem.question + last_digit.trace(problem, rng, Options())
        ids = tokenizer(text).input_ids
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_chat_template_opens_the_thought(tokenizer):
    chat = [
        {"role": "system", "content": "Use at most 40 tokens."},
        {"role": "user", "content": "Find the last digit of the sum: C7 A4."},
    ]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nUse at most 40 tokens.<|im_end|>\n"
        "<|im_start|>user\nFind the last digit of the sum: C7 A4.<|im_end|>\n"
        "<|im_start|>assistant\n<think>"
    )
    assert tokenizer.unk_token_id not in tokenizer(text).input_ids
    closed = tokenizer.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert closed == text + "</think>\n"


def test_folder_says_where_generation_ends(tmp_path, tokenizer):
    last_digit.write_tokenizer(tmp_path)
    ends = json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.convert_ids_to_tokens(ends) == ["<|im_end|>", "<|endoftext|>"]
    assert tokenizer.eos_token_id == ends[0]
    assert tokenizer.pad_token_id == ends[1]


def test_noise_rule_names_exactly_the_first_values_of_steps(tokenizer):
    rule = last_digit.noise_rule(Options(noise=0.1))
    text = " C7=3 check=7 A4=1</think>\n\\boxed{1}"
    ids = tokenizer(text).input_ids
    thought = ids[: ids.index(tokenizer.convert_tokens_to_ids("</think>"))]
    struck = [i for i in range(1, len(thought)) if thought[i - 1] in rule.after]
    assert [tokenizer.decode([ids[i]]) for i in struck] == ["=3", "=1"]
    assert all(ids[i] in rule.values for i in struck)
    assert rule.probability == 0.1
