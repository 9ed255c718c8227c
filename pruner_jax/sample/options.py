"""Options of sampling (no JAX here): how a token is picked, and how many rows are decoded at once.

Only the first four fields change what is sampled. The others are the machine's: whatever they are
set to, a row in float32 gets the same tokens.
"""

from __future__ import annotations

import dataclasses
import math

DTYPES = ("auto", "float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """How rollouts are drawn."""

    temperature: float = 1.0
    """Logits are divided by it. 0: always the likeliest token."""

    top_k: int = 0
    """Draw from the k likeliest tokens only. 0: from all."""

    top_p: float = 1.0
    """Draw from the fewest tokens that together have this probability. 1: from all."""

    min_p: float = 0.0
    """Draw from tokens that have at least this share of the likeliest one's probability. 0: all."""

    rows: int = 256
    """Rows decoded at once on each device; the rest wait their turn."""

    block: int = 32
    """Most decode steps between two looks of the host."""

    refill: float = 0.5
    """Share of the rows that must be free before waiting ones are let in. 0: at every look; 1: when
    all are done."""

    slot_multiple: int = 0
    """The cache has a multiple of this many slots. 0: 32 on a CPU, 128 on an accelerator."""

    slot_growth: float = 1.25
    """The cache grows by at least this factor: more means fewer compiled programs, and more slots
    that are read in vain."""

    share_prompts: bool = True
    """Samples of a prompt read its part of the cache once for all of them, where all rows fit in at
    once, until the batch is laid out anew (on each device: half of the rows have ended)."""

    dtype: str = "auto"
    """Of weights and cache: float32, bfloat16, or auto (float32 on a CPU, where bfloat16 is
    slower)."""

    def __post_init__(self) -> None:
        rules = {
            "temperature": (0 <= self.temperature < math.inf, "a number of at least 0"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "top_p": (0 < self.top_p <= 1, "a number above 0, at most 1 (off)"),
            "min_p": (0 <= self.min_p < 1, "a number from 0 (off) to below 1"),
            "rows": (self.rows >= 1, "1 or more"),
            "block": (self.block >= 1, "1 or more"),
            "refill": (0 <= self.refill <= 1, "a share from 0 to 1"),
            "slot_multiple": (self.slot_multiple >= 0, "0 (chosen by the device) or more"),
            "slot_growth": (self.slot_growth >= 1, "a factor of at least 1"),
            "dtype": (self.dtype in DTYPES, ", ".join(DTYPES)),
        }
        for name, (fine, allowed) in rules.items():
            if not fine:
                raise ValueError(f"sample.{name} is {getattr(self, name)!r}; allowed: {allowed}")

    @property
    def truncates(self) -> bool:
        """Whether any token is ruled out. Then the log-probabilities that come back, which are of
        the whole distribution, are not those of the draws: on-policy rounds refuse it."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    def resolve(self, backend: str) -> SampleOptions:
        """The same with the automatic choices made for that JAX backend."""
        cpu = backend == "cpu"
        # An accelerator wants whole tiles of slots, a CPU wants to read few. Fewer still than 32 (8
        # or 16, and blocks of 16 steps) make more programs and are no faster.
        return dataclasses.replace(
            self,
            slot_multiple=self.slot_multiple or (32 if cpu else 128),
            dtype=("float32" if cpu else "bfloat16") if self.dtype == "auto" else self.dtype,
        )
