"""Beams of lines: what a greedy choice spoils is avoided, and rows depend on themselves alone."""

import dataclasses
import math

import numpy as np
import pytest
from small import CLOSE, CONFIG, END, OPTIONS, params, prompts, run, scored

from pruner_jax.sample.sampler import SampleStats
from pruner_jax.sample.steps import Executes, line_ends, search, step_beam
from pruner_jax.types import Origin, Problem, Prompts, Purpose

PROBLEM = Problem("p", "?", "18")

# -- f: the program so far runs --------------------------------------------------------------------

HEAD = "def solution():\n    eggs = 16\n"


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("", True),
        ("Let us write a program.\n", True),
        ("def solution():\n", True),
        ("def solution():\n    # eggs\n", True),
        (HEAD, True),
        (HEAD + "    for egg in range(eggs):\n", True),
        (HEAD + "    left = (eggs -\n", True),
        (HEAD + "    try:\n        eggs += 1\n", True),
        (HEAD + '    """ eggs\n', True),
        (HEAD + "    return eggs\n", True),
        (HEAD + "    import pandas\n", True),  # unknown to the sandbox alone
        (HEAD + "    class A: pass\n    return {A(): eggs}\n", True),
        ("Sure:\n```python\n" + HEAD, True),
        ("Sure:\n```python\n" + HEAD + "    return eggs\n```\nIt returns 16.\n", True),
        (HEAD + "    left = egg - 3\n", False),
        (HEAD + "    left = egg - 3\n    return eggs\n", False),
        (HEAD + "    left = eggs / 0\n", False),
        (HEAD + "    left = eggs + '3'\n", False),
        (HEAD + "    left = eggs -* 3\n", False),
        (HEAD + "  left = eggs\n", False),
        (HEAD + "    return eggs)\n", False),
        ("def solution()\n", False),
        (HEAD + "    while True: pass\n", False),
        (HEAD + "    eggs = '\x00'\n", False),
        (HEAD + "    eggs = " + "(" * 300 + "\n", False),
    ],
)
def test_a_program_so_far_is_fine_or_has_failed(text, fine):
    assert Executes(floor=0.25, seconds=0.2)(PROBLEM, text) == (1.0 if fine else 0.25)


# -- the search, with lines written by hand --------------------------------------------------------


def by_hand(script, asked):
    """Draws that give the lines of ``script``: text so far -> [(line, its probability), ...]; "$"
    ends a response. Tokens are letters, and a line's first one has all the log-probability."""

    def draw(prompts, limit_P):
        found = []
        for p, tokens in enumerate(prompts.tokens):
            before = "".join(map(chr, tokens[1:]))
            asked.append(before)
            for line, probability in script[before]:
                ids = np.array([ord(c) for c in line][: limit_P[p]])
                logp = np.zeros(len(ids))
                logp[0] = math.log(probability)
                found.append((p, ids, logp))
        return found, SampleStats(rows=len(found), tokens=sum(len(ids) for _, ids, _ in found))

    return draw


def one_prompt():
    tokens = (np.array([1], np.int32),)
    return Prompts((PROBLEM,), ("",), tokens, Purpose.TEST, np.zeros(1, np.int32))


def best(script, *, beams=2, limit=200, score=None, asked=None):
    found, tokens_P, stats = search(
        by_hand(script, [] if asked is None else asked),
        one_prompt(),
        beams=beams,
        limit=limit,
        end_ids=(ord("$"),),
        decode=lambda tokens: "".join(map(chr, tokens)),
        score=score or Executes(),
    )
    assert tokens_P.tolist() == [stats.tokens]
    return found[0], stats


A, B, TYPO, FIXED = "    a = 1\n", "    b = 2\n", "    c = x\n", "    c = a\n"
DEF = "def solution():\n"
PROGRAMS = {
    "": [(DEF, 1.0)],
    DEF: [(TYPO, 0.9), (A, 0.1)],  # the likelier line has a name that nobody knows
    DEF + TYPO: [("    return c$", 1.0)],
    DEF + A: [(FIXED, 0.5), (B, 0.5)],
    DEF + A + FIXED: [("    return c$", 1.0)],
    DEF + A + B: [("    return a / 0$", 1.0)],
}


def test_the_beam_avoids_the_error_that_the_likelier_line_leads_into():
    first = {before: lines[:1] for before, lines in PROGRAMS.items()}
    greedy, _ = best(first)
    assert greedy.text == DEF + TYPO + "    return c" and greedy.finished
    found, stats = best(PROGRAMS)
    assert found.text == DEF + A + FIXED + "    return c" and found.finished
    assert found.score == pytest.approx(math.log(0.1) + math.log(0.5))
    assert found.tokens[-1] == ord("$") and len(found.tokens) == len(found.logp)
    assert stats.rows == 1 + 2 + 1 + 2 + 1 + 1 and stats.tokens > len(found.tokens)


def test_without_f_the_likeliest_response_is_found():
    found, _ = best(PROGRAMS, score=lambda problem, text: 1.0)
    assert found.text == DEF + TYPO + "    return c"


