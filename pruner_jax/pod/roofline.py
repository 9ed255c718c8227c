"""How fast a slice could be: the larger of what it must compute and what it must read, by the
published rates and by assumed shares of these.

Takes sizes alone. An estimate, and no measurement: ``ASSUMED`` says under what, and every plan
prints it. Leaves out checking answers, the host, and moving rows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax

from pruner_jax.pod.chips import Chip
from pruner_jax.policy.config import ModelConfig
from pruner_jax.policy.weights import declare

SHARES = ("learn_flops", "decode_flops", "read_bandwidth")  # settings of a plan
ASSUMED = (
    "the learner reaches {learn_flops:.0%} of the peak FLOP/s (recomputation not counted), "
    "sampling {read_bandwidth:.0%} of the bandwidth of HBM and {decode_flops:.0%} of the peak "
    "FLOP/s; responses of {tokens} tokens after prompts of {prompt}; every seat taken, the cache "
    "read at its largest; links carry half of what both ways do together, beside the computation"
)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of a model, for counting."""

    body: int  # numbers in the matrices that every token is multiplied by, without the vocabulary
    vocabulary: int  # numbers in the unembedding
    attention: int  # FLOPs for each pair of a query and a key, all layers together

    @property
    def all(self) -> int:
        """Numbers that a token of a response is multiplied by."""
        return self.body + self.vocabulary


def sizes(config: ModelConfig) -> Sizes:
    """Counted from the declaration of the weights."""
    layers = jax.tree.leaves(declare(config)["layers"], is_leaf=lambda x: hasattr(x, "axes"))
    return Sizes(
        body=sum(math.prod(w.shape) for w in layers if "embed" in w.axes and len(w.axes) > 2),
        vocabulary=config.vocab_size * config.width,
        attention=4 * config.layers * config.heads * config.head_width,
    )


def decode_flops(config: ModelConfig, rows: int, slots: int) -> float:
    """Of a step that gives each of so many rows a token."""
    size = sizes(config)
    return rows * (2 * size.all + size.attention * slots)


def prefill_flops(config: ModelConfig, prompt: int) -> float:
    """Of a prompt, which gives no logits; half of the pairs are masked, and computed."""
    size = sizes(config)
    return prompt * (2 * size.body + size.attention * prompt)


def learn_flops(config: ModelConfig, prompt: int, response: int) -> float:
    """Of a row, forward and backward, without what is computed again; masked pairs not counted."""
    size = sizes(config)
    length = prompt + response
    pairs = length * (length + 1) / 2
    return 3 * (2 * size.body * length + 2 * size.vocabulary * response + size.attention * pairs)


def gather_seconds(chip: Chip, parameters: int, mesh: Mapping[str, int]) -> float:
    """Of the traffic of a micro-batch of which each device has its part of the weights: those along
    ``fsdp`` gather it for the forward and the backward pass and reduce gradients, in bfloat16."""
    fsdp, own = mesh["fsdp"], parameters / mesh["tensor"]
    return 3 * 2 * own * (fsdp - 1) / fsdp / (chip.links / 2)


def sum_seconds(chip: Chip, parameters: int, mesh: Mapping[str, int]) -> float:
    """Of the sum of float32 gradients over the replicas (``data``): of the part that each device
    has, reduced and given to all again."""
    data, own = mesh["data"], parameters / mesh["tensor"] / mesh["fsdp"]
    return 2 * 4 * own * (data - 1) / data / (chip.links / 2)


def update_seconds(
    chip: Chip, parameters: int, mesh: Mapping[str, int], micro_batches: int, *, together: bool
) -> float:
    """Of the traffic of an update, at least. Replicas sum once, at its end; where they work
    ``together`` (preference pairs), at every micro-batch."""
    gathered = micro_batches * gather_seconds(chip, parameters, mesh)
    return gathered + (micro_batches if together else 1) * sum_seconds(chip, parameters, mesh)
