"""DPO on length: short correct responses of the start model are preferred to long correct ones.

In words: the start model answers every problem K times. Of its correct responses the shortest is
preferred to the longest, the second shortest to the second longest; pairs of equal length are left
out. DPO's loss with beta 0.1 and the start model as reference, in one pass.

The baseline that O1-Pruner (arXiv 2501.12570, table 2) calls DPO, with the sampling of `o1_pruner`.

What is different here: there, both of the shortest are compared with the longest; here no response
is in two pairs.

Assumed, for want of a published value: that the rejected response is correct as well, so that a
pair differs in nothing but its length; beta 0.1, one epoch, updates of 32 rows.
"""

from __future__ import annotations

import dataclasses

from pruner_jax.objective.advantage import Pairs
from pruner_jax.objective.kernels import Linear
from pruner_jax.objective.length import Length
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase
from pruner_jax.objective.selection import Only


@dataclasses.dataclass(frozen=True)
class Options:
    """The published values."""

    samples: int = 16
    """Responses per problem."""

    pairs: int = 2
    """The most pairs of a problem."""

    beta: float = 0.1
    """Strength of the reference."""

    temperature: float = 0.5
    """Of the sampling."""

    top_p: float = 0.8
    """Of the sampling."""

    epochs: int = 1
    """Passes over the pairs."""

    update_rows: int = 32
    """Rows per optimiser update."""


def compose(options: Options) -> Method:
    """Collect once, rank the correct by length, prefer the first to the last."""
    phase = Phase(
        name="prefer",
        collect=Collect(
            samples=options.samples,
            policy="start",
            every="once",
            temperature=options.temperature,
            top_p=options.top_p,
        ),
        length=(Length(kernel=Linear()),),
        select=(Only("correct"),),
        advantage=Pairs(options.pairs),
        loss=LossSpec(
            kind="pairs",
            pair_beta=options.beta,
            epochs=options.epochs,
            update_rows=options.update_rows,
        ),
    )
    return Method(name="dpo_shortest", phases=(phase,))