def test_trust_is_summed_over_the_steps():
    found, _ = best(
        {"": [("a\n", 0.5)], "a\n": [("b$", 0.5)]}, score=lambda p, text: 0.5 ** len(text)
    )
    assert found.score == pytest.approx(2 * math.log(0.5) + (2 + 3) * math.log(0.5))


def test_lines_that_read_alike_are_one_and_are_judged_once():
    judged = []

    def score(problem, text):
        judged.append(text)
        return 1.0

    script = {"": [("a\n", 0.3), ("a\n", 0.3), ("b\n", 0.1)], "a\n": [("$", 1.0)]}
    script["b\n"] = [("$", 1.0)]
    best(script, beams=3, score=score)
    assert judged == ["a\n", "b\n", "a\n", "b\n"]


def test_a_beam_that_cannot_win_any_more_is_left():
    asked = []
    script = {"": [("yes$", 0.6), ("a\n", 0.4)]}  # what follows "a" is not in the script
    found, _ = best(script, asked=asked)
    assert found.text == "yes" and asked == [""]
    script = {"": [("yes$", 0.3), ("a\n", 0.7)], "a\n": [("b$", 0.9), ("c$", 0.1)]}
    assert best(script)[0].text == "a\nb"  # 0.63


def test_what_the_limit_cuts_is_taken_only_where_nothing_ends():
    script = {"": [("a\n", 0.9), ("no$", 0.01)], "a\n": [("b\n", 0.9)], "a\nb\n": [("c\n", 0.9)]}
    found, _ = best(script, limit=5)
    assert found.text == "no" and found.finished
    found, _ = best({k: v[:1] for k, v in script.items()}, limit=5)
    assert found.text == "a\nb\nc" and not found.finished and not found.open


@pytest.mark.parametrize("f", [0.0, 1.5, -1.0, math.nan])
def test_a_scorer_that_gives_no_share_is_refused(f):
    with pytest.raises(ValueError, match=r"the step scorer gave .* of problem 'p'; allowed"):
        best(PROGRAMS, score=lambda problem, text: f)


# -- with a model ----------------------------------------------------------------------------------

LINES = (20, 31, 42, 50)


def steps(asked=None, **changes):
    names = {field.name for field in dataclasses.fields(OPTIONS)}
    options = {name: changes.pop(name) for name in names & set(changes)}
    arguments = dict(
        beams=2,
        chains=2,
        limit=12,
        seed=7,
        end_ids=END,
        line_ids=LINES,
        close_ids=CLOSE,
        opened=True,
        decode=lambda tokens: " ".join(map(str, tokens)),
        options=dataclasses.replace(OPTIONS, **options),
        score=lambda problem, text: 0.1 if " 33" in text else 1.0,
    )
    return step_beam(params(), CONFIG, asked or prompts(), **{**arguments, **changes})


def test_rows_are_those_of_the_model_with_its_log_probabilities():
    rollouts, tokens_P, stats = steps()
    assert len(rollouts) == 5 and stats.tokens == tokens_P.sum()
    assert (tokens_P >= rollouts.length_B).all() and (tokens_P > rollouts.length_B).any()
    np.testing.assert_allclose(
        np.where(rollouts.origin_BT > 0, rollouts.logp_BT, 0), scored(rollouts), atol=1e-5
    )
    here_BT = np.arange(rollouts.tokens_BT.shape[1]) < rollouts.length_B[:, None]
    np.testing.assert_array_equal(rollouts.origin_BT, np.where(here_BT, Origin.SAMPLED, 0))
    last_B = rollouts.tokens_BT[np.arange(5), rollouts.length_B - 1]
    np.testing.assert_array_equal(rollouts.finished_B, np.isin(last_B, END))
    assert (rollouts.finished_B | (rollouts.length_B == 12)).all()
    assert rollouts.prompts.text == prompts().text


def test_the_first_chain_alone_is_the_greedy_response():
    rollouts, _, _ = steps(beams=1, chains=1)
    plain, _ = run(samples=1, temperature=0.0, limit=12)
    np.testing.assert_array_equal(rollouts.length_B, plain.length_B)
    assert rollouts.text == plain.text
    np.testing.assert_array_equal(rollouts.thinking_B, plain.thinking_B)


def test_a_problem_gets_the_same_row_alone_and_among_others_whatever_the_batch():
    whole, whole_P, _ = steps()
    part, part_P, _ = steps(prompts(order=[3, 1]), rows=4)
    assert part.text == (whole.text[3], whole.text[1])
    np.testing.assert_array_equal(part_P, whole_P[[3, 1]])


def test_every_token_with_a_line_break_ends_a_line():
    pieces = ["a", "\n", ")\n", "\n\n    ", " b", "\\n"]
    assert line_ends(lambda ids: "".join(pieces[i] for i in ids), len(pieces)) == (1, 2, 3)


@pytest.mark.parametrize("wrong", [{"beams": 0}, {"chains": 0}])
def test_no_beams_are_refused(wrong):
    with pytest.raises(ValueError, match="allowed: 1 or more of each"):
        steps(**wrong)
