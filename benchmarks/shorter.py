"""What a step costs as the answers get shorter: pruning pays for itself.

    python benchmarks/shorter.py means [--trl ENV/bin/python] [--stages 1]
    python benchmarks/shorter.py means --limit 512 --means 512 256 128
    python benchmarks/shorter.py run runs/quickstart --picture docs/step_time.svg

``means``: whole steps of ``prune`` (rl_step.py's way of running and timing them) with the number of
rollouts and the token limit fixed, on models whose answers have a chosen mean length. The models
are rl_step.py's random Qwen2 with a chain of stages written into embedding and output: a token
belongs to a stage, the next one to the same stage or, with a fixed chance, to the one after it, and
the last stage ends the answer. So lengths spread by mean / sqrt(stages); with one stage they have
no memory and some answers reach the limit whatever the mean. The table has each mean's step beside
that of the double, and its tokens, prompts included, beside the double's: what a step would take if
it cost nothing else. ``--trl``: the same for TRL.

``run``: the steps of a finished run, from its metrics.jsonl. Draws the curve, prints the table.
Evaluations, saving and picking are no part of a step; nor do steps count that compile a program of
the sampler.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import rl_step  # benchmarks/rl_step.py

LARGE, NEVER = 100.0, -30.0  # an entry of the hidden state; a logit
NO_STEP = ("time/evaluate", "time/save", "time/pick")


def main() -> None:
    """Either part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    chosen = verbs.add_parser("means", help="chosen mean lengths under one limit")
    chosen.add_argument("--means", type=int, nargs="+", default=[128, 96, 64, 48, 32])
    chosen.add_argument("--limit", type=int, default=rl_step.LIMITS["capped"])
    chosen.add_argument("--stages", type=int, default=8)
    chosen.add_argument("--prompts", type=int, default=64, help="each is sampled eight times")
    chosen.add_argument("--trl", help="Python of TRL's environment")
    chosen.add_argument("--steps", type=int, default=8)
    chosen.add_argument("--skip", type=int, default=3, help="first steps, which compile")
    chosen.add_argument("--turns", type=int, default=2)
    chosen.add_argument("--out", type=pathlib.Path, help="file of the JSON")
    chosen.set_defaults(play=means)
    finished = verbs.add_parser("run", help="the steps of a finished run")
    finished.add_argument("folder", type=pathlib.Path)
    finished.add_argument("--stretches", type=int, default=10, help="of the mean length")
    finished.add_argument("--picture", type=pathlib.Path, help="file of the SVG")
    finished.set_defaults(play=curve)
    given = parser.parse_args()
    given.play(given)


# -- chosen mean lengths ---------------------------------------------------------------------------


def means(given: argparse.Namespace) -> None:
    """Let the means take turns, print the table."""
    pythons = {"ours": sys.executable, "trl": given.trl}
    pythons = {name: python for name, python in pythons.items() if python}
    steps: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        works = {mean: prepare(mean, given, folder / str(mean)) for mean in given.means}
        for turn in range(given.turns):
            for mean, work in works.items():
                for name, python in pythons.items():
                    said = rl_step.play(name, python, work, folder / f"{name}-{mean}-{turn}")
                    steps.setdefault((name, mean), []).extend(said[given.skip :])
                    print(name, mean, [round(s["seconds"], 2) for s in said], file=sys.stderr)
    rows = given.prompts * rl_step.SAMPLES
    found: dict[str, dict[int, Any]] = {name: {} for name in pythons}
    for (name, mean), counted in steps.items():
        found[name][mean] = rl_step.medians(counted)
        prompts = works[mean]["tokens"]
        found[name][mean]["mean_length"] = found[name][mean]["tokens"] / rows
        found[name][mean]["mean_prompt"] = sum(map(len, prompts)) / len(prompts)
    print(table(found))
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(found, indent=2) + "\n")


