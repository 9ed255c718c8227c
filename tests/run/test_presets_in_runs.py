"""Published methods in real runs: what they tell the model, write in its place, and learn from.

What was really sampled and learnt is read from the calls of the sampler and the learner, the rest
from what a run leaves.
"""

import dataclasses
import fcntl
import functools
import json
import math
import pathlib

import numpy as np
import pytest

import pruner_jax as pj
from pruner_jax import text
from pruner_jax.config import WarmupConfig, load
from pruner_jax.problems import last_digit
from pruner_jax.run import collect, engine, learning, monitor, second, step
from pruner_jax.run.imitate import warmup_verb
from pruner_jax.run.prune import prune
from pruner_jax.store import table as table_module
from pruner_jax.store.records import read_rollouts, seconds_of
from pruner_jax.types import Origin, Purpose, Verdict
from pruner_jax.verify.checkers import program

REASONER = f"--model={pathlib.Path(__file__).parents[2] / 'configs' / 'tiny_reasoner'}"
CLOSE = last_digit.VOCABULARY.index("</think>")
UNKNOWN = last_digit.VOCABULARY.index(last_digit.UNKNOWN)
EASY = "--problems.options.max_terms=3"


pytestmark = pytest.mark.usefixtures("quick_to_compile")


@dataclasses.dataclass
class Watched:
    """What went through a run: (prompts, options, rollouts) of the sampler, rows of the learner."""

    sampled: list = dataclasses.field(default_factory=list)
    learnt: list = dataclasses.field(default_factory=list)

    def of(self, purpose):
        return [call for call in self.sampled if call[0].purpose == purpose]


@pytest.fixture
def watched(monkeypatch):
    seen, sample, learn = Watched(), engine.sample, learning.learn

    def sampling(params, config, prompts, *, options, **others):
        rollouts, stats = sample(params, config, prompts, options=options, **others)
        seen.sampled.append((prompts, options, rollouts))
        return rollouts, stats

    def learning_from(state, rows, *args, **kwargs):
        seen.learnt.append(rows)
        return learn(state, rows, *args, **kwargs)

    monkeypatch.setattr(engine, "sample", sampling)
    monkeypatch.setattr(learning, "learn", learning_from)
    return seen


@pytest.fixture
def play(settings, tmp_path):
    """``play(method, options, *words)``: a run of one step."""

    def run(method, options, *words):
        words = (
            f"--out={tmp_path / 'run'}",
            f"--method.name={method}",
            f"--method.options={json.dumps(options)}",
            "--rounds.limits=[24]",
            "--rounds.steps=1",
            "--rounds.evaluate_every=1",
            "--rounds.log_rollouts_every=1",
            *("--sample.rows=8", "--sample.slot_multiple=128"),  # few shapes, so few programs
            *("--learn.row_tokens=128", "--learn.micro_tokens=128", "--learn.unrolled_layers=0"),
            REASONER,
            *words,
        )
        prune(settings(*words))
        return tmp_path / "run"

    return run


def rows(path):
    """The rows of one file, a mapping each."""
    columns = read_rollouts(path)
    return [dict(zip(columns, values)) for values in zip(*columns.values())]


def step_of(out):
    """The rows of the training step."""
    return rows(out / "rollouts" / "round-01-step-00001.parquet")


# -- written in the policy's place, and told -------------------------------------------------------


def test_elastic_ends_the_thought_at_its_budget_and_does_not_train_the_tag(play, watched):
    thinking, answer = 6, 4
    out = play("elastic", {"samples": 4, "thinking": thinking, "answer": answer})
    (learnt,) = watched.learnt
    logged, forced, cut = step_of(out), 0, 0
    assert len(logged) == len(learnt) == 16
    for row, train_T in zip(logged, learnt.train_BT):
        n, early = row["length"], row["tokens"][:thinking]
        wanted = [Origin.SAMPLED] * n
        if CLOSE not in early and n > thinking:  # still open
            wanted[thinking] = Origin.FORCED
            assert row["tokens"][thinking] == CLOSE and row["thinking"] == thinking + 1
            forced += 1
        assert row["origin"] == wanted
        assert train_T[:n].tolist() == [origin == Origin.SAMPLED for origin in wanted]
        assert n <= row["thinking"] + answer <= thinking + 1 + answer < row["limit"]
        cut += not row["finished"]
    assert forced > 8 and cut > 0


