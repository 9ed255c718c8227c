"""What a run writes down as it goes: metrics.jsonl and the Parquet files of its rollouts.

Both only grow, and both can be cut back to what a checkpoint knew, so that a run that is killed and
continued leaves the same records as one that never stopped.
"""

from __future__ import annotations

import fnmatch
import json
import math
import os
import pathlib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pruner_jax.store.folder import flush_to_disk, naming, write_atomically
from pruner_jax.types import Graded, Problem, Prompts, Purpose, Rollouts, Verdict, Weighted


class Metrics:
    """Append-only JSON lines. ``count`` is how many lines there are; ``tell`` gets each record that
    was written, as a reader of the file would."""

    def __init__(
        self, path: pathlib.Path, tell: Callable[[dict[str, Any]], None] = lambda record: None
    ):
        self.path, self.tell = path, tell
        self.count = len(path.read_text().splitlines()) if path.exists() else 0

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record. NaN and infinity become null: JSON has neither."""
        record = {key: _plain(value) for key, value in record.items()}
        line = json.dumps(record, allow_nan=False)
        with naming(self.path), open(self.path, "a") as file:
            file.write(line + "\n")
        self.count += 1
        self.tell(record)

    def sync(self) -> None:
        """Return once all lines would survive a power cut; asked for before a checkpoint is saved
        that counts on them."""
        if self.path.exists():
            flush_to_disk(self.path)
            flush_to_disk(self.path.parent)

    def cut(self, count: int) -> None:
        """Keep the first ``count`` lines; a line left half-written goes with the rest."""
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        if len(lines) < count:
            raise ValueError(
                f"{self.path} has {len(lines)} lines, but its checkpoint was saved after {count}; "
                "the file was changed from outside: restore it, or start again with another --out"
            )
        if len(lines) > count:
            write_atomically(self.path, "".join(lines[:count]))
        self.count = count

    def read(self) -> list[dict[str, Any]]:
        """All records, oldest first."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines()]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_rollouts(
    path: pathlib.Path,
    graded: Graded,
    *,
    round: int,
    step: int,
    weighted: Weighted | None = None,
    seconds: float | None = None,
) -> None:
    """Write graded rollouts to one Parquet file, a row each, whole or not at all, safe on the disk.

    ``weight`` is the mean weight over a row's trained tokens, null where there is none. ``seconds``
    is noted beside the rows (`seconds_of`).
    """
    import pyarrow as pa

    rollouts = graded.rollouts
    prompts = rollouts.prompts
    groups, lengths = rollouts.group_B.tolist(), rollouts.length_B.tolist()
    problems = [prompts.problems[g] for g in groups]

    def ragged(array_BT: np.ndarray) -> list[np.ndarray]:
        return [row[:n] for row, n in zip(array_BT, lengths)]

    columns = {
        "step": pa.array([step] * len(graded), pa.int32()),
        "round": pa.array([round] * len(graded), pa.int32()),
        "purpose": pa.array([str(prompts.purpose)] * len(graded), pa.string()),
        "problem_id": pa.array([p.id for p in problems], pa.string()),
        "difficulty": pa.array([p.difficulty for p in problems], pa.float64()),
        "question": pa.array([p.question for p in problems], pa.string()),
        "gold": pa.array([p.answer for p in problems], pa.string()),
        "prompt": pa.array([prompts.text[g] for g in groups], pa.string()),
        "sample": pa.array(rollouts.sample_B, pa.int32()),
        "visit": pa.array([int(prompts.visit_P[g]) for g in groups], pa.int32()),
        "text": pa.array(rollouts.text, pa.string()),
        "tokens": pa.array(ragged(rollouts.tokens_BT), pa.list_(pa.int32())),
        "logp": pa.array(ragged(rollouts.logp_BT), pa.list_(pa.float32())),
        "origin": pa.array(ragged(rollouts.origin_BT), pa.list_(pa.uint8())),
        "length": pa.array(rollouts.length_B, pa.int32()),
        "thinking": pa.array(rollouts.thinking_B, pa.int32()),
        "finished": pa.array(rollouts.finished_B, pa.bool_()),
        "verdict": pa.array([Verdict(v).name.lower() for v in graded.verdict_B], pa.string()),
        "score": pa.array(graded.score_B, pa.float32()),
        "extracted": pa.array(graded.extracted, pa.string()),
        "weight": pa.array(_row_weights(weighted, len(graded)), pa.float32()),
        "limit": pa.array([rollouts.limit] * len(graded), pa.int32()),
        "temperature": pa.array([rollouts.temperature] * len(graded), pa.float64()),
        "mode": pa.array(rollouts.mode_B, pa.int32()),
        "budget": pa.array(rollouts.budget_B, pa.int32()),
        "parent": pa.array(rollouts.parent_B, pa.int32()),
        "detail": pa.array(graded.detail or [""] * len(graded), pa.string()),
        "prompt_tokens": pa.array([prompts.tokens[g] for g in groups], pa.list_(pa.int32())),
    }
    noted = None if seconds is None else {"seconds": str(seconds)}
    _write_table(pa.table(columns, metadata=noted), path)


