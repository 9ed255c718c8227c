"""Options of the methods room: which method, with which options, and which slots to override."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class MethodOptions:
    """A method by name, made to measure in two passes: its own options, then its slots."""

    name: str = "thinkprune"
    """A method of pruner_jax/methods by its file name, or path/to/file.py."""

    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Options of the method's file, e.g. {samples: 8}."""

    slots: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Slots laid over the composition: fields of the slot that is there ({length: {weight: 0.1}}),
    a new one that names its kind ({advantage: {kind: fused, baseline: group, scale: none}}), or a
    whole list ({length: [{kind: sigmoid, weight: 0.1}]}). Of a method with several training phases
    the phase comes first ({imitate: {loss: {epochs: 2}}})."""

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> MethodOptions:
        """From one flat mapping, as YAML has it: name, options, and everything else a slot."""
        slots = {**settings.get("slots", {})}
        slots |= {k: v for k, v in settings.items() if k not in ("name", "options", "slots")}
        return cls(
            name=settings.get("name", cls.name),
            options=dict(settings.get("options", {})),
            slots=slots,
        )
