"""TLMRE: a correct response is worth less the longer it is among the correct ones of its group.

In words: z = (length - mean) / std, both over the correct responses of the group; a correct
response is worth 1 - alpha * sigmoid(z), any other 0. Advantage = reward - mean of the other
responses of the group (leave one out), not divided by a standard deviation, which would cancel
alpha where all are correct. PPO's clipped loss, with 0.001 times a KL divergence to the start
model.

Paper: Training Language Models to Reason Efficiently, arXiv 2502.04463. 8 samples; alpha .05, .1,
.2 and .4 were tried, and .1 is the default here.

Where the paper leaves a choice: the standard deviation is the unbiased one; a response that is the
only correct one of its group lies at the mean, so that it is worth 1 - alpha / 2.

Assumed, for want of a published value: clip 0.2, the mean over rows of the mean over tokens, and
the k3 estimator of the KL divergence, as a term of the loss; one update per collection.
"""

from __future__ import annotations

import dataclasses

from pruner_jax.objective.advantage import Fused, Norm
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

    alpha: float = 0.1
    """The most that a correct response can lose by its length. Published: .05, .1, .2, .4."""

    clip: float = 0.2
    """The ratio is clipped to 1 - clip .. 1 + clip."""

    kl: float = 1e-3
    """Weight of the KL divergence to the start of the run."""


def compose(options: Options) -> Method:
    """A sigmoid of the z-score among the correct rows, and a leave-one-out baseline."""
    shorter = Length(
        kernel=Sigmoid(),
        weight=options.alpha,
        target=Stat(reduce="mean", over="correct", empty=None),
        scale=Stat(reduce="std", over="correct", empty=0.0),
    )
    phase = Phase(
        name="prune",
        collect=Collect(samples=options.samples),
        length=(shorter,),
        advantage=Fused(norm=Norm(baseline="leave_one_out", scale="none")),
        loss=LossSpec(
            clip_low=options.clip,
            clip_high=options.clip,
            aggregation="sequence",
            kl=options.kl,
        ),
    )
    return Method(name="tlmre", phases=(phase,))
