"""Only problems with an even first digit count, so about every other draw is in vain."""

import dataclasses

import numpy as np
from every_kind_of_phase import Worth

from pruner_jax.objective.advantage import Fused, Norm
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase


@dataclasses.dataclass(frozen=True)
class Options:
    extra_draws: int = 0


def counts(problem):
    return int(next(c for c in problem if c.isdigit())) % 2 == 0


@dataclasses.dataclass(frozen=True)
class Even:
    """Keeps the rows of problems whose id begins with an even digit."""

    def __call__(self, scene):
        keep_P = np.array([counts(problem) for problem in scene.groups.problems])
        return scene.replace(keep_PG=scene.keep_PG & keep_P[:, None])


def compose(options):
    phase = Phase(
        name="prune",
        collect=Collect(samples=2, extra_draws=options.extra_draws),
        task=Worth(),
        select=(Even(),),
        advantage=Fused(norm=Norm(baseline="group", scale="none")),
        loss=LossSpec(),
    )
    return Method(name="some_problems_count", phases=(phase,))
