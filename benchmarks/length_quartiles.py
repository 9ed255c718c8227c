"""O1-Pruner's opening study: are a problem's shorter responses as often right as its longer ones?

    python benchmarks/length_quartiles.py FOLDER [--groups 4]

FOLDER is a reference table (``OUT/tables/PHASE`` of a run, or what reference_table names). The
responses of each problem are sorted by length and cut into groups of equal size; the accuracy of
each group is a mean over problems, with a 95 % bootstrap interval over them, and so is its
difference from the longest group. (arXiv 2501.12570, table 1: 64 problems of MATH with 512
responses each, the shortest 81.1 %, the longest 75.3 %.)
"""

from __future__ import annotations

import argparse
import json
import pathlib

import numpy as np

from pruner_jax.store.records import read_rollouts


def groups_of(folder: pathlib.Path, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean correctness and length of each group of each problem, float64 [P, groups]."""
    rows: dict[tuple[str, int], list[tuple[int, bool]]] = {}
    for path in sorted(folder.glob("part-*.parquet")):
        columns = read_rollouts(path, ["problem_id", "visit", "length", "verdict"])
        for name, visit, length, verdict in zip(*columns.values()):
            rows.setdefault((name, visit), []).append((length, verdict == "correct"))
    if not rows:
        raise SystemExit(f"{folder} has no rows of a table")
    few = min(map(len, rows.values()))
    if few < groups:
        raise SystemExit(f"a problem has {few} responses; --groups must be at most that")
    cut = [np.array_split(np.array(sorted(found)), groups) for found in rows.values()]
    means = np.array([[part.mean(axis=0) for part in parts] for parts in cut])
    return means[..., 1], means[..., 0]


def interval(x_PN: np.ndarray, draws: int = 2000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over problems and its 95 % bootstrap interval, [N] each."""
    rng = np.random.default_rng(0)
    index = rng.integers(len(x_PN), size=(draws, len(x_PN)))
    means = np.array([x_PN[i].mean(axis=0) for i in index])
    return x_PN.mean(axis=0), *np.quantile(means, [0.025, 0.975], axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    correct_PN, length_PN = groups_of(given.folder, given.groups)
    mean, low, high = interval(correct_PN)
    change, change_low, change_high = interval(correct_PN - correct_PN[:, -1:])
    mixed = (correct_PN.min(1) < 1) & (correct_PN.max(1) > 0)
    if given.json:
        names = ("accuracy", "low", "high", "change", "change_low", "change_high", "tokens")
        values = (mean, low, high, change, change_low, change_high, length_PN.mean(axis=0))
        print(json.dumps({name: x.tolist() for name, x in zip(names, values)}))
        return
    print(f"{len(correct_PN)} problems, {mixed.sum()} of them solved sometimes")
    print("group       tokens  accuracy (95 %)          against the longest")
    for n in range(given.groups):
        place = "shortest" if n == 0 else "longest" if n == given.groups - 1 else str(n + 1)
        print(
            f"{place:<10}{length_PN[:, n].mean():>8.1f}  {100 * mean[n]:.1f} % "
            f"({100 * low[n]:.1f} to {100 * high[n]:.1f})   {100 * change[n]:+.1f} points "
            f"({100 * change_low[n]:+.1f} to {100 * change_high[n]:+.1f})"
        )


if __name__ == "__main__":
    main()