def group_advantages(rewards):
    """GRPO's, with the unbiased standard deviation."""
    return (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)


@pytest.mark.parametrize("method", ["l1_exact", "l1_max"])
def test_l1_tells_every_prompt_its_budget_and_pays_by_it(play, watched, method):
    alpha, delta = 0.02, 0.5
    options = {"samples": 4, "low": 20, "high": 40, "alpha": alpha}
    words = (EASY, "--rounds.limits=[48]", "--rounds.prompts=8")
    out = play(method, options, *words)
    ((prompts, _, _),), (learnt,), seen = watched.of(Purpose.TRAIN), watched.learnt, set()
    logged = step_of(out)
    for p in range(8):
        group = logged[4 * p : 4 * p + 4]
        (budget,), (mode,) = ({row[name] for row in group} for name in ("budget", "mode"))
        most = "maximum " if method == "l1_max" and mode == 0 else ""
        told = f"{group[0]['question']} Think for {most}{budget} tokens.<|im_end|>"
        assert 20 <= budget <= 40 and told in prompts.text[p]
        for row, ids in zip(group, learnt.prompt[4 * p :]):
            assert row["prompt"] == prompts.text[p]
            assert row["prompt_tokens"] == prompts.tokens[p].tolist() == ids.tolist()
        correct = np.array([row["verdict"] == "correct" for row in group])
        spare = budget - np.array([row["length"] for row in group])
        worth = correct - alpha * abs(spare)
        if most:
            worth = correct * np.clip(alpha * spare + delta, 0, 1)
        weights = [row["weight"] for row in group]
        np.testing.assert_allclose(weights, group_advantages(worth), atol=1e-4)
        seen.add((mode, budget, any(weights), any(correct)))
    modes, budgets, trains, solved = map(set, zip(*seen))
    assert modes == ({0, 1} if method == "l1_max" else {0}) and len(budgets) > 4
    assert True in trains and True in solved


def test_adaptthink_closes_the_thought_of_half_of_the_rows_with_a_share_of_a_half(play, watched):
    options = {"samples": 4, "reference_samples": 3, "no_think": "{think_close}\n"}
    out = play("adaptthink", options, EASY, "--rounds.limits=[48]")
    table = {}
    for path in (out / "tables" / "table").glob("*.parquet"):
        for row in rows(path):
            table.setdefault(row["problem_id"], []).append(row["verdict"] == "correct")
    assert {len(group) for group in table.values()} == {3}
    assert 0 < np.mean([*table.values()]) < 1
    (learnt,), logged = watched.learnt, step_of(out)
    assert [row["mode"] for row in logged] == [0, 0, 1, 1] * 4
    for row, old_logp_T, train_T in zip(logged, learnt.old_logp_BT, learnt.train_BT):
        if row["mode"] == 1:  # the first token bears the 1/2, the second is certain
            assert row["text"].startswith("</think>\n") and row["thinking"] == 1
            np.testing.assert_allclose(row["logp"][:2], [math.log(0.5), 0.0], atol=1e-6)
        else:
            assert row["thinking"] > 1 and row["logp"][0] != pytest.approx(math.log(0.5))
        assert max(row["logp"][2:]) <= 0 and min(row["logp"][2:]) < 0
        assert set(row["origin"]) == {Origin.SAMPLED} and train_T[: row["length"]].all()
        np.testing.assert_array_equal(old_logp_T[: row["length"]], row["logp"])
        worth = (row["verdict"] == "correct") - np.mean(table[row["problem_id"]])
        assert row["weight"] == pytest.approx(worth + 0.05 * row["mode"], abs=1e-5)


# -- sampled under another prompt than trained -----------------------------------------------------

HINT = "{answer}\n{question}"  # in words of the tiny model, which still reads the question in it
IMITATE = ("--problems.options.max_terms=2", "--rounds.limits=[27]")


def trained(watched):
    """Prompt and response of every row that the learner got."""
    (learnt,) = watched.learnt
    return [(p.tolist(), r.tolist()) for p, r in zip(learnt.prompt, learnt.response)]


