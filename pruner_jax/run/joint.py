"""Two models as one: a large one writes the chain, a small one (the expander) the answer.

``respond`` is the pipeline itself. ``measure_joint`` says what it is worth beside each model alone,
on responses of the large model that were measured already; ``serve`` how long requests take,
``costs`` what they cost. Leaves out how the expander is asked and loaded (`run.second`).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from pruner_jax import masked
from pruner_jax.expansion import leaks
from pruner_jax.measure.bootstrap import interval, resampled_means
from pruner_jax.measure.options import EvaluateOptions
from pruner_jax.report.progress import Progress
from pruner_jax.run.engine import Engine
from pruner_jax.run.engine import Progress as Tell
from pruner_jax.run.second import (
    Second,
    answer_limits,
    expand,
    expander_prompts,
    thoughts_of,
    too_long,
)
from pruner_jax.sample.second import ExpanderOptions, ServingOptions
from pruner_jax.types import Graded, Problem, Prompts, Purpose, Rollouts


def until_the_thought_ends(engine: Engine) -> Engine:
    """The engine that ends a response with its thought. Where the closing tag is spelled in several
    tokens it writes the answer too, which nobody reads."""
    if len(engine.close_ids) > 1:
        return engine
    return dataclasses.replace(engine, end_ids=(*engine.end_ids, *engine.close_ids[0]))


def respond(
    large: Second,
    expander: Second,
    options: ExpanderOptions,
    prompts: Prompts,
    *,
    samples: int,
    limit: int,
    on_progress: Tell | None = None,
) -> tuple[Rollouts, Rollouts]:
    """Chains of the large model and the expander's answers to them, a row each; all chains first.
    ``on_progress`` is told of both."""
    chains, _ = until_the_thought_ends(large.engine).sample(
        large.params, prompts, samples=samples, limit=limit, on_progress=on_progress
    )
    asked = expander_prompts(expander, options, chains, thoughts_of(large.engine, chains))
    answers, _ = expander.engine.sample(
        expander.params,
        asked,
        samples=1,
        limit=answer_limits(expander, options, asked),
        on_progress=on_progress,
    )
    return chains, answers


# -- what it is worth ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Joint:
    """The same problems answered in four ways: means over the samples of each, float64 [P]."""

    accuracy_P: np.ndarray  # chain, then the expander
    chain_tokens_P: np.ndarray  # of the large model, the closing tag included
    answer_tokens_P: np.ndarray  # of the expander
    too_long_P: np.ndarray  # share of chains that do not fit into the expander: not answered
    leak_P: np.ndarray  # share of chains that say the gold answer literally
    masked_P: np.ndarray  # accuracy with literal gold answers in the chain masked
    bare_P: np.ndarray  # accuracy of the expander without a chain
    alone_P: np.ndarray  # accuracy of the large model
    alone_tokens_P: np.ndarray  # its tokens, chain and answer
    large_read: float  # mean tokens of its prompts
    expander_read: float


def measure_joint(
    large: Engine,
    graded: Graded,
    expander: Second,
    options: ExpanderOptions,
    progress: Progress,
    check: Callable[[], None] = lambda: None,
) -> Joint:
    """What the expander makes of the thoughts in responses of the large model. ``check`` is called
    at every look at the device and may raise, here and in ``serve``."""
    rollouts, thoughts = graded.rollouts, thoughts_of(large, graded.rollouts)
    nothing = [""] * len(thoughts)

    def answers(title: str, shown: Sequence[str], mask_answers: bool = False) -> Graded:
        progress.start(len(graded), f"expander, {title}")

        def tell(done: int, rows: int, tokens: int) -> None:
            check()
            progress.update(min(len(graded), done * expander.engine.pod.count))  # as all alike

        found = expand(expander, options, rollouts, shown, mask_answers, on_progress=tell)
        progress.update(len(graded), accuracy=float(found.correct_B.mean()))
        progress.finish()
        return found

    per = functools.partial(per_problem, rollouts)
    joint = answers("with the chain", thoughts)
    problems = [rollouts.prompts.problems[group] for group in rollouts.group_B]
    return Joint(
        accuracy_P=per(joint.correct_B),
        chain_tokens_P=per(rollouts.thinking_B),
        answer_tokens_P=per(joint.rollouts.length_B),
        too_long_P=per(too_long(joint.rollouts)),
        leak_P=per([leaks(said, p.answer) for said, p in zip(thoughts, problems)]),
        masked_P=per(answers("answers masked", thoughts, True).correct_B),
        bare_P=per(answers("without a chain", nothing).correct_B),
        alone_P=per(graded.correct_B),
        alone_tokens_P=per(rollouts.length_B),
        large_read=float(np.mean([len(tokens) for tokens in rollouts.prompts.tokens])),
        expander_read=float(np.mean([len(tokens) for tokens in joint.rollouts.prompts.tokens])),
    )


def per_problem(rollouts: Rollouts, x_B: Any) -> np.ndarray:
    """Means over the samples of each problem, float64 [P]."""
    counted_P = np.bincount(rollouts.group_B)
    return np.bincount(rollouts.group_B, np.asarray(x_B, np.float64)) / counted_P


def by_problem(joint: Joint) -> dict[str, list[float]]:
    """The means of each problem, by what they are of: lists of P numbers."""
    arrays = {name.removesuffix("_P"): x for name, x in vars(joint).items() if name.endswith("_P")}
    return {name: x_P.tolist() for name, x_P in arrays.items()}


def describe(joint: Joint, options: EvaluateOptions, seed: int) -> dict[str, Any]:
    """The numbers of a pipeline by name, each with its interval over problems. ``change`` is
    against the large model alone, ``masked_gain`` against the expander alone."""
    columns = {
        "accuracy": joint.accuracy_P,
        "change": joint.accuracy_P - joint.alone_P,
        "chain_tokens": joint.chain_tokens_P,
        "answer_tokens": joint.answer_tokens_P,
        "too_long": joint.too_long_P,
        "large_alone_accuracy": joint.alone_P,
        "large_alone_tokens": joint.alone_tokens_P,
        "expander_alone_accuracy": joint.bare_P,
        "leak_rate": joint.leak_P,
        "masked_accuracy": joint.masked_P,
        "masked_gain": joint.masked_P - joint.bare_P,
    }
    return {name: mean(column_P, options, seed) for name, column_P in columns.items()}


def compare(base: Joint, final: Joint, options: EvaluateOptions, seed: int) -> dict[str, Any]:
    """What changed from one large model to another with the same expander, paired by problem.

    ``chain_ratio`` is a ratio of means; ``change_from_alone`` the accuracy of the second pipeline
    minus that of the first large model alone.
    """
    chains_P2 = np.stack([base.chain_tokens_P, final.chain_tokens_P], axis=1)
    return {
        "accuracy_change": mean(final.accuracy_P - base.accuracy_P, options, seed),
        "change_from_alone": mean(final.accuracy_P - base.alone_P, options, seed),
        "chain_ratio": _estimate(
            lambda m: masked.ratio(m[..., 1], m[..., 0], np.nan), chains_P2, options, seed
        ),
        "leak_change": mean(final.leak_P - base.leak_P, options, seed),
    }


def mean(x_P: np.ndarray, options: EvaluateOptions, seed: int) -> dict[str, float]:
    """Mean over problems, with its interval."""
    return _estimate(lambda means: means[..., 0], x_P[:, None], options, seed)


def _estimate(
    statistic: Callable[[np.ndarray], np.ndarray],
    x_PC: np.ndarray,
    options: EvaluateOptions,
    seed: int,
) -> dict[str, float]:
    """A statistic of the C column means, with its interval over problems (bootstrap)."""
    drawn = statistic(resampled_means(x_PC, options.resamples, seed))
    low, high = interval(drawn, options.confidence)
    return {"value": float(statistic(x_PC.mean(axis=0))), "low": float(low), "high": float(high)}


# -- what it takes ---------------------------------------------------------------------------------


def serve(
    large: Second,
    expander: Second,
    options: ExpanderOptions,
    serving: ServingOptions,
    problems: Sequence[Problem],
    *,
    limit: int,
    progress: Progress,
    check: Callable[[], None] = lambda: None,
) -> list[dict[str, float]]:
    """Seconds per request of the pipeline and of the large model alone, at each concurrency, on the
    devices of this process.

    So many requests are in flight at once, the next one begins when one is done; then a request
    takes concurrency x seconds / requests (Little's law). In the pipeline this holds of its two
    halves: the chains of all requests are written before the first answer, so that a request takes
    the seconds of its chain and of its answer, and what it waits between them is left out. A few
    requests are answered before, for the compiler, and then all of them in both ways by turns, so
    that a machine that slows down slows both; again until ``serving.seconds`` are over. Rendering
    counts, checking does not. The medians count; ``low`` and ``high`` are the least and the largest
    speed-up of a turn.
    """
    found = []
    for concurrency in serving.concurrency:
        count = max(serving.requests, _TURNOVER * concurrency)
        sides = [
            Second(side.engine.with_sampling(rows=concurrency), side.params)
            for side in (large, expander)
        ]
        title = f"serving, {concurrency} at once: chains and answers"
        tell = _counted(progress, (2 * concurrency + _REPEATS * count) * 3, title, check)
        seconds = _wall_seconds(
            *sides, options, problems, count, limit, 2 * concurrency, serving.seconds, tell
        )
        progress.finish()
        taken = {name: float(np.median(x)) * concurrency / count for name, x in seconds.items()}
        turns = np.array(seconds["large_alone"]) / np.array(seconds["joint"])
        speedup = taken["large_alone"] / taken["joint"]
        low, high = float(turns.min()), float(turns.max())
        found.append(
            {
                **{"concurrency": concurrency, "requests": count, "repeats": len(turns)},
                **{**taken, "speedup": speedup, "low": low, "high": high},
            }
        )
        progress.log(
            f"at concurrency {concurrency}: {taken['joint']:.3g} s a request, large model alone "
            f"{taken['large_alone']:.3g} s ({speedup:.2f} times as fast, {low:.2f} to {high:.2f}, "
            f"{len(turns)} turns)"
        )
    return found


def _counted(progress: Progress, total: int, title: str, check: Callable[[], None]) -> Tell:
    """Shows calls that follow one another as one phase of so many rows."""
    progress.start(total, title)
    before = 0

    def tell(done: int, rows: int, tokens: int) -> None:
        nonlocal before
        check()
        progress.update(before + done)
        if done == rows:
            before += rows

    return tell


def _wall_seconds(
    large: Second,
    expander: Second,
    options: ExpanderOptions,
    problems: Sequence[Problem],
    count: int,
    limit: int,
    first: int,
    most: float,
    tell: Tell,
) -> dict[str, list[float]]:
    """Seconds until so many requests are answered, in both ways, of each turn; no further one once
    ``most`` seconds are over. The ``first`` few requests are answered before."""
    asked = list(itertools.islice(itertools.cycle(problems), count))
    visit_P = np.arange(count, dtype=np.int32) // len(problems)

    def prompts(n: int) -> Prompts:
        return large.engine.prompts(
            asked[:n], purpose=Purpose.TEST, limit=limit, visit_P=visit_P[:n]
        )

    settings = {"samples": 1, "limit": limit, "on_progress": tell}

    def alone(n: int) -> None:
        large.engine.sample(large.params, prompts(n), **settings)

    def pipeline(n: int) -> None:
        respond(large, expander, options, prompts(n), **settings)

    ways = {"large_alone": alone, "joint": pipeline}
    for act in ways.values():
        act(first)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_REPEATS):
        for name, act in ways.items():
            start = time.perf_counter()
            act(count)
            seconds[name].append(time.perf_counter() - start)
        if sum(map(sum, seconds.values())) >= most:
            break
    return seconds


_REPEATS = 5  # most measurements of each way, taking turns
_TURNOVER = 4  # least requests of a measurement for each that is in flight


def costs(
    joint: Joint, serving: ServingOptions, large: Second, expander: Second
) -> dict[str, float]:
    """Price of 1,000 requests to the pipeline and to the large model alone, with the prices of a
    million tokens that it rests on."""
    sizes = [sum(x.size for x in jax.tree.leaves(side.params)) for side in (large, expander)]
    price = serving.price
    if price is None:
        price = serving.large_price * sizes[1] / sizes[0]
    share = serving.read_share
    chain, alone = joint.chain_tokens_P.mean(), joint.alone_tokens_P.mean()
    read = share * joint.large_read
    answer = joint.answer_tokens_P.mean() + share * joint.expander_read
    found = {
        "large_alone": serving.large_price * (alone + read) / 1000,
        "joint": (serving.large_price * (chain + read) + price * answer) / 1000,
    }
    return {
        **{name: float(cost) for name, cost in found.items()},
        "ratio": float(found["joint"] / found["large_alone"]),
        "large_price": serving.large_price,
        "price": float(price),
        "read_share": share,
    }


# -- what a person sees ----------------------------------------------------------------------------


def show(progress: Progress, found: dict[str, Any]) -> None:
    """The numbers of a pipeline, a line each."""
    lines = {
        "accuracy": "joint accuracy",
        "change": "  change from the large model alone",
        "chain_tokens": "chain tokens",
        "answer_tokens": "answer tokens",
        "too_long": "chains too long for the expander",
        "large_alone_accuracy": "large model alone",
        "large_alone_tokens": "  tokens",
        "expander_alone_accuracy": "expander alone",
        "leak_rate": "chains that say the answer",
        "masked_accuracy": "joint accuracy, answers masked",
        "masked_gain": "  gain over the expander alone",
    }
    for name, title in lines.items():
        progress.log(f"{title:<40}{_interval(found[name])}")
    cost = found["cost"]
    progress.log(
        f"{'cost of 1,000 requests':<40}{cost['joint']:.4g}, large model alone "
        f"{cost['large_alone']:.4g} (x{cost['ratio']:.2f})"
    )


def show_comparison(progress: Progress, found: dict[str, Any]) -> None:
    """What changed, a line each."""
    lines = {
        "accuracy_change": "joint accuracy, change",
        "change_from_alone": "  against the first large model alone",
        "chain_ratio": "chain tokens, ratio",
        "leak_change": "chains that say the answer, change",
    }
    for name, title in lines.items():
        progress.log(f"{title:<40}{_interval(found[name])}")


def _interval(estimate: dict[str, float]) -> str:
    digits = 1 if abs(estimate["value"]) >= 2 else 4
    value, low, high = (f"{estimate[end]:.{digits}f}" for end in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
