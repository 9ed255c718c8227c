"""GDPO: every reward is normalised by itself, then they are added.

In words: one reward is 1 for a correct response; another is 1 for a response of at most 4000 tokens
that is also correct. Each has its own advantage, (reward - mean of the group) / (unbiased std of
the group + 1e-6). Their sum, minus its mean over the batch and divided by its standard deviation
over the batch, is the advantage. Groups whose total reward does not vary are left out, and others
sampled in their place. The ratio is clipped to 0.8 .. 1.28, the loss is the mean over all tokens,
plus 5e-4 times the KL divergence, of which half the squared difference of the log-probabilities is
the estimate (k2).

Paper: GDPO, arXiv 2601.05242, section 4.2. Normalising the sum, as GRPO does, maps different pairs
of rewards to the same advantage, and in a group of correct responses makes the weight of the length
reward cancel; here that weight stays what it is. The paper has the length reward with and without
the condition that the response be correct; the condition (its tables 4 and 5) costs less accuracy
and is on by default, `conditioned: false` is its table 3.

What is different here: released code for one library whitens token by token; here, as in the
formula, every row counts once. A formula without epsilon has one here.

The paper samples up to 8000 tokens for the target of 4000; a limit of the round at or below the
target leaves the length reward nothing to tell apart.
"""

from __future__ import annotations

import dataclasses

from pruner_jax.objective.advantage import Decoupled, Norm, Whiten
from pruner_jax.objective.kernels import Step
from pruner_jax.objective.length import EVERY_ROW, Gate, Length
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase
from pruner_jax.objective.selection import DropFlat


@dataclasses.dataclass(frozen=True)
class Options:
    """The published values."""

    samples: int = 16
    """Responses per problem."""

    extra_draws: int = 9
    """Further draws of a step, at most, in place of problems that are left out."""

    target: int = 4000
    """Tokens that a response may have for the length reward."""

    conditioned: bool = True
    """Only correct responses get the length reward."""

    weight: float = 1.0
    """Weight of the length advantage. The paper also has 0.75, 0.5 and 0.25."""

    clip_low: float = 0.2
    """The ratio is clipped from below at 1 - clip_low."""

    clip_high: float = 0.28
    """The ratio is clipped from above at 1 + clip_high."""

    kl: float = 5e-4
    """Weight of the KL divergence to the start of the run."""

    minibatches: int = 8
    """Updates per collection (512 problems in parts of 64)."""


def compose(options: Options) -> Method:
    """Two rewards, two advantages, one sum, whitened over the batch."""
    gate = Gate() if options.conditioned else EVERY_ROW
    norm = Norm(baseline="group", scale="group")
    phase = Phase(
        name="prune",
        collect=Collect(samples=options.samples, extra_draws=options.extra_draws),
        length=(Length(kernel=Step(), target=float(options.target), gate=gate),),
        select=(DropFlat(channel="reward"),),
        advantage=Decoupled(task=norm, length=norm, beta=options.weight),
        adjust=(Whiten(),),
        loss=LossSpec(
            clip_low=options.clip_low,
            clip_high=options.clip_high,
            kl=options.kl,
            kl_estimator="k2",
            minibatches=options.minibatches,
        ),
    )
    return Method(name="gdpo", phases=(phase,))
