"""DLER: the plainest length penalty, a hard limit, under a careful optimiser.

In words: a response is worth 1 if it is correct and has ended within the limit, else 0. Problems on
which all responses are worth the same are left out, and others sampled in their place. Advantage =
reward - mean of the group, divided by the standard deviation of all these differences in the batch.
The ratio is clipped to 0.8 .. 1.28, the loss is the mean over all tokens, plus 5e-4 times the KL
divergence, of which half the squared difference of the log-probabilities is the estimate (k2).

Paper: DLER, arXiv 2510.15110, section 3 and table 4. A limit makes the variance within a group
jump; dividing by that of the batch keeps rare successes from being blown up. The wide upper clip
keeps rare words alive. The limit (published: 4000) belongs to the rounds of the run. With `easy`
below 1 it is DA-DLER: on problems of which at least half of the responses are right within the
limit, the limit shrinks to that share (published: 2000 of 4000, so 0.5). The dual clip is not in
the paper; it is that of the released script.

What is different here: the paper also subtracts the mean of the batch, which is 0 once every group
has lost its own. The released code whitens token by token, so that long rows count for more; here
every row counts once, as in the formula.

Left out: the factor on truncated rows and the bonus on correct ones, which only the script has. The
merge of the paper is one more slot, ``merge: {kind: top_delta}``.
"""

from __future__ import annotations

import dataclasses

from pruner_jax.objective.advantage import Fused, Norm
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase
from pruner_jax.objective.selection import DropFlat
from pruner_jax.objective.shape import Cut
from pruner_jax.objective.statistics import Limit


@dataclasses.dataclass(frozen=True)
class Options:
    """The published values."""

    samples: int = 16
    """Responses per problem."""

    easy: float = 1.0
    """Share of the limit for problems that are solved half of the time or more. DA-DLER: 0.5."""

    extra_draws: int = 9
    """Further draws of a step, at most, in place of problems that are left out."""

    clip_low: float = 0.2
    """The ratio is clipped from below at 1 - clip_low."""

    clip_high: float = 0.28
    """The ratio is clipped from above at 1 + clip_high."""

    clip_dual: float | None = 10.0
    """Where the advantage is negative, the loss of a token is at most so many times its size."""

    kl: float = 5e-4
    """Weight of the KL divergence to the start of the run."""

    minibatches: int = 8
    """Updates per collection (512 problems in parts of 64)."""


def compose(options: Options) -> Method:
    """A limit, problems with a spread, differences to the group in units of the batch."""
    easy = Cut(at=(Limit(times=options.easy),), solve_rate=(0.5, 1.0))
    phase = Phase(
        name="prune",
        collect=Collect(samples=options.samples, extra_draws=options.extra_draws),
        shape=(Cut(),) if options.easy == 1 else (Cut(), easy),
        select=(DropFlat(),),
        advantage=Fused(norm=Norm(baseline="group", scale="batch")),
        loss=LossSpec(
            clip_low=options.clip_low,
            clip_high=options.clip_high,
            clip_dual=options.clip_dual,
            kl=options.kl,
            kl_estimator="k2",
            minibatches=options.minibatches,
        ),
    )
    return Method(name="dler", phases=(phase,))
