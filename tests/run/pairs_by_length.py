"""Pairs of the shortest against the longest, whatever they answer; made once."""

import dataclasses

from every_kind_of_phase import Worth

from pruner_jax.objective.advantage import Pairs
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase


@dataclasses.dataclass(frozen=True)
class Options:
    pass


def compose(options):
    phase = Phase(
        name="prefer",
        collect=Collect(samples=4, policy="start", every="once"),
        task=Worth(),
        advantage=Pairs(1),
        loss=LossSpec(kind="pairs", update_rows=4),
    )
    return Method(name="pairs_by_length", phases=(phase,))
