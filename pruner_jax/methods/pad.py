"""PaD: a student imitates programs of a teacher that ran and gave the right value.

In words: a teacher writes K programs for every problem; those that run and return the gold answer
are kept, and the student is trained on them by cross-entropy, the question as the prompt. A program
is checked by running it: problems want the checker `program`.

Paper: Program-aided Distillation, arXiv 2305.13888. Its teacher is asked 8 times, with 4 worked
examples that change from time to time; updates of 8 rows, up to 50 epochs with early stopping.

Self-refinement (`refine`): further rows show a failing program and its error in the prompt and ask
for a correct one. `injected` breaks correct programs through their syntax tree, as in the paper,
whose code lacks this; `attempts` takes the programs of the teacher that failed, as the code
extracts them. To answer in that way, a failing program has to be shown to the model again.

What is different here: values are compared with a tolerance and not rounded; the student is the
model of the run, not an encoder-decoder; refinement is trained along with the rest, not after it.

Left out: early stopping; new worked examples with every sample; removal of the docstring from the
programs. For self-distillation give the export of a first run as the teacher; the divergence from
the teacher's distribution that the paper adds there is left out. The step-by-step verification
belongs to answering.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from pruner_jax.objective import slots
from pruner_jax.objective.condition import Condition
from pruner_jax.objective.inject import TEMPLATE
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase
from pruner_jax.objective.repair import Inject, Refine
from pruner_jax.objective.selection import Only


@dataclasses.dataclass(frozen=True)
class Options:
    """The published values, but for ``examples`` and ``epochs``."""

    samples: int = 8
    """Programs of the teacher per problem."""

    examples: int = 0
    """Worked examples before the question while the teacher writes. Published: 4."""

    filter: bool = True
    """Keep only programs that gave the right value. false: all of them, for comparison."""

    refine: Literal["none", "injected", "attempts"] = "none"
    """Further rows that repair a program: one broken on purpose, or one that failed."""

    template: str = TEMPLATE
    """Their question; may use {question}, {attempt}, {verdict} and {detail}."""

    epochs: int = 10
    """Passes over what is kept. Published: up to 50, of which early stopping on a validation loss
    let few be used up. Nothing stops them here, so there are fewer."""

    update_rows: int = 8
    """Rows per optimiser update."""

    def __post_init__(self) -> None:
        slots.check_choices(self)


def compose(options: Options) -> Method:
    """Collect from the teacher, run, keep, imitate."""
    repairs = {
        "none": (),
        "injected": (Inject(options.template),),
        "attempts": (Refine(options.template),),
    }
    phase = Phase(
        name="imitate",
        collect=Collect(samples=options.samples, policy="teacher", every="once"),
        condition=Condition(examples=options.examples),
        shape=repairs[options.refine],
        select=(Only("correct"),) if options.filter else (),
        loss=LossSpec(kind="ce", epochs=options.epochs, update_rows=options.update_rows),
    )
    return Method(name="pad", phases=(phase,), wants={"optimizer": {"learning_rate": 6e-5}})
