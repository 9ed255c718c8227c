"""HAPO: every problem remembers its shortest correct response so far, and asks for a shorter one.

In words: h is the length of the shortest correct response to this problem in earlier visits,
f = cos(pi/2 * min(length / h, 2)), which is 1 for nothing, 0 at h and -1 from 2 h on. A correct
response is worth 1 + max(f, -0.7), a wrong one min(f, 0): a correct one always more than a wrong
one, and a wrong one never punished for being short. Without an h there is no length term. Advantage
= (reward - mean of the group) / (unbiased std of the group + 1e-4).

Paper: arXiv 2505.11225. `weight` is its w, 1; `mean` is its variant with the mean of all earlier
correct lengths in place of the least. The responses of a visit are compared with h as it was before
that visit, and enter it afterwards, as in the released code.

The released script samples 2 responses; its KL weight of 0.04 is the trainer's default. Assumed,
for want of a published value: the mean over rows of the mean over tokens, one update per
collection, where the clip has no effect.

Left out: the repetition penalty and the linear reward of the code, both off in its script. With the
least length h only ever falls: one lucky short answer sets the target for good.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pruner_jax.objective.advantage import Fused, Norm
from pruner_jax.objective.kernels import Cosine
from pruner_jax.objective.length import Gate, Length
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase
from pruner_jax.objective.statistics import Stat


@dataclasses.dataclass(frozen=True)
class Options:
    """The published values."""

    samples: int = 2
    """Responses per problem."""

    weight: float = 1.0
    """Weight of the length term beside the correct answer."""

    floor: float = -0.7
    """The least that the term is for a correct response. Above -1."""

    mean: bool = False
    """Remember the mean of the correct lengths instead of the least."""

    clip: float = 0.2
    """The ratio is clipped to 1 - clip .. 1 + clip."""

    kl: float = 0.04
    """Weight of the KL divergence to the start of the run."""


def compose(options: Options) -> Method:
    """GRPO with a cosine of the length over that of the past; it ends at twice that length."""
    twice = Stat(
        reduce="mean" if options.mean else "min",
        over="correct",
        source="history",
        times=2.0,
        empty=None,
    )
    shorter = Length(
        kernel=Cosine(),
        weight=options.weight,
        scale=twice,
        gate=Gate(correct=(options.floor, np.inf), wrong=(-np.inf, 0.0)),
    )
    phase = Phase(
        name="prune",
        collect=Collect(samples=options.samples),
        length=(shorter,),
        advantage=Fused(norm=Norm(baseline="group", scale="group", epsilon=1e-4)),
        loss=LossSpec(
            clip_low=options.clip,
            clip_high=options.clip,
            aggregation="sequence",
            kl=options.kl,
        ),
    )
    return Method(name="hapo", phases=(phase,))
