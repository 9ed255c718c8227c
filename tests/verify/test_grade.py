"""Rollouts to verdicts: the order of the rules, both switches, partial credit."""

import logging
import pathlib

import numpy as np
import pytest

from pruner_jax.types import Origin, Problem, Prompts, Purpose, Rollouts, Verdict, take_rows
from pruner_jax.verify.grade import Grader, counts
from pruner_jax.verify.options import VerifyOptions
from pruner_jax.verify.pool import Verifier

HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def verifier():
    with Verifier(VerifyOptions(workers=1)) as verifier:
        yield verifier


def grade(rows, verifier, **options):
    """All rows at once."""
    return Grader(verifier, **options).result(rows)


def rollouts(texts, golds="7", *, finished=None, length=None, limit=64, **problem):
    """One problem per row, ``length`` tokens each (default: one per word)."""
    rows = len(texts)
    golds = [golds] * rows if isinstance(golds, str) else golds
    problems = tuple(Problem(f"p{b}", "q?", gold, **problem) for b, gold in enumerate(golds))
    length_B = np.array(length or [len(text.split()) + 1 for text in texts], np.int32)
    live_BT = np.arange(limit) < length_B[:, None]
    none = (np.zeros(0, np.int32),) * rows
    return Rollouts(
        prompts=Prompts(problems, ("q?",) * rows, none, Purpose.TRAIN, np.zeros(rows, np.int32)),
        group_B=np.arange(rows, dtype=np.int32),
        sample_B=np.zeros(rows, np.int32),
        tokens_BT=np.where(live_BT, np.arange(1, limit + 1), 0).astype(np.int32),
        logp_BT=np.where(live_BT, -0.5, 0).astype(np.float32),
        origin_BT=np.where(live_BT, Origin.SAMPLED, Origin.PAD).astype(np.uint8),
        length_B=length_B,
        thinking_B=length_B // 2,
        finished_B=np.array(finished if finished is not None else [True] * rows),
        text=tuple(texts),
        temperature=1.0,
        limit=limit,
        mode_B=np.zeros(rows, np.int32),
        budget_B=np.full(rows, -1, np.int32),
        parent_B=np.full(rows, -1, np.int32),
    )


def names(graded):
    return [Verdict(v).name for v in graded.verdict_B]


def test_every_verdict_has_its_reason(verifier):
    texts = [
        r"<think>7?</think> \boxed{7}",
        r"<think>\boxed{7}</think> \boxed{8}",  # what stands in the thought does not count
        r"<think>\boxed{7}</think> seven",
        r"<think>\boxed{7}",
        r"\boxed{7}",  # a model that does not think
        r"<think></think> \boxed{3+4}",
        r"<think>a</think> \boxed{7}",
    ]
    finished = [True] * 6 + [False]
    graded = grade(rollouts(texts, finished=finished), verifier, opened=False)
    assert names(graded) == [
        "CORRECT",
        "WRONG",
        "UNPARSED",
        "UNPARSED",
        "CORRECT",
        "CORRECT",
        "UNFINISHED",
    ]
    assert graded.extracted == ("7", "8", None, None, "7", "3+4", None)
    assert graded.score_B.tolist() == [1, 0, 0, 0, 1, 1, 0]
    assert graded.correct_B.tolist() == [True, False, False, False, True, True, False]
    assert graded.verdict_B.dtype == np.int8 and graded.score_B.dtype == np.float32
    assert counts(graded) == {
        "prune/verdict/correct": 3,
        "prune/verdict/wrong": 1,
        "prune/verdict/unparsed": 2,
        "prune/verdict/unfinished": 1,
        "prune/verdict/unsupported": 0,
        "prune/verdict/timeout": 0,
        "prune/verdict/error": 0,
    }


def test_a_thought_that_the_prompt_opened(verifier):
    texts = [r"hm \boxed{7}", r"hm</think> \boxed{7}", r"\boxed{7}"]
    assert names(grade(rollouts(texts), verifier, opened=True)) == [
        "UNPARSED",
        "CORRECT",
        "UNPARSED",
    ]
    per_row = np.array([True, True, False])
    assert names(grade(rollouts(texts), verifier, opened=per_row))[2] == "CORRECT"


def test_other_tags(verifier):
    texts = [r"[T]\boxed{7}[/T] \boxed{8}", r"[T]\boxed{7}"]
    graded = grade(rollouts(texts), verifier, opened=False, think_open="[T]", think_close="[/T]")
    assert names(graded) == ["WRONG", "UNPARSED"]


