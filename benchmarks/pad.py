"""PaD on the testbed: the teacher's programs, and what each part of the method is worth.

    python benchmarks/pad.py programs runs/pad_programs.jsonl
    python benchmarks/pad.py study runs/pad_study [--seeds 3 4 5]

``programs`` writes a teacher's file for configs/pad_tiny.yaml: two programs for each sum of its
train set, 35 % of which fail, in every class of failure. ``study`` trains students from
configs/warmup_pad_tiny.yaml with that configuration, one for each part and seed, measures them on
the test set and on a transfer set (the same sums in words that one question in ten was taught in),
and compares. What stands in OUT/measured is taken as it is, so a study that was stopped goes on. It
writes OUT/study.json and prints tables; intervals are paired, by the bootstrap over problems and
seeds of the comparisons (`measure.frontier`). The sizes of the testbed and the number of epochs
were chosen while looking at students of the seeds 0 and 1, so the study has others.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import re
import zlib
from typing import Any

import numpy as np

from pruner_jax import config
from pruner_jax.measure.bootstrap import estimate
from pruner_jax.measure.frontier import MODELS, resampled, subsets
from pruner_jax.measure.options import EvaluateOptions
from pruner_jax.measure.outcomes import outcomes
from pruner_jax.measure.stats import per_problem
from pruner_jax.mesh import LEARN_RULES, make_mesh
from pruner_jax.policy import handle
from pruner_jax.problems import last_digit
from pruner_jax.report.progress import Progress
from pruner_jax.run.beams import by_steps
from pruner_jax.run.engine import Engine
from pruner_jax.run.imitate import warmup_verb
from pruner_jax.run.measuring import measure, measured
from pruner_jax.run.programs import refine, taxonomy, vote
from pruner_jax.run.prune import prune
from pruner_jax.sample.steps import Executes
from pruner_jax.store.folder import write_atomically
from pruner_jax.types import Graded, Problem, Purpose
from pruner_jax.verify.checkers import program
from pruner_jax.verify.pool import Verifier

CONFIG, BASE = "configs/pad_tiny.yaml", "configs/warmup_pad_tiny.yaml"
MISTAKES = 0.35  # share of the teacher's programs
RARE = 0.01  # share of each of the mistakes that the student's tokenizer cannot spell
LIMIT = 112

# -- the teacher -----------------------------------------------------------------------------------


def write_programs(path: pathlib.Path, options: last_digit.Options, seed: int, each: int) -> None:
    """A teacher's file: ``each`` programs for every problem of the train set, some wrong."""
    rng = np.random.default_rng(seed)
    with open(path, "w") as file:
        for problem in last_digit.load(options, "train"):
            for _ in range(each):
                dice, wrong = rng.random(), False
                if dice < RARE * len(last_digit.UNSPEAKABLE):
                    wrong = last_digit.UNSPEAKABLE[int(dice / RARE)]
                elif dice < MISTAKES:
                    wrong = True
                said = "</think>\n" + last_digit.program(problem, rng, wrong)
                file.write(json.dumps({"id": problem.id, "response": said}) + "\n")


def write_chains(programs: pathlib.Path, path: pathlib.Path, options: last_digit.Options) -> None:
    """A chain of thought for every right program of a file: the shortest one, without a slip."""
    plain = dataclasses.replace(options, target="answer", slip=0.0, checks=0.0, second_pass=0.0)
    problems = {problem.id: problem for problem in last_digit.load(plain, "train")}
    with open(path, "w") as file:
        for entry in map(json.loads, programs.read_text().splitlines()):
            problem, source = problems[entry["id"]], program.extract(entry["response"])
            if source is not None and not program.check(problem, "", source, seconds=0.2)[1]:
                said = last_digit.trace(problem, np.random.default_rng(0), plain)
                file.write(json.dumps({"id": problem.id, "response": said}) + "\n")


def write_share(whole: pathlib.Path, path: pathlib.Path, share: float) -> None:
    """The lines of some of the problems; a smaller share is a part of a larger one."""
    with open(path, "w") as file:
        for line in whole.read_text().splitlines(keepends=True):
            if zlib.crc32(json.loads(line)["id"].encode()) / 2**32 < share:
                file.write(line)


