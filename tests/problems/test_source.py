"""source: finding a source, its settings, three disjoint sets."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys

import pytest

from pruner_jax.problems.options import ProblemsOptions
from pruner_jax.problems.source import (
    SPLITS,
    carve,
    check_disjoint,
    drop_overlap,
    find,
    load_problems,
    load_sets,
    names,
    question_keys,
)
from pruner_jax.types import Problem

COUNTING = '''
"""A user's own source: counting."""
from __future__ import annotations
import dataclasses
from pruner_jax.types import Problem

@dataclasses.dataclass(frozen=True)
class Options:
    size: int = 20
    own_test: bool = False
    twins: bool = False

def load(options: Options, split: str):
    def problem(i):
        text = "the same" if options.twins else f"What is {i}?"
        return Problem(id=f"n{i}", question=text, answer=str(i))
    if split == "train":
        return [problem(i) for i in range(options.size)]
    if split == "test" and options.own_test:
        return [problem(i) for i in range(options.size - 2, options.size + 5)]
    return None
'''


@pytest.fixture
def counting(tmp_path):
    path = tmp_path / "counting.py"
    path.write_text(COUNTING)
    return str(path)


def ids(problems):
    return [problem.id for problem in problems]


def test_sets_that_a_source_lacks_are_carved_out_of_train(counting):
    options = ProblemsOptions(counting, monitor_from_train=4, test_from_train=6)
    sets = load_sets(options)
    assert {k: len(v) for k, v in sets.items()} == {"train": 10, "monitor": 4, "test": 6}
    assert {i for split in SPLITS for i in ids(sets[split])} == {f"n{i}" for i in range(20)}
    for split in SPLITS:
        assert ids(load_problems(options, split)) == ids(sets[split])  # one by one = all at once
        numbers = [int(i[1:]) for i in ids(sets[split])]
        assert numbers == sorted(numbers)  # the order of the source is kept
    other = load_sets(
        ProblemsOptions(counting, monitor_from_train=4, test_from_train=6, split_seed=1)
    )
    assert ids(other["test"]) != ids(sets["test"])


def test_carving_depends_on_ids_not_on_places():
    problems = [Problem(id=f"p{i}", question=f"{i}?", answer="") for i in range(100)]
    options = ProblemsOptions(monitor_from_train=10, test_from_train=20)
    there = carve({"train": problems}, options)
    back = carve({"train": problems[::-1]}, options)
    for split in SPLITS:
        assert set(ids(there[split])) == set(ids(back[split]))
    # Another 100 problems: a carved problem can only be pushed out by a new one.
    more = [Problem(id=f"q{i}", question=f"q{i}?", answer="") for i in range(100)]
    grown = carve({"train": problems + more}, options)
    assert {i for i in ids(grown["test"]) if i[0] == "p"} <= set(ids(there["test"]))


def test_a_set_of_the_sources_own_is_left_alone(counting):
    options = ProblemsOptions(
        counting, {"own_test": True, "size": 9}, monitor_from_train=3, overlap="drop"
    )
    sets = load_sets(options)
    assert ids(sets["test"]) == [f"n{i}" for i in range(7, 14)]
    assert len(sets["monitor"]) + len(sets["train"]) < 9


def test_overlap_is_refused_or_dropped_from_train(counting, capsys):
    options = ProblemsOptions(counting, {"own_test": True}, monitor_from_train=0)
    with pytest.raises(ValueError, match=r"2 problems share their id.*'n18'.*overlap=drop"):
        load_problems(options, "train")
    assert len(load_problems(options, "test")) == 7  # which needs no other set
    options = ProblemsOptions(counting, {"own_test": True}, monitor_from_train=0, overlap="drop")
    assert ids(load_problems(options, "train")) == [f"n{i}" for i in range(18)]
    shown = capsys.readouterr()
    assert "2 of 20 train problems" in shown.err and shown.out == ""


def test_questions_are_compared_as_well_as_ids():
    def one(id, question, **more):
        return Problem(id=id, question=question, answer="", **more)

    check_disjoint({"train": [one("a", "x?"), one("b", "x?")], "test": [one("c", "y?")]})
    clash = {"train": [one("a", "What  is x?")], "test": [one("c", " what is\nX?")]}
    with pytest.raises(ValueError, match=r"share their question.*'a' of train and 'c' of test"):
        check_disjoint(clash)
    assert drop_overlap(clash)["train"] == [] and len(drop_overlap(clash)["test"]) == 1
    chat = ({"role": "user", "content": "x?"}, {"role": "user", "content": "why?"})
    other = ({"role": "user", "content": "y?"}, {"role": "user", "content": "why?"})
    (asked,) = question_keys([one("a", "why?", messages=chat)])
    assert asked.isdisjoint(*question_keys([one("b", "why?", messages=other)]))


def test_a_system_message_makes_no_other_question(tmp_path):
    """Rows as verl writes them, a system message before the question, against a plain table."""
    system = {"role": "system", "content": "Think first."}
    asked = "Find x. Present the answer in a box."
    example = [{"role": "user", "content": "Find w."}, {"role": "assistant", "content": "1"}]
    verl = [
        {
            "prompt": [*before, {"role": "user", "content": question}],
            "reward_model": {"style": "rule", "ground_truth": "1"},
        }
        for before, question in (
            ([system], asked),
            ([system], "Find y."),
            ([system, *example], "Find x."),  # another question: what it asks hangs on the example
        )
    ]
    tables = {
        "train": verl,
        "monitor": [{"question": "find  X.", "answer": "1"}],
        "test": [{"question": "Find z.", "answer": "1"}],
    }
    paths = {name: str(tmp_path / f"{name}.jsonl") for name in tables}
    for name, rows in tables.items():
        pathlib.Path(paths[name]).write_text("\n".join(map(json.dumps, rows)))
    options = {**paths, "cut": r"\s*Present the answer in a box\."}
    with pytest.raises(ValueError, match="1 problems share their question"):
        load_sets(ProblemsOptions("file", options))
    sets = load_sets(ProblemsOptions("file", options, overlap="drop"))
    assert [problem.messages[-1]["content"] for problem in sets["train"]] == ["Find y.", "Find x."]
    assert len(sets["monitor"]) == 1


def test_texts_in_system_messages_are_part_of_the_question():
    """The user's turn is the same in all of them."""

    def about(text, question="What is the moral?"):
        said = [{"role": "system", "content": text}, {"role": "user", "content": question}]
        return Problem(id=f"{text} {question}", question=question, answer="", messages=tuple(said))

    def again(problem):
        return dataclasses.replace(problem, id=f"{problem.id} again")

    train = [about("A fox."), about("A crow."), about("Grapes.")]
    sets = {"train": train, "test": [about("A hare."), about("A tortoise.")]}
    check_disjoint(sets)
    assert drop_overlap(sets) == {"test": sets["test"], "train": train}
    sets["test"].append(again(train[1]))
    with pytest.raises(ValueError, match=r"1 problems share their question.*'A crow\. What is"):
        check_disjoint(sets)
    assert drop_overlap(sets)["train"] == [train[0], train[2]]
    sets["test"] = [again(train[1])]  # alone, its message could be an instruction
    assert drop_overlap(sets)["train"] == [train[0], train[2]]


def test_twins_in_train_do_not_leak_through_carving(counting):
    options = ProblemsOptions(counting, {"twins": True}, monitor_from_train=5)
    with pytest.raises(ValueError, match="share their question"):
        load_problems(options, "monitor")


def test_limits_take_nested_subsets(counting):
    def limited(n):
        options = ProblemsOptions(counting, {"size": 200}, monitor_from_train=20, train_limit=n)
        return ids(load_problems(options, "train"))

    assert len(limited(10)) == 10 and set(limited(10)) < set(limited(30))
    assert limited(1000) == limited(None) and len(limited(None)) == 180


def test_what_is_missing_is_named(counting, tmp_path):
    with pytest.raises(ValueError, match=r"no test set.*problems\.test_from_train"):
        load_sets(ProblemsOptions(counting, monitor_from_train=1))
    with pytest.raises(ValueError, match=r"monitor_from_train=20 would leave nothing of 20"):
        load_sets(ProblemsOptions(counting, monitor_from_train=20))
    with pytest.raises(ValueError, match=r"split is 'dev'; allowed: train, monitor, test"):
        load_problems(ProblemsOptions(counting), "dev")
    with pytest.raises(ValueError, match=r"'nope'; allowed: .*last_digit.*path/to/file\.py"):
        find("nope")
    with pytest.raises(ValueError, match="there is no file"):
        find(str(tmp_path / "nowhere.py"))
    empty = tmp_path / "empty.py"
    empty.write_text("def load(options, split): return []")
    with pytest.raises(ValueError, match="dataclass Options"):
        find(str(empty))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sise": 3}, r"problems\.options\.sise is unknown; allowed: own_test, size, twins"),
        ({"size": "many"}, r"problems\.options\.size is 'many'; allowed: a whole number"),
        ({"size": None}, r"problems\.options\.size is None; allowed: a whole number"),
        ({"size": 2.5}, r"size is 2\.5"),
        ({"twins": 1}, "twins is 1; allowed: true or false"),
    ],
)
def test_settings_of_a_source_are_checked(counting, settings, message):
    with pytest.raises(ValueError, match=message):
        load_sets(ProblemsOptions(counting, settings))


def test_an_id_twice_is_refused(tmp_path):
    path = tmp_path / "twice.py"
    path.write_text(COUNTING.replace('id=f"n{i}"', 'id="n"'))
    with pytest.raises(ValueError, match=r"train set of .*twice\.py.*id 'n'"):
        load_sets(ProblemsOptions(str(path)))


@pytest.mark.parametrize(
    "wrong",
    [{"monitor_from_train": -1}, {"train_limit": 0}, {"overlap": "ignore"}, {"test_limit": -3}],
)
def test_options_are_checked(wrong):
    with pytest.raises(ValueError, match=rf"problems\.{next(iter(wrong))}"):
        ProblemsOptions(**wrong)


def test_nothing_heavy_is_imported():
    code = (
        "import sys, importlib\n"
        f"for name in {['pruner_jax.problems.' + n for n in names()]!r}:\n"
        "    importlib.import_module(name)\n"
        "heavy = {'jax', 'transformers', 'pyarrow', 'tensorflow_datasets', 'huggingface_hub',\n"
        "         'reasoning_gym', 'jsonargparse'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
