r"""Two studies of Hawkeye: how much of a chain an expander needs, what training with it does.

    python benchmarks/hawkeye.py redundancy configs/tiny_reasoner --like=configs/hawkeye_tiny.yaml \
        --step=' [A-H]\d=\d| check=\d| again' --again='check|again' --seeds 0 1 2
    python benchmarks/hawkeye.py runs configs/hawkeye_tiny.yaml --seeds 0 1 2 --out runs/hawkeye

``redundancy`` takes any large model and the words of ``evaluate`` (with an expander; ``--like``
brings that of a run), removes whole steps from its chains (repeats first, then re-checks, then by
chance) and shows what the expander makes of the rest. Neither model is trained, so a seed is one of
sampling: of the chains, of the steps that are removed by chance, and of the expander's answers.

``runs`` plays a configuration with several seeds, with the expander and without, measures each
model with it, and shows a table of all seeds together and of each (over problems). Here a seed is
one of training: of the whole run, and of the measurement of its two models. What is there is not
played again; a model whose folder ``joint`` is gone is measured again.

Intervals of several seeds are over problems and seeds (``measure.frontier``). Both print Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from pruner_jax.config import EvaluateConfig, PruneConfig, load
from pruner_jax.expansion import AGAIN, STEP, thinned
from pruner_jax.measure.bootstrap import estimate
from pruner_jax.measure.frontier import resampled, subsets
from pruner_jax.mesh import make_mesh
from pruner_jax.problems.source import load_problems
from pruner_jax.report.progress import Progress
from pruner_jax.run import joint
from pruner_jax.run.compilation import keep_compiled_programs
from pruner_jax.run.evaluate import evaluate_verb
from pruner_jax.run.measuring import measure
from pruner_jax.run.prune import prune
from pruner_jax.run.second import Second, expand, load_expander, load_second, thoughts_of
from pruner_jax.types import Problem, Purpose
from pruner_jax.verify.pool import Verifier

REMOVED = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SHOWN = tuple((share, masked) for share in REMOVED for masked in (False, True))

SIDES = ("against", "model")  # the model before and after
QUANTITIES = ("accuracy", "chain_tokens", "answer_tokens", "leak", "masked", "bare", "alone")


def main() -> None:
    """One of the two studies."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("redundancy", help="expander's accuracy on parts of the chains")
    one.add_argument("model")
    one.add_argument("--step", default=STEP, help="pattern of a step")
    one.add_argument("--again", default=AGAIN, help="pattern in a step that is a re-check")
    one.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of sampling")
    two = verbs.add_parser("runs", help="several seeds, and a run without the expander")
    two.add_argument("config")
    two.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of training")
    two.add_argument("--out", required=True)
    args, words = parser.parse_known_args()
    keep_compiled_programs()
    print(f"`python {' '.join(sys.argv)}`\n")
    if args.verb == "redundancy":
        print(redundancy(load(EvaluateConfig, None, [f"--model={args.model}", *words]), args))
    else:
        print(runs(args, words))


# -- the redundancy of chains ----------------------------------------------------------------------


def redundancy(settings: EvaluateConfig, args: argparse.Namespace) -> str:
    """A table of accuracies by the share that was removed."""
    if settings.expander.model is None:
        raise SystemExit("--expander.model is not set, nor does --like bring one")
    problems = load_problems(settings.problems, settings.split)
    mesh = make_mesh(settings.mesh.data, settings.mesh.fsdp, settings.mesh.tensor)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress())
        verifier = stack.enter_context(Verifier(settings.verify))
        shared = {"sampling": settings.sample, "verifier": verifier, "seed": settings.seed}
        expander = load_expander(settings.expander, **shared, mesh=mesh)
        large = load_second(
            settings.model,
            text_options=settings.text,
            **shared,
            mesh=mesh,
            problems=settings.problems,
        )
        found = []
        for seed in args.seeds:
            sides = (with_seed(side, seed) for side in (large, expander))
            found.append(of_parts(*sides, problems, settings, args, progress, seed))
    removed_SR, values_SPQ = (np.stack(parts) for parts in zip(*found))
    return "\n".join(
        [
            "| removed | accuracy of the expander | answers masked |",
            "|---|---|---|",
            *by_share(removed_SR.mean(axis=0), values_SPQ, settings),
        ]
    )


def with_seed(side: Second, seed: int) -> Second:
    """The same model with other draws."""
    return dataclasses.replace(side, engine=dataclasses.replace(side.engine, seed=seed))


