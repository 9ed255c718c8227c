"""L1-Exact: think for as many tokens as the prompt says. Length controlled policy optimisation.

In words: every prompt names a budget b, a whole number drawn evenly from 100 to 4000; a response is
worth (1 if correct, else 0) - alpha * |b - length|, right or wrong. Advantage = (reward - mean of
the group) / (unbiased std of the group + 1e-6); GRPO's clipped loss with 0.001 times the KL
divergence (k3) to the start model.

Paper: L1, arXiv 2503.04697. 16 samples, alpha 0.0003 (1 / 3000 in the code), a window of 4096
tokens. The KL weight is read from a copy of the training script. The penalty has no bound: a
response of 4000 tokens under a budget of 100 loses 1.17.

A model is measured under a budget where ``monitor.budget`` and ``test.budget`` name one.

Assumed, for want of a published value: clip 0.2, the mean over all tokens of the update, one update
per collection, no entropy bonus.
"""

from __future__ import annotations

import dataclasses

from pruner_jax.objective.advantage import Fused, Norm
from pruner_jax.objective.condition import Condition, UniformBudget
from pruner_jax.objective.kernels import Distance
from pruner_jax.objective.length import EVERY_ROW, Length
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase
from pruner_jax.objective.statistics import Budget


@dataclasses.dataclass(frozen=True)
class Options:
    """The published values."""

    samples: int = 16
    """Responses per problem; all are told the same budget."""

    alpha: float = 3e-4
    """What a token too many or too few costs."""

    low: int = 100
    """The smallest budget."""

    high: int = 4000
    """The largest budget."""

    clip: float = 0.2
    """The ratio is clipped to 1 - clip .. 1 + clip."""

    kl: float = 1e-3
    """Weight of the KL divergence to the start of the run."""


def compose(options: Options) -> Method:
    """GRPO with a budget in the prompt and the distance from it in the reward."""
    on_budget = Length(kernel=Distance(), weight=options.alpha, target=Budget(), gate=EVERY_ROW)
    phase = Phase(
        name="prune",
        collect=Collect(samples=options.samples),
        condition=Condition(
            budget=UniformBudget(options.low, options.high, "Think for {budget} tokens.")
        ),
        length=(on_budget,),
        advantage=Fused(norm=Norm(baseline="group", scale="group")),
        loss=LossSpec(clip_low=options.clip, clip_high=options.clip, kl=options.kl),
    )
    return Method(name="l1_exact", phases=(phase,), wants={"sample": {"temperature": 0.6}})
