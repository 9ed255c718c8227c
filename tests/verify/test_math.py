"""The math checker: a table of answers, and its short cut against math-verify itself."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruner_jax.types import Problem, Verdict
from pruner_jax.verify.checkers import math as checker
from pruner_jax.verify.outcome import settle

RIGHT = [
    # numbers
    ("42", "42"),
    ("42", " 42. "),
    ("42", "$42$"),
    ("42", "+42"),
    ("42", "042"),
    ("0", "-0"),
    ("1000", "1,000"),
    ("1,000", "1{,}000"),
    ("-1", "- 1"),
    ("5", "5.0"),
    ("0.5", ".5"),
    ("1" * 5000, "1" * 5000),
    ("1" * 5000, "+" + "1" * 5000),
    (r"1.5\times 10^3", "1500"),
    ("2.5", r"2\frac12"),
    # fractions, roots, powers
    (r"\frac{1}{2}", r"\dfrac12"),
    (r"\frac{1}{2}", "0.5"),
    (r"\frac{1}{2}", r"\frac{2}{4}"),
    (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    (r"\frac{1}{3}", "0.333333"),
    ("3/4", r"\tfrac{3}{4}"),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt 2}"),
    (r"3\sqrt{2}", r"\sqrt{18}"),
    (r"\sqrt[3]{8}", "2"),
    ("10^{-3}", "0.001"),
    (r"2^{10}", "1024"),
    (r"\pi/3", r"\frac{\pi}{3}"),
    # expressions and equations
    ("x^2+2x+1", "(x+1)^2"),
    ("x^2+1", "1 + x^2"),
    (r"\frac{x+2}{7}", r"\frac{x}{7}+\frac27"),
    (r"\sin^2 x + \cos^2 x", "1"),
    ("5", "x=5"),
    ("y=2x+3", "y = 3+2x"),
    ("2+3i", "3i+2"),
    (r"\binom{5}{2}", "10"),
    ("5!", "120"),
    (r"\log_2 8", "3"),
    # tuples, intervals, sets, matrices
    ("(1,2)", "(1, 2)"),
    (r"(1,2)", r"\left( 1 , 2 \right)"),
    (r"(3,\frac{1}{2})", "(3, 0.5)"),
    ("(3,1)", r"(3,\, 1)"),
    ("(1,2]", "(1, 2]"),
    (r"(-\infty,3)\cup(5,\infty)", r"(5,\infty)\cup(-\infty,3)"),
    (r"x \in [1,2]", "[1,2]"),
    (r"\{1,2,3\}", r"\{3, 2, 1\}"),
    (r"\{\frac12, 1\}", r"\left\{1, \frac{2}{4}\right\}"),
    ("1,2", "2, 1"),
    (r"1\pm\sqrt2", r"1+\sqrt2, 1-\sqrt2"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"),
    (r"\emptyset", r"\{\}"),
    # units, percent, text
    (r"5", r"5\text{ cm}"),
    (r"6\text{ inches}", "6 inches"),
    ("18.90", r"\$18.90"),
    ("90", r"90^\circ"),
    (r"50\%", "50"),
    (r"50\%", "0.5"),
    (r"\text{Monday}", "Monday"),
    (r"\text{(A)}", "A"),
    (r"\text{yes}", r"\textbf{yes}"),
    (r"\text{not even}", r"\text{Not even}"),
]

WRONG = [
    ("42", "43"),
    ("42", "-42"),
    ("12", "012.5"),
    ("1000", "1.000"),
    ("1" * 5000, "1" * 4999 + "2"),
    (r"\frac{1}{3}", "0.33"),
    (r"\frac{1}{3}", r"\frac{1}{4}"),
    (r"\pi", "3.14"),
    (r"\sqrt{2}", r"\sqrt{3}"),
    ("x^2+2x+1", "(x+2)^2"),
    ("5", "x=6"),
    ("(1,2)", "(2,1)"),
    ("(3,1)", "(5,2)"),
    ("(1,2]", "(1,2)"),
    ("[1,2]", "[1,3]"),
    ("(1,2,3)", "(3,2,1)"),
    (r"\{1,2\}", r"\{1,3\}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    ("3", "3, 4"),  # hedging does not pay
    ("3", r"3 \text{ or } 4"),
    ("3", "1, 2, 3, 4, 5"),
    (r"50\%", "5"),
    (r"\text{Monday}", "Tuesday"),
    (r"\text{east}", r"\text{seat}"),
    (r"\text{even}", r"\text{not even}"),
    ("i", "-i"),
    ("5", r"\frac{"),
    ("5", "###"),
    ("5", r"\text{}"),
    ("5", "{"),
]


def verdict(gold, answer, **options):
    return settle(checker.check(Problem("p", "", gold), "", answer, **options), 1.0).verdict


@pytest.mark.parametrize(("gold", "answer"), RIGHT, ids=lambda value: value[:40])
def test_right(gold, answer):
    assert verdict(gold, answer) == Verdict.CORRECT


@pytest.mark.parametrize(("gold", "answer"), WRONG, ids=lambda value: value[:40])
def test_wrong(gold, answer):
    assert verdict(gold, answer) != Verdict.CORRECT


def test_noise_is_unparsed_and_cheap():
    assert verdict("5", "(" * 5000) == Verdict.UNPARSED
    assert verdict("5", "x+" * 501 + "x", longest=2000) == Verdict.WRONG
    assert verdict("+".join("x" * 600), "+".join("x" * 600)) == Verdict.CORRECT  # long, as the gold


def test_an_empty_gold_answer_is_an_error_and_not_wrong():
    with pytest.raises(ValueError, match="gold answer"):
        verdict("", "5")


def test_plain_answers_never_reach_sympy(monkeypatch):
    monkeypatch.setattr(checker, "_library", lambda: pytest.fail("math-verify was asked"))
    for gold, answer in [
        ("7", "7"),
        ("7", "8"),
        ("7", "7.0"),
        ("x+1", "x + 1"),
        ("(1,2)", "(1,3)"),
    ]:
        verdict(gold, answer)


# -- the short cut decides as math-verify does -----------------------------------------------------

integers = st.integers(-30, 2000)
plain = st.one_of(
    integers.map(str),
    integers.map(lambda n: f"{n:,}"),
    st.tuples(integers, st.integers(0, 99)).map(lambda p: f"{p[0]}.{p[1]:02d}"),
    st.tuples(integers, st.integers(1, 30)).map(
        lambda p: ("-" if p[0] < 0 else "") + rf"\frac{{{abs(p[0])}}}{{{p[1]}}}"
    ),
    st.tuples(integers, st.integers(1, 30)).map(lambda p: f"{p[0]}/{p[1]}"),
    st.tuples(st.integers(1, 9), st.integers(1, 9)).map(lambda p: rf"\dfrac{p[0]}{p[1]}"),
)
rising = st.lists(st.integers(0, 4), min_size=2, max_size=2, unique=True).map(sorted)
sequences = st.one_of(
    st.tuples(st.sampled_from(["()", "[]", "(]", "[)"]), rising).map(
        lambda p: f"{p[0][0]}{p[1][0]}, {p[1][1]}{p[0][1]}"
    ),
    st.lists(st.integers(0, 4), min_size=2, max_size=4).map(
        lambda items: r"\{" + ",".join(map(str, items)) + r"\}"
    ),
    st.lists(st.integers(0, 3), min_size=3, max_size=3).map(lambda items: str(tuple(items))),
)
words = st.builds(
    lambda word, form: form % word,
    st.sampled_from(["east", "seat", "Monday", "monday", "Friday", "even", "not even", "yes"]),
    st.sampled_from(["%s", r"\text{%s}", r"\textbf{%s}", r"\text{ %s }", r"\mathrm{%s}"]),
)


@settings(max_examples=150, deadline=None)
@given(st.one_of(*(st.tuples(kind, kind) for kind in (plain, sequences, words))))
def test_short_cut_agrees_with_math_verify(pair):
    gold, answer = map(checker._tidy, pair)
    quick = checker.compare_plain(gold, answer)
    if quick is not None:
        assert quick == checker._compare_parsed(*pair)


def test_short_cut_is_taken():
    """Else the test above would hold for a short cut that never decides."""
    tidy = [checker._tidy(text) for text in ("12", "1,200", "0.50", r"\frac12", "7/3", "-4")]
    assert all(checker.compare_plain(a, b) is not None for a, b in itertools.product(tidy, tidy))
    assert checker.compare_plain(r"\text{east}", "seat") is False
    assert checker.compare_plain("east", "seat") is None  # products of the same letters