def test_the_switches_of_the_original_papers():
    """The ThinkPrune code accepts a boxed intermediate result in a truncated thought."""
    rows = rollouts(
        [r"<think>so \boxed{7}", "<think>so \\boxed{7", "<think>the answer is 7.", "<think>hm"],
        finished=[False] * 4,
        checker="exact",
    )
    lenient = VerifyOptions(
        workers=1, answer="anywhere", after_thought=False, unfinished_is_wrong=False
    )
    with Verifier(lenient) as verifier:
        graded = grade(rows, verifier, opened=False)
    assert names(graded) == ["CORRECT", "CORRECT", "CORRECT", "UNFINISHED"]
    with Verifier(VerifyOptions(workers=1, answer="first_boxed")) as verifier:  # O1-Pruner
        rows = rollouts([r"\boxed{7} or \boxed{8}", r"\boxed{8} or \boxed{7}"], checker="exact")
        assert names(grade(rows, verifier, opened=False)) == ["CORRECT", "WRONG"]


def test_rows_added_as_they_finish_give_the_same(verifier):
    rows = rollouts([rf"\boxed{{{n}}}" for n in (7, 8, 7, 9, 7)])
    at_once = grade(rows, verifier, opened=False)
    grader = Grader(verifier, opened=False)
    for b in (3, 0, 4):  # in the order of their finishing; the other two with the result
        grader.add(b, rows.prompts.problems[b], rows.text[b], True)
    with pytest.raises(ValueError, match="row 3 was added before"):
        grader.add(3, rows.prompts.problems[3], rows.text[3], True)
    graded = grader.result(rows)
    assert names(graded) == names(at_once) == ["CORRECT", "WRONG", "CORRECT", "WRONG", "CORRECT"]
    assert graded.extracted == at_once.extracted


def test_rows_must_be_those_of_the_rollouts(verifier):
    rows = rollouts([r"\boxed{7}", r"\boxed{8}"])
    grader = Grader(verifier, opened=False)
    grader.add(1, rows.prompts.problems[1], r"\boxed{7}", True)
    with pytest.raises(ValueError, match="row 1 was added with another text"):
        grader.result(rows)
    grader = Grader(verifier, opened=False)
    grader.add(2, rows.prompts.problems[1], r"\boxed{7}", True)
    with pytest.raises(ValueError, match="3 rows were added, the rollouts have 2"):
        grader.result(rows)


def test_partial_credit_and_the_whole_response():
    """A user's function is asked about every finished row, with or without an answer."""
    spec = f"verl:{HERE / 'rewards.py'}:compute_score"
    rows = rollouts(
        ["#### 7", "#### 8", "nothing", "#### 7"],
        finished=[True, True, True, False],
        checker=spec,
        source="openai/gsm8k",
    )
    with Verifier(VerifyOptions(workers=1)) as verifier:
        graded = grade(rows, verifier, opened=True)
    assert names(graded) == ["CORRECT", "WRONG", "WRONG", "UNFINISHED"]
    assert graded.score_B.tolist() == pytest.approx([1.0, 0.1, 0.0, 0.0])


def test_token_ids_reach_trl_functions():
    spec = f"trl:{HERE / 'rewards.py'}:shortness"
    with Verifier(VerifyOptions(workers=1, correct_from=0.9)) as verifier:
        graded = grade(rollouts(["a", "b"], length=[5, 20], checker=spec), verifier, opened=False)
        assert graded.score_B.tolist() == pytest.approx([0.95, 0.80])
        assert names(graded) == ["CORRECT", "WRONG"]
        with pytest.raises(ValueError, match="needs the token ids"):
            Grader(verifier, opened=False).add(0, Problem("p", "q", "7", spec), "a", True)


def test_programs_and_their_errors(verifier):
    """Details are what PaD's refinement shows to the model."""
    program = "```python\ndef solution():\n    return {}\n```"
    texts = [program.format(x) for x in ("3 + 4", "3 + b", "8")] + ["no program"]
    graded = grade(rollouts(texts, checker="program"), verifier, opened=False)
    assert names(graded) == ["CORRECT", "WRONG", "WRONG", "UNPARSED"]
    assert graded.detail == (
        "",
        "Name: name 'b' is not defined",
        "WrongAnswer: solution() returned 8",
        "",
    )
    assert graded.extracted[0] == "def solution():\n    return 3 + 4"


def test_the_first_failure_is_shown_and_all_are_counted(caplog):
    rows = rollouts(["raise"] * 3 + ["7"], checker=f"{HERE / 'poisons.py'}:check")
    with Verifier(VerifyOptions(workers=1)) as verifier, caplog.at_level(logging.WARNING):
        for _ in range(2):
            graded = grade(rows, verifier, opened=False)
            assert names(graded) == ["ERROR"] * 3 + ["CORRECT"]
            assert counts(graded)["prune/verdict/error"] == 3
    assert len(caplog.records) == 1
    assert "problem 'p0': KeyError: 'gold'" in caplog.text
    assert graded.detail[0] == "KeyError: 'gold'"


def test_details_follow_their_rows(verifier):
    program = "def solution():\n    return {}"
    rows = rollouts([program.format(x) for x in "7ab"], checker="program")
    graded = grade(rows, verifier, opened=False)
    assert take_rows(graded, np.array([2, 0])).detail == (graded.detail[2], graded.detail[0])
