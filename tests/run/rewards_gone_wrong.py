"""Rewards as people really get them wrong, as methods of one's own. Not a test file."""

import dataclasses

import numpy as np

from pruner_jax.measure.guards import repeated_ngrams
from pruner_jax.objective.advantage import Fused, Norm
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase
from pruner_jax.objective.task import Outcome


@dataclasses.dataclass(frozen=True)
class Reward:
    """Any function of the groups, or of the rollouts, as the worth of a row."""

    pays_for: str
    rounds: int

    def __call__(self, scene):
        if scene.context.round >= self.rounds:
            return Outcome()(scene)
        thinking_PG, answer_PG = (scene.groups.measure(m) for m in ("thinking", "answer"))
        finished_PG = scene.groups.subset("finished")
        rollouts = scene.graded.rollouts
        match self.pays_for:
            case "no thought":  # cost of thinking, and nothing for being right
                return np.where(finished_PG, -thinking_PG, -200.0)
            case "long answers":  # cost of thinking, and the answer may be as long as it likes
                return np.where(finished_PG, 3.0 * answer_PG - thinking_PG, -200.0)
            case "repetition":
                repeated_B = repeated_ngrams(rollouts.tokens_BT, rollouts.length_B)
                return scene.groups.pad(repeated_B, 0.0)


@dataclasses.dataclass(frozen=True)
class Options:
    """What is rewarded."""

    pays_for: str = "no thought"
    samples: int = 8
    rounds: int = 9
    """In the first so many rounds; later ones pay for correct answers."""


def compose(options: Options) -> Method:
    """GRPO on that reward."""
    phase = Phase(
        name="prune",
        collect=Collect(samples=options.samples),
        task=Reward(options.pays_for, options.rounds),
        advantage=Fused(norm=Norm(baseline="group", scale="group")),
        loss=LossSpec(),
    )
    return Method(name=options.pays_for, phases=(phase,))
