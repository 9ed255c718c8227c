"""O1-Pruner: one pass over weighted responses of the start model; the short and correct weigh more.

In words: the start model answers every problem K times. With the mean length L0 and the accuracy A0
of these responses, a response weighs L0 / length - 1 + lam * (correct - A0), between -2 and 4. Two
responses of every problem are kept, at random, and their weights are whitened over the whole data
set (mean 0, population std 1). One epoch of a clipped policy gradient on them, in updates of 32
rows; the old log-probabilities are those of the start model, and there is neither a KL nor an
entropy term.

Paper: arXiv 2501.12570. 5000 problems; 16 samples and lam 2 for Marco-o1-7B, 12 and 5 for
QwQ-32B-Preview.

What the paper says and the code does not, each an option: the weights are neither clipped nor
whitened (`low` and `high` -inf and inf, `whiten: none`), the ratio is that of whole responses
(`ratio: sequence_sum`); in the code it is exp of the mean log-ratio of their tokens. With whitening
over all problems the sign of a weight is relative to the data set; `whiten: problem` makes it
relative to the problem. A wrong response that is short can have a positive weight
(`prune/wrong_pushed_up` says how many); `wrong_at_most_zero` is not in either and ends that.

What is different here: lengths count the end token, and no end token is put behind responses that
were cut off. Prompts are the same for sampling and for training. The verifier takes the last box
after the thought of a response that has ended; the code takes the first box of any response
(`verify.answer=first_boxed`, `after_thought` and `unfinished_is_wrong` false).

Left out: the freezing of layers; solutions are not cut again for training (the code cuts at 3072 or
4096 of 8192 tokens).
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from pruner_jax.objective import slots
from pruner_jax.objective.advantage import Clip, Decoupled, Guard, Norm, Whiten
from pruner_jax.objective.kernels import Ratio
from pruner_jax.objective.length import EVERY_ROW, Length
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase
from pruner_jax.objective.selection import TopK
from pruner_jax.objective.statistics import Stat
from pruner_jax.objective.task import Outcome


@dataclasses.dataclass(frozen=True)
class Options:
    """The values of the released code for Marco-o1-7B."""

    samples: int = 16
    """Responses per problem, from which its mean length and accuracy are taken."""

    keep: int = 2
    """Responses per problem that are trained on."""

    lam: float = 2.0
    """What a correct answer weighs, against a relative shortening of 1. Also tried: 0, 1, 5."""

    low: float = -2.0
    """The least weight, before whitening."""

    high: float = 4.0
    """The greatest weight, before whitening."""

    whiten: Literal["global", "problem", "none"] = "global"
    """Over what the weights get mean 0 and standard deviation 1."""

    wrong_at_most_zero: bool = False
    """No wrong response has a weight above 0."""

    ratio: Literal["sequence", "sequence_sum"] = "sequence"
    """sequence: exp of the mean log-ratio of the tokens. sequence_sum: of their sum."""

    clip: float = 0.2
    """The ratio is clipped to 1 - clip .. 1 + clip."""

    temperature: float = 0.5
    """Of the sampling."""

    top_p: float = 0.8
    """Of the sampling."""

    update_rows: int = 32
    """Rows per optimiser update."""

    def __post_init__(self) -> None:
        slots.check_choices(self)


def compose(options: Options) -> Method:
    """Collect once, weigh against the mean of the same responses, learn once."""
    mean = Stat(reduce="mean", over="all", source="reference", empty=None)
    adjust = [Clip(options.low, options.high), TopK(options.keep, by="random")]
    if options.whiten != "none":
        over = "batch" if options.whiten == "global" else "group"
        adjust.append(Whiten(over=over, ddof=0, epsilon=1e-8))
    if options.wrong_at_most_zero:
        adjust.append(Guard(over="wrong"))
    phase = Phase(
        name="prune",
        collect=Collect(
            samples=options.samples,
            policy="start",
            every="once",
            reference=True,
            temperature=options.temperature,
            top_p=options.top_p,
        ),
        task=Outcome(correct=options.lam),
        length=(Length(kernel=Ratio(), scale=mean, gate=EVERY_ROW),),
        advantage=Decoupled(
            task=Norm(baseline="reference", scale="none"),
            length=Norm(baseline="none", scale="none"),
        ),
        adjust=tuple(adjust),
        loss=LossSpec(
            ratio=options.ratio,
            clip_low=options.clip,
            clip_high=options.clip,
            aggregation="sequence",
            temperature=1.0,
            update_rows=options.update_rows,
        ),
    )
    wants = {"optimizer": {"learning_rate": 2e-7}}
    return Method(name="o1_pruner", phases=(phase,), wants=wants)
