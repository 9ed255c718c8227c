"""ThinkPrune: GRPO under a hard token limit, tightened round by round. arXiv 2504.01296.

In words: a response is worth 1 if it is correct and has ended within the limit of the round, else
0. Advantage = (reward - mean of the group) / (unbiased std of the group + 1e-6) over 16 samples;
one update per collection with clip 0.2, plus 0.001 times the KL divergence (k3) to the model that
started the round, minus 0.001 times the entropy. Every round has a fresh optimiser and a fresh
reference. The limits (published: 4000, 3000, 2000) and the rule that picks the checkpoint between
them belong to the rounds of the run.

What the original code does differently, each a switch that is off: it subtracts the KL term
(`subtract_kl`); it looks for an answer anywhere in the text, the unfinished thought included
(`lenient`: a row that reached the limit keeps the verdict of what it had written by then. That is
so only under the verifier's looser rules, without which the run is refused).

Left out: the original averages the loss over the tokens of each micro-batch of 4 rows and then over
micro-batches, so that its gradient depends on how rows fall together. Here the mean is over all
tokens of the update.
"""

from __future__ import annotations

import dataclasses

from pruner_jax.objective.advantage import Fused, Norm
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase, Reset
from pruner_jax.objective.shape import Cut


@dataclasses.dataclass(frozen=True)
class Options:
    """The published values; the two switches restore the original code."""

    samples: int = 16
    """Responses per problem."""

    clip: float = 0.2
    """The ratio is clipped to 1 - clip .. 1 + clip."""

    kl: float = 1e-3
    """Weight of the KL divergence to the start of the round."""

    entropy: float = 1e-3
    """Weight of the entropy bonus."""

    subtract_kl: bool = False
    """Subtract the KL term instead of adding it."""

    lenient: bool = False
    """Grade whatever was written, finished or not, by an answer anywhere in it: together with
    verify.answer anywhere, after_thought false and unfinished_is_wrong false."""


def compose(options: Options) -> Method:
    """GRPO on what is left of every response at the limit."""
    phase = Phase(
        name="prune",
        collect=Collect(samples=options.samples),
        shape=() if options.lenient else (Cut(),),
        advantage=Fused(norm=Norm(baseline="group", scale="group")),
        loss=LossSpec(
            clip_low=options.clip,
            clip_high=options.clip,
            kl=-options.kl if options.subtract_kl else options.kl,
            entropy=options.entropy,
        ),
        reset=Reset(optimiser="round", reference="round"),
    )
    strict = not options.lenient
    verify = {
        "verify": {
            "answer": "last_boxed" if strict else "anywhere",
            "after_thought": strict,
            "unfinished_is_wrong": strict,
        }
    }
    said = {"wants": verify} if strict else {"requires": verify}
    return Method(name="thinkprune", phases=(phase,), **said)
