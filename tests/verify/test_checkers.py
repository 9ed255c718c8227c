"""The small checkers, what a checker may return, and how checkers are named and found."""

import math

import numpy as np
import pytest

from pruner_jax.types import Problem, Verdict
from pruner_jax.verify import checkers
from pruner_jax.verify.checkers import choice, exact, number, reasoning_gym
from pruner_jax.verify.outcome import Outcome, settle


def verdict(checker, gold, answer, columns=None, **settings):
    problem = Problem("p", "", gold, columns=columns or {})
    return settle(checker.check(problem, "", answer, **settings), 1.0).verdict


# -- number ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-1,234.5", -1234.5),
        ("1{,}234", 1234),
        (".5", 0.5),
        ("5.", 5),
        ("3/4", 0.75),
        (r"\frac{3}{4}", 0.75),
        (r"-\dfrac{3}{4}", -0.75),
        ("1e3", 1000),
        ("$18", 18),
        (r"\$1,800.50", 1800.5),
        (r"18\text{ dollars}", 18),
        ("18 dollars", 18),
        ("50%", 50),
        (r"50\%", 50),
        ("12 or 13", None),
        ("x", None),
        ("", None),
        ("1/0", None),
        ("1" * 301, None),
        ("1e9999", None),
    ],
)
def test_reading_numbers(text, value):
    read = number.read(text)
    assert (None if read is None else float(read)) == value


@pytest.mark.parametrize(
    ("gold", "answer", "settings", "expected"),
    [
        ("18", "18.001", {}, Verdict.CORRECT),  # within 1e-4
        ("18", "18.01", {}, Verdict.WRONG),
        ("18", "18.01", {"relative": 1e-2}, Verdict.CORRECT),
        ("1000000", "1000050", {}, Verdict.WRONG),  # integers are exact
        ("0", "0.0", {}, Verdict.CORRECT),
        ("0", "0.0001", {}, Verdict.WRONG),
        ("50", "0.5", {}, Verdict.WRONG),
        ("50", "0.5", {"percent": True}, Verdict.CORRECT),
        ("0.5", "50%", {"percent": True}, Verdict.CORRECT),
        ("50", "5", {"percent": True}, Verdict.WRONG),
        ("1e300", "1e300", {}, Verdict.CORRECT),
        ("5", "five", {}, Verdict.UNPARSED),
    ],
)
def test_number(gold, answer, settings, expected):
    assert verdict(number, gold, answer, **settings) == expected


def test_a_gold_answer_that_is_no_number_is_an_error():
    with pytest.raises(ValueError, match="gold answer"):
        verdict(number, "five", "5")


# -- exact and choice ------------------------------------------------------------------------------


def test_exact():
    assert verdict(exact, "(A) Dog", " (A) Dog\n") == Verdict.CORRECT
    assert verdict(exact, "(A) Dog", "(a) dog") == Verdict.WRONG
    assert verdict(exact, "(A) Dog", "(a) dog", ignore_case=True) == Verdict.CORRECT


CITIES = {"choices": ["Rome", "Paris", "New York"]}


@pytest.mark.parametrize(
    ("gold", "answer", "columns", "expected"),
    [
        ("B", "B", {}, Verdict.CORRECT),
        ("B", "(b)", {}, Verdict.CORRECT),
        ("B", r"\text{B}", {}, Verdict.CORRECT),
        ("B", r"\textbf{(B)}", {}, Verdict.CORRECT),
        ("B", "B.", {}, Verdict.CORRECT),
        ("B", "B) Paris", {}, Verdict.CORRECT),
        ("B", "C", {}, Verdict.WRONG),
        ("B", "Paris", {}, Verdict.WRONG),  # nothing says that B is Paris
        ("B", "Paris", CITIES, Verdict.CORRECT),
        ("B", r"\text{paris.}", CITIES, Verdict.CORRECT),
        ("Paris", "(B)", CITIES, Verdict.CORRECT),
        ("Paris", "A", CITIES, Verdict.WRONG),
        ("(B) Paris", "Paris", {}, Verdict.CORRECT),
        ("(B) Paris", "B", {}, Verdict.CORRECT),
        ("(B) Paris", "(A) Paris", {}, Verdict.WRONG),  # the letter decides
        ("Q", "paris", {"choices": {"p": "Rome", "q": "Paris"}}, Verdict.CORRECT),
        ("C", "new  york", CITIES, Verdict.CORRECT),
        ("B", "D", CITIES, Verdict.UNPARSED),
        ("B", "London", CITIES, Verdict.UNPARSED),
        ("B", "A or B", {}, Verdict.WRONG),
    ],
)
def test_choice(gold, answer, columns, expected):
    assert verdict(choice, gold, answer, columns) == expected


