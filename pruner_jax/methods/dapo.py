"""DAPO: GRPO with a softened limit, unfinished rows masked, and only problems that teach.

In words: reward 1 for a correct response and -1 for any other, plus the soft overlong penalty: 0 up
to limit - cache tokens, from there a straight line down to -1 at the limit, for right and wrong
rows alike. Groups that are all right or all wrong are dropped, and further problems sampled until
the batch is full again (dynamic sampling). Advantage =
(reward - mean of the group) / (unbiased std of the group + 1e-6). Rows that did not end within the
limit are kept out of the loss (overlong filtering). The ratio is clipped to 0.8 .. 1.28, the loss
is the mean over all tokens, and there is no KL term.

Paper: arXiv 2503.14476. 16 samples, 16 updates per collection, limit 20480 with a cache of 4096.

What is different: the cache is given as a share of the limit (4096 / 20480 = 0.2), so that it means
the same under any limit. The paper introduces the filter and the penalty one after the other and
does not say whether the filter stays on with the penalty, nor whether masked rows count for mean
and std; here both are on (`overlong_filter` turns the filter off) and masked rows do count.

The paper samples on without a bound; here at most `extra_draws` times as many problems again, after
which a step learns from the groups that are there.
"""

from __future__ import annotations

import dataclasses

from pruner_jax.objective.advantage import Fused, Norm
from pruner_jax.objective.kernels import Clipped
from pruner_jax.objective.length import EVERY_ROW, Length
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase
from pruner_jax.objective.selection import DropFlat, Only
from pruner_jax.objective.statistics import Limit
from pruner_jax.objective.task import Outcome


@dataclasses.dataclass(frozen=True)
class Options:
    """The published values."""

    samples: int = 16
    """Responses per problem."""

    cache: float = 0.2
    """The share of the limit, at its end, over which the penalty grows from 0 to 1."""

    overlong_filter: bool = True
    """Keep rows that did not end within the limit out of the loss."""

    extra_draws: int = 9
    """Further draws of a step, at most, in place of problems that are left out."""

    clip_low: float = 0.2
    """The ratio is clipped from below at 1 - clip_low."""

    clip_high: float = 0.28
    """The ratio is clipped from above at 1 + clip_high."""

    updates: int = 16
    """Optimiser updates per collection."""


def compose(options: Options) -> Method:
    """GRPO with the four changes of the paper, and the two ways with overlong rows."""
    overlong = Length(
        kernel=Clipped(offset=0.0, low=-1.0, high=0.0),
        target=Limit(times=1 - options.cache),
        scale=Limit(times=options.cache),
        gate=EVERY_ROW,
    )
    phase = Phase(
        name="prune",
        collect=Collect(samples=options.samples, extra_draws=options.extra_draws),
        task=Outcome(wrong=-1.0),
        length=(overlong,),
        select=(DropFlat(),),
        advantage=Fused(norm=Norm(baseline="group", scale="group")),
        adjust=(Only("finished"),) if options.overlong_filter else (),
        loss=LossSpec(
            clip_low=options.clip_low, clip_high=options.clip_high, minibatches=options.updates
        ),
    )
    return Method(name="dapo", phases=(phase,))
