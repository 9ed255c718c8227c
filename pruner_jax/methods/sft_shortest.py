"""SFT on the shortest: the start model imitates the two shortest correct responses of its own.

In words: the start model answers every problem K times; the two shortest correct responses of every
problem are trained on by cross-entropy, in one pass. Problems without a correct response teach
nothing.

The baseline that O1-Pruner (arXiv 2501.12570, table 2) calls SFT, with the sampling of `o1_pruner`;
with one response kept, shortest rejection sampling as in Kimi k1.5 (arXiv 2501.12599, long2short).

Assumed, for want of a published value: one epoch, updates of 32 rows, as in `o1_pruner`.
"""

from __future__ import annotations

import dataclasses

from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase
from pruner_jax.objective.selection import Only, TopK


@dataclasses.dataclass(frozen=True)
class Options:
    """The published values."""

    samples: int = 16
    """Responses per problem."""

    keep: int = 2
    """Responses per problem that are trained on."""

    temperature: float = 0.5
    """Of the sampling."""

    top_p: float = 0.8
    """Of the sampling."""

    epochs: int = 1
    """Passes over what is kept."""

    update_rows: int = 32
    """Rows per optimiser update."""


def compose(options: Options) -> Method:
    """Collect once, keep the shortest of the correct, imitate them."""
    phase = Phase(
        name="imitate",
        collect=Collect(
            samples=options.samples,
            policy="start",
            every="once",
            temperature=options.temperature,
            top_p=options.top_p,
        ),
        select=(Only("correct"), TopK(options.keep, by="short")),
        loss=LossSpec(kind="ce", epochs=options.epochs, update_rows=options.update_rows),
    )
    return Method(name="sft_shortest", phases=(phase,))
