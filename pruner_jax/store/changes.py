"""How the settings of a run differ from those that its folder was begun with, key by key.

Takes configurations as plain data; which differences may be is said by who asks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, str]:
    """By dotted key, how each setting differs; ``out`` is not looked at."""
    old, new, unset = _flatten(old), _flatten(new), "(not set)"
    return {
        key: f"{key}: was {old.get(key, unset)!r}, now {new.get(key, unset)!r}"
        for key in sorted(old.keys() | new.keys())
        if key != "out" and old.get(key, unset) != new.get(key, unset)
    }


def changes_refused(
    old: Mapping[str, Any], new: Mapping[str, Any], free: Collection[str]
) -> list[str]:
    """How settings differ, without those that may (dotted keys, or the beginning of some)."""
    return [said for key, said in changed(old, new).items() if not _within(key, free)]


def _within(key: str, names: Collection[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, Mapping) and tree:
        return {
            name: value
            for key, branch in tree.items()
            for name, value in _flatten(branch, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    return {prefix: tree}
