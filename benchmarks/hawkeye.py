r"""Two studies of Hawkeye: how much of a chain an expander needs, what training with it does.

    python benchmarks/hawkeye.py redundancy configs/tiny_reasoner --like=configs/hawkeye_tiny.yaml \
        --step=' [A-H]\d=\d| check=\d| again' --again='check|again'
    python benchmarks/hawkeye.py runs configs/hawkeye_tiny.yaml --seeds 0 1 2 --out runs/hawkeye

``redundancy`` takes any large model and the words of ``evaluate`` (with an expander; ``--like``
brings that of a run), removes whole steps from its chains (repeats first, then re-checks, then by
chance) and shows what the expander makes of the rest. ``runs`` plays a configuration with several
seeds and once without the expander, measures each model with it, and shows a table; what is there
is not played again. Both print Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from pruner_jax.config import EvaluateConfig, PruneConfig, load
from pruner_jax.expansion import AGAIN, STEP, thinned
from pruner_jax.mesh import LEARN_RULES, make_mesh
from pruner_jax.policy import handle
from pruner_jax.problems.source import load_problems
from pruner_jax.report.progress import Progress
from pruner_jax.run import joint
from pruner_jax.run.compilation import keep_compiled_programs
from pruner_jax.run.engine import Engine
from pruner_jax.run.evaluate import evaluate_verb
from pruner_jax.run.measuring import measure
from pruner_jax.run.prune import prune
from pruner_jax.run.second import expand, load_expander, thoughts_of
from pruner_jax.types import Purpose
from pruner_jax.verify.pool import Verifier

SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


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
        policy = handle.load(settings.model, mesh=mesh, rules=LEARN_RULES)
        engine = Engine.of(policy, text_options=settings.text, **shared, problems=settings.problems)
        graded = measure(
            engine,
            engine.decode_params(policy.params),
            problems,
            settings.test,
            limit=settings.test.limit,
            purpose=Purpose(settings.split),
            progress=progress,
            title=settings.model,
        )
        rollouts, thoughts = graded.rollouts, thoughts_of(engine, graded.rollouts)
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
    """A table of the start model, a run for each seed, and the control."""
    out = pathlib.Path(args.out)
    played = {f"seed {seed}": [f"--seed={seed}"] for seed in args.seeds}
    control = [f"--seed={args.seeds[0]}", "--method.options.expander=false"]
    found = {}
    for name, changes in {**played, "without the expander": control}.items():
        folder = out / name.replace(" ", "_")
        settings = load(PruneConfig, args.config, [*words, *changes, f"--out={folder}"])
        prune(settings)
        found[name] = measured(settings, serve=not found)
    first = next(iter(found.values()))
    lines = [
        "| | joint accuracy | change from the start model alone | chain tokens | of the start's "
        "| large model alone | chains with the answer | gain over no chain, answers masked |",
        "|---|---|---|---|---|---|---|---|",
        row("start model", first["against"]["joint"]),
        *(row(name, each["model"]["joint"], each["joint"]) for name, each in found.items()),
        "",
        f"Expander alone: {percent(first['model']['joint']['expander_alone_accuracy'])}. Start "
        f"model alone: {number(first['against']['joint']['large_alone_tokens'])} tokens.",
        "",
        "| concurrency | start model alone | pipeline before | pipeline after | speed-up |",
        "|---|---|---|---|---|",
    ]
    for before, after in zip(
        first["against"]["joint"]["serving"], first["model"]["joint"]["serving"]
    ):
        speedup = before["large_alone"] / after["joint"]
        lines.append(
            f"| {after['concurrency']} | {before['large_alone']:.3g} s | {before['joint']:.3g} s "
            f"| {after['joint']:.3g} s | x{speedup:.2f} |"
        )
    costs = [first[name]["joint"]["cost"] for name in ("against", "model")]
    lines += [
        "",
        f"Cost of 1,000 requests: start model alone {costs[0]['large_alone']:.4g}, pipeline before "
        f"{costs[0]['joint']:.4g}, after {costs[1]['joint']:.4g} (a token of the expander costs "
        f"{costs[1]['price'] / costs[1]['large_price']:.2g} of one of the large model, one that is "
        f"read {costs[1]['read_share']:g} of one that is written).",
    ]
    return "\n".join(lines)


def measured(settings: PruneConfig, serve: bool) -> dict:
    """The run's model against the one it began with, both with the expander; timed if ``serve``."""
    folder = pathlib.Path(settings.out)
    path = folder / "joint" / "evaluation.json"
    if not path.is_file():
        words = [f"--model={folder / 'export'}", f"--against={settings.model}", f"--like={folder}"]
        words += [f"--out={path.parent}", *([] if serve else ["--serving.concurrency=[]"])]
        evaluate_verb(load(EvaluateConfig, None, words))
    return json.loads(path.read_text())


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
