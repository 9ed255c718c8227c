"""ALP: every token has a price, and the price follows how often the problem is solved.

In words: reward = correct - beta * max(solve rate, 1/G) * length, for right and wrong responses
alike, where the solve rate is the share of the group's G responses that are correct. Then GRPO:
minus the mean of the group, divided by its standard deviation.

Paper: Just Enough Thinking, arXiv 2506.05256. The price is so small that a mixed group is ranked by
correctness alone; where a group agrees, the standard deviation is that of the lengths, and the
price comes out at full size whatever beta is. So the pressure falls on solved problems. It falls on
problems that are never solved too: there the shortest wrong response is the best one.

What is different here: the paper writes beta / N with a normalising N; beta here is the whole
factor, the price of one token on a problem that is always solved. The 1e-6 that is added to the
standard deviation halves the pressure where the lengths of a solved group spread by 1e-6 / beta
tokens (10 as published), and takes it away where they are closer: raise beta for short responses.
The floor 1/G goes by the option `samples`; an override of `collect.samples` does not move it.

Left out: the paper's own clip, KL and number of updates; they are those of `grpo`.
"""

from __future__ import annotations

import dataclasses

from pruner_jax.objective.advantage import Fused, Norm
from pruner_jax.objective.kernels import Linear
from pruner_jax.objective.length import EVERY_ROW, Length
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase
from pruner_jax.objective.statistics import Stat


@dataclasses.dataclass(frozen=True)
class Options:
    """The published values."""

    samples: int = 16
    """G, responses per problem. Published: 16 to 32."""

    beta: float = 1e-7
    """Price of one token on a problem that is always solved."""

    clip: float = 0.2
    """The ratio is clipped to 1 - clip .. 1 + clip."""


def compose(options: Options) -> Method:
    """GRPO with a price per token that follows the solve rate."""
    solve_rate = Stat(
        reduce="mean", measure="correct", over="all", low=1 / options.samples, empty=None
    )
    price = Length(kernel=Linear(), weight=options.beta, times=solve_rate, gate=EVERY_ROW)
    phase = Phase(
        name="prune",
        collect=Collect(samples=options.samples),
        length=(price,),
        advantage=Fused(norm=Norm(baseline="group", scale="group")),
        loss=LossSpec(clip_low=options.clip, clip_high=options.clip, aggregation="sequence"),
    )
    return Method(name="alp", phases=(phase,))
