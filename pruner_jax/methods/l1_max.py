"""L1-Max: think for at most as many tokens as the prompt says.

In words: every prompt names a budget b, a whole number drawn evenly from 100 to 4000. Half of the
prompts ask for at most b tokens; there a correct response is worth clip(alpha * (b - length) +
delta, 0, 1), any other 0. With delta 0.5 a response that ends on its budget is worth half, one far
below it 1, one far above it as little as a wrong one. The other half (`exact`) ask for b tokens, as
in `l1_exact`: correct - alpha * |b - length|. Advantage = (reward - mean of the group) / (unbiased
std of the group + 1e-6); GRPO's clipped loss with 0.001 times the KL divergence (k3) to the start
model.

Paper: L1, arXiv 2503.04697. 16 samples, alpha 0.0003, delta 0.5. In copies of the code the slope of
the first reward is 0.001 (`alpha`). The KL weight is read from a copy of the training script. The
published model continues from L1-Exact: give the export of an `l1_exact` run as the model.

A model is measured under a budget, as a maximum, where ``monitor.budget`` and ``test.budget`` name
one.

Assumed, for want of a published value: that both kinds of prompt are equally frequent, clip 0.2,
the mean over all tokens of the update, one update per collection, no entropy bonus. What kind a
prompt is, is drawn for each problem of a step by itself.
"""

from __future__ import annotations

import dataclasses

from pruner_jax.objective.advantage import Fused, Norm
from pruner_jax.objective.condition import Condition, Mode, UniformBudget
from pruner_jax.objective.kernels import Clipped, Distance
from pruner_jax.objective.length import ANY, Gate, Length
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

    exact: float = 0.5
    """Share of the prompts that ask for exactly their budget. Below 1."""

    low: int = 100
    """The smallest budget."""

    high: int = 4000
    """The largest budget."""

    clip: float = 0.2
    """The ratio is clipped to 1 - clip .. 1 + clip."""

    kl: float = 1e-3
    """Weight of the KL divergence to the start of the run."""


def compose(options: Options) -> Method:
    """GRPO with a budget in the prompt, which is a maximum for some and a target for the others."""
    below_budget = Length(
        kernel=Clipped(offset=options.delta, low=0.0, high=1.0),
        target=Budget(),
        scale=1 / options.alpha,
        combine="multiply",
        gate=Gate(modes=(0,)),
    )
    off_budget = Length(
        kernel=Distance(),
        weight=options.alpha,
        target=Budget(),
        gate=Gate(wrong=ANY, modes=(1,)),
    )
    modes = (
        Mode("most", share=1 - options.exact),
        Mode("exact", share=options.exact, sentence="Think for {budget} tokens."),
    )
    phase = Phase(
        name="prune",
        collect=Collect(samples=options.samples),
        condition=Condition(
            modes=modes,
            divide="problems",
            budget=UniformBudget(options.low, options.high, "Think for maximum {budget} tokens."),
        ),
        length=(below_budget, off_budget),
        advantage=Fused(norm=Norm(baseline="group", scale="group")),
        loss=LossSpec(clip_low=options.clip, clip_high=options.clip, kl=options.kl),
    )
    return Method(name="l1_max", phases=(phase,), wants={"sample": {"temperature": 0.6}})
