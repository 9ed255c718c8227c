"""Elastic Reasoning: thought and answer have a budget each, and the thought is ended at its own.

In words: a thought that is still open after 1024 tokens is ended by writing the closing tag, and
the response goes on with its answer, which may have 1024 tokens; a longer answer is cut off there
and wrong. Reward 1 for a correct response, else 0; GRPO with 8 responses, clip 0.2, the mean over
all tokens, two updates per collection, plus 0.001 times the KL divergence (k3) to the start model,
minus 0.001 times the entropy. What was written in the model's place is not trained.

Paper: arXiv 2505.05315; the numbers are those of its released script, which trains for 200 steps at
temperature 0.6. The model learns to answer from a thought that was cut short, which also makes it
think less where nothing cuts it.

The limit of the round has to leave room for both budgets and the tag; below that it is a third cap.
"""

from __future__ import annotations

import dataclasses

from pruner_jax.objective.advantage import Fused, Norm
from pruner_jax.objective.condition import Condition, EndThought
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Collect, Method, Phase
from pruner_jax.objective.shape import Cut
from pruner_jax.objective.statistics import Own


@dataclasses.dataclass(frozen=True)
class Options:
    """The published values."""

    samples: int = 8
    """Responses per problem."""

    thinking: int = 1024
    """Tokens after which the thought is ended."""

    answer: int = 1024
    """The most tokens of the answer, its end token included."""

    close: str = "{think_close}"
    """What ends the thought, e.g. with a line break around the tag."""

    clip: float = 0.2
    """The ratio is clipped to 1 - clip .. 1 + clip."""

    kl: float = 1e-3
    """Weight of the KL divergence to the start of the run."""

    entropy: float = 1e-3
    """Weight of the entropy bonus."""

    minibatches: int = 2
    """Updates per collection (128 problems in parts of 64)."""


def compose(options: Options) -> Method:
    """GRPO on responses whose thought and answer are both limited."""
    phase = Phase(
        name="prune",
        collect=Collect(samples=options.samples),
        condition=Condition(force=EndThought(after=options.thinking, text=options.close)),
        shape=(Cut(at=(Own("thinking", plus=options.answer),)),),
        advantage=Fused(norm=Norm(baseline="group", scale="group")),
        loss=LossSpec(
            clip_low=options.clip,
            clip_high=options.clip,
            kl=options.kl,
            entropy=options.entropy,
            minibatches=options.minibatches,
        ),
    )
    return Method(name="elastic", phases=(phase,), wants={"sample": {"temperature": 0.6}})
