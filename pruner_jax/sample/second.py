"""Options of second models (no JAX here): the expander of Hawkeye, the teacher of PaD, and what a
pipeline of two models takes and costs."""

from __future__ import annotations

import dataclasses

from pruner_jax.expansion import PROMPT
from pruner_jax.text import TextOptions


@dataclasses.dataclass(frozen=True)
class ExpanderOptions:
    """A frozen small model that turns a question and a thought into the answer."""

    model: str | None = None
    """Hugging Face folder or hub id. null: there is none."""

    prompt: str = PROMPT
    """What it is asked: with "{question}" and "{thought}" in it."""

    text: TextOptions = dataclasses.field(default_factory=TextOptions)
    """How that becomes a prompt of its own; it needs a chat template, or template: plain."""

    limit: int = 512
    """Most tokens of its answer."""

    temperature: float = 0.7
    """Of its answers; 0 takes the likeliest token."""

    top_p: float = 0.9
    """Of its answers."""

    mask: str = "…"
    """What stands in the thought where a literal gold answer was, if the method masks them."""

    def __post_init__(self) -> None:
        for name in ("{question}", "{thought}"):
            if name not in self.prompt:
                raise ValueError(f"expander.prompt lacks {name}: {self.prompt!r}")
        if self.limit < 1 or self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"expander.limit is {self.limit}, temperature {self.temperature:g}, top_p "
                f"{self.top_p:g}; allowed: 1 or more, 0 or more, above 0 up to 1"
            )


@dataclasses.dataclass(frozen=True)
class ServingOptions:
    """How a chain of one model and an answer of another are timed and priced."""

    concurrency: list[int] = dataclasses.field(default_factory=lambda: [1, 10, 100])
    """Requests in flight at once, a measurement each; []: nothing is timed."""

    requests: int = 32
    """Requests of a measurement, at least four times as many as are in flight."""

    seconds: float = 600.0
    """Seconds after which a measurement is not repeated any more (it is made up to five times, once
    in any case)."""

    large_price: float = 1.0
    """Price of a million tokens that the large model writes, in whichever currency."""

    price: float | None = None
    """Price of a million tokens that the expander writes. null: by its size, large_price times the
    ratio of the models' parameters."""

    read_share: float = 0.25
    """Price of a token that is only read, as a share of the price of one that is written."""

    def __post_init__(self) -> None:
        least = min([1, *self.concurrency, self.requests])
        prices = (self.large_price, self.price or 0.0, self.read_share)
        if least < 1 or self.seconds < 0 or min(prices) < 0:
            raise ValueError(
                f"serving.concurrency is {self.concurrency}, requests {self.requests}, seconds "
                f"{self.seconds:g}, large_price {self.large_price:g}, price {self.price}, "
                f"read_share {self.read_share:g}; allowed: 1 or more each, 1 or more, 0 or more, "
                "and no price below 0"
            )


@dataclasses.dataclass(frozen=True)
class TeacherOptions:
    """Who writes the rows of a phase with collect.policy teacher: a second model, or a file."""

    model: str | None = None
    """Hugging Face folder or hub id. null: there is none."""

    file: str | None = None
    """JSON lines of responses that are there already: {"question" or "id": ..., "response": ...};
    several lines of one problem are several samples."""

    text: TextOptions = dataclasses.field(default_factory=TextOptions)
    """How problems become prompts of the teacher."""

    def __post_init__(self) -> None:
        if self.model is not None and self.file is not None:
            raise ValueError(
                f"teacher.model is {self.model!r} and teacher.file {self.file!r}; set one of them"
            )