def test_choices_are_not_cached_by_answer():
    """Their verdict depends on the options of the problem too."""
    assert not checkers.plan("choice").by_answer


# -- reasoning-gym ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("basic_arithmetic", {"min_terms": 3, "max_terms": 4}),
        ("countdown", {}),
        ("letter_counting", {}),
    ],
)
def test_reasoning_gym_scores_its_own_answers(name, config):
    gym = pytest.importorskip("reasoning_gym")
    for entry in gym.create_dataset(name, size=3, seed=7, **config):
        columns = {"dataset": name, "config": config, "entry": entry}
        gold = str(entry["answer"])
        assert verdict(reasoning_gym, gold, gold, columns) == Verdict.CORRECT
        assert verdict(reasoning_gym, gold, "certainly not", columns) == Verdict.WRONG


def test_reasoning_gym_gives_partial_credit():
    gym = pytest.importorskip("reasoning_gym")
    entry = gym.create_dataset("countdown", size=1, seed=7)[0]
    problem = Problem("p", "", "", columns={"dataset": "countdown", "entry": entry})
    numbers = " + ".join(map(str, entry["metadata"]["numbers"]))  # all of them, another sum
    outcome = settle(reasoning_gym.check(problem, "", numbers), 1.0)
    assert outcome.verdict == Verdict.WRONG
    assert 0 < outcome.score < 1


def test_reasoning_gym_needs_its_columns():
    with pytest.raises(ValueError, match="entry"):
        verdict(reasoning_gym, "1", "1", {"dataset": "countdown"})


# -- what a checker may return ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        (Verdict.CORRECT, Outcome(Verdict.CORRECT, 1.0)),
        (Verdict.WRONG, Outcome(Verdict.WRONG, 0.0)),
        (True, Outcome(Verdict.CORRECT, 1.0)),
        (False, Outcome(Verdict.WRONG, 0.0)),
        (1, Outcome(Verdict.CORRECT, 1.0)),
        (0, Outcome(Verdict.WRONG, 0.0)),  # a number, not Verdict.CORRECT, which is 0 too
        (0.3, Outcome(Verdict.WRONG, 0.3)),
        (np.float32(1.0), Outcome(Verdict.CORRECT, 1.0)),
        (np.bool_(True), Outcome(Verdict.CORRECT, 1.0)),
        ((False, "why"), Outcome(Verdict.WRONG, 0.0, "why")),
        ((Verdict.WRONG, 0.2, "why"), Outcome(Verdict.WRONG, 0.2, "why")),
        ((True, 0.9), Outcome(Verdict.CORRECT, 0.9)),
    ],
)
def test_settle(value, outcome):
    assert settle(value, 1.0) == outcome


def test_settle_refuses_what_is_no_verdict():
    for value in (None, "correct", [], (), {"score": 1.0}):
        with pytest.raises(TypeError, match="allowed: Verdict"):
            settle(value, 1.0)
    for value in (math.nan, math.inf, (True, math.nan)):
        with pytest.raises(ValueError, match="finite"):
            settle(value, 1.0)


def test_correct_from():
    assert settle(0.5, 0.5).verdict == Verdict.CORRECT
    assert settle(0.5, 0.6).verdict == Verdict.WRONG


# -- names -----------------------------------------------------------------------------------------


def test_every_checker_has_its_file():
    assert checkers.names() == ["choice", "exact", "math", "number", "program", "reasoning_gym"]
    for name in checkers.names():
        assert checkers.plan(name).spec == name


def test_unknown_checkers_are_refused_with_the_list(tmp_path):
    with pytest.raises(ValueError, match=r"'maths' is not known; allowed: choice, exact, math"):
        checkers.plan("maths")
    with pytest.raises(ValueError, match="no file"):
        checkers.plan(f"{tmp_path}/none.py:check")
    with pytest.raises(ValueError, match="not known"):
        checkers.plan("trl:math")


def test_a_relative_path_is_made_absolute(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def check(problem, text, answer): return True\n")
    monkeypatch.chdir(tmp_path)
    assert checkers.plan("mine.py:check").spec == f"{tmp_path}/mine.py:check"
    assert checkers.plan("trl:mine.py:check").spec == f"trl:{tmp_path}/mine.py:check"


def test_unknown_settings_are_refused_with_the_list():
    with pytest.raises(ValueError, match="percentage; allowed: relative, percent"):
        checkers.load("number", {"percentage": True})


def test_a_missing_function_is_named(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def other(problem, text, answer): return True\n")
    with pytest.raises(ValueError, match="no function 'check'"):
        checkers.load(f"{path}:check", {})
