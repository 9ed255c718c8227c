"""DOT: only the outliers of solved problems are cut off.

In words: where all responses of a group are correct, the cut is at floor(mean + 3 std) of their
lengths; those that exceed it by at least 32 tokens end there, and are wrong. All other groups stay
as they are. After that it is GRPO over 32 responses: groups on which all are worth the same are
left out, advantage = (reward - mean of the group) / (unbiased std of the group + 1e-6).

Paper: Anti-Length Shift: Dynamic Outlier Truncation, arXiv 2601.03969. No problem that is still
failed at times is ever pressed to be short. In a group of n responses none can lie more than
(n - 1) / sqrt(n) standard deviations above the mean: with 10 or fewer nothing is ever cut, and 32
tokens are a large excess for a model whose responses are short.

The standard deviation is the unbiased one, as in the released code. Clip, dual clip, mean over rows
of the mean over tokens, and 4 updates per collection (128 problems in parts of 32) are those of the
released script.

What is different here: the code verifies a response again after the cut; here one that has been cut
is wrong, since an answer counts only in a response that has ended.

Left out: the KL-Cov term, a penalty on the 0.2 % of tokens whose log-probability and advantage vary
together most, which no loss here has; what remains is the clipped loss with the script's clips.
Problems that are left out are replaced by as many as the share of those that stay lets expect
(predictive dynamic sampling), in at most `extra_draws` draws.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pruner_jax.objective.advantage import Fused, Norm
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase
from pruner_jax.objective.selection import DropFlat
from pruner_jax.objective.shape import Cut
from pruner_jax.objective.statistics import Stat


@dataclasses.dataclass(frozen=True)
class Options:
    """The published values."""

    samples: int = 32
    """Responses per problem; 11 or more."""

    extra_draws: int = 9
    """Further draws of a step, at most, in place of problems that are left out."""

    deviations: float = 3.0
    """Standard deviations from the mean length to the cut."""

    slack: int = 32
    """Least excess, in tokens, of a response that is cut."""

    clip: float = 0.2
    """The ratio is clipped to 1 - clip .. 1 + clip."""

    clip_dual: float | None = 10.0
    """Where the advantage is negative, the loss of a token is at most so many times its size."""

    minibatches: int = 4
    """Updates per collection."""


def compose(options: Options) -> Method:
    """Cut the tail of solved groups, then compare as always."""
    mean = Stat(reduce="mean", over="all", empty=np.inf)
    spread = Stat(reduce="std", over="all", times=options.deviations, empty=np.inf)
    phase = Phase(
        name="prune",
        collect=Collect(samples=options.samples, extra_draws=options.extra_draws),
        shape=(Cut(at=(mean, spread), slack=options.slack, solve_rate=(1.0, 1.0)),),
        select=(DropFlat(),),
        advantage=Fused(norm=Norm(baseline="group", scale="group")),
        loss=LossSpec(
            clip_low=options.clip,
            clip_high=options.clip,
            clip_dual=options.clip_dual,
            aggregation="sequence",
            minibatches=options.minibatches,
        ),
    )
    return Method(name="dot", phases=(phase,))
