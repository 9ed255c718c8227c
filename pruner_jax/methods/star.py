"""STaR: the model is trained on its own correct responses, with a hint where it had none.

In words: a response that is wrong is replaced by one that is sampled with the gold answer as a hint
behind the question. The first correct response of every problem is kept. The start model is trained
anew in every iteration by cross-entropy on all that has been kept so far, under prompts without
hints.

Paper: STaR, arXiv 2203.14465, as run for comparison by `rational_metareasoning` (arXiv 2410.05563),
whose numbers these are. There is no pressure on length: it is the control that tells what the
imitation alone does.

What is different here: the hint is shown without worked examples, and all responses of a problem
are sampled alike (there, the first is greedy).

Left out: the growing number of updates of the STaR paper.
"""

from __future__ import annotations

import dataclasses

from pruner_jax.objective.condition import Condition
from pruner_jax.objective.hint import Hint
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase, Reset
from pruner_jax.objective.selection import Only, TopK


@dataclasses.dataclass(frozen=True)
class Options:
    """The values of the comparison."""

    samples: int = 3
    """Responses per problem."""

    hints: bool = True
    """Replace a wrong response by one that is sampled with a hint."""

    hint: str = "{question} (The answer is {answer}.)"
    """How the question and the hint are put."""

    examples: int = 0
    """Worked examples before the question while sampling. Published: 5."""

    cumulative: bool = True
    """Train on what all iterations have kept, not on that of the newest alone."""

    reset: bool = True
    """Start every iteration from the start model."""

    problems: int = 512
    """Problems of an iteration."""

    update_rows: int = 16
    """Rows per optimiser update."""

    temperature: float = 0.5
    """Of the sampling."""

    top_p: float = 0.9
    """Of the sampling."""


def compose(options: Options) -> Method:
    """Expert iteration on correctness: of equal rewards, `TopK` takes the first sample."""
    phase = Phase(
        name="imitate",
        collect=Collect(
            samples=options.samples,
            every="iteration",
            problems=options.problems,
            keep=options.cumulative,
            temperature=options.temperature,
            top_p=options.top_p,
        ),
        condition=Condition(examples=options.examples),
        shape=(Hint(options.hint),) if options.hints else (),
        select=(Only("correct"), TopK(1, by="reward")),
        loss=LossSpec(kind="ce", update_rows=options.update_rows),
        reset=Reset(parameters="iteration" if options.reset else "never", optimiser="iteration"),
    )
    return Method(name="star", phases=(phase,))
