"""What a second model is shown of a thought, by hand."""

import numpy as np
import pytest

from pruner_jax.expansion import PROMPT, ask, leaks, mask, thinned


def test_question_and_thought_stand_in_their_places():
    assert ask(PROMPT, "1 + 1?", "One and one.") == "1 + 1?\n\nOne and one."
    assert ask("Hint: {thought}\nQ: {question}", "1 + 1?", "") == "Hint: \nQ: 1 + 1?"


def test_neither_is_searched_for_places():
    assert (
        ask(PROMPT, "What is {thought}?", "A {question}.") == "What is {thought}?\n\nA {question}."
    )


THOUSAND = "… is …, … is not 11,000 or 1,000,000"


@pytest.mark.parametrize(
    ("thought", "answer", "masked"),
    [
        ("7 + 4 is 11, so 1.", "1", "7 + 4 is 11, so …."),  # 11 is another number
        (" C7=7 A4=1 F9=0", "0", " C7=7 A4=1 F9=…"),
        ("0.5 and 5 and 5.5 and 5.", "5", "0.5 and … and 5.5 and …."),
        ("so x = -3, as -3 < 0", "-3", "so x = …, as … < 0"),
        (r"\frac{1}{2} it is", r"\frac{1}{2}", "… it is"),
        ("nothing to be seen", "12", "nothing to be seen"),
        ("And A train, (A), so A.", "A", "And … train, (…), so …."),
        ("noon or no, _no_ is no", "no", "noon or …, _…_ is …"),
        ("x1=3/4, not 13/4, 3/40 or 3/4.5", "3/4", "x1=…, not 13/4, 3/40 or 3/4.5"),
        ("1,000 is 1000, 1000.0 is not 11,000 or 1,000,000", "1000", THOUSAND),
        ("1,000 is 1000, 1000.0 is not 11,000 or 1,000,000", "1,000.00", THOUSAND),
        ("so 1234567, 1,234,567, no 234,567", "1234567", "so …, …, no 234,567"),
        ("1,2,3, then 2.0, 2.05 and 12", "2", "1,…,3, then …, 2.05 and 12"),
        ("234 but not 1,234 or 234,000", "234", "… but not 1,234 or 234,000"),
        ("2.5 and 2.50 but not 2.55 or 2", "2.50", "… and … but not 2.55 or 2"),
        ("-1,000.0 or 1000", "-1000", "… or 1000"),
        ("5km, x5", "5", "…km, x…"),
        ("10-5 is not -5", "-5", "10-5 is not …"),
        ("9,123,456 and 123456", "123456", "9,123,456 and …"),
        ("whatever", " ", "whatever"),
    ],
)
def test_literal_answers_are_masked(thought, answer, masked):
    assert mask(thought, answer, "…") == masked
    assert leaks(thought, answer) == (thought != masked)


def test_what_stands_instead_is_no_pattern():
    assert mask("so 3", "3", r"\1") == r"so \1"


SUM = " B6=6 check=6 A7=3 E3=6 again B6=6 A7=3 E3=6"  # 44 characters, 18 of them repeats


@pytest.mark.parametrize(
    ("share", "kept"),
    [
        (0.0, SUM),
        (15 / 44, " B6=6 check=6 A7=3 E3=6 again"),
        (28 / 44, " B6=6 A7=3 E3=6"),
        (1.0, ""),
    ],
)
def test_repeats_go_first_then_re_checks(share, kept):
    step, again = r" [A-H]\d=\d| check=\d| again", "check|again"
    assert thinned(SUM, share, np.random.default_rng(0), step, again) == kept


def test_sentences_and_lines_are_steps():
    said = "We have 0.5 of 3. So it is 1.5.\nWait, is it? So it is 1.5.\nDone"
    rng = np.random.default_rng(0)
    assert thinned(said, 0.2, rng) == "We have 0.5 of 3. So it is 1.5.\nWait, is it? Done"
    assert thinned(said, 0.5, rng) == "We have 0.5 of 3. So it is 1.5.\nDone"
    assert thinned(said, 1.0, rng) == ""


def test_what_is_left_stands_in_its_order():
    said = "".join(f"step {n}.\n" for n in range(20))
    kept = thinned(said, 0.6, np.random.default_rng(1)).splitlines()
    assert len(kept) == 8 and kept == sorted(kept, key=said.index)
