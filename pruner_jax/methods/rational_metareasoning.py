"""Rational Metareasoning: a thought is worth what it does for the answer, minus what it costs.

In words: p is the likelihood of the gold answer after the thought, p0 that after no thought at all.
A thought is worth log((p + floor) / (p0 + floor)) - gamma * log(1 + tokens of the thought), with
both likelihoods from the current policy; the empty thought, which joins every group, is worth 0. A
wrong response is replaced by one that is sampled with the gold answer as a hint. Of every problem
with a correct response the best one is kept, if it is correct or worth 0 or more; so where no
thought pays, the model learns to answer at once. The start model is trained anew in every iteration
by cross-entropy on all that has been kept so far, each thought followed by the gold answer.

Paper: arXiv 2410.05563. 3 samples, 512 problems an iteration, 6 iterations, gamma 0.1, updates of
16 rows. As in the released code of that time the empty thought cannot be chosen in the first
iteration, and the likelihoods are smoothed (`floor: 0` is the paper's formula). `star` is its
baseline.

What is different here: all responses of a problem are sampled at temperature 0.5 and top-p 0.9, of
the original the first one is greedy. The hint is shown without worked examples.

Left out: rows of finished responses in which no answer was found are dropped by the original; here
their thoughts compete. Few-shot prompts (`examples`) show those of `text.examples`; published are
5, for base models that know no format, and none is the default.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from pruner_jax.objective import slots
from pruner_jax.objective.advantage import Uniform
from pruner_jax.objective.condition import Condition
from pruner_jax.objective.hint import Hint
from pruner_jax.objective.kernels import Linear, Log
from pruner_jax.objective.length import EVERY_ROW, Length
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase, Reset
from pruner_jax.objective.schedules import Stages
from pruner_jax.objective.selection import AtLeast, DropAllWrong, Only, TopK, Within
from pruner_jax.objective.shape import AddEmpty, GoldAnswer
from pruner_jax.objective.task import Utility


@dataclasses.dataclass(frozen=True)
class Options:
    """The published values."""

    samples: int = 3
    """Responses per problem, the empty thought apart."""

    gamma: float = 0.1
    """Cost of length. Also tried: 1 and 0.01."""

    cost: Literal["log", "linear", "none"] = "log"
    """log: gamma * log(1 + tokens). linear: gamma * tokens, which asks for a far smaller gamma."""

    floor: float = 1e-4
    """Added to both likelihoods. 0: they are taken as they are."""

    select: Literal["argmax", "above_mean"] = "argmax"
    """argmax: the best response of a problem. above_mean: all that are worth no less than the mean
    of those that could be chosen, as later code has it."""

    hints: bool = True
    """Replace a wrong response by one that is sampled with a hint."""

    hint: str = "{question} (The answer is {answer}.)"
    """How the question and the hint are put."""

    empty: bool = True
    """Whether the empty thought can be chosen from the second iteration on."""

    answer: str = "\n\\boxed{{answer}}"
    """What the gold answer stands in, {answer}, after a thought: where its likelihood is taken, and
    where it is trained."""

    examples: int = 0
    """Worked examples before the question while sampling. Published: 5."""

    cumulative: bool = True
    """Train on what all iterations have kept, not on that of the newest alone."""

    reset: bool = True
    """Start every iteration from the start model."""

    problems: int = 512
    """Problems of an iteration."""

    steps: int = 1
    """Steps of an iteration, over which its pass over the rows is spread."""

    update_rows: int = 16
    """Rows per optimiser update."""

    temperature: float = 0.5
    """Of the sampling."""

    top_p: float = 0.9
    """Of the sampling."""

    def __post_init__(self) -> None:
        slots.check_choices(self)


def compose(options: Options) -> Method:
    """Expert iteration on the value of computation."""
    kernel = Log() if options.cost == "log" else Linear()
    cost = Length(kernel=kernel, weight=options.gamma, measure="thinking", gate=EVERY_ROW)
    # The empty thought has no token; from the second iteration on it may be chosen.
    least = Stages((0, options.steps), (1.0, 0.0)) if options.empty else 1.0
    best = TopK(1, by="reward") if options.select == "argmax" else AtLeast(mean=True)
    phase = Phase(
        name="imitate",
        collect=Collect(
            samples=options.samples,
            every="iteration",
            steps=options.steps,
            problems=options.problems,
            keep=options.cumulative,
            temperature=options.temperature,
            top_p=options.top_p,
        ),
        condition=Condition(examples=options.examples),
        shape=(*((Hint(options.hint),) if options.hints else ()), AddEmpty()),
        task=Utility(floor=options.floor, template=options.answer),
        length=() if options.cost == "none" else (cost,),
        select=(
            DropAllWrong(),
            Only("finished"),
            Within(measure="thinking", low=least),
            AtLeast(0.0, or_correct=True),
            best,
        ),
        advantage=Uniform(),
        finish=(GoldAnswer(template=options.answer),),
        train=("sampled", "edited"),
        loss=LossSpec(kind="ce", update_rows=options.update_rows),
        reset=Reset(parameters="iteration" if options.reset else "never", optimiser="iteration"),
    )
    return Method(name="rational_metareasoning", phases=(phase,))
