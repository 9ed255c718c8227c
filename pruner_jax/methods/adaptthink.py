"""AdaptThink: half of the responses think, half answer at once; not to think is worth a bonus.

In words: half of the rows of a group begin by closing the thought, the other half by thinking. A
response is worth correct - accuracy of the start model on this problem (from 16 responses of its
own) + 0.05 if it did not think; that is the advantage, without further normalisation. The loss is
the clipped one with the ratio of whole responses, exp of the mean log-ratio of their tokens; in it
the first token counts as if it had been drawn with probability 1/2, so that both ways are always
explored. There is neither a KL nor an entropy term.

Paper: arXiv 2505.13417; ratio and clip are those of the released code. 16 samples, delta 0.05, one
update per collection, temperature 0.6.

By which token thinking begins depends on the model; the original forces "Alright" for R1-Distill,
which `think: Alright` does here. Where the prompt already opens the thought, there is no such token
for every model, so by default the thinking rows begin as the policy likes, with its own
log-probabilities; then only the closed ones carry the 1/2.

Left out: the original gives responses that do not think at most 4096 of 16384 tokens, and counts a
second opening or closing tag as wrong.
"""

from __future__ import annotations

import dataclasses
import math

from pruner_jax.objective.advantage import Fused, Norm
from pruner_jax.objective.condition import Begin, Condition, Mode
from pruner_jax.objective.kernels import One
from pruner_jax.objective.length import ANY, Gate, Length
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase


@dataclasses.dataclass(frozen=True)
class Options:
    """The published values, but for ``think``."""

    samples: int = 16
    """Responses per problem, half of each kind."""

    reference_samples: int = 16
    """Responses of the start model per problem, from which its accuracy is taken."""

    delta: float = 0.05
    """What it is worth not to think. Published: 0 to 0.1."""

    think: str | None = None
    """What thinking rows begin with. null: the policy begins by itself. Published: Alright."""

    no_think: str = "{think_close}"
    """What the other rows begin with."""

    clip: float = 0.2
    """The ratio is clipped to 1 - clip .. 1 + clip."""


def compose(options: Options) -> Method:
    """The start model's accuracy first, then two modes against it."""
    table = Phase(
        name="table",
        collect=Collect(
            samples=options.reference_samples, policy="start", every="once", reference=True
        ),
        loss=None,
    )
    # Where nothing is written for the policy, its own log-probabilities count.
    drawn = math.log(0.5) if options.think is not None else None
    modes = (
        Mode("think", share=0.5, force=Begin(text=options.think, logp=drawn)),
        Mode("no_think", share=0.5, force=Begin(text=options.no_think, logp=math.log(0.5))),
    )
    bonus = Length(kernel=One(), weight=options.delta, gate=Gate(wrong=ANY, modes=(1,)))
    prune = Phase(
        name="prune",
        collect=Collect(samples=options.samples),
        condition=Condition(modes=modes),
        length=(bonus,),
        advantage=Fused(norm=Norm(baseline="reference", scale="none")),
        loss=LossSpec(
            ratio="sequence",
            clip_low=options.clip,
            clip_high=options.clip,
            aggregation="sequence",
        ),
    )
    wants = {"sample": {"temperature": 0.6}, "optimizer": {"learning_rate": 2e-6}}
    return Method(name="adaptthink", phases=(table, prune), wants=wants)
