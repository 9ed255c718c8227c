"""What a plan found out about one part of a run: a program, and what lies on a device meanwhile."""

from __future__ import annotations

import dataclasses
from typing import Any

from pruner_jax.pod.compiled import Compiled


@dataclasses.dataclass(frozen=True)
class Finding:
    """A program, and what lies on a device while it runs, in bytes."""

    counted: dict[str, int]  # what is known without a compiler, by what it is
    beside: int  # of that, what the program itself does not see
    sizes: dict[str, int]
    compiled: dict[str, Compiled]  # by name; empty: not compiled
    flops: float = 0.0  # on a device, of an update or a decode step: every round of its loops
    least: int = 0  # bytes that a decode step has to read
    traffic: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def refusal(self) -> str | None:
        """Why the compiler would not, if so."""
        return next((c.refusal for c in self.compiled.values() if c.refusal), None)

    @property
    def bytes(self) -> int | None:
        """The most that lies there at a time; at least, while nothing is compiled."""
        if self.refusal:
            return None
        least = sum(self.counted.values())
        return max([least, *(self.beside + c.bytes for c in self.compiled.values())])

    @property
    def read(self) -> int:
        """Bytes that a decode step moves, as compiled; while that is not known, has to."""
        found = self.traffic.get("step_bytes")
        return found if isinstance(found, int) else self.least

    def fits(self, memory: int) -> bool:
        """Whether it does, as far as it is known."""
        return self.bytes is not None and self.bytes <= memory

    def like(self, other: Finding) -> bool:
        """Whether both are of the same programs, whatever is held beside them."""
        mine, others = (
            (one.sizes, one.compiled, one.counted | {"held": 0}) for one in (self, other)
        )
        return mine == others

    def plain(self, memory: int) -> dict[str, Any]:
        """For JSON."""
        found = {
            **self.sizes,
            "counted_bytes": self.counted,
            "bytes": self.bytes,
            "fits": self.fits(memory),
            "true_flops": self.flops,
        }
        for name, one in self.compiled.items():
            values = {k: v for k, v in dataclasses.asdict(one).items() if k != "text"}
            found[name] = values | {"bytes": None if one.refusal else one.bytes}
        return found | self.traffic
