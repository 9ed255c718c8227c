"""Programs that fail are asked for again without a look at the gold answer, and values vote."""

import builtins
import dataclasses

import numpy as np
import pytest
from handmade import Row, graded

from pruner_jax import text
from pruner_jax.config import EvaluateConfig, load
from pruner_jax.objective.context import Context, Scene
from pruner_jax.objective.repair import Inject
from pruner_jax.objective.rows import rewrite
from pruner_jax.policy import handle
from pruner_jax.problems import last_digit
from pruner_jax.run import programs
from pruner_jax.run.beams import by_steps
from pruner_jax.run.engine import Engine
from pruner_jax.run.evaluate import evaluate_verb
from pruner_jax.run.programs import (
    Round,
    fails,
    refine,
    said,
    sandbox_limits,
    taxonomy,
    vote,
)
from pruner_jax.sample.options import SampleOptions
from pruner_jax.text import TextOptions
from pruner_jax.types import Graded, Purpose, Verdict, take_rows
from pruner_jax.verify.checkers import program
from pruner_jax.verify.options import VerifyOptions
from pruner_jax.verify.pool import Verifier

RIGHT = "def solution():\n    return 18"
NEAR = "def solution():\n    return 17.9999999"
WRONG = "def solution():\n    return 17"
BROKEN = "def solution():\n    return eggs"
EMPTY = "def solution():\n    eggs = 18"
C, W = Verdict.CORRECT, Verdict.WRONG


def check(rollouts):
    """Graded rows of programs with the gold answer 18."""
    found, extracted = [], tuple(program.extract(t) for t in rollouts.text)
    for finished, answer in zip(rollouts.finished_B, extracted):
        if not finished:
            found.append((Verdict.UNFINISHED, ""))
        elif answer is None:
            found.append((Verdict.UNPARSED, ""))
        else:
            found.append(program.check(rollouts.prompts.problems[0], "", answer))
    verdict_B = np.array([verdict for verdict, _ in found], np.int8)
    score_B = (verdict_B == C).astype(np.float32)
    return Graded(rollouts, verdict_B, score_B, extracted, tuple(said for _, said in found))


def answers(*groups, limit=100):
    """Graded rows with the given texts, as long as these; None is a response without an end."""
    rows = graded(
        *[
            [Row(len(t or "..."), finished=t is not None, text=t or "...") for t in g]
            for g in groups
        ],
        limit=limit,
    )
    problems = rows.rollouts.prompts.problems
    problems = tuple(dataclasses.replace(p, answer="18", checker="program") for p in problems)
    prompts = dataclasses.replace(rows.rollouts.prompts, problems=problems)
    return check(dataclasses.replace(rows.rollouts, prompts=prompts))


class Scripted:
    """An engine whose policy answers by looking the prompt's last line up."""

    config = dataclasses.make_dataclass("Config", ["context"])(400)

    def __init__(self, script):
        self.script, self.verifier, self.seen = script, self, []

    def plan(self, problem):
        return dataclasses.make_dataclass("Plan", ["spec"])(problem.checker)

    def prompts(self, problems, *, purpose, limit, visit_P):
        self.seen.append([(p.id, p.question) for p in problems])
        asked = graded(*[[] for _ in problems]).rollouts.prompts
        tokens = tuple(np.full(len(p.question), 7, np.int32) for p in problems)
        return dataclasses.replace(
            asked, problems=tuple(problems), tokens=tokens, visit_P=visit_P, purpose=purpose
        )

    def rollout(self, params, prompts, *, samples, limit, on_progress):
        texts = [self.script[p.question.rsplit("\n", 1)[1]] for p in prompts.problems]
        rows = graded(*[[Row(1)] for _ in texts], limit=limit).rollouts
        rows = dataclasses.replace(rows, prompts=prompts)
        context = dataclasses.make_dataclass("Words", ["encode", "end_token"])
        written = rewrite(rows, texts, context(lambda t: np.full(len(t), 5, np.int32), 9))
        return check(written), None


TEMPLATE = "{question}\n{attempt}\n{detail}"
NAME = "Name: name 'eggs' is not defined"
NOTHING = "NoResult: solution() returned None"
SILENT = "NoProgram: the response defines no function solution()"
CUT = "Unfinished: the response was cut at the limit"


