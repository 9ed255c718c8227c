"""Kimi k1.5: the shortest response of a group gains, the longest loses.

In words: with the shortest and the longest response of the group, right or wrong, a length scores
1/2 - (length - shortest) / (longest - shortest); a correct response is worth 1 plus weight times
its score, a wrong one weight times its score where that is below 0. Nothing is added where all are
equally long. Advantage = reward - mean of the group, not divided by a standard deviation, on the
summed log-probability of the response. The length term can be off for the first `warmup` steps, as
in the paper; it is constant from then on.

Paper: arXiv 2501.12599, section 2.3.3. It has no code and gives neither the weight nor when it sets
in, so here it does from the start unless `warmup` says otherwise; 0.4 is what a re-implementation
took (hkust-nlp/Laser).

What is different here: their updates are made on rollouts of the iteration with half the squared
log-ratio of the response as a penalty, whose gradient is 0 at the first update after a collection.
With one update per collection, as here, it does nothing and is left out, and so is any clipping,
which the paper does not have.

Left out: the curriculum, prioritised sampling of failed problems, partial rollouts, and the steps
from long to short after it (`sft_shortest`, `dpo_shortest`, ``merge: {kind: average}``).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pruner_jax.objective.advantage import Fused, Norm
from pruner_jax.objective.kernels import Clipped
from pruner_jax.objective.length import ANY, Gate, Length
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase
from pruner_jax.objective.schedules import Stages
from pruner_jax.objective.statistics import Stat


@dataclasses.dataclass(frozen=True)
class Options:
    """Assumed values; the paper has none."""

    samples: int = 8
    """Responses per problem."""

    weight: float = 0.4
    """Weight of the length term."""

    warmup: int = 0
    """Steps without the length term."""


def compose(options: Options) -> Method:
    """The place between the shortest and the longest, against the mean of the group."""
    shorter = Length(
        kernel=Clipped(),
        weight=Stages((0, options.warmup), (0.0, options.weight)),
        target=Stat(reduce="min", over="all", empty=None),
        scale=Stat(reduce="range", over="all", empty=None),
        gate=Gate(correct=ANY, wrong=(-np.inf, 0.0)),
    )
    phase = Phase(
        name="prune",
        collect=Collect(samples=options.samples),
        length=(shorter,),
        advantage=Fused(norm=Norm(baseline="group", scale="none")),
        loss=LossSpec(clip_low=None, clip_high=None, aggregation="constant"),
    )
    return Method(name="kimi_k15", phases=(phase,))
