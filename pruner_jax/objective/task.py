"""The task channel: what a rollout is worth before anybody looks at its length, float64 [P, G].

A kind of task is a frozen dataclass, called with the `Scene`.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pruner_jax import masked
from pruner_jax.objective.context import PolicyName, Scene
from pruner_jax.objective.groups import Groups
from pruner_jax.types import Verdict


@dataclasses.dataclass(frozen=True)
class Outcome:
    """``wrong + (correct - wrong) * score``, with values of their own for two kinds of failure."""

    correct: float = 1.0
    """Value of a correct answer (score 1)."""

    wrong: float = 0.0
    """Value of a wrong answer (score 0)."""

    unparsed: float | None = None
    """Value of a finished row without an answer. null: as wrong."""

    unfinished: float | None = None
    """Value of a row without an end token within the limit. null: as wrong."""

    def __call__(self, scene: Scene) -> np.ndarray:
        return self.value(scene.groups)

    def value(self, groups: Groups) -> np.ndarray:
        """The same of any groups; the baseline ``reference`` asks for the reference table's."""
        value = self.wrong + (self.correct - self.wrong) * groups.measure("score")
        verdict = groups.measure("verdict")
        for special, which in (
            (self.unparsed, Verdict.UNPARSED),
            (self.unfinished, Verdict.UNFINISHED),
        ):
            if special is not None:
                value = np.where(verdict == which, special, value)
        return value


@dataclasses.dataclass(frozen=True)
class Utility:
    """Rational Metareasoning: ``log((p_z + floor) / (p_0 + floor))``, the gain in likelihood of the
    gold answer y from the thought z over the empty one (arXiv 2410.05563, with the smoothing of the
    released code; floor 0 is the paper).

    p_0 comes from the rows of the group without a thought, so one of them must be there
    (`shape.AddEmpty`). Computed from log-probabilities: nothing underflows.
    """

    floor: float = 1e-4
    policy: PolicyName = "current"

    template: str = "\n\\boxed{{answer}}"
    """What the answer stands in, after the thought; only its own tokens count."""

    needs = ("answers",)

    def __call__(self, scene: Scene) -> np.ndarray:
        logp_PG = scene.groups.pad(
            scene.context.score(self.policy, scene.graded, "answer", self.template)
        )
        empty_PG = scene.groups.mask_PG & (scene.groups.measure("thinking") == 0)
        if not empty_PG.any(axis=1)[scene.groups.mask_PG.any(axis=1)].all():
            raise ValueError(
                "task is 'utility' but a group has no row with an empty thought to compare with; "
                "put {kind: add_empty} into shape"
            )
        logp0_P1 = masked.mean(logp_PG, empty_PG, axis=1, empty=0.0, keepdims=True)
        return self._smooth(logp_PG) - self._smooth(logp0_P1)

    def _smooth(self, logp: np.ndarray) -> np.ndarray:
        return np.logaddexp(logp, np.log(self.floor)) if self.floor > 0 else logp


@dataclasses.dataclass(frozen=True)
class Expanded:
    """Hawkeye: the outcome of what a second policy makes of the thought (arXiv 2504.00424)."""

    outcome: Outcome = Outcome()

    mask_answers: bool = False
    """Mask every literal gold answer in the thought before the second policy sees it, so that the
    thought cannot just tell it."""

    needs = ("expander",)

    def __call__(self, scene: Scene) -> np.ndarray:
        expanded = scene.context.expand(scene.graded, self.mask_answers)
        score_PG = scene.groups.pad(expanded.score_B)
        verdict_PG = scene.groups.pad(expanded.verdict_B)
        measures = {**scene.groups.measures, "score": score_PG, "verdict": verdict_PG}
        return self.outcome.value(dataclasses.replace(scene.groups, measures=measures))


Task = Outcome | Utility | Expanded
