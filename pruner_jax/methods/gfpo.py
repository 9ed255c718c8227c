"""GFPO: sample more, learn from the shortest.

In words: of G responses the k shortest are kept (or the k with the most reward per token), whether
right or wrong. Advantage = (reward - mean of the kept) / (std of the kept + 1e-6), the population
standard deviation; the others have none. Clipped policy gradient over the mean of all tokens, plus
0.001 times the KL divergence, minus 0.001 times the entropy.

Paper: Sample More to Think Less, arXiv 2508.09726, equation 2. No term of the reward knows about
length; the pressure is in the choice. Published pairs k of G: 6 of 8; 4, 6 and 8 of 16; 4, 6 and 8
of 24; by tokens 8 of 16. Choosing by length changes how many of the kept are right, and a group
whose kept rows agree teaches nothing.

What is different here: rows that are not kept leave the loss, so the mean is over the tokens of the
kept rows and KL and entropy are taken there too; the paper's sum divides by the tokens of all G.
The paper writes the KL divergence against the policy that sampled; here it is, as in `grpo`,
against the start of the run. The size of the clip is not stated and is that of `grpo`. The reward
is 0 or 1, so that by tokens the wrong responses are all worth 0 and fill up what the right ones
leave free; the paper's reward already falls with the length and with repetition.

Left out: the adaptive k (4, 6, 8, 8 by the quartile of the solve rate among all problems so far),
since no statistic remembers quartiles; one that follows the solve rate itself is a `top_k` whose k
is a statistic. And the change to the clipped loss that the paper mentions in a footnote.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from pruner_jax.objective.advantage import Fused, Norm
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase
from pruner_jax.objective.selection import TopK


@dataclasses.dataclass(frozen=True)
class Options:
    """The published values, 8 of 16."""

    samples: int = 16
    """G, responses per problem."""

    keep: int = 8
    """k, responses that are learned from."""

    by: Literal["short", "efficient"] = "short"
    """Which ones: the shortest, or those with the most reward per token."""

    clip: float = 0.2
    """The ratio is clipped to 1 - clip .. 1 + clip."""

    kl: float = 1e-3
    """Weight of the KL divergence to the start of the run."""

    entropy: float = 1e-3
    """Weight of the entropy bonus."""


def compose(options: Options) -> Method:
    """GRPO within the kept rows of a larger group."""
    phase = Phase(
        name="prune",
        collect=Collect(samples=options.samples),
        select=(TopK(k=options.keep, by=options.by),),
        advantage=Fused(norm=Norm(baseline="group", scale="group", ddof=0)),
        loss=LossSpec(
            clip_low=options.clip,
            clip_high=options.clip,
            kl=options.kl,
            entropy=options.entropy,
        ),
    )
    return Method(name="gfpo", phases=(phase,))