# -- the students ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Student:
    """A part of the study: what is changed in the configuration, and what it is taught from."""

    words: tuple[str, ...] = ()
    file: str = "programs"
    share: float = 1.0
    teacher: str | None = None  # another student, instead of a file
    target: str = "program"


EPOCHS = 8
STUDENTS = {
    "filtered": Student(),
    "unfiltered": Student(("--method.options.filter=false", "--method.options.epochs=5")),
    "chains": Student(file="chains", target="answer"),
    "repairs": Student(("--method.options.refine=injected",)),
    "share 35 %": Student(file="share-35", share=0.35),
    "share 10 %": Student(file="share-10", share=0.10),
    "share 5 %": Student(file="share-05", share=0.05),
    "self": Student(("--method.options.samples=2",), teacher="share 35 %"),
}


def train(out: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    """Folder of a student's model. All have about as many updates, however much they are taught
    from; but repairs come on top of as many passes over the programs."""
    student = STUDENTS[name]
    folder = out / "runs" / f"{name_of(name)}-{seed}"
    words = [
        f"--model={out / 'base'}",
        f"--out={folder}",
        f"--seed={seed}",
        f"--problems.options.target={student.target}",
        f"--method.options.epochs={round(EPOCHS / student.share)}",
        "--monitor.problems=16",
        "--test.problems=16",
    ]
    if student.teacher is None:
        words.append(f"--teacher.file={out / f'{student.file}-{seed}.jsonl'}")
    else:
        words += [
            "--teacher.file=null",
            f"--teacher.model={train(out, student.teacher, seed)}",
        ]
    prune(config.load(config.PruneConfig, CONFIG, [*words, *student.words]))
    return folder / "export"


# -- measuring -------------------------------------------------------------------------------------

GREEDY = EvaluateOptions(samples=1, temperature=0.0, top_p=1.0, limit=LIMIT)
SAMPLED = EvaluateOptions(samples=8, temperature=1.0, top_p=1.0, limit=LIMIT)
REPAIR = "{question}\n{attempt}\n{detail}"  # as configs/pad_tiny.yaml trains it
AGAIN = "{question}"
SETS = ("test", "words")
OPEN = ("filtered", "unfiltered", "repairs")  # students that are sampled, too
BEAMS, CHAINS = 2, 4


def problems_of(where: str, target: str, count: int) -> list[Problem]:
    """The test set, in the usual words or in those that one question in ten was taught in."""
    return last_digit.load(
        last_digit.Options(test=count, max_terms=5, target=target, transfer=where == "words"),
        "test",
    )


def measure_student(
    model: pathlib.Path, student: str, where: str, seed: int, count: int, verifier: Verifier
) -> dict[str, Any]:
    """What one student does on one set, by measurement."""
    settings = config.load(config.PruneConfig, CONFIG)
    policy = handle.load(model, mesh=make_mesh(1, 1, 1), rules=LEARN_RULES)
    engine = Engine.of(
        policy, text_options=settings.text, sampling=settings.sample, verifier=verifier, seed=seed
    )
    params = engine.decode_params(policy.params)
    problems = problems_of(where, STUDENTS[student].target, count)
    found: dict[str, Any] = {}
    for name, test in {"greedy": GREEDY, "sampled": SAMPLED}.items():
        if name == "sampled" and student not in OPEN:
            continue
        with Progress() as progress:
            first = measure(
                engine,
                params,
                problems,
                test,
                limit=LIMIT,
                purpose=Purpose.TEST,
                progress=progress,
                title=f"{student} {seed}: {where}, {name}",
            )
        found[name] = kept(first)
        if name == "sampled":
            found["vote"] = kept(vote(first))
        if student == "repairs":
            asked = {"repaired": REPAIR} | ({"again": AGAIN} if name == "sampled" else {})
            for how, template in asked.items():
                last = refine(measured(engine, test), params, first, rounds=2, template=template)
                rounds = [dataclasses.asdict(part) for part in last.rounds]
                found[f"{name}, {how}"] = {**kept(last.graded), "rounds": rounds}
    if student in OPEN[:2]:
        searching = measured(engine, dataclasses.replace(SAMPLED, samples=1))
        prompts = searching.prompts(problems, purpose=Purpose.TEST, limit=LIMIT)
        for name, score in {"beam": None, "faithful beam": faithful}.items():
            best, tokens_P = by_steps(
                searching, params, prompts, beams=BEAMS, chains=CHAINS, limit=LIMIT, score=score
            )
            found[name] = {**kept(best), "tokens_in_all": float(tokens_P.mean())}
    return found


def faithful(problem: Problem, text: str) -> float:
    """f of a step as the paper means it, how far the step stands in the question (it compares
    embeddings of both), and whether the program so far runs: ``C = 7`` wants C7 there."""
    names = re.findall(r"\b[A-H]\b|\d", text.rstrip("\n").rpartition("\n")[2].partition("%")[0])
    stands = "total = 0" in text[-12:] or "".join(names) in problem.question
    return Executes()(problem, text) * (1.0 if stands else 0.03)


def kept(graded: Graded) -> dict[str, Any]:
    """What the comparisons need of graded rows."""
    made = outcomes(graded)
    return {
        "correct_P": [round(float(x), 4) for x in per_problem(made.correct_PG, made)],
        "mean_tokens": float(made.length_PG[made.mask_PG].mean()),
        "classes": taxonomy(graded),
    }


# -- the study -------------------------------------------------------------------------------------

Side = tuple[str, str]  # a student and a measurement
CLAIMS: dict[str, tuple[Side, Side]] = {
    "filtered over unfiltered data": (("filtered", "greedy"), ("unfiltered", "greedy")),
    "the same, sampled": (("filtered", "sampled"), ("unfiltered", "sampled")),
    "programs over chains of thought": (("filtered", "greedy"), ("chains", "greedy")),
    "all data over 35 %": (("filtered", "greedy"), ("share 35 %", "greedy")),
    "35 % of the data over 10 %": (("share 35 %", "greedy"), ("share 10 %", "greedy")),
    "10 % of the data over 5 %": (("share 10 %", "greedy"), ("share 5 %", "greedy")),
    "35 % of the programs over all chains": (("share 35 %", "greedy"), ("chains", "greedy")),
    "self-distilled over its teacher": (("self", "greedy"), ("share 35 %", "greedy")),
    "taught repairs over not": (("repairs", "greedy"), ("filtered", "greedy")),
    "repaired over first answers": (("repairs", "sampled, repaired"), ("repairs", "sampled")),
    "repaired over sampled again": (
        ("repairs", "sampled, repaired"),
        ("repairs", "sampled, again"),
    ),
    "repaired greedily over greedy": (("repairs", "greedy, repaired"), ("repairs", "greedy")),
    "vote of 8 over one sample": (("filtered", "vote"), ("filtered", "sampled")),
    "vote of 8 over greedy": (("filtered", "vote"), ("filtered", "greedy")),
    "step beam over greedy": (("filtered", "beam"), ("filtered", "greedy")),
    "step beam over a vote of 8": (("filtered", "beam"), ("filtered", "vote")),
    "faithful beam over greedy": (("filtered", "faithful beam"), ("filtered", "greedy")),
    "faithful beam over a vote of 8": (("filtered", "faithful beam"), ("filtered", "vote")),
    "unfiltered: vote of 8 over greedy": (("unfiltered", "vote"), ("unfiltered", "greedy")),
    "unfiltered: step beam over greedy": (("unfiltered", "beam"), ("unfiltered", "greedy")),
    "unfiltered: step beam over a vote": (("unfiltered", "beam"), ("unfiltered", "vote")),
}


def study(out: pathlib.Path, seeds: list[int], count: int) -> None:
    """Everything that OUT lacks, seed by seed, then the tables of what is there."""
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "base" / "config.json").exists():
        warmup_verb(config.load(config.WarmupConfig, BASE, [f"--out={out / 'base'}"]))
    settings = config.load(config.PruneConfig, CONFIG)
    options = last_digit.Options(**settings.problems.options)
    for seed in seeds:
        programs = out / f"programs-{seed}.jsonl"
        if not programs.exists():
            write_programs(programs, options, seed, each=2)
            write_chains(programs, out / f"chains-{seed}.jsonl", options)
            for student in STUDENTS.values():
                if student.share < 1:
                    write_share(programs, out / f"{student.file}-{seed}.jsonl", student.share)
    found: dict[str, Any] = {}
    for student in STUDENTS:
        for seed in seeds:
            for where, path in measurements(out, student, seed, count).items():
                for name, entry in json.loads(path.read_text()).items():
                    found.setdefault(f"{student} | {name} | {where}", []).append(entry)
        report(out, found)