def prepare(mean: int, given: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """The workload of one mean length; writes its model."""
    folder.mkdir()
    model = rl_step.write_model(folder / "model", rl_step.ROOT / "configs" / "tiny_reasoner")
    write_stages(model, given.stages, chance(mean, given.stages, given.limit))
    sizes = {"prompts": given.prompts, "limit": given.limit}
    return rl_step.prepare("capped", folder, given.steps, model=model, **sizes)


def chance(mean: float, stages: int, limit: int) -> float:
    """With which chance a token is its stage's last, for answers of that mean length, of ``limit``
    tokens at most. (A stage lasts so long as a coin falls; the mean is the sum over t of the chance
    that fewer than ``stages`` of t tokens were last ones.)"""
    from scipy.stats import binom

    if mean >= limit:
        return 0.0
    low, high = 0.0, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        if binom.cdf(stages - 1, np.arange(limit), middle).sum() > mean:
            low = middle
        else:
            high = middle
    if stages > mean:
        sys.exit(f"{stages} stages take at least {stages} tokens; the mean is to be {mean}")
    return high


def write_stages(folder: pathlib.Path, stages: int, chance: float) -> None:
    """Write the chain of stages into a model: token j belongs to stage j * stages // V.

    A token's embedding has a large number at the entry of its stage, beside which what the layers
    add is nothing; so behind the last norm that entry is sqrt(D), and a logit is that times one
    number of the output matrix.
    """
    from pruner_jax.policy import handle

    policy = handle.load(folder)
    embed, unembed = (np.array(policy.params[name]) for name in ("embed", "unembed"))
    (vocabulary, width), ends = embed.shape, policy.generation["eos_token_id"]
    stage_V = np.arange(vocabulary) * stages // vocabulary
    if stage_V[len(policy.tokenizer) - 1]:
        sys.exit(f"{stages} stages: the prompt's tokens are to be of the first, and are too many")
    embed[:, :stages] = LARGE * np.eye(stages)[stage_V]
    drawn_V = ~np.isin(np.arange(vocabulary), ends)
    share_V = -np.log(np.bincount(stage_V[drawn_V]))[stage_V]  # a stage's tokens share its chance
    odds = math.log(chance / (1 - chance)) if chance else -math.inf
    logit_VS = np.full((vocabulary, stages), -np.inf)
    for token in range(vocabulary):
        stage = stage_V[token]
        if token in ends:
            logit_VS[token, -1] = odds - math.log(len(ends))
            continue
        logit_VS[token, stage] = share_V[token]
        if stage:
            logit_VS[token, stage - 1] = odds + share_V[token]
    unembed[:] = 0.0
    unembed[:, :stages] = np.maximum(logit_VS, NEVER) / math.sqrt(width)
    params = policy.params | {"embed": embed, "unembed": unembed}
    handle.save(dataclasses.replace(policy, params=params), folder)


def whole(got: dict[str, Any]) -> float:
    """Tokens of a prompt and its answer."""
    return got["mean_prompt"] + got["mean_length"]


def table(found: dict[str, dict[int, Any]]) -> str:
    """A line each mean length; the ratio is to the step with twice that mean."""
    lines = [
        "| package | mean asked | mean length | s a step | of the double's | of its tokens "
        "| s generating | s of the rest |",
        "|---" * 8 + "|",
    ]
    for name, by_mean in found.items():
        for mean, got in by_mean.items():
            cells = [name, str(mean), f"{got['mean_length']:.1f}", f"{got['seconds']:.2f}"]
            double = by_mean.get(2 * mean)
            cells.append("" if double is None else f"{got['seconds'] / double['seconds']:.2f}")
            cells.append("" if double is None else f"{whole(got) / whole(double):.2f}")
            cells.append(f"{got['generate_seconds']:.2f}")
            cells.append(f"{got['seconds'] - got['generate_seconds']:.2f}")
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


# -- a finished run --------------------------------------------------------------------------------


def curve(given: argparse.Namespace) -> None:
    """Print the table of a run, draw its picture."""
    steps = read(given.folder)
    print(by_length(steps, given.stretches))
    if given.picture:
        given.picture.write_text(draw(steps, given.stretches))


def read(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Steps of a run: their number, seconds and mean length, and which of them count."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record["kind"] == "step"]
    if len(records) < 10:
        sys.exit(f"{folder} has {len(records)} steps; at least 10 make a curve")
    if not all("perf/wall_seconds" in record for record in records):
        sys.exit(f"{folder} was made before records had perf/wall_seconds; make it anew")

    def seconds(record: dict[str, Any]) -> float:
        return record["perf/wall_seconds"] - sum(record.get(key, 0.0) for key in NO_STEP)

    return {
        "step": np.array([record["step"] for record in records]),
        "seconds": np.array([seconds(record) for record in records]),
        "length": np.array([record["completions/mean_length"] for record in records]),
        "counts": np.array([not record.get("perf/compiled") for record in records]),
    }


def stretches(steps: dict[str, np.ndarray], count: int) -> list[tuple[int, float, float]]:
    """Steps, mean length and median seconds of equal stretches of the mean length, longest first;
    without those that have fewer than three steps."""
    length, seconds = (steps[name][steps["counts"]] for name in ("length", "seconds"))
    share = (length.max() - length) / max(np.ptp(length), 1e-9)
    part = np.minimum((count * share).astype(int), count - 1)
    return [
        (int(inside.sum()), float(length[inside].mean()), float(np.median(seconds[inside])))
        for inside in (part == number for number in range(count))
        if inside.sum() >= 3
    ]


def by_length(steps: dict[str, np.ndarray], count: int) -> str:
    """The table, and what half the length costs (or the shortest, if it is more than half)."""
    points = stretches(steps, count)
    lines = ["| mean length | steps | s a step | of the longest's |", "|---|---|---|---|"]
    for size, length, seconds in points:
        share = seconds / points[0][2]
        lines.append(f"| {length:.1f} | {size} | {seconds:.3f} | {share:.2f} |")
    _, longest, most = points[0]
    _, shortest, least = points[-1]
    if shortest > longest / 2:
        said = f"{shortest / longest:.2f} of the tokens take {least / most:.2f} of the time."
        return "\n".join([*lines, "", said])
    lengths, seconds = zip(*((length, seconds) for _, length, seconds in reversed(points)))
    half = float(np.interp(longest / 2, lengths, seconds)) / most
    said = f"At half of {longest:.1f} tokens a step takes {half:.2f} of the time (interpolated)."
    return "\n".join([*lines, "", said])


def draw(steps: dict[str, np.ndarray], count: int) -> str:
    """Mean length and seconds over the steps, and seconds against mean length, in one SVG."""
    from pruner_jax.report import svg
    from pruner_jax.report.training import running_mean

    counted = steps["counts"]
    number, length, seconds = (steps[name][counted] for name in ("step", "length", "seconds"))
    # One step that waited for something else must not flatten the rest.
    top = 1.3 * float(np.quantile(seconds, 0.95))
    wide = (float(number[0]), float(number[-1]))
    charts = []
    for values, title, high in (
        (length, "mean tokens", 1.1 * float(length.max())),
        (seconds, "seconds a step", top),
    ):
        drawn = svg.chart(wide, (0.0, high), height=200.0, x_title="step", y_title=title)
        for smooth, class_ in ((values, "curve thin final"), (running_mean(values), "curve final")):
            seen = ((drawn.x(n), drawn.y(min(v, high))) for n, v in zip(number, smooth))
            drawn.add(svg.path(seen, class_))
        charts.append(drawn)
    drawn = svg.chart(
        (0.0, 1.1 * float(length.max())),
        (0.0, top),
        height=260.0,
        x_title="mean tokens",
        y_title="seconds a step",
    )
    for tokens, took in zip(length, seconds):
        drawn.add(svg.dot(drawn.x(tokens), drawn.y(min(took, top)), 2.0, "final"))
    through = [(drawn.x(x), drawn.y(min(y, top))) for _, x, y in stretches(steps, count)]
    drawn.add(svg.path(through, "curve base"))
    charts.append(drawn)
    return stacked(charts, "Mean tokens and seconds of the steps, and the one against the other")


def stacked(charts: Sequence[Any], label: str, margin: float = 20.0) -> str:
    """Charts below each other as one file, with the report's style in it."""
    from pruner_jax.report import svg

    style = (pathlib.Path(svg.__file__).parent / "page.css").read_text()
    own = "svg { background: var(--paper); font-family: system-ui, sans-serif; }"
    parts, y = [svg.element("style", style + own)], margin
    for drawn in charts:
        parts.append(svg.element("g", "".join(drawn.marks), transform=f"translate({margin} {y})"))
        y += drawn.height + margin
    wide = svg.WIDTH + 2 * margin
    size = {"viewBox": f"0 0 {wide:g} {y:g}", "width": wide, "role": "img", "aria_label": label}
    size["class_"] = "chart"
    return svg.element("svg", "".join(parts), xmlns="http://www.w3.org/2000/svg", **size) + "\n"


if __name__ == "__main__":
    main()