def test_visible_failures_are_asked_again_until_they_run_or_the_rounds_are_over():
    first = answers([RIGHT, BROKEN, WRONG], ["eighteen", EMPTY, None])
    np.testing.assert_array_equal(fails(first), [0, 1, 0, 1, 1, 1])
    engine = Scripted({NAME: RIGHT, SILENT: BROKEN, NOTHING: EMPTY, CUT: WRONG})
    refined = refine(engine, None, first, rounds=3, template=TEMPLATE)
    assert refined.graded.rollouts.text == (RIGHT, RIGHT, WRONG, RIGHT, EMPTY, WRONG)
    # the first round: 3 of 6 rows are told apart by their value only, 4 fail, 1 is right
    lengths = {t: len(t) + 1 for t in (RIGHT, BROKEN, EMPTY, WRONG)}
    assert refined.rounds == (
        Round(6, int(first.rollouts.length_B.sum()), 4, 1),
        Round(4, sum(lengths[t] for t in (RIGHT, BROKEN, EMPTY, WRONG)), 2, 2),
        Round(2, lengths[RIGHT] + lengths[EMPTY], 1, 3),
        Round(1, lengths[EMPTY], 1, 3),
    )
    assert [[name for name, _ in seen] for seen in engine.seen] == [
        ["a#1.1", "b#0.1", "b#1.1", "b#2.1"],
        ["b#0.2", "b#1.2"],
        ["b#1.3"],
    ]
    assert engine.seen[0][0][1] == f"question a?\n{BROKEN}\n{NAME}"


def test_rows_say_which_prompt_their_last_answer_had():
    first = answers([RIGHT, BROKEN])
    rows = refine(Scripted({NAME: RIGHT}), None, first, rounds=1, template=TEMPLATE).graded.rollouts
    assert rows.train_tokens[0] is None
    assert len(rows.train_tokens[1]) == len(f"question a?\n{BROKEN}\n{NAME}")
    np.testing.assert_array_equal(rows.sample_B, [0, 1])
    np.testing.assert_array_equal(rows.length_B, [len(RIGHT), len(RIGHT) + 1])
    np.testing.assert_array_equal(rows.tokens_BT[1, : len(RIGHT) + 1], [*[5] * len(RIGHT), 9])
    np.testing.assert_array_equal((rows.origin_BT > 0).sum(1), rows.length_B)
    assert rows.prompts is first.rollouts.prompts


def test_nothing_is_asked_where_nothing_fails_or_a_prompt_would_be_too_long():
    fine = answers([RIGHT, WRONG])
    refined = refine(Scripted({}), None, fine, rounds=3, template=TEMPLATE)
    assert refined.graded is fine and len(refined.rounds) == 1
    long = answers([BROKEN + " # " + "so many eggs " * 30, BROKEN])
    refined = refine(Scripted({NAME: RIGHT}), None, long, rounds=1, template=TEMPLATE)
    assert refined.graded.rollouts.text == (long.rollouts.text[0], RIGHT)


def test_what_cannot_be_refined_is_refused():
    with pytest.raises(ValueError, match="problem 'a' is checked by 'math'"):
        refine(Scripted({}), None, graded([Row(3)]), rounds=1, template=TEMPLATE)
    with pytest.raises(ValueError, match=r"names \{error\}"):
        refine(Scripted({}), None, answers([RIGHT]), rounds=1, template="{error}")


def test_responses_are_counted_by_what_came_of_them():
    rows = answers([RIGHT, BROKEN, WRONG, "eighteen", EMPTY, None], [BROKEN, RIGHT])
    counts = taxonomy(rows)
    assert counts == {
        **{"correct": 2, "Name": 2, "WrongAnswer": 1},
        **{"NoAnswer": 1, "NoResult": 1, "Unfinished": 1},
    }
    assert list(counts)[:2] == ["correct", "Name"]
    assert said(counts).startswith("8 responses: 2 correct, 2 Name, 1 ")


SLOW = "def solution():\n    n = 0\n    for i in range({}):\n        n += 1\n    return {}"