def measurements(out: pathlib.Path, student: str, seed: int, count: int) -> dict[str, pathlib.Path]:
    """The files of a student's measurements, by set; what is missing is trained and measured."""
    folder = out / "measured"
    folder.mkdir(exist_ok=True)
    paths = {where: folder / f"{name_of(student)}-{seed}-{where}-{count}.json" for where in SETS}
    if all(path.exists() for path in paths.values()):
        return paths
    model = train(out, student, seed)
    with Verifier(config.load(config.PruneConfig, CONFIG).verify) as verifier:
        for where, path in paths.items():
            if not path.exists():
                new = measure_student(model, student, where, seed, count, verifier)
                write_atomically(path, json.dumps(new) + "\n")
    return paths


def name_of(student: str) -> str:
    """A student in file names."""
    return student.replace(" ", "").replace("%", "")


def report(out: pathlib.Path, found: dict[str, list[dict[str, Any]]]) -> None:
    """Tables of all measurements and claims, printed and written to OUT/study.json."""
    draws, each = resampled_accuracy(found), {}
    accuracy, claims = {}, {}
    print("\n| student | measurement | set | accuracy | of each seed |\n|---|---|---|---|---|")
    for name, entries in found.items():
        made = estimate(draws[name], within=(0.0, 1.0))
        each[name] = [float(np.mean(entry["correct_P"])) for entry in entries]
        accuracy[name] = {**dataclasses.asdict(made), "entries": entries}
        said = " ".join(f"{x:.3f}" for x in each[name])
        print(f"| {name} | {made.value:.3f} ({made.low:.3f} to {made.high:.3f}) | {said} |")
    print("\n| claim | set | difference | of each seed | |\n|---|---|---|---|---|")
    for claim, sides in CLAIMS.items():
        for where in SETS:
            better, worse = (f"{' | '.join(side)} | {where}" for side in sides)
            if better not in found or worse not in found:
                continue
            made = estimate(draws[better] - draws[worse])
            claims[f"{claim} | {where}"] = dataclasses.asdict(made)
            change = f"{made.value:+.3f} ({made.low:+.3f} to {made.high:+.3f})"
            said = " ".join(f"{x - y:+.3f}" for x, y in zip(each[better], each[worse]))
            few = ", one seed" if len(each[better]) == 1 else ""
            sign = "holds" if made.low > 0 else "reversed" if made.high < 0 else "not shown"
            print(f"| {claim} | {where} | {change} | {said} | {sign}{few} |")
    write_atomically(
        out / "study.json", json.dumps({"accuracy": accuracy, "claims": claims}) + "\n"
    )


