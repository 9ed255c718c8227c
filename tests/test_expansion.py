"""What a second model is shown of a thought, by hand."""

import pytest

from pruner_jax.expansion import PROMPT, ask, leaks, mask


def test_question_and_thought_stand_in_their_places():
    assert ask(PROMPT, "1 + 1?", "One and one.") == "1 + 1?\n\nOne and one."
    assert ask("Hint: {thought}\nQ: {question}", "1 + 1?", "") == "Hint: \nQ: 1 + 1?"


def test_neither_is_searched_for_places():
    assert (
        ask(PROMPT, "What is {thought}?", "A {question}.") == "What is {thought}?\n\nA {question}."
    )


@pytest.mark.parametrize(
    ("thought", "answer", "masked"),
    [
        ("7 + 4 is 11, so 1.", "1", "7 + 4 is 11, so …."),  # 11 is another number
        (" C7=7 A4=1 F9=0", "0", " C7=7 A4=1 F9=…"),
        ("0.5 and 5 and 5.5 and 5.", "5", "0.5 and … and 5.5 and …."),
        ("so x = -3, as -3 < 0", "-3", "so x = …, as … < 0"),
        (r"\frac{1}{2} it is", r"\frac{1}{2}", "… it is"),
        ("nothing to be seen", "12", "nothing to be seen"),
        ("whatever", " ", "whatever"),
    ],
)
def test_literal_answers_are_masked(thought, answer, masked):
    assert mask(thought, answer, "…") == masked
    assert leaks(thought, answer) == (thought != masked)


def test_what_stands_instead_is_no_pattern():
    assert mask("so 3", "3", r"\1") == r"so \1"
