"""GRPO: the group-relative policy gradient, with no pressure on length. The control of every study.

In words: sample G responses per problem, reward 1 for a correct one and 0 otherwise, advantage =
(reward - mean of the group) / (unbiased std of the group + 1e-6), the same on every token; one
clipped policy-gradient update on what was just sampled.

Paper: DeepSeekMath, arXiv 2402.03300, section 4.1. Groups without variance get advantage 0 and stay
in. Plain GRPO tends to lengthen answers.

Left out: the format reward and the value of partial credit (both are `task`), iterated reference
updates (`reset.reference`).
"""

from __future__ import annotations

import dataclasses

from pruner_jax.objective.advantage import Fused, Norm
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase


@dataclasses.dataclass(frozen=True)
class Options:
    """The strength of the usual knobs; everything else is a slot."""

    samples: int = 16
    """G, responses per problem."""

    clip: float = 0.2
    """The ratio is clipped to 1 - clip .. 1 + clip."""

    kl: float = 0.0
    """Weight of the KL divergence to the start of the run. DeepSeekMath: 0.04."""

    entropy: float = 0.0
    """Weight of the entropy bonus."""


def compose(options: Options) -> Method:
    """One phase: sample, compare within the group, update once."""
    phase = Phase(
        name="prune",
        collect=Collect(samples=options.samples),
        advantage=Fused(norm=Norm(baseline="group", scale="group")),
        loss=LossSpec(
            clip_low=options.clip,
            clip_high=options.clip,
            aggregation="sequence",
            kl=options.kl,
            entropy=options.entropy,
        ),
    )
    return Method(name="grpo", phases=(phase,))
