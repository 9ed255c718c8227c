"""How often do the intervals of a comparison cover what they are about?

    python benchmarks/coverage.py [--repeats 1000]

Draws problems and seeds of known spread again and again, builds the 95 % intervals of
``measure.frontier`` from each and counts: of one mean, and of the difference of two points on the
same problems. A few minutes on one core.
"""

from __future__ import annotations

import argparse

import numpy as np

from pruner_jax.measure.bootstrap import estimate
from pruner_jax.measure.frontier import measure, resampled, subsets

PROBLEMS = 200
OF_PROBLEMS, OF_SEEDS = 1.0, (0.0, 0.03, 0.1, 0.3, 1.0)  # standard deviations
SEEDS = (2, 3, 5)


def covered(rng: np.random.Generator, seeds: int, spread: float) -> tuple[bool, bool]:
    """Whether the interval of one mean covers it, and that of a difference which is 0."""
    problem_P = OF_PROBLEMS * rng.standard_normal(PROBLEMS)
    everywhere = subsets(np.full(PROBLEMS, np.nan))
    values = {}
    for name in ("a", "b"):
        noise_SP = 0.5 * rng.standard_normal((seeds, PROBLEMS))
        value_SP = problem_P + spread * rng.standard_normal((seeds, 1)) + noise_SP
        values[name] = np.repeat(value_SP[:, None, :, None], 2, axis=1)
    means = resampled(
        values, ("tokens",), everywhere, resamples=1000, seed=int(rng.integers(2**31))
    )
    one, other = (measure(means[name], "tokens") for name in ("a", "b"))
    found = (estimate(one), estimate(one - other))
    return tuple(bool(e.low <= 0 <= e.high) for e in found)


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000)
    repeats = parser.parse_args().repeats
    rng = np.random.default_rng(0)
    print(f"{PROBLEMS} problems, standard deviation {OF_PROBLEMS}; {repeats} repeats")
    print("| seeds | their standard deviation | one mean | difference |\n|---|---|---|---|")
    for seeds in SEEDS:
        for spread in OF_SEEDS:
            one, both = np.mean([covered(rng, seeds, spread) for _ in range(repeats)], axis=0)
            print(f"| {seeds} | {spread} | {one:.1%} | {both:.1%} |", flush=True)


if __name__ == "__main__":
    main()
