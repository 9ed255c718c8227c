"""The optimiser: AdamW, and its learning rate at each update, from their options.

State and weights are float32 and lie on the mesh alike (``step.state_shardings``). The learning
rate follows the steps of the run and not a count of updates, for a method may drop rows and with
them updates, and a run may fall back to an earlier checkpoint. Leaves out accumulation and
precision.
"""

from __future__ import annotations

import functools
import math

import jax
import optax

from pruner_jax.learn.options import OptimizerOptions
from pruner_jax.policy.config import ModelConfig
from pruner_jax.policy.weights import Weight, declare


@functools.lru_cache(maxsize=32)  # the same functions for the same options: `step.make_update`
def make_optimizer(options: OptimizerOptions, config: ModelConfig) -> optax.GradientTransformation:
    """Clip to a global norm, then AdamW with a learning rate of 1: the update multiplies by it.

    Args:
      options: decay rates, clipping.
      config: of the model; says which weights are matrices and so decay.
    """
    adamw = optax.adamw(
        1.0,
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
        return adamw
    return optax.chain(optax.clip_by_global_norm(options.grad_clip), adamw)


def learning_rate(
    options: OptimizerOptions, begin: float, end: float, steps: int, fresh: float = 0.0
) -> float:
    """The learning rate of the update that goes from ``begin`` to ``end``, in steps of ``steps``.

    A linear rise from where the optimiser was ``fresh``, of which the first update has its part,
    then constant or down to 0 at the last step.
    """
    rise = warmup(options, steps)
    risen = min(1.0, (end - fresh) / rise) if begin - fresh < rise else 1.0
    share = min(1.0, max(0.0, begin - rise) / max(steps - rise, 1e-9))
    after = {
        "constant": 1.0,
        "cosine": (1 + math.cos(math.pi * share)) / 2,
        "linear": 1 - share,
    }
    return options.learning_rate * risen * after[options.schedule]


def warmup(options: OptimizerOptions, steps: int) -> float:
    """Steps over which the learning rate rises.

    Raises:
      ValueError: a schedule that falls has no step left after them.
    """
    rise = options.warmup_steps or options.warmup_fraction * steps
    if rise >= steps and options.schedule != "constant":
        raise ValueError(
            f"optimizer.warmup_steps is {options.warmup_steps} but there are only {steps} steps; "
            f"the {options.schedule!r} schedule needs more steps than its warm-up"
        )
    return rise