def resampled_accuracy(found: dict[str, list[dict[str, Any]]]) -> dict[str, np.ndarray]:
    """Accuracy of every measurement in the data and in draws of problems and seeds, [1 + R].

    The problems of both sets are the same sums and are drawn together, the seeds of each student by
    themselves; what was measured of one student stays together.
    """
    names: dict[str, list[str]] = {}
    for name in found:
        names.setdefault(name.partition(" | ")[0], []).append(name)
    seeds = {student: min(len(found[n]) for n in own) for student, own in names.items()}
    draws = {}
    for student, own in names.items():
        correct_SPQ = np.stack(
            [
                np.stack([found[n][s]["correct_P"] for n in own], axis=1)
                for s in range(seeds[student])
            ]
        )
        everywhere_PU = subsets(np.full(correct_SPQ.shape[1], np.nan))
        means = resampled({student: correct_SPQ[:, None]}, own, everywhere_PU)[student]
        draws |= {n: means(n, model=MODELS[0]) for n in own}
    return draws


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    teacher = verbs.add_parser("programs")
    teacher.add_argument("file", type=pathlib.Path)
    teacher.add_argument("--seed", type=int, default=0)
    parts = verbs.add_parser("study")
    parts.add_argument("out", type=pathlib.Path)
    parts.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5])
    parts.add_argument("--problems", type=int, default=200)
    given = parser.parse_args()
    if given.verb == "study":
        study(given.out, given.seeds, given.problems)
    else:
        settings = config.load(config.PruneConfig, CONFIG)
        given.file.parent.mkdir(parents=True, exist_ok=True)
        options = last_digit.Options(**settings.problems.options)
        write_programs(given.file, options, given.seed, each=2)


if __name__ == "__main__":
    main()
