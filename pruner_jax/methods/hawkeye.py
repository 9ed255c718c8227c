"""Hawkeye: a large model writes a short chain, from which a small one has to find the answer.

In words: a chain is the thought of the model in training. A second, frozen model (the expander)
continues from the question and the chain and gives the answer. A response is worth 1 if that answer
is correct, minus 0.01 times the square of the tokens by which the chain exceeds 0.3 times the mean
chain of the start model for this problem. Without the expander the reward would be hacked by chains
that say nothing. Advantage = (reward - mean of the group) / (unbiased std of the group + 1e-6);
GRPO's clipped loss with 0.04 times the KL divergence (k3) to the start model.

Paper: arXiv 2504.00424. 8 samples at temperature 0.9. It leaves the weight of the penalty open;
0.01 is that of the released code.

What the code does differently: its target is 0.3 times the gold solution instead of the chain of
the start model. So it is with `solution`, which names the column of the problem source that has it
(as it stands there, annotations and all); then no table is made. And it counts words, with the
target rounded down, which `unit: words` does. With both the penalty is the code's to the number:
40 words where the gold solution has 60 cost 0.01 * (40 - 18)^2 = 4.84.

With `normalised` the excess is counted in units of the target, weight * max(0, chain / target -
1)^2, which means the same for long and short chains: one as long as the start model's costs 5.4
times the weight, so that 0.1 is in place.

What is different here besides: the model in training writes its own answer behind the chain, as a
reasoner does; that is sampled and trained with the chain, under the same weight, though nothing
looks at it. The paper's completion is the chain.

`leak: mask` masks literal gold answers in the chain before the expander sees it, so that a chain
cannot just tell the answer (in the code the judge even reads the chain). `expander: false` is the
paper's control: nothing but the penalty is left, and no second model is needed.

Left out: the judge, whose part the verifier has. And that any response is worth 1, less the
penalty, where the expander could not solve the problem with the chain of the start model (code
only): 1 more for a whole group changes no advantage, so where the expander still fails it does
nothing, and where it succeeds by now it takes from the chain what that is worth.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from pruner_jax.objective import slots
from pruner_jax.objective.advantage import Fused, Norm
from pruner_jax.objective.kernels import Excess
from pruner_jax.objective.length import EVERY_ROW, Length
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase
from pruner_jax.objective.statistics import Stat, Words, Written
from pruner_jax.objective.task import Expanded, Outcome


@dataclasses.dataclass(frozen=True)
class Options:
    """The published values."""

    samples: int = 8
    """Responses per problem."""

    reference_samples: int = 1
    """Responses of the start model per problem, whose chains set the target."""

    share: float = 0.3
    """The target, as a share of the start model's chain, or of the gold solution."""

    solution: str | None = None
    """Column of the problem source that has the gold solution, which sets the target in the
    released code ("answer" in gsm8k). null: the start model's chain does."""

    unit: Literal["tokens", "words"] = "tokens"
    """What chains and targets are counted in: tokens of the model in training, or words, with the
    target rounded down, as in the released code. Words need a ``solution``."""

    weight: float = 0.01
    """Weight of the penalty. The published 0.01 is for chains of some 15 tokens, whose excess at
    the start is worth one answer; that of 41 tokens is worth 8, that of 478 over 1,000. Longer ones
    want ``normalised`` and 0.1."""

    normalised: bool = False
    """Count the excess in units of the target instead of tokens or words."""

    expander: bool = True
    """Whether the second model's answer counts. false: the control, where nothing but the penalty
    does."""

    leak: Literal["mask", "keep"] = "keep"
    """mask: literal gold answers are masked in the chain before the expander sees it."""

    clip: float = 0.2
    """The ratio is clipped to 1 - clip .. 1 + clip."""

    kl: float = 0.04
    """Weight of the KL divergence to the start of the run."""

    def __post_init__(self) -> None:
        slots.check_choices(self)
        if self.unit == "words" and self.solution is None:
            raise ValueError(
                "unit is 'words' and solution is null; allowed with words: a column of the problem "
                "source, for the start model's chains are counted in tokens"
            )


def compose(options: Options) -> Method:
    """The start model's chains first, then GRPO on what the expander makes of shorter ones."""
    table = Phase(
        name="table",
        collect=Collect(
            samples=options.reference_samples, policy="start", every="once", reference=True
        ),
        loss=None,
    )
    words = options.unit == "words"
    target = Stat(
        reduce="mean",
        measure="thinking",
        over="all",
        source="reference",
        times=options.share,
        empty=None,
    )
    if options.solution is not None:
        target = Written(options.solution, options.share, unit=options.unit, whole=words)
    excess = Length(
        kernel=Excess(power=2),
        weight=options.weight,
        target=target,
        scale=target if options.normalised else 1.0,
        measure=Words() if words else "thinking",
        gate=EVERY_ROW,
    )
    nothing = Outcome(correct=0.0)
    prune = Phase(
        name="prune",
        collect=Collect(samples=options.samples),
        task=Expanded(mask_answers=options.leak == "mask") if options.expander else nothing,
        length=(excess,),
        advantage=Fused(norm=Norm(baseline="group", scale="group")),
        loss=LossSpec(
            clip_low=options.clip,
            clip_high=options.clip,
            aggregation="sequence",
            kl=options.kl,
        ),
    )
    wants = {
        "sample": {"temperature": 0.9},
        "optimizer": {"learning_rate": 1e-5},
        # Nothing here rewards the large model's own answers, which these two look at.
        "pick": {"rule": "last"},
        "guards": {"accuracy": None},
    }
    phases = (prune,) if options.solution else (table, prune)
    return Method(name="hawkeye", phases=phases, wants=wants)
