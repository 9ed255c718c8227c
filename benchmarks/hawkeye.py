r"""Two studies of Hawkeye: how much of a chain an expander needs, what training with it does.

    python benchmarks/hawkeye.py redundancy configs/tiny_reasoner --like=configs/hawkeye_tiny.yaml \
        --step=' [A-H]\d=\d| check=\d| again' --again='check|again'
    python benchmarks/hawkeye.py runs configs/hawkeye_tiny.yaml --seeds 0 1 2 --out runs/hawkeye

``redundancy`` takes any large model and the words of ``evaluate`` (with an expander; ``--like``
brings that of a run), removes whole steps from its chains (repeats first, then re-checks, then by
chance) and shows what the expander makes of the rest. ``runs`` plays a configuration with several
seeds, with the expander and without, measures each model with it, and shows a table of all seeds
together (intervals over problems and seeds) and of each (over problems); what is there is not
played again. Both print Markdown.
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
from pruner_jax.run.second import expand, load_expander, load_second, thoughts_of
from pruner_jax.types import Purpose
from pruner_jax.verify.pool import Verifier

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
QUANTITIES = ("accuracy", "chain_tokens", "leak", "masked", "bare", "alone")


def main() -> None:
    """One of the two studies."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("redundancy", help="expander's accuracy on parts of the chains")
    one.add_argument("model")
    one.add_argument("--step", default=STEP, help="pattern of a step")
    one.add_argument("--again", default=AGAIN, help="pattern in a step that is a re-check")
    two = verbs.add_parser("runs", help="several seeds, and a run without the expander")
    two.add_argument("config")
    two.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
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
        graded = measure(
            large.engine,
            large.params,
            problems,
            settings.test,
            limit=settings.test.limit,
            purpose=Purpose(settings.split),
            progress=progress,
            title=settings.model,
        )
        rollouts, thoughts = graded.rollouts, thoughts_of(large.engine, graded.rollouts)
        lines = [
            "| removed | accuracy of the expander | answers masked |",
            "|---|---|---|",
        ]
        for share in SHARES:
            rng = np.random.default_rng(settings.seed)
            rest = [thinned(said, share, rng, args.step, args.again) for said in thoughts]
            removed = 1 - sum(map(len, rest)) / max(1, sum(map(len, thoughts)))
            cells = []
            for masked in (False, True):
                found = expand(expander, settings.expander, rollouts, rest, masked)
                correct_P = joint.per_problem(rollouts, found.correct_B)
                cells.append(percent(joint.mean(correct_P, settings.test, settings.seed)))
            lines.append(f"| {removed:.0%} | {cells[0]} | {cells[1]} |")
            progress.log(lines[-1])
    return "\n".join(lines)


# -- training with an expander and without ---------------------------------------------------------


def runs(args: argparse.Namespace, words: Sequence[str]) -> str:
    """A table of the start model and of the runs with and without the expander, by seed and all."""
    with_it, without = (
        [play(args, words, seed, control) for seed in args.seeds] for control in (False, True)
    )
    first = evaluation(with_it[0])
    lines = [
        "| | joint accuracy | change from the start model alone | chain tokens | of the start's "
        "| large model alone | chains with the answer | gain over no chain, answers masked |",
        "|---|---|---|---|---|---|---|---|",
        row("start model", first["against"]["joint"]),
        together("all seeds", with_it),
        *(alone(f"seed {seed}", folder) for seed, folder in zip(args.seeds, with_it)),
        together("without the expander", without),
        *(alone(f"seed {seed}", folder) for seed, folder in zip(args.seeds, without)),
        "",
        f"Expander alone: {percent(first['model']['joint']['expander_alone_accuracy'])}. Start "
        f"model alone: {number(first['against']['joint']['large_alone_tokens'])} tokens.",
        "",
        *serving([evaluation(folder) for folder in with_it]),
        "",
        *prices([evaluation(folder) for folder in with_it]),
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


def evaluation(folder: pathlib.Path) -> dict:
    """What ``evaluate`` found."""
    return json.loads((folder / "evaluation.json").read_text())


def alone(name: str, folder: pathlib.Path) -> str:
    """One run by itself."""
    found = evaluation(folder)
    return row(name, found["model"]["joint"], found["joint"])


SIDES = ("against", "model")  # the model before and after
SHARES = ("accuracy", "large_alone_accuracy", "leak_rate")


def columns(folder: pathlib.Path, side: str) -> np.ndarray:
    """The means of every problem, float64 [P, Q]."""
    by_problem = json.loads((folder / f"{side}-joint.json").read_text())
    return np.transpose([by_problem[name] for name in QUANTITIES])


def together(name: str, folders: Sequence[pathlib.Path]) -> str:
    """The runs of all seeds, with intervals over problems and seeds (see ``measure.frontier``)."""
    values_SMPQ = np.stack([[columns(folder, side) for side in SIDES] for folder in folders])
    everywhere = subsets(np.full(values_SMPQ.shape[2], np.nan))
    means = resampled({name: values_SMPQ}, QUANTITIES, everywhere)[name]

    def say(key: str, draws: np.ndarray) -> dict[str, float]:
        within = (0.0, 1.0) if key in SHARES else (-np.inf, np.inf)
        return dataclasses.asdict(estimate(draws, within=within))

    found = {
        "accuracy": means("accuracy"),
        "chain_tokens": means("chain_tokens"),
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
