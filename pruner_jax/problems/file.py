"""Problems from tables: JSONL, JSON and Parquet files, on this machine or on the Hugging Face hub.

Takes paths and a mapping of columns, gives problems; verl's Parquet files are read as they are. The
columns stay with the problem for the user's own checkers. Leaves out other formats and any cleaning
beyond what `rows` declares.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import glob
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pruner_jax.problems.rows import RowOptions, to_problems, wanted
from pruner_jax.problems.settings import resolve
from pruner_jax.types import Problem

Numbered = tuple[int, str, Mapping[str, Any]]  # row number, the place that errors name, the row


@dataclasses.dataclass(frozen=True)
class Options(RowOptions):
    """Where the tables are: paths, which may hold ``*``, or ``hf://datasets/ORG/NAME[@REV]/PATH``."""

    train: str = ""
    """Table of the problems to train on: .jsonl, .json (a list of objects) or .parquet."""

    monitor: str = ""
    """Table of the monitor set; empty: carved out of train."""

    test: str = ""
    """Table of the test set; empty: carved out of train."""

    per_split: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Settings that differ in one split: {test: {columns: {answer: solution}, boxed: true}}."""

    def __post_init__(self) -> None:
        super().__post_init__()
        allowed = {"train", "monitor", "test"}
        if not any(getattr(self, split) for split in allowed):
            raise ValueError("none of train, monitor, test is set; give at least one path")
        if not set(self.per_split) <= allowed:
            raise ValueError(
                f"per_split has the keys {', '.join(self.per_split)}; allowed: train, monitor, test"
            )


def load(options: Options, split: str) -> list[Problem] | None:
    """The problems of one table, in its order; None if no path is set for this split."""
    path = getattr(options, split)
    if not path:
        return None
    plain = {f.name: getattr(options, f.name) for f in dataclasses.fields(RowOptions)}
    own = options.per_split.get(split, {})
    settings = resolve(RowOptions, plain | own, f"per_split.{split}")
    rows = (
        (f"{split}-{part}/{number}", place, row)
        for part, table in enumerate(tables(path))
        for number, place, row in read(table, settings.where)
    )
    return to_problems(rows, settings, split)


# -- where the tables are --------------------------------------------------------------------------


def tables(path: str) -> list[Path]:
    """The files that a path means, on this machine; those of the hub are fetched into its cache."""
    if path.startswith("hf://"):
        return _fetch(path)
    found = [Path(name) for name in sorted(glob.glob(str(Path(path).expanduser())))]
    if not found:
        raise ValueError(f"there is no file {path}")
    return found


def _fetch(path: str) -> list[Path]:
    """Files of a hub repository through its local cache (a second run needs no network)."""
    import huggingface_hub

    match = re.fullmatch(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", path)
    if match is None:
        raise ValueError(f"{path} is not of the form hf://datasets/ORG/NAME[@REVISION]/PATH")
    repo, revision, inside = match.groups()
    place = {"repo_id": repo, "repo_type": "dataset", "revision": revision}
    try:
        names = [inside]
        if glob.has_magic(inside):
            listed = huggingface_hub.HfApi().list_repo_files(**place)
            names = sorted(fnmatch.filter(listed, inside))
        if not names:
            raise ValueError(f"no file of the repository matches {inside}")
        return [Path(huggingface_hub.hf_hub_download(filename=name, **place)) for name in names]
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot fetch {path}: {' '.join(str(error).split())}") from error


# -- what is in them -------------------------------------------------------------------------------


def read(table: Path, where: Mapping[str, Any]) -> Iterator[Numbered]:
    """(number, place, row) of every candidate row; ``where`` only spares needless work."""
    if table.suffix == ".jsonl":
        yield from _read_jsonl(table)
    elif table.suffix == ".json":
        yield from _read_json(table)
    elif table.suffix == ".parquet":
        yield from _read_parquet(table, where)
    else:
        raise ValueError(f"{table}: unknown kind of file; allowed: .jsonl, .json, .parquet")


def _read_jsonl(table: Path) -> Iterator[Numbered]:
    with open(table, "rb") as lines:
        for number, raw in enumerate(lines, start=1):
            place = f"{table}:{number}"
            try:
                line = raw.decode().strip()
                row = json.loads(line) if line else None
            except UnicodeDecodeError as error:
                raise ValueError(f"{place}: not UTF-8 ({error}); save the file as UTF-8") from None
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{place}: not JSON ({error.msg}: column {error.colno}), found {line[:80]}; "
                    "mend that line or delete it, every line is one JSON object"
                ) from None
            if not line:
                continue
            if not isinstance(row, dict):
                raise ValueError(f"{place}: expected a JSON object, found {line[:80]}")
            yield number - 1, place, row


def _read_json(table: Path) -> Iterator[Numbered]:
    try:
        rows = json.loads(table.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{table}:{error.lineno}: not JSON ({error.msg})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{table}: not UTF-8 ({error}); save the file as UTF-8") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            f"{table}: expected a JSON list of objects; name it .jsonl if it has lines"
        )
    for number, row in enumerate(rows):
        yield number, f"{table}: row {number}", row


def _read_parquet(table: Path, where: Mapping[str, Any]) -> Iterator[Numbered]:
    """Rows become Python objects only where the filter lets them pass (it reads its columns first):
    that is what takes the time in a table of half a million chats."""
    import pyarrow.parquet as parquet

    first = 0
    for batch in parquet.ParquetFile(table).iter_batches(batch_size=1024):
        columns = [name for name in where if name in batch.schema.names]
        tested = {name: where[name] for name in columns}
        keep = range(batch.num_rows)
        if tested:
            keep = [
                i for i, row in enumerate(batch.select(columns).to_pylist()) if wanted(row, tested)
            ]
        for number, row in zip(keep, batch.take(list(keep)).to_pylist()):
            yield first + number, f"{table}: row {first + number}", row
        first += batch.num_rows