def seconds_of(path: pathlib.Path) -> float:
    """What is noted in a file of rollouts, else 0."""
    import pyarrow.parquet as pq

    return float((pq.read_schema(path).metadata or {}).get(b"seconds", 0.0))


def _write_table(table: Any, path: pathlib.Path) -> None:
    import pyarrow.parquet as pq

    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with naming(path):
            pq.write_table(table, temporary, compression="zstd")
        flush_to_disk(temporary)
        os.replace(temporary, path)
        flush_to_disk(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _row_weights(weighted: Weighted | None, rows: int) -> list[float | None]:
    if weighted is None:
        return [None] * rows
    from pruner_jax import masked

    train_BT = weighted.train_BT & weighted.keep_B[:, None]
    weight_BT = np.broadcast_to(weighted.weight_BT, train_BT.shape)
    means = masked.mean(weight_BT, train_BT, 1, empty=0.0)
    return [float(m) if t else None for m, t in zip(means, train_BT.any(1))]


def read_rollouts(path: pathlib.Path, columns: Iterable[str] | None = None) -> dict[str, list[Any]]:
    """Columns of one Parquet file of rollouts, as lists."""
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=list(columns) if columns else None).to_pydict()


# What is left out where only lengths and verdicts are wanted: nearly all of a file.
_BULKY = ("question", "gold", "prompt", "text", "tokens", "logp", "origin", "prompt_tokens")


