"""Loading an expander, and what it is asked."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruner_jax import text
from pruner_jax.mesh import make_mesh
from pruner_jax.policy import handle
from pruner_jax.policy.weights import unstack
from pruner_jax.problems import last_digit
from pruner_jax.run import second
from pruner_jax.run.engine import Engine
from pruner_jax.run.generate import generate
from pruner_jax.sample.options import SampleOptions
from pruner_jax.sample.second import ExpanderOptions, TeacherOptions
from pruner_jax.text import TextOptions
from pruner_jax.types import Origin, Purpose, Verdict
from pruner_jax.verify.options import VerifyOptions
from pruner_jax.verify.pool import Verifier


def expander(folder, **options):
    given = ExpanderOptions(model=str(folder), limit=8, **options)
    shared = {"sampling": SampleOptions(rows=8), "verifier": None, "seed": 0}
    return given, second.load_expander(given, **shared, mesh=make_mesh())


def test_no_more_of_it_comes_to_a_device_than_the_sampler_wants(model, monkeypatch):
    policy = handle.load(model)
    size = sum(x.size for x in jax.tree.leaves(policy.params))
    put, real = [], jax.device_put
    monkeypatch.setattr(jax, "device_put", lambda x, place: put.append(x.nbytes) or real(x, place))
    sampling = SampleOptions(rows=8, dtype="bfloat16")
    shared = {"sampling": sampling, "verifier": None, "seed": 0, "mesh": make_mesh()}
    found = second.load_second(str(model), text_options=TextOptions(), **shared)
    assert sum(put) == 2 * size  # what a dry run says
    wanted = unstack(policy.params, jnp.bfloat16)
    jax.tree.map(np.testing.assert_array_equal, found.params, wanted)


@pytest.fixture
def bare(model, tmp_path):
    """A model whose tokenizer has no chat template."""
    folder = shutil.copytree(model, tmp_path / "bare")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("chat_template", None)
    path.write_text(json.dumps(config))
    return folder


def test_an_expander_without_a_chat_template_is_refused(bare):
    with pytest.raises(ValueError, match=r"no chat template.*expander\.text\.template to plain"):
        expander(bare)
    with pytest.raises(ValueError, match="no chat template"):
        expander(bare, text=TextOptions(template="chat"))


def test_unless_it_is_given_a_plain_prompt(bare):
    _, loaded = expander(bare, text=TextOptions(template="plain", plain="{question}\n"))
    assert loaded.engine.text.template == "plain"


def test_a_base_models_response_ends_at_a_stop_string(bare):
    policy, plain = handle.load(bare), TextOptions(template="plain", plain="{question}\n")
    ask = functools.partial(generate, policy, ["C7 A4."], max_tokens=24, temperature=1.0)
    whole = ask(text_options=plain)
    (ids,) = whole.tokens_BT
    engine = Engine.of(policy, text_options=plain, sampling=SampleOptions(), verifier=None, seed=0)
    stop = engine.decode(ids[9:11]).strip()
    found = ask(text_options=dataclasses.replace(plain, stop=[stop]))
    n = int(found.length_B[0]) - 1
    assert found.finished_B[0] and 0 < n <= 10 and found.tokens_BT[0, n] == engine.end_id
    np.testing.assert_array_equal(found.tokens_BT[0, :n], ids[:n])
    assert found.origin_BT[0, n] == Origin.FORCED
    assert stop not in found.text[0] and stop in engine.decode(ids[:11])
    with pytest.raises(ValueError, match=r"text\.stop is \[''\]"):
        TextOptions(stop=[""])


@pytest.mark.parametrize("prompt", ["{question}", "{thought}"])
def test_a_prompt_shows_both(prompt):
    with pytest.raises(ValueError, match=r"expander\.prompt lacks"):
        ExpanderOptions(prompt=prompt)


def test_what_it_is_asked(model):
    """Question and thought; the gold answer of its own problem is masked; one number for each
    sample, so that the same thought of two samples is answered twice."""
    options, loaded = expander(model)
    engine = loaded.engine
    problems = last_digit.load(last_digit.Options(), "test")[:2]
    problems = [
        dataclasses.replace(p, question=f"Q{n}", answer=str(n)) for n, p in enumerate(problems)
    ]
    prompts = engine.prompts(problems, purpose=Purpose.TEST, limit=8)
    rollouts, _ = engine.sample(loaded.params, prompts, samples=2, limit=4)
    thoughts = ["0 and 1", "10", "0 and 1", "10"]
    for masked, said in ((False, thoughts), (True, ["… and 1", "10", "0 and …", "10"])):
        asked = second.expander_prompts(loaded, options, rollouts, thoughts, masked)
        questions = [f"Q{b // 2}\n\n{shown}" for b, shown in enumerate(said)]
        assert [p.question for p in asked.problems] == questions
        assert [p.id.rpartition("#")[2] for p in asked.problems] == ["0", "1", "0", "1"]
        assert all(question in text for question, text in zip(questions, asked.text))


def test_a_teachers_line_is_of_its_id_or_else_of_its_question(tmp_path):
    problems = last_digit.load(last_digit.Options(), "train")[:2]
    first, other = problems
    lines = [
        {"id": first.id, "question": other.question, "response": "by id"},
        {"id": "train-7 of the teacher", "question": first.question, "response": "by question"},
        {"id": "nobody", "question": "What?", "response": "of none"},
    ]
    path = tmp_path / "teacher.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    found = second.read_responses(TeacherOptions(file=str(path)), problems)
    assert found.of_problem == {first.id: ["by id", "by question"]}
    assert [reject["line"] for reject in found.rejects] == [3]


def test_a_thought_that_does_not_fit_is_unfinished_and_changes_no_other_row(model):
    options, loaded = expander(model)
    problems = last_digit.load(last_digit.Options(), "test")[:3]
    prompts = loaded.engine.prompts(problems, purpose=Purpose.TEST, limit=4)
    rollouts, _ = loaded.engine.sample(loaded.params, prompts, samples=1, limit=4)
    with Verifier(VerifyOptions(workers=1)) as verifier:
        engine = dataclasses.replace(loaded.engine, verifier=verifier)
        loaded = dataclasses.replace(loaded, engine=engine)
        short, mixed, long = (
            second.expand(loaded, options, rollouts, [" A1=1" * n for n in times])
            for times in ((1, 1, 1), (1, 300, 1), (300, 300, 300))
        )
    assert second.too_long(mixed.rollouts).tolist() == [False, True, False]
    assert mixed.verdict_B[1] == Verdict.UNFINISHED and mixed.rollouts.length_B[1] == 0
    for b in (0, 2):
        assert mixed.rollouts.text[b] == short.rollouts.text[b] != ""
        assert mixed.verdict_B[b] == short.verdict_B[b]
    assert second.too_long(long.rollouts).all() and (long.verdict_B == Verdict.UNFINISHED).all()


def test_thoughts_end_where_the_tag_is(model):
    _, loaded = expander(model)
    problems = last_digit.load(last_digit.Options(), "test")[:1]
    prompts = loaded.engine.prompts(problems, purpose=Purpose.TEST, limit=8)
    said = (" A1=1</think>\n\\boxed{1}", " A1=1", "</think>\n")
    rollouts = second.written(
        loaded.engine, prompts, np.zeros(3, int), np.arange(3), said, np.array([True, False, True])
    )
    assert second.thoughts_of(loaded.engine, rollouts) == [" A1=1", " A1=1", ""]


# -- a teacher with other words --------------------------------------------------------------------

OPEN, CLOSE = last_digit.TAGS
OTHERS = ("system", "user")  # pieces of the testbed that can be the tags of a thought
TEMPLATES = {
    True: last_digit.CHAT_TEMPLATE,
    False: last_digit.CHAT_TEMPLATE.replace("<think>' }}", "' }}"),
}


@pytest.fixture(scope="module")
def verifier():
    with Verifier(VerifyOptions(workers=1)) as verifier:
        yield verifier


def speaking(model, verifier, folder, opens, pieces=last_digit.PIECES, tags=last_digit.TAGS):
    """An engine with a tokenizer of these pieces, whose template opens the thought or does not."""
    last_digit.write_tokenizer(folder, pieces, TEMPLATES[opens].replace(OPEN, tags[0]))
    return Engine.of(
        dataclasses.replace(handle.describe(model), tokenizer=text.load_tokenizer(folder)),
        text_options=TextOptions(think_open=tags[0], think_close=tags[1]),
        sampling=SampleOptions(),
        verifier=verifier,
        seed=0,
    )


@pytest.mark.parametrize("tags", [last_digit.TAGS, OTHERS], ids=["same_tags", "other_tags"])
@pytest.mark.parametrize("student_opens", [True, False])
@pytest.mark.parametrize("teacher_opens", [True, False])
def test_a_teachers_rows_in_the_students_words(
    model, verifier, tmp_path, teacher_opens, student_opens, tags
):
    problems = [
        dataclasses.replace(p, answer="1")
        for p in last_digit.load(last_digit.Options(), "train")[:2]
    ]
    student = speaking(model, verifier, tmp_path / "student", student_opens)
    teacher = speaking(
        model, verifier, tmp_path / "teacher", teacher_opens, last_digit.PIECES[::-1], tags
    )
    thought, answer = " C7=7 A4=1", "\n\\boxed{1}"
    opening = "" if teacher_opens else tags[0]
    said = [opening + thought + tags[1] + answer, opening + thought, f"{opening}{tags[1]}{answer}"]
    asked = teacher.prompts(
        problems, purpose=Purpose.TRAIN, limit=32, visit_P=np.array([3, 5], np.int32)
    )
    rows = second.written(
        teacher, asked, np.array([0, 1, 1]), np.array([2, 0, 1]), said, np.arange(3) != 1
    )
    found = second.in_the_students_words(teacher.grade(rows), teacher, student)

    kept = found.rollouts
    opening = "" if student_opens else OPEN
    wanted = [opening + thought + CLOSE + answer, opening + thought, opening + CLOSE + answer]
    assert list(kept.text) == wanted
    assert found.verdict_B.tolist() == [Verdict.CORRECT, Verdict.UNFINISHED, Verdict.CORRECT]
    for b in range(len(kept)):
        ids, theirs = (row.tokens_BT[b, : row.length_B[b]] for row in (kept, rows))
        assert student.decode(ids) == wanted[b] and teacher.decode(theirs) == said[b]
        assert (ids[-1] == student.end_id) == (b != 1)
        assert ids.tolist() != theirs.tolist()
    steps = 6 + (not student_opens)  # of the thought, without its end
    assert kept.thinking_B.tolist() == [steps + 1, steps, steps - 5]
    assert np.isnan(kept.logp_BT).all()
    assert kept.group_B.tolist() == [0, 1, 1] and kept.sample_B.tolist() == [2, 0, 1]
    assert kept.prompts.visit_P.tolist() == [3, 5]
    for prompt, ids in zip(kept.prompts.text, kept.prompts.tokens):
        assert prompt.endswith("assistant\n" + OPEN * student_opens)
        assert text.decode(student.tokenizer, ids) == prompt


@pytest.mark.parametrize("student_opens", [True, False])
def test_a_teacher_that_does_not_think_is_left_as_it_is(model, verifier, tmp_path, student_opens):
    said = ["\n\\boxed{1}", "\\boxed{1}"]
    student = speaking(model, verifier, tmp_path / "student", student_opens)
    teacher = speaking(model, verifier, tmp_path / "teacher", False)
    problems = last_digit.load(last_digit.Options(), "train")[:1]
    asked = teacher.prompts(problems, purpose=Purpose.TRAIN, limit=32)
    rows = second.written(teacher, asked, np.zeros(2, int), np.arange(2), said, np.ones(2, bool))
    found = second.in_the_students_words(teacher.grade(rows), teacher, student)
    assert list(found.rollouts.text) == said
