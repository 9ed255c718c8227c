"""Broken programs fail in the true sandbox as they are meant to, and become rows to learn from."""

import dataclasses

import numpy as np
import pytest
from handmade import Row, graded

from pruner_jax import text
from pruner_jax.objective.context import Context, NotOffered, Scene
from pruner_jax.objective.inject import KINDS, is_program, variants
from pruner_jax.objective.repair import Inject, Refine
from pruner_jax.problems import last_digit
from pruner_jax.types import Graded, Problem, Verdict
from pruner_jax.verify.checkers import program

CLASS = {
    "rename": "Name",
    "drop_return": "NoResult",
    "break_bracket": "Syntax",
    "wrong_type": "Type",
    "zero_division": "ZeroDivision",
    "off_by_one": "WrongAnswer",
}

EGGS = """\
import math

def solution():
    # Janet's ducks lay 16 eggs a day – she eats 3
    eggs = 16;  price = 2.0
    for bakes in [4]:
        eggs -= 3 + bakes
    cost = {"egg": price}
    return (math.floor(eggs * cost["egg"])
            % 100)
"""
SUM = "def solution():\n    C = 7\n    A = 4\n    total = 0\n    total += C\n    total += A\n"
SUM += "    return total % 10"


def run(source, gold="18"):
    return program.check(Problem("p", "", gold), "", source)


def classes(source, kind, gold):
    return {run(broken, gold)[1].split(":")[0] for broken in variants(source, kind)}


@pytest.mark.parametrize("kind", KINDS)
def test_every_broken_program_fails_with_the_promised_class(kind):
    assert run(EGGS) == run(SUM, "1") == (Verdict.CORRECT, "")
    expected = {CLASS[kind]}
    assert classes(EGGS, kind, "18") - {""} == expected  # a floor, and % 100, may hide a change
    assert classes(SUM, kind, "1") == expected


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("rename", "        eggs -= 3 + bake"),
        ("drop_return", '    (math.floor(eggs * cost["egg"])'),
        ("break_bracket", "    for bakes in [4]"),
        ("break_bracket", '    cost = {"egg": price'),
        ("wrong_type", "        eggs -= '3' + bakes"),
        ("wrong_type", "    eggs = ...;  price = 2.0"),
        ("zero_division", "            % 0)"),
        ("off_by_one", "    eggs = 17;  price = 2.0"),
        ("off_by_one", "    eggs = 16;  price = 1.0"),
    ],
)
def test_one_piece_of_text_is_exchanged_and_the_rest_stays(kind, line):
    broken = {tuple(variant.split("\n")) for variant in variants(EGGS, kind)}
    whole = EGGS.split("\n")
    changed = [[b for a, b in zip(whole, lines) if a != b] for lines in broken]
    assert all(len(lines) == len(whole) for lines in broken)
    assert all(len(lines) == 1 for lines in changed)
    assert [line] in changed


def test_only_variables_are_renamed_and_to_names_that_are_free():
    head, tail = "def solution():\n    n = 9\n    ", "\n\ndef helper(m):\n    return "
    source = head + "return max(n, helper(n))" + tail + "m"
    assert variants(source, "rename") == [
        head + "return max(o, helper(n))" + tail + "m",
        head + "return max(n, helper(o))" + tail + "m",
        head + "return max(n, helper(n))" + tail + "l",
    ]
    assert "return sumss" in variants("def solution():\n    sums = 1\n    return sums", "rename")[0]


def test_only_the_returns_of_the_solution_itself_are_dropped():
    source = (
        "def helper():\n    return 1\ndef solution():\n    def inner():\n        return 2\n"
        "    if inner() > 3:\n        return\n    return(helper())"
    )
    assert variants(source, "drop_return") == [source.replace("return(", "(")]