def read_graded(
    paths: Sequence[pathlib.Path],
    problems: Mapping[str, Problem],
    *,
    tokens: bool = True,
    longest: int | None = None,
    only: Container[tuple[str, int, int]] | None = None,
) -> Graded:
    """The graded rows of several files, as one: what ``write_rollouts`` was given, file by file.

    ``problems``: those that the rows answer, by id. In each file the rows of one visit to a problem
    stand together; a problem that is visited twice, or comes in two files, is two groups. Without
    ``tokens`` texts are empty and the arrays ``*_BT`` have no columns. ``longest``: rows of more
    tokens are left out, and no row has a parent. ``only``: of all rows these, by problem, visit and
    sample.

    Raises:
      ValueError: ``longest`` leaves no row.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    wanted = [name for name in pq.read_schema(paths[0]).names if tokens or name not in _BULKY]
    tables = [pq.read_table(path, columns=wanted) for path in paths]
    if longest is not None:
        tables = [part.filter(pc.less_equal(part["length"], longest)) for part in tables]
    if only is not None:
        names_of_rows = ("problem_id", "visit", "sample")
        tables = [
            part.filter([row in only for row in zip(*(part[n].to_pylist() for n in names_of_rows))])
            for part in tables
        ]
    table = pa.concat_tables(tables)
    if longest is not None and not len(table):
        raise ValueError(f"{paths[0].parent} has only rows of more than {longest} tokens")
    names = table["problem_id"].to_pylist()
    file_B = np.repeat(np.arange(len(tables)), [len(part) for part in tables])
    groups = list(zip(names, table["visit"].to_pylist(), file_B))
    start_B = np.array([b == 0 or groups[b] != groups[b - 1] for b in range(len(names))], bool)
    firsts = np.flatnonzero(start_B)
    offset_B = np.concatenate([[0], np.cumsum([len(part) for part in tables])])[file_B]

    def of_rows(name: str, dtype: type) -> np.ndarray:
        return table[name].to_numpy().astype(dtype)

    def of_groups(name: str, absent: Any = None) -> list[Any]:
        if name not in wanted:
            return [absent] * len(firsts)
        return table[name].take(firsts).to_pylist()

    length_B = of_rows("length", np.int32)
    inside_BT = np.arange(length_B.max(initial=0)) < length_B[:, None]

    def ragged(name: str, dtype: type) -> np.ndarray:
        if name not in wanted:
            return np.zeros((len(length_B), 0), dtype)
        padded_BT = np.zeros(inside_BT.shape, dtype)
        padded_BT[inside_BT] = pc.list_flatten(table[name]).to_numpy()
        return padded_BT

    parent_B, limit = of_rows("parent", np.int32), int(of_rows("limit", np.int32).max())
    if longest is not None:
        parent_B, limit = np.full_like(parent_B, -1), min(limit, longest)
    rollouts = Rollouts(
        prompts=Prompts(
            problems=tuple(problems[names[b]] for b in firsts),
            text=tuple(of_groups("prompt", "")),
            tokens=tuple(np.array(ids, np.int32) for ids in of_groups("prompt_tokens", ())),
            purpose=Purpose(table["purpose"][0].as_py()),
            visit_P=np.array(of_groups("visit"), np.int32),
        ),
        group_B=(np.cumsum(start_B) - 1).astype(np.int32),
        sample_B=of_rows("sample", np.int32),
        tokens_BT=ragged("tokens", np.int32),
        logp_BT=ragged("logp", np.float32),
        origin_BT=ragged("origin", np.uint8),
        length_B=length_B,
        thinking_B=of_rows("thinking", np.int32),
        finished_B=of_rows("finished", bool),
        text=tuple(table["text"].to_pylist()) if tokens else ("",) * len(names),
        temperature=table["temperature"][0].as_py(),
        limit=limit,
        mode_B=of_rows("mode", np.int32),
        budget_B=of_rows("budget", np.int32),
        parent_B=np.where(parent_B >= 0, parent_B + offset_B, -1).astype(np.int32),
    )
    return Graded(
        rollouts=rollouts,
        verdict_B=np.array([Verdict[v.upper()] for v in table["verdict"].to_pylist()], np.int8),
        score_B=of_rows("score", np.float32),
        extracted=tuple(table["extracted"].to_pylist()),
        detail=tuple(table["detail"].to_pylist()),
    )


def write_columns(path: pathlib.Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """One Parquet file of columns, whole or not at all, safe on the disk."""
    import pyarrow as pa

    _write_table(pa.table(dict(columns)), path)


def join_rollouts(parts: Sequence[pathlib.Path], path: pathlib.Path) -> None:
    """One file of rollouts from several, in their order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    _write_table(pa.concat_tables([pq.read_table(part) for part in parts]), path)


def keep_only(folder: pathlib.Path, names: Iterable[str]) -> None:
    """Remove the Parquet files that a checkpoint does not know, half-written ones included. A name
    may be a pattern, as ``final-test.*``."""
    known = list(names)
    for path in folder.iterdir() if folder.is_dir() else ():
        strange = not any(fnmatch.fnmatch(path.name, name) for name in known)
        if path.suffix == ".tmp" or (path.suffix == ".parquet" and strange):
            path.unlink()
