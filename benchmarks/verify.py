"""How fast answers are checked on one core.

    python benchmarks/verify.py [--items 2000] [--kind mixed] [--json]

Every item is another question, so the cache never helps; half of the answers are right. Two rates
for each kind of answer: of the checker alone, by CPU time of this process and of the sandbox that
it starts for programs, and through a pool of one worker by the clock, queue and messages included,
which needs a second core to be free. ``taskset -c 0`` before it keeps programs and their sandbox on
one core; on two, waking the other one costs up to half as much again. ``mixed`` is made like the
answers to MATH: more than half integers, a fifth fractions and decimals, the rest formulas that
need sympy. ``formulas`` are only those.
"""

from __future__ import annotations

import argparse
import glob
import json
import pathlib
import random
import sys
import time
from collections.abc import Callable

from pruner_jax.types import Problem
from pruner_jax.verify import checkers
from pruner_jax.verify.options import VerifyOptions
from pruner_jax.verify.outcome import Job
from pruner_jax.verify.pool import Verifier

Pair = tuple[str, str]  # gold answer, answer


def integers(rng: random.Random, right: bool) -> Pair:
    n = rng.randrange(-(10**6), 10**6)
    return str(n), rng.choice([f"{n}", f"{n:,}", f"${n}$"]) if right else str(n + 1)


def fractions(rng: random.Random, right: bool) -> Pair:
    a, b = rng.randrange(1, 10**4), rng.randrange(2, 10**4)
    return rf"\frac{{{a}}}{{{b}}}", rf"\dfrac{{{2 * a}}}{{{2 * b}}}" if right else f"{a + 1}/{b}"


def decimals(rng: random.Random, right: bool) -> Pair:
    n = rng.randrange(10**6)
    return f"{n / 1000:.3f}", f"{n / 1000:.4f}" if right else f"{n / 1000 + 1:.3f}"


def points(rng: random.Random, right: bool) -> Pair:
    a, b = rng.randrange(-(10**4), 10**4), rng.randrange(10**4)
    return f"({a},{b})", rf"\left({a}, {b}\right)" if right else f"({b}, {a})"


def same_spelling(rng: random.Random, right: bool) -> Pair:
    a, b, c = (rng.randrange(2, 10**4) for _ in range(3))
    return rf"{a}x^2+\sqrt{{{b}}}", rf"{a} x^2 + \sqrt{{{b}}}" if right else rf"{a}x^2+{c}"


def roots(rng: random.Random, right: bool) -> Pair:
    a, b = rng.randrange(2, 10**4), rng.randrange(2, 10**4)
    return rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{b}}}\cdot {a}" if right else rf"{a + 1}\sqrt{{{b}}}"


def polynomials(rng: random.Random, right: bool) -> Pair:
    a, b, c = (rng.randrange(2, 10**4) for _ in range(3))
    return f"{a}x^2+{b}x-{c}", f"{b}x-{c}+{a}x^2" if right else f"{b}x-{c}+{a + 1}x^2"


def intervals(rng: random.Random, right: bool) -> Pair:
    a, b = rng.randrange(10**4), rng.randrange(2, 99)
    end = rf"\frac{{1}}{{{b}}}"
    return rf"(-{a},{end}]", rf"\left(-{a}, \frac{{2}}{{{2 * b}}}\right]" if right else f"(-{a},2]"


def words(rng: random.Random, right: bool) -> Pair:
    word = "".join(rng.choices("abcdefghijklmnoprstu", k=8))
    return rf"\text{{{word}}}", word if right else rf"\text{{{word[::-1]}}}"


def names(rng: random.Random, right: bool) -> Pair:
    name = "".join(rng.choices("abcdefghijklmnoprstu", k=12))
    return name, name if right else name[::-1]


def programs(rng: random.Random, right: bool) -> Pair:
    a, b, c = (rng.randrange(2, 10**4) for _ in range(3))
    lines = [f"eggs = {a}", f"eaten = {b}", "left = eggs - eaten", f"price = {c}"]
    lines += ["total = 0", "for day in range(7):", "    total += left * price", "return total"]
    program = "def solution():\n" + "".join(f"    {line}\n" for line in lines)
    return str(7 * (a - b) * c + (not right)), program


FORMULAS = (roots, polynomials, intervals, words)
MIXED = (*[integers] * 11, *[fractions] * 2, decimals, points, same_spelling, *FORMULAS)
KINDS: dict[str, tuple[str, tuple[Callable[[random.Random, bool], Pair], ...]]] = {
    "integers": ("math", (integers,)),
    "mixed": ("math", MIXED),
    "formulas": ("math", FORMULAS),
    "numbers": ("number", (integers, decimals)),
    "exact": ("exact", (names,)),
    "programs": ("program", (programs,)),
}


def make(kind: str, items: int, seed: int) -> list[tuple[Problem, str]]:
    """Distinct questions of a kind, as problems with an answer each."""
    rng = random.Random(seed)
    checker, makers = KINDS[kind]
    pairs = [makers[n % len(makers)](rng, n // len(makers) % 2 == 0) for n in range(items)]
    rng.shuffle(pairs)
    return [(Problem(f"p{n}", "", gold, checker), said) for n, (gold, said) in enumerate(pairs)]


def cpu_time() -> float:
    """Seconds of CPU that this process and its children have had, children on Linux only."""
    nanoseconds = 0
    for listed in glob.glob("/proc/self/task/*/children"):
        for pid in pathlib.Path(listed).read_text().split():
            for thread in glob.glob(f"/proc/{pid}/task/*/schedstat"):
                nanoseconds += int(pathlib.Path(thread).read_text().split()[0])
    return time.process_time() + nanoseconds / 1e9


def measure(kind: str, items: int) -> dict[str, float | str]:
    """Both rates of one kind, items a second."""
    name = KINDS[kind][0]
    check = checkers.load(name, {})
    questions = make(kind, items, seed=1)
    start = cpu_time()
    for problem, answer in questions:
        check(Job(problem, "", answer))
    alone = items / (cpu_time() - start)
    questions = make(kind, items, seed=2)
    with Verifier(VerifyOptions(workers=1)) as verifier:
        verifier.prepare(problem for problem, _ in questions[:1])
        start = time.monotonic()
        tickets = [verifier.submit(problem, "", answer) for problem, answer in questions]
        outcomes = verifier.collect(tickets)
        pooled = items / (time.monotonic() - start)
    right = sum(outcome.score for outcome in outcomes) / items
    return {"kind": kind, "alone": round(alone), "pool": round(pooled), "correct": round(right, 2)}


def main() -> None:
    """Print the table, or with --json the same as one object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--kind", choices=list(KINDS), action="append")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    if not options.json:
        print(f"{'kind':10} {'items/s alone':>14} {'items/s pool':>13} {'correct':>8}")
    for kind in options.kind or KINDS:
        rows.append(measure(kind, options.items))
        if not options.json:
            row = rows[-1]
            print(f"{kind:10} {row['alone']:14} {row['pool']:13} {row['correct']:8}", flush=True)
    if options.json:
        json.dump(
            {"items": options.items, "python": sys.version.split()[0], "rows": rows}, sys.stdout
        )
        print()


if __name__ == "__main__":
    main()