@pytest.mark.parametrize(
    "source",
    [
        "",
        "def solution(:\n    return 18",
        "x = 18",
        "\\boxed{18}",
        "def solution():\n    return " + "(" * 500 + "1" + ")" * 500,
        "def solution():\n    pass\x00",
    ],
)
def test_nothing_comes_of_what_is_no_program(source):
    assert [variants(source, kind) for kind in KINDS] == [[]] * len(KINDS)


def test_a_kind_that_does_not_apply_gives_nothing_and_one_that_there_is_not_is_refused():
    assert variants("def solution():\n    return 'nb'", "zero_division") == []
    with pytest.raises(ValueError, match="kind is 'typo'; allowed: rename, drop_return"):
        variants(SUM, "typo")


@pytest.mark.parametrize("source", [EGGS, SUM])
@pytest.mark.parametrize("kind", KINDS)
def test_every_variant_is_another_program(kind, source):
    found = variants(source, kind)
    assert found and len(set(found)) == len(found) and source not in found
    assert all(map(is_program, found))


def test_long_sums_are_no_deeper_than_the_stack():
    source = "def solution():\n    return " + " + ".join(["1"] * 900)
    assert len(variants(source, "off_by_one")) == 2 * 900


# -- as rows ---------------------------------------------------------------------------------------

TEMPLATE = "{question}\n{attempt}\n{verdict} {detail}"
FENCED = f"Sure.</think>\n```python\n{SUM}\n```\nDone."


def written(*groups):
    """Rows of [(text, verdict), ...] by problem, all with the gold answer 1."""
    rows = graded(*[[Row(5, verdict=v, text=t) for t, v in group] for group in groups])
    prompts = rows.rollouts.prompts
    problems = tuple(dataclasses.replace(p, answer="1") for p in prompts.problems)
    prompts = dataclasses.replace(prompts, problems=problems)
    return dataclasses.replace(
        rows,
        rollouts=dataclasses.replace(rows.rollouts, prompts=prompts),
        extracted=tuple(program.extract(t) for t in rows.rollouts.text),
        detail=("",) * len(rows),
    )


def execute(rollouts):
    """What a run's verifier would say."""
    programs = [program.extract(t) for t in rollouts.text]
    golds = [rollouts.prompts.problems[g].answer for g in rollouts.group_B]
    found = [run(source, gold) for source, gold in zip(programs, golds)]
    verdict_B = np.array([verdict for verdict, _ in found], np.int8)
    score_B = (verdict_B == 0).astype(np.float32)
    return Graded(rollouts, verdict_B, score_B, tuple(programs), tuple(d for _, d in found))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    last_digit.write_tokenizer(folder)
    return text.load_tokenizer(folder)


def letters(asked):
    return np.array([ord(letter) for letter in asked], np.int32)


def apply(shape, rows, **changes):
    context = Context(
        **{
            "limit": 256,
            "encode": letters,
            "decode": lambda ids: "".join(map(chr, ids)),
            "prompt": lambda problem, asked: letters(asked),
            "grade": execute,
            "end_token": 0,
            **changes,
        }
    )
    return shape(rows, Scene.of(rows, context, {}))


def asked(rows):
    """The prompts of the added rows, as text."""
    return ["".join(map(chr, p)) for p in rows.rollouts.train_tokens or () if p is not None]


C, W = Verdict.CORRECT, Verdict.WRONG


def test_every_right_program_is_broken_and_the_right_one_is_trained_under_the_broken_one():
    rows = written([(FENCED, C), ("def solution():\n    return 2", W)], [(SUM, C)])
    after = apply(Inject(TEMPLATE, per_row=2), rows)
    np.testing.assert_array_equal(after.rollouts.group_B, [0] * 4 + [1] * 3)
    np.testing.assert_array_equal(after.rollouts.parent_B, [-1, -1, 0, 0, -1, 4, 4])
    assert after.rollouts.text[2:4] == (FENCED, FENCED) and after.rollouts.text[5] == SUM
    assert np.isnan(after.rollouts.logp_BT[[2, 3, 5, 6]]).all()
    assert after.correct_B.tolist() == [True, False, True, True, True, True, True]
    assert len(set(asked(after))) == 4
    for prompt in asked(after):
        question, rest = prompt.split("\n", 1)
        attempt, message = rest.rsplit("\n", 1)
        assert question in ("question a?", "question b?")
        assert is_program(attempt) and "```" not in attempt  # the program alone
        assert message == "wrong " + run(attempt, "1")[1]


