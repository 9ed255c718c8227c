"""Where the answer stands: boxes under brace matching, the looser rules, degenerate texts."""

import time

import pytest

from pruner_jax.verify.answers import extract, find_boxes

LAST = [
    (r"The answer is \boxed{42}.", "42"),
    (r"\boxed{1} then \boxed{2}", "2"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"\boxed{\frac{\sqrt{a^{2}}}{b_{1}}} done", r"\frac{\sqrt{a^{2}}}{b_{1}}"),
    (r"\boxed{ 7 }", "7"),
    (r"\boxed {7}", "7"),
    ("\\boxed{\n7\n}", "7"),
    (r"\fbox{7}", "7"),
    (r"\boxed{1} \fbox{7}", "7"),
    (r"$\boxed 5$ follows", "5"),
    (r"$\boxed5$", "5"),
    (r"\(x = \boxed \frac{1}{2} \)", r"\frac{1}{2}"),
    ("so \\boxed 12.\nDone", "12"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}"),
    (r"\boxed{\left\{1,2\right.}", r"\left\{1,2\right."),  # escaped braces do not count
    (r"\boxed{\begin{pmatrix}1\\2\end{pmatrix}}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
    (r"\boxed{a\\{b}}", r"a\\{b}"),  # a line break, then a true brace
    (r"\boxed{3} but maybe \boxed{4", "3"),  # the last complete one
    (r"\boxed{3} put it in \boxed{}.", "3"),  # an empty box is none
    (r"\boxed{\boxed{9}}", "9"),
    (r"\boxed{x + \boxed{9}}", "9"),
    (r"{\boxed{8}", "8"),
    (r"\boxed{8}}", "8"),
    (r"\boxed{\text{(B) Paris}}", r"\text{(B) Paris}"),
    (r"no box at all: 42", None),
    (r"\boxed{", None),
    (r"\boxed{}", None),
    (r"\boxed{   }", None),
    (r"\boxed", None),
    (r"\boxedfoo{3}", None),
    ("", None),
]


@pytest.mark.parametrize(("text", "answer"), LAST)
def test_last_boxed(text, answer):
    assert extract(text, "last_boxed") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} then \boxed{2}", "1"),
        (r"\boxed{} then \boxed{2}", "2"),
        (r"\boxed{\boxed{9}} \boxed{1}", "9"),
        (r"\boxed{ \fbox{ 9 } } \boxed{1}", "9"),
        (r"\boxed{1", None),
        (r"nothing", None),
    ],
)
def test_first_boxed(text, answer):
    assert extract(text, "first_boxed") == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{1} then \boxed{2", "2"),  # the last one wins even if it never closes
        (r"so boxed{17} it is", "17"),
        (r"\boxed{1} or \boxed{}", None),
        ("\\boxed{12\nand more", "12"),
        ("The answer is 12.", "12"),
        ("The answer is: $12$.", "12"),
        ("The answer is 3. No, wait: the answer is 4.", "4"),
        ("**Final Answer:** 3.5", "3.5"),
        ("Answer: Paris\nBecause", "Paris"),
        ("Answer:\n\n  7 apples", "7 apples"),
        ("ANSWER = 9", "9"),
        ("The answer isn't clear", None),
        ("It is 12", None),
        ("The answer is", None),
    ],
)
def test_anywhere(text, answer):
    assert extract(text, "anywhere") == answer


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 40_000,
        "\\boxed{" * 20_000 + "}" * 20_000,
        "\\boxed{1" * 20_000 + "}" * 20_000,
        "{" * 300_000,
        "\\boxed " * 40_000,
        "\\boxed 1 " * 40_000,
        "answer is " * 40_000,
        "answer" + " " * 300_000,
        "\\" * 300_000,
    ],
    ids=lambda text: text[:9],
)
@pytest.mark.parametrize("rule", ["last_boxed", "first_boxed", "anywhere"])
def test_degenerate_responses_cost_little(text, rule):
    """This runs in the main process: one row must not hold up a step."""
    start = time.process_time()
    extract(text, rule)
    assert time.process_time() - start < 2.0


def test_boxes_are_given_by_place():
    text = r"\boxed{a \boxed{b} c} \boxed{d}"
    assert [text[box.begin : box.end] for box in find_boxes(text)] == [r"a \boxed{b} c", "b", "d"]
