"""Which transcripts are shown, and that they are shown as they are."""

import dataclasses

import numpy as np
import pytest

from pruner_jax.report import transcripts
from pruner_jax.report.read import Run, Table, read_run


def table(rows):
    """(problem, length, verdict, text) -> a table of one evaluation."""
    ids, length, verdict, text = zip(*rows)
    n = len(rows)
    return Table(
        {
            "problem_id": list(ids),
            "difficulty": [2.0] * n,
            "question": [f"What is {i}?" for i in ids],
            "gold": ["7"] * n,
            "prompt": ["<user>q<assistant><think>\n"] * n,
            "sample": np.zeros(n, int),
            "text": list(text),
            "length": np.array(length),
            "thinking": np.array(length) - 2,
            "finished": np.ones(n, bool),
            "verdict": list(verdict),
            "extracted": ["7"] * n,
            "limit": np.full(n, 100),
        }
    )


def rows(problem, lengths, verdicts, text="a\n</think>\nb"):
    return [(problem, n, v, text) for n, v in zip(lengths, verdicts)]


@pytest.fixture
def two():
    right, wrong = "correct", "wrong"
    base = table(
        rows("a", [10, 50, 30], [right, wrong, right])
        + rows("b", [90, 80, 70], [right, right, right])
        + rows("c", [20, 20, 20], [wrong, wrong, wrong])
    )
    final = table(
        rows("a", [9, 8, 10], [wrong, wrong, right])
        + rows("b", [20, 25, 30], [right, right, right])
        + rows("c", [18, 18, 18], [right, right, right])
    )
    return base, final


def test_longest_saving_first_and_the_middle_sample(two):
    found = transcripts.pairs(*two)
    assert [pair.problem_id for pair in found] == ["b", "a", "c"]
    assert found[0].saving == pytest.approx(55)
    lengths = [two[0]["length"][pair.base.row] for pair in found]
    assert lengths == [80, 30, 20]
    assert [pair.changed for pair in found] == [False, True, True]
    assert found[1].base.accuracy == pytest.approx(2 / 3)


def test_changed_verdicts_are_kept_beside_the_longest_savings(two):
    assert [pair.problem_id for pair in transcripts.pairs(*two, shown=1)] == ["b", "a"]


def test_problems_of_one_side_only_are_left_out(two):
    base, _ = two
    short = table(rows("b", [5], ["correct"]))
    assert [pair.problem_id for pair in transcripts.pairs(base, short)] == ["b"]


def html(base, final, config=None):
    run = Run(None, None, config or {}, "", [], [], base, final, None)
    return transcripts.section(run)


def test_model_text_is_escaped_and_split_at_the_thought():
    bad = 'x < y <script>alert("1")</script>\n</think>\n\\boxed{7} & done'
    found = html(table(rows("a", [9], ["correct"], bad)), table(rows("a", [5], ["wrong"])))
    assert "<script>" not in found
    assert "x &lt; y &lt;script&gt;" in found
    assert '<p class="answer">\\boxed{7} &amp; done</p>' in found
    assert "7 thinking + 2 answer" in found


def test_other_tags_come_from_the_settings():
    text = "hm [/t] yes"
    config = {"text": {"think_open": "[t]", "think_close": "[/t]"}}
    base, final = (table(rows("a", [9], ["correct"], text)) for _ in range(2))
    base.columns["prompt"] = final.columns["prompt"] = ["q [t]"]
    found = html(base, final, config)
    assert '<p class="answer">yes</p>' in found and ">hm</p>" in found


def test_an_empty_response_says_so():
    found = html(table(rows("a", [2], ["unparsed"], "")), table(rows("a", [2], ["wrong"])))
    assert "(empty)" in found and "? unparsed" in found


def test_without_rollouts_there_is_no_section(two):
    assert html(two[0], None) == ""


def test_verdict_shares_add_up(finished_run):
    shares = transcripts.verdict_counts(read_run(finished_run))
    for side in ("base", "final"):
        assert sum(share[side] for _, share in shares) == pytest.approx(1.0)


def test_shares_of_one_side_alone(finished_run):
    run = dataclasses.replace(read_run(finished_run), final_test=None)
    assert all(set(share) == {"base"} for _, share in transcripts.verdict_counts(run))