def test_chance_hangs_on_the_row_and_not_on_its_neighbours():
    both = written([(SUM, C)], [(FENCED, C)])
    one = dataclasses.replace(both, verdict_B=np.array([W, C], np.int8))
    step = Inject("{attempt}")
    assert asked(apply(step, one)) == asked(apply(step, both))[1:]
    steps = {tuple(asked(apply(step, both, step=n))) for n in range(8)}
    assert len(steps) > 4


def test_what_is_still_right_is_dropped():
    unreached = "def solution():\n    return 1\n    return 2 % 7"
    after = apply(Inject("{attempt}", per_row=9, kinds=("off_by_one",)), written([(unreached, C)]))
    assert len(after) == 3  # 0 and 2 in place of 1; nobody sees the changes after that


def test_rows_that_repair_are_not_broken_again_and_wrong_ones_never_are():
    rows = written([(SUM, C), ("def solution():\n    return 2", W)])
    refined = apply(Refine("{attempt}"), rows)
    after = apply(Inject("{attempt}"), refined)
    np.testing.assert_array_equal(after.rollouts.parent_B, [-1, -1, 1, 0])
    nothing = written([("\\boxed{1}", C), ("def solution():\n    return 2", W)])
    assert apply(Inject("{attempt}"), nothing) is nothing


def test_a_repair_shows_the_program_without_what_stands_around_it():
    rows = written([(SUM, C), (FENCED.replace("10", "11"), W)])
    assert asked(apply(Refine("{attempt}"), rows)) == [SUM.replace("10", "11")]


@pytest.mark.parametrize("kind", KINDS)
def test_the_testbeds_tokenizer_spells_every_broken_program_that_becomes_a_row(tokenizer, kind):
    """It knows no divisor 0 and no brackets alone; the colon can go, and a value be left open."""
    rng = np.random.default_rng(0)
    problems = last_digit.load(last_digit.Options(train=12), "train")
    rows = written(*[[(last_digit.program(p, rng), C)] for p in problems])
    prompts = dataclasses.replace(rows.rollouts.prompts, problems=tuple(problems))
    rows = dataclasses.replace(rows, rollouts=dataclasses.replace(rows.rollouts, prompts=prompts))
    after = apply(
        Inject("{attempt}", per_row=2, kinds=(kind,)),
        rows,
        encode=lambda asked: text.encode(tokenizer, asked),
        decode=lambda ids: text.decode(tokenizer, ids),
    )
    assert (len(after) > 12) == (kind != "zero_division")
    for attempt in asked(after):
        ids = text.encode(tokenizer, attempt)
        assert tokenizer.unk_token_id not in ids
        np.testing.assert_array_equal(text.encode(tokenizer, text.decode(tokenizer, ids)), ids)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"template": "{program}"}, r"names \{program\}; allowed: \{question\}"),
        ({"template": r"\boxed{}"}, r"names \{\}; allowed: \{question\}"),
        ({"template": "{"}, "double a brace"),
        ({"kinds": ("typo",)}, r"kinds is \('typo',\); allowed: one or more of rename"),
        ({"kinds": ()}, "one or more of rename"),
        ({"per_row": 0}, "per_row is 0; allowed: 1 or more"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Inject(**{"template": "{attempt}", **wrong})


def test_a_run_without_a_verifier_cannot_inject():
    context = Context(limit=256, encode=letters, decode=lambda ids: "".join(map(chr, ids)))
    rows = written([(SUM, C)])
    with pytest.raises(NotOffered, match="asks the run for a verifier"):
        Inject("{attempt}")(rows, Scene.of(rows, context, {}))