def thought(said):
    return said.partition("</think>")[0]


@pytest.mark.parametrize("method", ["star", "rational_metareasoning"])
def test_wrong_rows_are_asked_for_again_with_a_hint_that_is_not_trained(play, watched, method):
    out = play(method, {"samples": 2, "problems": 12, "temperature": 1, "hint": HINT}, *IMITATE)
    (plain, options, _), (hinted, again_options, again) = watched.of(Purpose.TRAIN)
    assert again_options == options and (options.temperature, options.top_p) == (1, 0.9)
    (table,) = (out / "tables" / "imitate-00000").glob("part-*.parquet")
    table, logged = rows(table), step_of(out)
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    (line,) = (line for line in lines if line["kind"] == "step")
    tokens = sum(row["length"] for row in table) + int(again.length_B.sum())
    assert line["prune/generated_tokens"] == tokens
    wrong = [row for row in table if row["verdict"] != "correct"]
    assert 0 < len(wrong) < len(table) == 24
    # One question with its answer for each wrong row.
    for row, said, ids in zip(wrong, hinted.text, hinted.tokens, strict=True):
        assert f"user\n{row['gold']}\n{row['question']}<|im_end|>" in said
        assert UNKNOWN not in ids and ids.tolist() != row["prompt_tokens"]
    # What came of it stands in the place of the wrong rows, and the others stay.
    place = {(row["problem_id"], row["sample"]): row["text"] for row in table}
    place |= {(row["problem_id"], row["sample"]): said for row, said in zip(wrong, again.text)}
    assert sum(said != row["text"] for row, said in zip(wrong, again.text)) > len(wrong) // 2
    empty = [row for row in logged if (row["problem_id"], row["sample"]) not in place]
    assert len(empty) == (12 if method == "rational_metareasoning" else 0)
    for row in (row for row in logged if row not in empty):
        said = place[row["problem_id"], row["sample"]]
        if method == "star":
            assert row["text"] == said
        assert thought(row["text"]) == thought(said)
    # Trained is the plain question, whoever found the answer; some found it by the hint.
    kept = [row for row in logged if row["weight"] is not None]
    assert trained(watched) == [(row["prompt_tokens"], row["tokens"]) for row in kept]
    questions = [ids.tolist() for ids in plain.tokens]
    assert all(row["prompt_tokens"] in questions for row in kept)
    replaced = {(row["problem_id"], row["sample"]) for row in wrong}
    assert any((row["problem_id"], row["sample"]) in replaced for row in kept)


def test_hinted_rows_are_kept_through_a_stop(play, watched, monkeypatch, tmp_path):
    class Died(BaseException):
        pass

    def dies(path, *args, **kwargs):
        written.append(path)
        with open(path.parent / ".lock") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody else writes there
        if len(written) == 2:
            raise Died
        write(path, *args, **kwargs)

    def star():
        play("star", {"samples": 2, "problems": 12, "temperature": 1, "hint": HINT}, *IMITATE)
        hinted = [call[2] for call in watched.of(Purpose.TRAIN) if call[0].visit_P.all()]
        watched.sampled.clear()
        return [len(rollouts) for rollouts in hinted]

    write, written = second.write_rollouts, []
    monkeypatch.setattr(second, "write_rollouts", dies)
    monkeypatch.setattr(engine.Engine, "rows_together", lambda self, limit: 4)
    with pytest.raises(Died):
        star()
    watched.sampled.clear()
    half_written = written[1].with_name(".again-0.parquet.tmp")
    half_written.touch()
    again = star()  # the part that was lost and those behind it
    assert written[1] == written[2] and len(again) == len(written) - 2
    assert not half_written.exists()
    # The first part is charged as it was when it was sampled, like the rows of the table.
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    (line,) = (line for line in map(json.loads, lines) if line["kind"] == "step")
    there = [*written[0].parent.glob("part-*.parquet"), written[0]]
    assert line["time/table"] == pytest.approx(sum(map(seconds_of, there)))
    assert seconds_of(written[0]) > 0
    (tmp_path / "run").rename(tmp_path / "stopped")
    assert star() == [4, *again]
    stopped, whole = watched.learnt
    for name in ("prompt", "response"):
        ours, theirs = getattr(stopped, name), getattr(whole, name)
        assert [x.tolist() for x in ours] == [x.tolist() for x in theirs]


