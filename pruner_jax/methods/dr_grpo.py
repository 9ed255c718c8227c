"""Dr. GRPO: GRPO without its two biases, the one on length and the one on difficulty.

In words: reward 1 for a correct response and 0 otherwise, advantage = reward - mean of the group,
not divided by any standard deviation; the loss of a row is the sum over its tokens divided by one
constant, the token limit, instead of by the length of the row. So a long wrong response is not
punished less per token than a short one, and groups that are almost solved weigh no more than
others.

Paper: Understanding R1-Zero-Like Training, arXiv 2503.20783. As published: 8 samples, no KL term.
The paper writes the sum over tokens without a constant; its code divides by the limit of the
rollouts, as here, which only scales the gradient.

Assumed, for want of a published value: clip 0.2, one update per collection.
"""

from __future__ import annotations

import dataclasses

from pruner_jax.objective.advantage import Fused, Norm
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase


@dataclasses.dataclass(frozen=True)
class Options:
    """The published values."""

    samples: int = 8
    """Responses per problem."""

    clip: float = 0.2
    """The ratio is clipped to 1 - clip .. 1 + clip."""

    constant: int | None = None
    """Tokens that the loss of a row is divided by. null: the token limit."""


def compose(options: Options) -> Method:
    """GRPO with the mean taken off and nothing divided by what the group happens to be."""
    phase = Phase(
        name="prune",
        collect=Collect(samples=options.samples),
        advantage=Fused(norm=Norm(baseline="group", scale="none")),
        loss=LossSpec(
            clip_low=options.clip,
            clip_high=options.clip,
            aggregation="constant",
            constant=options.constant,
        ),
    )
    return Method(name="dr_grpo", phases=(phase,))
