"""A method that uses all that rounds can play.

A table of the start model, expert iteration on a store that grows, and a policy gradient with
modes, budgets, forced tokens and a reference that moves.
"""

import dataclasses

from pruner_jax.objective.advantage import Fused, Norm, Uniform
from pruner_jax.objective.condition import Begin, Condition, EndThought, Mode, UniformBudget
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase, Reset
from pruner_jax.objective.shape import AddEmpty, GoldAnswer
from pruner_jax.objective.task import Utility


@dataclasses.dataclass(frozen=True)
class Options:
    """How often."""

    steps: int = 2


def compose(options):
    table = Phase(
        name="table",
        collect=Collect(samples=3, policy="start", every="once", reference=True, top_p=0.9),
        loss=None,
    )
    imitate = Phase(
        name="imitate",
        collect=Collect(samples=2, every="iteration", steps=options.steps, problems=6, keep=True),
        shape=(AddEmpty(),),
        task=Utility(floor=0.0, template="\n\\boxed{{answer}}"),
        advantage=Uniform(),
        finish=(GoldAnswer(template="\n\\boxed{{answer}}"),),
        train=("sampled", "edited"),
        loss=LossSpec(kind="ce", update_rows=5),
        reset=Reset(parameters="iteration", optimiser="iteration", reference="iteration"),
    )
    gradient = Phase(
        name="gradient",
        collect=Collect(samples=4),
        condition=Condition(
            modes=(
                Mode("think", share=0.5),
                Mode("no_think", share=0.5, force=Begin(text="{think_close}", logp=-0.7)),
            ),
            budget=UniformBudget(4, 9, sentence="Use at most {budget} tokens."),
            force=EndThought(),
        ),
        # Lengths against those of the table: every row has a weight, whatever it answers.
        advantage=Fused(norm=Norm(baseline="reference", scale="none")),
        task=Worth(),
        loss=LossSpec(kl=0.1, minibatches=2),
    )
    return Method(name="every_kind_of_phase", phases=(table, imitate, gradient))


@dataclasses.dataclass(frozen=True)
class Worth:
    """Minus the length."""

    def __call__(self, scene):
        return self.value(scene.groups)

    def value(self, groups):
        return -0.1 * groups.measure("length")
