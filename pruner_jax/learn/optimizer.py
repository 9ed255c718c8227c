"""The optimiser: AdamW with a learning-rate schedule, from its options.

Takes ``OptimizerOptions`` and the number of updates; gives an ``Optimizer``. State and weights are
float32 and lie on the mesh alike (``step.state_shardings``). Leaves out accumulation and precision.
"""

from __future__ import annotations

import dataclasses

import jax
import optax

from pruner_jax.learn.options import OptimizerOptions
from pruner_jax.policy.config import ModelConfig
from pruner_jax.policy.weights import Weight, declare


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optax transformation, and the learning rate it uses at each update."""

    transform: optax.GradientTransformation
    schedule: optax.Schedule


def make_optimizer(options: OptimizerOptions, config: ModelConfig, steps: int) -> Optimizer:
    """Clip to a global norm, then AdamW.

    Args:
      options: learning rate, schedule, decay rates.
      config: of the model; says which weights are matrices and so decay.
      steps: updates until the schedule ends.
    """
    schedule = make_schedule(options, steps)
    adamw = optax.adamw(
        schedule,
        b1=options.beta1,
        b2=options.beta2,
        eps=options.eps,
        weight_decay=options.weight_decay,
        mask=jax.tree.map(
            lambda weight: len(weight.hf_shape) > 1,
            declare(config),
            is_leaf=lambda leaf: isinstance(leaf, Weight),
        ),
    )
    if options.grad_clip is None:
        return Optimizer(adamw, schedule)
    return Optimizer(optax.chain(optax.clip_by_global_norm(options.grad_clip), adamw), schedule)


def make_schedule(options: OptimizerOptions, steps: int) -> optax.Schedule:
    """Update number (from 0) -> learning rate: a linear rise, then constant or down to 0."""
    warmup = options.warmup_steps or round(options.warmup_fraction * steps)
    if warmup >= steps and options.schedule != "constant":
        raise ValueError(
            f"optimizer.warmup_steps is {warmup} but there are only {steps} updates; "
            f"the {options.schedule!r} schedule needs more updates than its warm-up"
        )
    peak = options.learning_rate
    after = {
        "constant": lambda: optax.constant_schedule(peak),
        "cosine": lambda: optax.cosine_decay_schedule(peak, steps - warmup),
        "linear": lambda: optax.linear_schedule(peak, 0.0, steps - warmup),
    }[options.schedule]()
    if not warmup:
        return after
    # The first update already moves: (step + 1) / warmup, not step / warmup.
    rise = optax.linear_schedule(peak / warmup, peak, max(1, warmup - 1))
    return optax.join_schedules([rise, after], [warmup])
