"""Rationalisation (STaR, arXiv 2203.14465): a shape step that gives wrong rows a second chance.

The policy is asked again with the gold answer as a hint; what it writes then is trained under the
prompt without the hint, as if it had found the answer by itself.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from pruner_jax.objective.context import Scene
from pruner_jax.objective.rows import append
from pruner_jax.types import Graded, Problem, take_rows


@dataclasses.dataclass(frozen=True)
class Hint:
    """Every wrong row is replaced by one that is sampled with a hint behind the question. It stays
    even if it is wrong again. A row under a prompt of its own is not replaced.

    ``template`` may use {question} and {answer}.
    """

    template: str = "{question} (The answer is {answer}.)"
    needs = ("resample",)

    def question(self, problem: Problem) -> str:
        """What is asked in place of the problem's question."""
        hinted = self.template.replace("{answer}", problem.answer)
        return hinted.replace("{question}", problem.question)

    def __call__(self, graded: Graded, scene: Scene) -> Graded:
        old, context = graded.rollouts, scene.context
        plain_B = np.array([p is None for p in old.train_tokens or (None,) * len(old)], bool)
        wrong = np.flatnonzero(~graded.correct_B & plain_B)
        if not len(wrong):
            return graded
        prompts = []
        for group in old.group_B[wrong]:
            problem = old.prompts.problems[group]
            prompts.append(context.prompt(problem, self.question(problem)))
        again = context.resample(take_rows(graded, wrong), tuple(prompts))
        # Each takes the place of the row that it replaces; `append` has put it at the end of its
        # group.
        group_B = np.concatenate([old.group_B, old.group_B[wrong]])
        place_B = np.argsort(np.argsort(group_B, kind="stable"))
        stays_B = place_B[: len(old)].copy()
        stays_B[wrong] = place_B[len(old) :]
        both = take_rows(append(graded, again), stays_B)
        parent_B = old.parent_B.copy()
        parent_B[wrong] = -1
        return dataclasses.replace(
            both, rollouts=dataclasses.replace(both.rollouts, parent_B=parent_B)
        )