def of_parts(
    large: Second,
    expander: Second,
    problems: Sequence[Problem],
    settings: EvaluateConfig,
    args: argparse.Namespace,
    progress: Progress,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """What was removed of all characters, by ``REMOVED`` [R], and the expander's accuracy on the
    rest, [P, Q] with Q of ``SHOWN``."""
    rollouts = measure(
        large.engine,
        large.params,
        problems,
        settings.test,
        limit=settings.test.limit,
        purpose=Purpose(settings.split),
        progress=progress,
        title=f"{settings.model}, seed {seed}",
    ).rollouts
    thoughts = thoughts_of(large.engine, rollouts)
    removed, correct = [], []
    for share in REMOVED:
        rng = np.random.default_rng(seed)
        rest = [thinned(said, share, rng, args.step, args.again) for said in thoughts]
        removed.append(1 - sum(map(len, rest)) / max(1, sum(map(len, thoughts))))
        for masked in (False, True):
            found = expand(expander, settings.expander, rollouts, rest, masked)
            correct.append(joint.per_problem(rollouts, found.correct_B))
        with_answers, without = (x_P.mean() for x_P in correct[-2:])
        progress.log(f"{removed[-1]:.0%} removed: {with_answers:.1%}, masked {without:.1%}")
    return np.array(removed), np.transpose(correct)


def by_share(removed: np.ndarray, values_SPQ: np.ndarray, settings: EvaluateConfig) -> list[str]:
    """The lines of the table, over problems and seeds."""
    everywhere = subsets(np.full(values_SPQ.shape[1], np.nan))
    values = {"start": values_SPQ[:, None]}
    draws = resampled(values, SHOWN, everywhere, resamples=settings.test.resamples)["start"]

    def cell(share: float, masked: bool) -> str:
        accuracy = draws((share, masked), model="base")
        return percent(vars(estimate(accuracy, settings.test.confidence, within=(0.0, 1.0))))

    return [
        f"| {gone:.0%} | {cell(share, False)} | {cell(share, True)} |"
        for share, gone in zip(REMOVED, removed)
    ]


# -- training with an expander and without ---------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Measured:
    """What ``evaluate`` found of a run's model and of the one that it began with."""

    numbers: dict
    values_MPQ: np.ndarray  # the means of every problem, by ``SIDES`` and ``QUANTITIES``

    @classmethod
    def read(cls, folder: pathlib.Path) -> Measured:
        """From where it was written."""
        sides = [json.loads((folder / f"{side}-joint.json").read_text()) for side in SIDES]
        values_MQP = np.array([[side[name] for name in QUANTITIES] for side in sides])
        numbers = json.loads((folder / "evaluation.json").read_text())
        return cls(numbers, values_MQP.swapaxes(1, 2))


def runs(args: argparse.Namespace, words: Sequence[str]) -> str:
    """A table of the start model and of the runs with and without the expander, by seed and all."""
    with_it, without = (
        [Measured.read(play(args, words, seed, control)) for seed in args.seeds]
        for control in (False, True)
    )
    first = with_it[0].numbers
    lines = [
        "| | joint accuracy | change from the start model alone | chain tokens | of the start's "
        "| answer tokens | large model alone | chains with the answer "
        "| gain over no chain, answers masked |",
        "|---|---|---|---|---|---|---|---|---|",
        row("start model", first["against"]["joint"]),
        together("all seeds", with_it),
        *(alone(f"seed {seed}", one) for seed, one in zip(args.seeds, with_it)),
        together("without the expander", without),
        *(alone(f"seed {seed}", one) for seed, one in zip(args.seeds, without)),
        "",
        f"Expander alone: {percent(first['model']['joint']['expander_alone_accuracy'])}. Start "
        f"model alone: {number(first['against']['joint']['large_alone_tokens'])} tokens.",
        "",
        *serving([one.numbers for one in with_it]),
        "",
        *prices([one.numbers for one in with_it]),
    ]
    return "\n".join(lines)


def play(args: argparse.Namespace, words: Sequence[str], seed: int, control: bool) -> pathlib.Path:
    """One run, its model measured against the one it began with, both with the expander; where that
    was written. The control is not timed."""
    folder = pathlib.Path(args.out) / f"{'without' if control else 'with'}-{seed}"
    changes = [f"--seed={seed}", f"--out={folder}"]
    changes += ["--method.options.expander=false"] if control else []
    settings = load(PruneConfig, args.config, [*words, *changes])
    prune(settings)
    out = folder / "joint"
    if not (out / "evaluation.json").is_file():
        like = [f"--model={folder / 'export'}", f"--against={settings.model}", f"--like={folder}"]
        like += [f"--out={out}", *(["--serving.concurrency=[]"] if control else [])]
        evaluate_verb(load(EvaluateConfig, None, like))
    return out


def alone(name: str, one: Measured) -> str:
    """One run by itself."""
    return row(name, one.numbers["model"]["joint"], one.numbers["joint"])


def together(name: str, measured: Sequence[Measured]) -> str:
    """The runs of all seeds, with intervals over problems and seeds (see ``measure.frontier``)."""
    values_SMPQ = np.stack([one.values_MPQ for one in measured])
    everywhere = subsets(np.full(values_SMPQ.shape[2], np.nan))
    means = resampled({name: values_SMPQ}, QUANTITIES, everywhere)[name]
    shares = ("accuracy", "large_alone_accuracy", "leak_rate")

    def say(key: str, draws: np.ndarray) -> dict[str, float]:
        within = (0.0, 1.0) if key in shares else (-np.inf, np.inf)
        return vars(estimate(draws, within=within))

    found = {
        "accuracy": means("accuracy"),
        "chain_tokens": means("chain_tokens"),
        "answer_tokens": means("answer_tokens"),
        "large_alone_accuracy": means("alone"),
        "leak_rate": means("leak"),
        "masked_gain": means("masked") - means("bare"),
    }
    against = {
        "change_from_alone": means("accuracy") - means("alone", model="base"),
        "chain_ratio": means("chain_tokens") / means("chain_tokens", model="base"),
    }
    return row(
        f"**{name}**",
        {key: say(key, draws) for key, draws in found.items()},
        {key: say(key, draws) for key, draws in against.items()},
    )


def serving(found: Sequence[dict]) -> list[str]:
    """Seconds per request, the median of the runs; the speed-up also from least to most."""
    lines = [
        "| concurrency | start model alone | pipeline before | pipeline after | speed-up | "
        "tuned model alone |",
        "|---|---|---|---|---|---|",
    ]
    for i, one in enumerate(found[0]["model"]["joint"]["serving"]):
        before = [each["against"]["joint"]["serving"][i] for each in found]
        after = [each["model"]["joint"]["serving"][i] for each in found]
        speedups = [b["large_alone"] / a["joint"] for b, a in zip(before, after)]
        cells = [
            f"{np.median([each[way] for each in side]):.3g} s"
            for side, way in (
                (before, "large_alone"),
                (before, "joint"),
                (after, "joint"),
                (after, "large_alone"),
            )
        ]
        cells.insert(3, f"x{np.median(speedups):.2f} ({min(speedups):.2f} to {max(speedups):.2f})")
        lines.append(f"| {one['concurrency']} | {' | '.join(cells)} |")
    return lines


def prices(found: Sequence[dict]) -> list[str]:
    """What 1,000 requests cost, means of the runs."""
    costs = {side: [each[side]["joint"]["cost"] for each in found] for side in SIDES}

    def cost(side: str, way: str) -> str:
        return f"{np.mean([each[way] for each in costs[side]]):.4g}"

    one = costs["model"][0]
    return [
        f"Cost of 1,000 requests: start model alone {cost('against', 'large_alone')}, pipeline "
        f"before {cost('against', 'joint')}, after {cost('model', 'joint')}, tuned model alone "
        f"{cost('model', 'large_alone')} (a token of the expander costs "
        f"{one['price'] / one['large_price']:.2g} of one of the large model, one that is read "
        f"{one['read_share']:g} of one that is written)."
    ]


def row(name: str, found: dict, against: dict | None = None) -> str:
    """One line of the table."""
    cells = [
        percent(found["accuracy"]),
        "" if against is None else percent(against["change_from_alone"], sign="+"),
        number(found["chain_tokens"]),
        "" if against is None else percent(against["chain_ratio"]),
        number(found["answer_tokens"]),
        percent(found["large_alone_accuracy"]),
        percent(found["leak_rate"]),
        percent(found["masked_gain"], sign="+"),
    ]
    return f"| {name} | {' | '.join(cells)} |"


def percent(found: dict, sign: str = "") -> str:
    """A share with its interval, in percent."""
    value, low, high = (f"{100 * found[end]:{sign}.1f}" for end in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def number(found: dict) -> str:
    """A number with its interval."""
    value, low, high = (f"{found[end]:.1f}" for end in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


if __name__ == "__main__":
    main()