def test_a_vote_has_the_limits_of_the_checker_and_survives_a_crash(monkeypatch):
    slow, other = SLOW.format(100_000, 18), "def solution():\n    return 5"
    limits = {"seconds": 30.0, "memory_mb": 64}
    settings = {"program": {**limits, "rounded": True}}
    with Verifier(VerifyOptions(workers=1, timeout_s=61, settings=settings)) as v:
        assert sandbox_limits(v) == limits
    crashing, few = answers([other, other, WRONG, slow, slow]), answers([WRONG, slow, slow])
    asked, real = [], program.value_of

    def value_of(source, **given):
        asked.append(given)
        if source == other:
            raise RuntimeError("the sandbox crashed: killed")
        return real(source, **given)

    monkeypatch.setattr(program, "value_of", value_of)
    chosen = vote(crashing, **limits)
    assert chosen.rollouts.text == (slow,) and asked == [limits] * 5
    assert vote(few, seconds=1e-4).rollouts.text == (WRONG,)


def test_the_limits_of_the_checker_reach_votes_and_steps(model, monkeypatch):
    seen = []
    monkeypatch.setattr(programs, "vote", lambda rows, **limits: seen.append(limits) or vote(rows))
    monkeypatch.setattr(
        programs, "Executes", lambda **limits: seen.append(limits) or (lambda problem, text: 1.0)
    )
    settings = "--verify.settings={program: {seconds: 2.0, relative: 0.1}}"
    evaluate_verb(evaluation(model, settings, "--programs.vote=true"))
    words = ("--programs.beams=1", "--programs.chains=1", "--test.samples=1", "--test.limit=2")
    evaluate_verb(evaluation(model, settings, *words))
    assert seen == [{"seconds": 2.0}] * 2


def test_values_that_are_hard_to_take_have_votes_too():
    key = "def solution():\n    class A: pass\n    return {A(): 18}"
    tree = "def solution():\n    x = 'a' * 10**5\n    for _ in range(40): x = [x, x]\n    return x"
    rows = answers([tree, key, RIGHT, RIGHT], [tree, tree, WRONG])
    assert taxonomy(rows) == {"correct": 2, "Memory": 3, "WrongAnswer": 2}
    assert vote(rows).rollouts.text == (RIGHT, WRONG)


def test_the_value_that_most_programs_return_is_taken():
    rows = answers(
        [WRONG, BROKEN, BROKEN, NEAR, RIGHT],  # 17.9999999 and 18 are one value
        [BROKEN, WRONG, RIGHT],  # as many votes: the earliest
        [BROKEN, None, "18"],  # no vote at all: the first row
        ["def solution():\n    return ' yes'", WRONG, "def solution():\n    return 'yes'"],
    )
    chosen = vote(rows)
    assert chosen.rollouts.text == (NEAR, WRONG, BROKEN, "def solution():\n    return ' yes'")
    np.testing.assert_array_equal(chosen.rollouts.group_B, [0, 1, 2, 3])
    assert chosen.correct_B.tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("values", "ballots"),
    [
        ((18, 18.0, "18", 18.0000001, "$18.00"), {"18"}),
        ((100000, 100000.0, 99999.99999), {"100000"}),
        ((1 / 3, 0.33333333, "1/3"), {"0.333333"}),
        ((1234567, 1234568), {"1234567", "1234568"}),
        ((True, None, [18]), {"True", "None", "[18]"}),
        ((float("nan"), float("inf")), {"nan", "inf"}),
        ((" nb", "nb "), {"nb"}),
        ((1 << 70, 2.0**70), {hex(1 << 70)}),
    ],
)
def test_equal_values_have_one_ballot(values, ballots):
    assert {program.ballot(value) for value in values} == ballots


# -- with a model ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(model):
    """An engine, parameters, and three rendered problems."""
    problems = last_digit.load(last_digit.Options(test=3), "test")
    problems = [dataclasses.replace(p, checker="program") for p in problems]
    with Verifier(VerifyOptions(workers=1)) as verifier:
        policy = handle.load(model)
        engine = Engine.of(
            policy,
            text_options=TextOptions(),
            sampling=SampleOptions(rows=8, dtype="float32"),
            verifier=verifier,
            seed=0,
        )
        prompts = engine.prompts(problems, purpose=Purpose.TEST, limit=24)
        yield engine, engine.decode_params(policy.params), prompts


