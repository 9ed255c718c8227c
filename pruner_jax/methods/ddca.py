"""DDCA: correct responses compete in length among themselves, in proportion to the solve rate.

In words: the length score of a correct response is sigmoid(z), with z its length in (population)
standard deviations from the mean of the group's correct responses. Its length advantage is the mean
score of the correct responses minus its own, times the share of the group that is correct; wrong
responses have none. Advantage = (correct - mean of the group) / (population std of the group) + 0.2
times the length advantage.

Paper: Think Dense, Not Long, arXiv 2602.02099. Two things are cured against a length term inside
the reward: wrong responses, whose length earns nothing, no longer pull the baseline of the right
ones; and in a group of correct responses, whose spread is all due to length, the weight of the term
no longer cancels. Without the share of correct responses it is the paper's DCA.

Where accounts of the paper differ this is the released code: population standard deviations, and a
mean score over all correct responses, the own one included. Others have it without the own one,
``advantage: {length: {baseline: leave_one_out}}``. The code also has a form with leave-one-out
baselines throughout and without the division, ``advantage: {task: {baseline: leave_one_out, scale:
none}, length: {baseline: leave_one_out}}``. A lone correct response has length advantage 0.

What is different here: the spread of lengths is bounded from below by 1e-6 where the code adds
1e-8.

Left out: the paper's own clip, KL and number of updates; they are those of `grpo`.
"""

from __future__ import annotations

import dataclasses

from pruner_jax.objective.advantage import Decoupled, Norm
from pruner_jax.objective.kernels import Sigmoid
from pruner_jax.objective.length import Length
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase
from pruner_jax.objective.statistics import Stat


@dataclasses.dataclass(frozen=True)
class Options:
    """The published values."""

    samples: int = 8
    """Responses per problem."""

    beta: float = 0.2
    """Weight of the length advantage. Published: 0.2 to 0.5."""

    clip: float = 0.2
    """The ratio is clipped to 1 - clip .. 1 + clip."""


def compose(options: Options) -> Method:
    """The outcome over the whole group, the length over its correct rows."""
    score = Length(
        kernel=Sigmoid(),
        target=Stat(reduce="mean", over="correct", empty=None),
        scale=Stat(reduce="std", over="correct", ddof=0, empty=None),
        times=Stat(reduce="mean", measure="correct", over="all", empty=None),
    )
    phase = Phase(
        name="prune",
        collect=Collect(samples=options.samples),
        length=(score,),
        advantage=Decoupled(
            task=Norm(baseline="group", scale="group", ddof=0, epsilon=1e-8),
            length=Norm(baseline="group", scale="none", over="correct"),
            beta=options.beta,
        ),
        loss=LossSpec(clip_low=options.clip, clip_high=options.clip, aggregation="sequence"),
    )
    return Method(name="ddca", phases=(phase,))
