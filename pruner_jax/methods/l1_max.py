"""L1-Max: think for at most as many tokens as the prompt says.

In words: every prompt names a budget b, a whole number drawn evenly from 100 to 4000; a correct
response is worth clip(alpha * (b - length) + delta, 0, 1), any other 0. With delta 0.5 a response
that ends on its budget is worth half, one far below it 1, one far above it as little as a wrong
one. Advantage = (reward - mean of the group) / (unbiased std of the group + 1e-6); GRPO's clipped
loss with 0.001 times the KL divergence (k3) to the start model.

Paper: L1, arXiv 2503.04697. 16 samples, alpha 0.0003, delta 0.5. In copies of the code the slope of
this reward is 0.001 (`alpha`). The KL weight is read from a copy of the training script. The
published model continues from L1-Exact: give the export of an `l1_exact` run as the model.

Assumed, for want of a published value: clip 0.2, the mean over all tokens of the update, one update
per collection, no entropy bonus.

Left out: the other half of the prompts. The published phase asks half of them for an exact number
of tokens, rewarded as in `l1_exact`; here every prompt asks for a maximum.
"""

from __future__ import annotations

import dataclasses

from pruner_jax.objective.advantage import Fused, Norm
from pruner_jax.objective.condition import Condition, UniformBudget
from pruner_jax.objective.kernels import Clipped
from pruner_jax.objective.length import Length
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase
from pruner_jax.objective.statistics import Budget


@dataclasses.dataclass(frozen=True)
class Options:
    """The published values."""

    samples: int = 16
    """Responses per problem; all are told the same budget."""

    alpha: float = 3e-4
    """What a token more or less is worth to a correct response. Above 0."""

    delta: float = 0.5
    """The worth of a correct response that ends on its budget."""

    low: int = 100
    """The smallest budget."""

    high: int = 4000
    """The largest budget."""

    clip: float = 0.2
    """The ratio is clipped to 1 - clip .. 1 + clip."""

    kl: float = 1e-3
    """Weight of the KL divergence to the start of the run."""


def compose(options: Options) -> Method:
    """GRPO with a budget in the prompt and correct rows worth more the further they stay below."""
    below_budget = Length(
        kernel=Clipped(offset=options.delta, low=0.0, high=1.0),
        target=Budget(),
        scale=1 / options.alpha,
        combine="multiply",
    )
    phase = Phase(
        name="prune",
        collect=Collect(samples=options.samples),
        condition=Condition(
            budget=UniformBudget(options.low, options.high, "Think for maximum {budget} tokens.")
        ),
        length=(below_budget,),
        advantage=Fused(norm=Norm(baseline="group", scale="group")),
        loss=LossSpec(clip_low=options.clip, clip_high=options.clip, kl=options.kl),
    )
    return Method(name="l1_max", phases=(phase,))
