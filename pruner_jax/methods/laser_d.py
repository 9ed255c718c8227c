"""LASER-D: a bonus for correct responses up to a length that depends on how hard the problem is.

In words: reward 1 for a correct response, -0.5 for a wrong one, -1 for one without an answer; a
correct response of at most L_A tokens gets alpha = 0.5 more. Problems are easy, medium or hard by
the share of correct responses in the group: from 2/3 on, from 1/3 on, below. For each of the three
L_A is the least length l with P(l) * |C| >= 1: P(l) is the share of the responses on the monitor
set, to problems as hard, that have at most l tokens; |C| is the least number of correct responses
in a group as hard, floor(2/3 n), floor(1/3 n) and 1 of n samples. So at least one of the correct
responses to be expected keeps the bonus. It is measured anew every 20 steps. Advantage = (reward -
mean of the group) / (unbiased std of the group + 1e-6); clip 0.8 .. 1.28, 0.001 times the KL
divergence (k3) to the start model, minus 0.001 times the entropy.

Paper: arXiv 2505.15612. 8 samples, 2 updates per collection, 500 monitor problems, window 16384.

P(l) >= 1 / |C| makes L_A the quantile 1 / |C| of the lengths, and so it is composed: 1/5, 1/2 and 1
for 8 samples. What is different: the quantile is interpolated between two lengths, where the code
takes the next multiple of 1024; a share of exactly 1/3 or 2/3 counts as the easier class on the
monitor set too, where the code counts it there as the harder. Before the first evaluation, and
where the monitor set has no problem as hard, L_A is the token limit: every correct response gets
the bonus.

Assumed, for want of a published value: the mean over all tokens of the update.

Left out: the lower bound of the search (1024, 2048 or 4096 tokens, by the script), and the
bonus of LASER-DE for long wrong responses.
"""

from __future__ import annotations

import dataclasses
import math

from pruner_jax.objective.advantage import Fused, Norm
from pruner_jax.objective.kernels import Step
from pruner_jax.objective.length import Gate, Length
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase
from pruner_jax.objective.statistics import Limit, Stat
from pruner_jax.objective.task import Outcome

EDGES = (1 / 3, 2 / 3)


@dataclasses.dataclass(frozen=True)
class Options:
    """The published values."""

    samples: int = 8
    """n, responses per problem."""

    alpha: float = 0.5
    """The bonus of a correct response that is short enough."""

    clip_low: float = 0.2
    """The ratio is clipped from below at 1 - clip_low."""

    clip_high: float = 0.28
    """The ratio is clipped from above at 1 + clip_high."""

    kl: float = 1e-3
    """Weight of the KL divergence to the start of the run."""

    entropy: float = 1e-3
    """Weight of the entropy bonus."""

    updates: int = 2
    """Optimiser updates per collection."""


def compose(options: Options) -> Method:
    """One step reward for each class of difficulty; a group is in one of them."""
    lows = (0.0, *EDGES)
    highs = (*(math.nextafter(edge, 0.0) for edge in EDGES), 1.0)
    least = (1, options.samples // 3, 2 * options.samples // 3)
    short_enough = tuple(
        Length(
            kernel=Step(),
            weight=options.alpha,
            target=Stat(
                reduce="quantile",
                q=1 / max(correct, 1),
                over="all",
                source="monitor",
                buckets=EDGES,
                empty=Limit(),
            ),
            gate=Gate(solve_rate=(low, high)),
        )
        for low, high, correct in zip(lows, highs, least)
    )
    phase = Phase(
        name="prune",
        collect=Collect(samples=options.samples),
        task=Outcome(wrong=-0.5, unparsed=-1.0, unfinished=-1.0),
        length=short_enough,
        advantage=Fused(norm=Norm(baseline="group", scale="group")),
        loss=LossSpec(
            clip_low=options.clip_low,
            clip_high=options.clip_high,
            kl=options.kl,
            entropy=options.entropy,
            minibatches=options.updates,
        ),
    )
    wants = {"sample": {"temperature": 0.6}, "rounds": {"evaluate_every": 20}}
    return Method(name="laser_d", phases=(phase,), wants=wants)
