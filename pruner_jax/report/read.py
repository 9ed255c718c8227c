"""A run folder as the report needs it. Any part may be missing: a run that trains has no result.

Reads summary.json, metrics.jsonl, config.yaml and the rollouts of the evaluations. Token ids and
log-probabilities stay on the disk.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import yaml

_COLUMNS = (
    "problem_id",
    "difficulty",
    "question",
    "gold",
    "prompt",
    "sample",
    "text",
    "length",
    "thinking",
    "finished",
    "verdict",
    "extracted",
    "limit",
)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of one evaluation, by column. Numbers are arrays, texts are lists."""

    columns: dict[str, Any]

    def __len__(self) -> int:
        return len(self.columns["length"])

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]


@dataclasses.dataclass(frozen=True)
class Run:
    """What was found in a run folder; None or empty for what is not there."""

    folder: pathlib.Path
    summary: dict[str, Any] | None
    config: dict[str, Any]
    config_text: str
    steps: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    base_test: Table | None
    final_test: Table | None
    base_monitor: Table | None

    def setting(self, path: str) -> Any:
        """The value under a dotted path of the configuration, None when it is not there."""
        value: Any = self.config
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return value


def read_run(folder: str | pathlib.Path) -> Run:
    """Everything the report draws from; refuses a folder that holds nothing of a run."""
    folder = pathlib.Path(folder)
    summary = folder / "summary.json"
    config = folder / "config.yaml"
    records = _records(folder / "metrics.jsonl")
    tables = {name: _table(folder / "rollouts" / f"{name}.parquet") for name in _TABLES}
    if not (summary.exists() or records or any(tables.values())):
        raise ValueError(
            f"{str(folder)!r} holds no summary.json, no metrics.jsonl and no evaluation rollouts: "
            "there is nothing to report; give the folder that a run was told with --out"
        )
    config_text = config.read_text() if config.exists() else ""
    return Run(
        folder=folder,
        summary=json.loads(summary.read_text()) if summary.exists() else None,
        config=yaml.safe_load(config_text) or {},
        config_text=config_text,
        steps=[r for r in records if r.get("kind") == "step"],
        evaluations=[r for r in records if r.get("kind") == "evaluate"],
        base_test=tables["base-test"],
        final_test=tables["final-test"],
        base_monitor=tables["base-monitor"],
    )


_TABLES = ("base-test", "final-test", "base-monitor")


def _records(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl. A last line without its end is still being written: left out."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines() if line]


def _table(path: pathlib.Path) -> Table | None:
    if not path.exists():
        return None
    import pyarrow.parquet as pq

    columns = pq.read_table(path, columns=list(_COLUMNS)).to_pydict()
    for name in ("length", "thinking", "sample", "limit", "finished"):
        columns[name] = np.array(columns[name])
    return Table(columns) if len(columns["length"]) else None