def test_a_worked_example_is_shown_while_sampling_only(play, watched):
    problem = last_digit.load(last_digit.Options(train=1, max_terms=2), "test")[0]
    solved = last_digit.trace(problem, np.random.default_rng(0), last_digit.Options(direct=0.0))
    example = {"question": problem.question, "response": "<think>" + solved}
    options = {"samples": 3, "problems": 12, "examples": 1, "hint": HINT}
    words = (f"--text.examples={json.dumps([example])}", *IMITATE)
    out = play("rational_metareasoning", options, *words)
    (shown, _, _), (hinted, _, _) = watched.of(Purpose.TRAIN)
    turns = f"{problem.question}<|im_end|>\n<|im_start|>assistant\n<think>{solved}<|im_end|>"
    assert all(said.count(turns) == 1 and said.endswith("<think>") for said in shown.text)
    tokenizer = text.load_tokenizer(REASONER.partition("=")[2])
    bare = {
        p.id: f"<|im_start|>user\n{p.question}<|im_end|>\n<|im_start|>assistant\n<think>"
        for p in shown.problems
    }
    for said, ids, p in zip(shown.text, shown.tokens, shown.problems):
        assert said.endswith(bare[p.id]) and text.encode(tokenizer, said).tolist() == ids.tolist()
    questions = [text.encode(tokenizer, said).tolist() for said in bare.values()]
    assert trained(watched) and all(prompt in questions for prompt, _ in trained(watched))
    others = [call[0] for purpose in ("monitor", "test") for call in watched.of(purpose)]
    assert not any(solved in said for prompts in (hinted, *others) for said in prompts.text)
    assert {row["prompt"] for row in step_of(out)} == set(bare.values())


@pytest.mark.parametrize(
    ("method", "options", "fits"),
    [
        ("star", {"hint": HINT}, 512 - 24),  # a question has 22 tokens; with the hint, 24
        ("l1_exact", {"low": 5, "high": 40}, 512 - 27),  # at the first step all budgets are below 9
    ],
)
def test_the_longest_prompt_of_any_step_is_known_not_to_fit_before_anything_starts(
    play, method, options, fits
):
    few = "--problems.options={train: 2, monitor: 8, test: 8, max_terms: 2}"
    words = ("--dry_run=true", "--seed=8", few, "--monitor.limit=24", "--test.limit=24")
    play(method, options, *words, f"--rounds.limits=[{fits}]")
    with pytest.raises(ValueError, match="do not fit into the model's context of 512"):
        play(method, options, *words, f"--rounds.limits=[{fits + 1}]")


# -- collected once, weighed by lengths and verdicts -----------------------------------------------


@pytest.mark.parametrize("method", ["o1_pruner", "sft_shortest", "dpo_shortest"])
def test_of_a_table_only_the_tokens_that_train_are_read(play, monkeypatch, method):
    """Some at a time; the learner gets the same rows as if all tokens had been there."""
    whole, parts = step.ready, step.ready_in_parts
    read, seen, learnt = table_module.read_graded, [], []

    class Compared(BaseException):
        pass

    def reading(*args, **kwargs):
        graded = read(*args, **kwargs)
        if graded.rollouts.tokens_BT.size:
            seen.append(len(graded))
        return graded

    def comparing(run, state, work, graded):
        assert graded.rollouts.tokens_BT.size == 0
        for looks in (False, True):  # at tokens, while it weighs
            for module in (collect, step):
                monkeypatch.setattr(module, "looks_at_tokens", lambda phase, looks=looks: looks)
            graded = collect.collect_table(run, state, work.phase)
            weighed = step.weigh(work.phase, graded, {}, step.context(run, state, work.phase))
            work = dataclasses.replace(work, weighted=weighed[0])
            shards = (whole if looks else parts)(run, state, work, graded).shards
            learnt.append(learning.read_shards([run.folder.store / name for name in shards]))
            learnt.append((len(shards), seen[:]))
            seen.clear()
        raise Compared

    monkeypatch.setattr(engine.Engine, "rows_together", lambda self, limit: 16)
    monkeypatch.setattr(table_module, "read_graded", reading)
    monkeypatch.setattr(step, "ready_in_parts", comparing)
    with pytest.raises(Compared):
        options = {"samples": 4, "temperature": 1.0, "top_p": 1.0}
        play(method, options, EASY, "--rounds.limits=[48]", "--problems.options.train=24")
    bare, (files, tokens_of), whole, (one, all_tokens) = learnt
    assert (one, sum(all_tokens)) == (1, 4 * 24) and files > 1
    assert sum(tokens_of) == len(bare) == len(whole) > 16 and max(tokens_of) < 16 + 4
    for field in dataclasses.fields(bare):
        ours, theirs = getattr(bare, field.name), getattr(whole, field.name)
        if field.name in ("prompt", "response"):
            assert [x.tolist() for x in ours] == [x.tolist() for x in theirs]
        elif field.name.endswith("logp_BT") and ours is not None:
            np.testing.assert_allclose(ours, theirs, atol=1e-5)  # in other batches
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=field.name)


