"""Rational Metareasoning's question: for which problems is the empty chain of thought chosen?

    python benchmarks/empty_chain.py RUN [RUN ...]

RUN is the folder of a finished run that collects by iteration; those whose names differ in nothing
but ``-seedN`` are seeds of one point. Of each iteration the files of ``RUN/store`` say which chains
were kept to be trained on, and its table which problems were asked. Printed is the share of the
easiest and of the hardest problems (`measure.frontier.subsets`) of which an empty chain was kept,
with 95 % intervals over seeds, each of which has problems of its own. The first iteration stands by
itself: there the added empty chain cannot be chosen yet, so its empty chains are the model's own.
Later ones count whoever wrote them; an own one costs its closing tag, so where a token has a price
the added one, which costs nothing, is preferred. (The records of newer runs have what selection
made of the added one alone: ``prune/kept_mode/-1/easy`` and ``/hard``.)
"""

from __future__ import annotations

import argparse
import pathlib
import re

import numpy as np

from pruner_jax import masked, text
from pruner_jax.config import PruneConfig, load
from pruner_jax.measure.bootstrap import estimate
from pruner_jax.measure.frontier import MODELS, resampled, subsets
from pruner_jax.run.shards import read_shards
from pruner_jax.store.folder import RunFolder
from pruner_jax.store.records import read_rollouts

ENDS = ("easy", "hard")


def shares_of(root: pathlib.Path) -> np.ndarray:
    """Share of the easy and of the hard problems of which an empty chain was kept, in each
    iteration of a run, float64 [iterations, 2]; NaN where no difficulty is known."""
    folder = RunFolder(root)
    options = load(PruneConfig, str(folder.config)).text
    tokenizer = text.load_tokenizer(folder.export)
    found = []
    for table in sorted(folder.tables.glob("*-?????")):
        difficulty, opened = {}, {}
        for path in table.glob("part-*.parquet"):
            columns = read_rollouts(path, ["prompt_tokens", "difficulty", "prompt"])
            for tokens, hard, prompt in zip(*columns.values()):
                difficulty[tuple(tokens)] = np.nan if hard is None else hard
                opened[tuple(tokens)] = text.opens_thought(prompt, options)
        kept = read_shards(sorted(folder.store.glob(f"{table.name}*.parquet")))
        empty = set()
        for tokens, response in zip(kept.prompt, kept.response):
            prompt, said = tuple(tokens.tolist()), text.decode(tokenizer, response)
            if not text.split_thought(said, options, opened[prompt])[0].strip():
                empty.add(prompt)
        ends_PU = subsets(np.array(list(difficulty.values())))[:, 1:]
        chosen_P1 = np.array([[float(prompt in empty)] for prompt in difficulty])
        found.append(
            masked.mean(np.broadcast_to(chosen_P1, ends_PU.shape), ends_PU, 0, empty=np.nan)
        )
    if not found:
        raise SystemExit(f"{root} has no tables of iterations")
    return np.array(found)


def line_of(name: str, shares: list[np.ndarray]) -> str:
    """One point: the first iteration, then the mean over the later ones."""
    first_S2 = np.array([each[0] for each in shares])
    later_S2 = np.array([each[1:].mean(axis=0) for each in shares])
    (means,) = resampled(
        {name: later_S2[:, None, None]}, ENDS, subsets(np.full(1, np.nan))
    ).values()
    easy, hard = (means(end, model=MODELS[0]) for end in ENDS)

    def said(draws: np.ndarray, within: tuple[float, float], sign: str) -> str:
        made = estimate(draws, within=within)
        value, low, high = (
            format(100 * x, f"{sign}.1f") for x in (made.value, made.low, made.high)
        )
        return value if len(shares) == 1 else f"{value} ({low} to {high})"

    first = " / ".join(f"{100 * share:.1f}" for share in first_S2.mean(axis=0))
    share, change = ((0.0, 1.0), ""), ((-1.0, 1.0), "+")
    later = f"{said(easy, *share)} | {said(hard, *share)} | {said(easy - hard, *change)}"
    return f"| {name} | {len(shares)} | {first} | {later} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=pathlib.Path, nargs="+")
    points: dict[str, list[np.ndarray]] = {}
    for root in parser.parse_args().runs:
        name = f"{root.parent.name}/{re.sub(r'-seed[0-9]+$', '', root.name)}"
        points.setdefault(name, []).append(shares_of(root))
    print("Share of problems with an empty chain kept, %; 95 % intervals over seeds\n")
    print("| | seeds | first iteration, easy / hard | later, easy | later, hard | easy - hard |")
    print("|---|---|---|---|---|---|")
    for name, shares in points.items():
        print(line_of(name, shares))


if __name__ == "__main__":
    main()
