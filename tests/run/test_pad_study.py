"""The testbed's teacher of PaD: every class of failure, its files, and what a run says of it."""

import collections
import json
import pathlib

import pytest

from pruner_jax.config import EvaluateConfig, load
from pruner_jax.measure.programs import ProgramsOptions
from pruner_jax.problems import last_digit
from pruner_jax.run.prune import prune
from pruner_jax.verify.checkers import program

ROOT = pathlib.Path(__file__).parents[2]
OPTIONS = last_digit.Options(train=250, target="program")
CLASSES = {"WrongAnswer", "Syntax", "Name", "Type", "NoResult"}
RARE = {"ZeroDivision", "Timeout", "Unsupported"}


@pytest.fixture(scope="module")
def pad(benchmark):
    """benchmarks/pad.py."""
    return benchmark("pad")


@pytest.fixture(scope="module")
def teacher(pad, tmp_path_factory):
    """A teacher's file of 500 programs."""
    path = tmp_path_factory.mktemp("teacher") / "programs.jsonl"
    pad.write_programs(path, OPTIONS, 0, 2)
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_teacher_fails_in_every_class(teacher):
    problems = {problem.id: problem for problem in last_digit.load(OPTIONS, "train")}
    found = collections.Counter()
    for entry in read(teacher):
        source = program.extract(entry["response"])
        _, detail = program.check(problems[entry["id"]], "", source, seconds=0.1)
        found[detail.partition(":")[0]] += 1
    assert found.keys() == {"", *CLASSES, *RARE}
    assert 300 < found[""] < 350


def test_chains_answer_the_problems_that_have_right_programs(pad, teacher, tmp_path):
    pad.write_chains(teacher, tmp_path / "chains.jsonl", OPTIONS)
    chains = read(tmp_path / "chains.jsonl")
    answers = {problem.id: problem.answer for problem in last_digit.load(OPTIONS, "train")}
    assert 300 < len(chains) < 350
    for entry in chains:
        thought, box = entry["response"].split("</think>\n")
        assert box == f"\\boxed{{{answers[entry['id']]}}}"
        assert thought.endswith(f"={answers[entry['id']]}") and "check" not in thought


def test_a_smaller_share_is_a_part_of_a_larger_one(pad, teacher, tmp_path):
    for share in (0.1, 0.4):
        pad.write_share(teacher, tmp_path / f"{share}", share)
    few, some = ({entry["id"] for entry in read(tmp_path / f"{s}")} for s in (0.1, 0.4))
    assert few < some and 10 < len(few) < 40 and 70 < len(some) < 130


def test_a_run_tells_the_classes_of_its_teachers_failures(pad, settings, tmp_path, capfd):
    options = last_digit.Options(train=64, monitor=8, test=8, target="program")
    pad.write_programs(tmp_path / "programs.jsonl", options, 0, 1)
    words = (
        "--problems.options.target=program",
        "--method.name=pad",
        "--method.options={epochs: 1}",
        f"--teacher.file={tmp_path / 'programs.jsonl'}",
        "--rounds.limits=[112]",
        "--rounds.steps=1",
        "--rounds.evaluate_every=1",
    )
    prune(settings(f"--out={tmp_path / 'run'}", *words))
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("teacher: ")]
    assert len(told) == 1 and told[0].startswith("teacher: 64 responses: ")
    assert " correct, " in told[0] and " WrongAnswer" in told[0]


def test_an_evaluation_like_a_run_asks_for_repairs_in_the_words_they_were_trained_in():
    run = str(ROOT / "configs" / "pad_tiny.yaml")
    given = load(EvaluateConfig, None, ["--model=m", f"--like={run}", "--programs.refine=2"])
    assert given.programs == ProgramsOptions(refine=2, template="{question}\n{attempt}\n{detail}")


def test_every_claim_of_the_study_compares_measurements_that_are_made(pad):
    for better, worse in pad.CLAIMS.values():
        assert {better[0], worse[0]} <= set(pad.STUDENTS)


def test_intervals_of_the_study_are_over_problems_and_seeds(pad, tmp_path, capsys):
    """A student that is 20 points better on every problem, and one whose seeds disagree."""
    problems = [i % 2 for i in range(100)]
    found = {
        "filtered | greedy | test": [{"correct_P": [0.2 + 0.5 * p for p in problems]}] * 3,
        "filtered | beam | test": [{"correct_P": [0.4 + 0.5 * p for p in problems]}] * 3,
        "unfiltered | greedy | test": [{"correct_P": [x] * 100} for x in (0.0, 0.45, 0.9)],
        "chains | greedy | test": [{"correct_P": [x] * 100} for x in (0.4, 0.42, 0.44)],
    }
    pad.report(tmp_path, found)
    written = json.loads((tmp_path / "study.json").read_text())
    better = written["claims"]["step beam over greedy | test"]
    assert all(abs(better[name] - 0.2) < 1e-9 for name in ("value", "low", "high"))
    greedy = written["accuracy"]["filtered | greedy | test"]
    assert 0.38 < greedy["low"] < 0.42 < greedy["value"] < 0.48 < greedy["high"] < 0.52
    apart = written["accuracy"]["unfiltered | greedy | test"]
    assert (apart["low"], apart["high"]) == (0.0, 1.0)  # three seeds: .45 +- 4.3 * .26
    close = written["accuracy"]["chains | greedy | test"]
    half = 4.303 * 0.02 / 3**0.5  # Student's t
    assert close["low"] == pytest.approx(0.42 - half, abs=0.004)
    assert close["high"] == pytest.approx(0.42 + half, abs=0.004)
    assert "| step beam over greedy | test | +0.200" in capsys.readouterr().out