def test_reference_log_probabilities_are_the_start_models_at_temperature_1_made_once(
    play, watched, monkeypatch
):
    """Sampled at 0.5 from a truncated distribution; two passes over them, in steps that train."""
    scored, real = [], step.log_probabilities

    def scoring(run, params, rollouts, temperature, **others):
        scored.append(len(rollouts))
        return real(run, params, rollouts, temperature, **others)

    monkeypatch.setattr(step, "log_probabilities", scoring)
    monkeypatch.setattr(engine.Engine, "rows_together", lambda self, limit: 16)
    words = ("--rounds.limits=[48]", "--rounds.steps=4", "--rounds.evaluate_every=4")
    words += ("--problems.options.train=12", "--method.loss={epochs: 2}")
    out = play("o1_pruner", {"samples": 4, "update_rows": 6}, EASY, *words)
    sampling = [options for _, options, _ in watched.of(Purpose.TRAIN)]
    assert {(options.temperature, options.top_p) for options in sampling} == {(0.5, 0.8)}
    assert len(watched.learnt) == 4 and all(rows is watched.learnt[0] for rows in watched.learnt)
    learnt = watched.learnt[0]
    assert len(learnt) == 24 == sum(scored) and len(scored) > 1  # two of four, some at a time
    policy = pj.load(REASONER.partition("=")[2])
    table = [row for path in (out / "tables" / "prune").glob("part-*") for row in rows(path)]
    drawn = {(*row["prompt_tokens"], *row["tokens"]): row["logp"] for row in table}
    ids = [[*p.tolist(), *r.tolist()] for p, r in zip(learnt.prompt, learnt.response)]
    tokens_BS = np.zeros((len(ids), max(map(len, ids))), np.int32)
    for tokens_S, row in zip(tokens_BS, ids):
        tokens_S[: len(row)] = row
    logits_BSV = np.asarray(pj.logits(policy, tokens_BS), np.float64)
    unlike = 0.0
    for row, said, logits_SV, old_T in zip(ids, learnt.response, logits_BSV, learnt.old_logp_BT):
        n, ends = len(said), slice(len(row) - len(said) - 1, len(row) - 1)
        for temperature, found_T in ((1.0, old_T[:n]), (0.5, drawn[tuple(row)])):
            scaled_TV = logits_SV[ends] / temperature
            norm_T = np.log(np.exp(scaled_TV - scaled_TV.max(1, keepdims=True)).sum(1))
            wanted_T = scaled_TV[np.arange(n), said] - scaled_TV.max(1) - norm_T
            np.testing.assert_allclose(found_T, wanted_T, atol=1e-4)
        unlike = max(unlike, np.abs(old_T[:n] - drawn[tuple(row)]).max())
    assert unlike > 0.1


# -- a teacher's programs --------------------------------------------------------------------------