def test_a_beam_search_gives_one_graded_row_for_each_prompt(asked):
    engine, params, prompts = asked
    heard = []
    rows, tokens_P = by_steps(
        engine, params, prompts, beams=2, chains=2, limit=12, on_progress=lambda *x: heard.append(x)
    )
    np.testing.assert_array_equal(rows.rollouts.group_B, [0, 1, 2])
    assert (rows.rollouts.length_B <= 12).all() and (tokens_P >= rows.rollouts.length_B).all()
    assert heard[-1] == (3, 3, tokens_P.sum())
    for b in range(3):  # no thought ends in them, so there is no program
        expected = "UNPARSED" if rows.rollouts.finished_B[b] else "UNFINISHED"
        assert Verdict(rows.verdict_B[b]).name == expected
    noisy = dataclasses.replace(engine, environment=lambda state: state.keep())
    with pytest.raises(ValueError, match="set the problems' noise to 0"):
        by_steps(noisy, params, prompts, beams=2, chains=2, limit=12)
    base = dataclasses.replace(engine, text=TextOptions(stop=["Question:"]))
    with pytest.raises(ValueError, match=r"set text\.stop to \[\]"):
        by_steps(base, params, prompts, beams=2, chains=2, limit=12)


def test_broken_programs_are_really_run_and_asked_for_as_a_refinement_asks(asked):
    """What `Inject` trains under is what `refine` asks, for the same program and failure."""
    engine, params, prompts = asked
    drawn, _ = engine.sample(params, prompts, samples=1, limit=96)
    options = last_digit.Options(target="program")
    rng = np.random.default_rng(0)
    texts = [last_digit.trace(problem, rng, options) for problem in prompts.problems]

    def prompt(problem, asked):
        asked = dataclasses.replace(problem, question=asked, messages=None)
        return engine.prompts([asked], purpose=Purpose.TEST, limit=96).tokens[0]

    context = Context(
        limit=96,
        end_token=engine.end_ids[0],
        encode=lambda words: text.encode(engine.tokenizer, words),
        decode=engine.decode,
        prompt=prompt,
        grade=engine.grade,
    )
    right = engine.grade(rewrite(drawn, texts, context))
    assert right.correct_B.all()
    inject = Inject(TEMPLATE, per_row=3, kinds=("rename", "drop_return", "wrong_type"))
    shown = inject(right, Scene.of(right, context, {})).rollouts
    assert [p is None for p in shown.train_tokens] == [True, False, False, False] * 3
    attempts = []
    for tokens in shown.train_tokens:
        if tokens is not None:
            _, _, after = text.decode(engine.tokenizer, tokens).partition("def solution():\n")
            lines = [line for line in after.split("\n") if line.startswith("    ")]
            attempts.append("</think>\n" + "\n".join(["def solution():", *lines]))
    nine = take_rows(right, np.repeat([0, 1, 2], 3)).rollouts
    broken = engine.grade(rewrite(nine, attempts, context))
    assert fails(broken).all()
    again = refine(engine, params, broken, rounds=1, template=TEMPLATE).graded.rollouts
    given = [tokens for tokens in shown.train_tokens if tokens is not None]
    for one, other in zip(again.train_tokens, given, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_row_is_asked_again_by_itself_as_among_others(asked):
    engine, params, prompts = asked
    first, _ = engine.rollout(params, prompts, samples=2, limit=24)
    template = "{question}\n{attempt}"
    whole = refine(engine, params, first, rounds=2, template=template)
    part = refine(engine, params, take_rows(first, [4, 1]), rounds=2, template=template)
    assert [r.asked for r in whole.rounds] == [6, 6, 6]  # a random model writes no programs
    assert whole.tokens_B.sum() == sum(r.tokens for r in whole.rounds)
    np.testing.assert_array_equal(whole.tokens_B[[4, 1]], part.tokens_B)
    for row, b in enumerate([4, 1]):
        n = whole.graded.rollouts.length_B[b]
        assert part.graded.rollouts.length_B[row] == n
        np.testing.assert_array_equal(
            part.graded.rollouts.tokens_BT[row, :n], whole.graded.rollouts.tokens_BT[b, :n]
        )
    texts = {first.rollouts.text[b] for b in range(6)} | set(whole.graded.rollouts.text)
    assert len(texts) == 12  # other draws in every round


# -- on the command line ---------------------------------------------------------------------------


def evaluation(model, *words):
    """Settings of an evaluation of 4 problems with programs as answers."""
    given = ["--problems.options={test: 4, target: program}", "--test.limit=24", "--test.samples=2"]
    given += ["--test.temperature=1.0", "--verify.workers=1", "--sample.rows=8"]
    return load(EvaluateConfig, None, [f"--model={model}", *given, *words])


def test_evaluate_refines_and_votes_and_says_what_that_took(model, tmp_path, capfd):
    words = ("--programs.refine=2", "--programs.vote=true", f"--out={tmp_path}")
    found = evaluate_verb(evaluation(model, *words))["model"]
    programs = found["programs"]
    assert found["samples_per_problem"] == 1 and found["n_problems"] == 4  # after the vote
    assert sum(programs["taxonomy"].values()) == 8
    assert [part["asked"] for part in programs["rounds"]] == [8, 8, 8]  # a random model's all fail
    assert programs["tokens"] * 4 == sum(part["tokens"] for part in programs["rounds"])
    assert found["mean_tokens"] == programs["tokens"]  # of all samples and attempts
    assert found["mean_answer_tokens"] is None and found["limit"] == 24
    assert programs["change"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    told = capfd.readouterr().err
    assert "first answers       8 responses: 0 correct" in told
    assert "asked again, 2      8 rows" in told
    assert told.count("asked again: 8 of 8") == 2  # the bar of each round
    plain = evaluate_verb(evaluation(model))["model"]
    assert "programs" not in plain and plain["accuracy"] == programs["accuracy"]


def test_evaluate_searches_step_by_step(model, capfd):
    words = ("--programs.beams=2", "--programs.chains=2", "--test.samples=1", "--test.limit=12")
    found = evaluate_verb(evaluation(model, f"--against={model}", *words))
    programs = found["model"]["programs"]
    assert programs["rounds"] == [] and programs["tokens"] > 12  # of all beams
    assert found["model"]["mean_tokens"] == programs["tokens"]
    assert found["token_ratio"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert "beam search: 4 of 4" in capfd.readouterr().err


def test_evaluate_searches_with_a_step_scorer_of_ones_own(model, tmp_path, monkeypatch):
    file = tmp_path / "steps.py"
    file.write_text(
        "import builtins\ndef f(problem, text):\n    builtins.asked.append(text)\n    return 0.5\n"
    )
    monkeypatch.setattr(builtins, "asked", [], raising=False)
    words = ("--programs.beams=2", "--programs.chains=2", "--test.samples=1", "--test.limit=12")
    evaluate_verb(evaluation(model, *words, f"--programs.scorer={file}:f"))
    assert builtins.asked
    with pytest.raises(ValueError, match=r"steps\.py has no function g"):
        evaluate_verb(evaluation(model, *words, f"--programs.scorer={file}:g"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--programs.refine=-1",), "programs.refine is -1; allowed: 0 or more"),
        (("--programs.template={error}", "--programs.refine=1"), r"names \{error\}"),
        (("--programs.vote=true", "--test.samples=1"), "a vote needs 2 or more"),
        (("--programs.beams=2",), "set test.samples to 1"),
        (("--programs.beams=2", "--programs.vote=true"), "nothing to vote on"),
        (("--programs.beams=2", "--programs.scorer=f"), "allowed: path/to/file.py:function"),
        (("--programs.scorer=f.py:f",), "nothing is scored without a beam search"),
        (
            ("--programs.beams=2", "--test.samples=1", "--programs.scorer=nowhere.py:f"),
            "there is no file nowhere.py",
        ),
        (
            ("--programs.beams=2", "--test.samples=1", "--test.temperature=0"),
            "programs.chains is 4 and test.temperature 0",
        ),
        (
            ("--programs.refine=1", "--problems.options.target=answer"),
            "is checked by 'math': only programs can be refined",
        ),
        (("--programs.refine=1", "--expander.model=m"), "is measured on single answers"),
    ],
)
def test_options_that_do_not_go_together_are_refused(model, words, says):
    with pytest.raises(ValueError, match=says):
        evaluate_verb(evaluation(model, *words))
