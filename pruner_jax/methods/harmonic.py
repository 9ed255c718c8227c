"""Harmonic: length presses as hard as the accuracy on the monitor set allows, and no harder.

In words: two channels, each with an advantage of its own. Task: correct or not, minus the mean of
the group, over the standard deviation of all these differences in the batch. Length, among the
correct responses of a group only: minus sigmoid(z), with z the length in standard deviations from
their mean, times the share of the group that is correct; minus the mean of the group, over the
standard deviation in the batch. Both deviations leave out groups in which the channel does not
vary, so that many solved problems do not blow up what is left of the task. Advantage = task + beta
* length, so beta says how strong the one is beside the other.

Before that, where all responses are correct, those that exceed mean + 3 std by a tenth of the mean
are cut off there and wrong. Problems on which neither channel varies are left out and others
sampled in their place. The ratio is clipped to 0.8 .. 1.28, the loss is the mean over all tokens.
There is no KL divergence, so no reference model is kept.

beta is a controller. The margin is the lower confidence bound of the change in accuracy against the
start model, on the monitor set, plus the tolerance: at 0 or above what was lost is within what may
be lost. Every evaluation moves beta once: it grows by a fifth at such a margin, and falls to a
quarter below. Before the first one it stays at its start.

Not a published method: it puts together what stands up in published comparisons.

- Two channels and the share of correct responses are DDCA's (arXiv 2602.02099). Fused and divided
  by the standard deviation of the group, the weight of the length term cancels where all are
  correct, and no controller could steer it.
- The sigmoid is TLMRE's (2502.04463). Wrong responses have no length term: one that makes them
  shorter teaches nothing else where all are wrong.
- The cut is DOT's (2601.03969), whose least excess is 32 tokens, which short responses never have.
- Scale, clip and loss are DLER's (2510.15110). Problems that are solved throughout stay in the
  batch as long as their lengths differ, because they are where length can be saved.
- The controller is Acoer's (2606.22716), which moves by +2 % and -5 % with the accuracy of every
  batch. An evaluation is the news of many steps.

Its limits. The cut needs 11 samples or more to act with 3 deviations; with 16 it acts on a response
1.5 times as long as the mean where the others are alike. A length in standard deviations presses as
hard where lengths differ little as where they differ much; what ends the pressure is the margin.
The margin is a lower bound: of a model that has lost nothing it lies near the tolerance minus the
smallest change that the monitor set can show (the run says how much that is). With a tolerance
hardly above, half of all evaluations brake and little is pruned; more monitor problems help.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pruner_jax.objective.advantage import Decoupled, Norm
from pruner_jax.objective.kernels import Sigmoid
from pruner_jax.objective.length import Length
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase
from pruner_jax.objective.schedules import Feedback
from pruner_jax.objective.selection import DropFlat
from pruner_jax.objective.shape import Cut
from pruner_jax.objective.statistics import Stat


@dataclasses.dataclass(frozen=True)
class Options:
    """Strengths and bounds."""

    samples: int = 16
    """Responses per problem."""

    extra_draws: int = 3
    """Further draws of a step, at most, in place of problems that are left out."""

    beta: float = 0.2
    """Weight of the length advantage at the start, beside a task advantage of weight 1."""

    beta_low: float = 0.02
    """The least that it can become. Above 0, or it could not grow again."""

    beta_high: float = 1.0
    """The most that it can become."""

    up: float = 1.2
    """Factor on it after an evaluation whose margin is 0 or more. 1: it never grows."""

    down: float = 0.25
    """Factor on it after one whose margin is negative. 1: it never shrinks."""

    deviations: float = 3.0
    """Standard deviations from the mean length to the cut of solved groups."""

    slack: float = 0.1
    """Least excess of a response that is cut, as a share of the mean length."""

    clip_low: float = 0.2
    """The ratio is clipped from below at 1 - clip_low."""

    clip_high: float = 0.28
    """The ratio is clipped from above at 1 + clip_high."""

    minibatches: int = 1
    """Updates per collection."""


def compose(options: Options) -> Method:
    """Outliers cut, two channels in units of the batch, and a margin that weighs them."""
    mean = Stat(reduce="mean", over="all", empty=np.inf)
    spread = Stat(reduce="std", over="all", times=options.deviations, empty=np.inf)
    slack = Stat(reduce="mean", over="all", times=options.slack, empty=np.inf)
    shorter = Length(
        kernel=Sigmoid(),
        target=Stat(reduce="mean", over="correct", empty=None),
        scale=Stat(reduce="std", over="correct", empty=None),
        times=Stat(reduce="mean", measure="correct", over="all", empty=None),
    )
    beta = Feedback(
        metric="monitor/margin",
        target=0.0,
        start=options.beta,
        up=options.up,
        down=options.down,
        low=options.beta_low,
        high=options.beta_high,
    )
    phase = Phase(
        name="prune",
        collect=Collect(samples=options.samples, extra_draws=options.extra_draws),
        shape=(Cut(at=(mean, spread), slack=slack, solve_rate=(1.0, 1.0)),),
        length=(shorter,),
        select=(DropFlat(channel="reward"),),
        advantage=Decoupled(
            task=Norm(baseline="group", scale="varying"),
            length=Norm(baseline="group", scale="varying", over="correct"),
            beta=beta,
        ),
        loss=LossSpec(
            clip_low=options.clip_low,
            clip_high=options.clip_high,
            minibatches=options.minibatches,
        ),
    )
    return Method(name="harmonic", phases=(phase,))