def test_programs_that_do_not_parse_are_counted_and_written_down(play, watched, tmp_path, capfd):
    given = last_digit.Options(train=6, max_terms=3, target="program")
    rng, lines, broken = np.random.default_rng(0), [], {}
    for n, problem in enumerate(last_digit.load(given, "train")):
        right, name, digit, colon = (
            "</think>\n" + last_digit.program(problem, rng, wrong)
            for wrong in (False, "name", "digit", "syntax")
        )
        indent = right.replace("\n    return", "\n        return")
        unread = ([colon], [colon, indent], [colon], [], [], [])[n]
        broken |= dict.fromkeys(unread, problem.id)
        said = [right, *unread, name, digit]
        lines += [json.dumps({"id": problem.id, "response": text}) + "\n" for text in said]
    path = tmp_path / "teacher.jsonl"
    path.write_text("".join(lines))
    options = "{train: 6, monitor: 8, test: 8, max_terms: 3, target: program}"
    words = (f"--teacher.file={path}", f"--problems.options={options}", "--rounds.limits=[112]")
    out = play("pad", {"epochs": 1}, *words)
    rejects = [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
    assert {entry["response"]: entry["id"] for entry in rejects} == broken
    reasons = [entry["why"] for entry in rejects]
    assert len(reasons) == 4 and all(why.startswith("Syntax: ") for why in reasons)
    assert [why for why in reasons if "unexpected indent" in why] == [reasons[2]]
    told = capfd.readouterr().err
    assert f"4 responses of the teacher cannot be used: {out / 'rejects.jsonl'}" in told
    (line,) = (line for line in told.splitlines() if line.startswith("teacher: "))
    counted = {"22 responses", "6 correct", "6 Name", "6 WrongAnswer", "4 Syntax"}
    assert all(part in line for part in counted)
    assert len(trained(watched)) == 6


BY_HEART = "--problems.options={train: 4, monitor: 8, test: 8, max_terms: 2, target: program}"


@pytest.fixture
def teacher(model, tmp_path, monkeypatch):
    """A model that knows four programs by heart, some of them wrong now and then, and has other
    tokens for them than the student."""
    with monkeypatch.context() as patched:
        others = functools.partial(last_digit.write_tokenizer, pieces=last_digit.PIECES[::-1])
        patched.setattr(last_digit, "write_tokenizer", others)
        words = (
            f"--out={tmp_path / 'teacher'}",
            f"--architecture={(model / 'config.json').read_text()}",
            *(BY_HEART, "--problems.options.mistakes=0.4"),
            *("--steps=150", "--batch=8", "--limit=64", "--optimizer.learning_rate=1e-2"),
            *("--test.samples=1", "--sample.rows=8", "--verify.workers=1"),
        )
        warmup_verb(load(WarmupConfig, None, words))
    return tmp_path / "teacher"


def test_a_student_learns_the_programs_of_a_teacher_that_are_right(
    play, watched, teacher, model, tmp_path, capfd
):
    words = (BY_HEART, f"--teacher.model={teacher}", f"--model={model}", "--rounds.limits=[64]")
    play("pad", {"samples": 4, "epochs": 1}, *words)
    (wrote,) = (call for call in watched.sampled if call[0].purpose == Purpose.TRAIN)
    student = text.load_tokenizer(model)
    options = last_digit.Options(train=4, max_terms=2, target="program")
    for asked, said in trained(watched):
        asked, said = (text.decode(student, ids) for ids in (asked, said))
        (problem,) = (p for p in last_digit.load(options, "train") if p.question in asked)
        assert said.startswith("</think>\ndef") and said.endswith(last_digit.END)
        source = program.extract(said.removesuffix(last_digit.END))
        assert program.check(problem, "", source) == (Verdict.CORRECT, "")
    (told,) = (s for s in capfd.readouterr().err.splitlines() if s.startswith("teacher: "))
    right = len(trained(watched))
    assert 0 < right < 16 and told.startswith(f"teacher: 16 responses: {right} correct, ")
    # The teacher's own tokens say something else to the student.
    tokens = {tuple(ids[:n]) for ids, n in zip(wrote[2].tokens_BT.tolist(), wrote[2].length_B)}
    assert not tokens & {tuple(ids) for _, ids in trained(watched)}


# -- what the monitor set says ---------------------------------------------------------------------


@pytest.fixture
def scripted(monkeypatch):
    """``scripted(k, ...)``: of the two responses to a monitor problem, k are correct: at the start,
    at the first evaluation, ..."""

    def script(*correct):
        left, measure = iter(correct), monitor.measure

        def measuring(*args, purpose, **others):
            graded = measure(*args, purpose=purpose, **others)
            if purpose != Purpose.MONITOR:
                return graded
            correct_B = graded.rollouts.sample_B < next(left)
            verdict_B = np.where(correct_B, Verdict.CORRECT, Verdict.WRONG).astype(np.int8)
            score_B = correct_B.astype(np.float32)
            return dataclasses.replace(graded, verdict_B=verdict_B, score_B=score_B)

        monkeypatch.setattr(monitor, "measure", measuring)

    return script


@pytest.fixture
def weighed(monkeypatch):
    """What weighing was told of the monitor set, and beta before and after it, at every step."""
    seen, weigh = [], step.weigh

    def weighing(phase, graded, state, context):
        weighted, after, metrics = weigh(phase, graded, state, context)
        betas = [
            float(s.get("controllers", {}).get("prune-advantage-beta", phase.advantage.beta.start))
            for s in (state, after)
        ]
        seen.append((context.metrics.get("monitor/margin"), *betas))
        return weighted, after, metrics

    monkeypatch.setattr(step, "weigh", weighing)
    return seen


def test_length_presses_harder_after_a_good_evaluation_and_less_after_a_bad_one(
    play, scripted, weighed
):
    """Every problem gains, loses, or keeps one correct response of two: the bounds are exact."""
    scripted(1, 2, 0, 1, 1)
    out = play(
        *("harmonic", {"samples": 4, "extra_draws": 0}, EASY),
        *("--rounds.steps=7", "--rounds.evaluate_every=2", "--rounds.limits=[48]"),
        *("--problems.options.monitor=16", "--pick.tolerance=0.45"),
    )
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    margins = [r.get("margin") for r in records if r["kind"] == "evaluate"]
    start, *margins = margins
    assert start is None  # there is nothing that it could have lost
    np.testing.assert_allclose(margins, [0.95, -0.05, 0.45, 0.45], atol=1e-9)
    told, before, after = zip(*weighed)
    assert told == (None, None, *np.repeat(margins[:3], 2)[:5])
    np.testing.assert_allclose(before, [0.2, 0.2, 0.2, 0.24, 0.24, 0.06, 0.06])
    np.testing.assert_allclose(after, [*before[1:], 0.072])


def test_laser_d_pays_for_lengths_that_the_monitor_set_has_for_problems_as_hard(play):
    samples, alpha, limit = 6, 0.5, 64
    out = play(
        *("laser_d", {"samples": samples, "alpha": alpha}, EASY, f"--rounds.limits=[{limit}]"),
        *("--rounds.prompts=8", "--problems.options.monitor=16"),
    )
    start = out / "rollouts" / "base-monitor.parquet"
    classes = {0: (0.0, 1), 1: (1 / 3, samples // 3), 2: (2 / 3, 2 * samples // 3)}
    lengths = {c: [] for c in classes}

    def of(group):
        share = sum(row["verdict"] == "correct" for row in group) / len(group)
        return max(c for c, (least, _) in classes.items() if share >= least)

    logged = rows(start)
    for p in {row["problem_id"] for row in logged}:
        group = [row for row in logged if row["problem_id"] == p]
        lengths[of(group)] += [row["length"] for row in group]
    paid = 0
    logged = step_of(out)
    for group in (logged[i : i + samples] for i in range(0, len(logged), samples)):
        c = of(group)
        most = np.quantile(lengths[c], 1 / max(classes[c][1], 1)) if lengths[c] else limit
        bonus = [alpha * (r["verdict"] == "correct" and r["length"] <= most) for r in group]
        task = {"correct": 1.0, "wrong": -0.5}
        worth = np.array([task.get(r["verdict"], -1.0) for r in group]) + bonus
        np.testing.assert_allclose([r["weight"] for r in group], group_advantages(worth), atol=1e-4)
        paid += 0 < sum(map(bool, bonus)) < sum(r["verdict"] == "correct" for r in group)
    assert paid > 2 and lengths[2]
