"""Weighed rows that are trained on later: files that are written once and read again.

A phase that collects once or by iteration learns from what it has for many steps, through stops and
restarts. Each collection becomes one file of learner's rows, weights and log-probabilities
included, so nothing has to be weighed or scored again. Leaves out which files a phase has
(`state.RunState.shards`).
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from pruner_jax.learn.rows import Rows
from pruner_jax.store.records import write_columns

_RAGGED = {
    "train_BT": bool,
    "weight_BT": np.float32,
    "old_logp_BT": np.float32,
    "ref_logp_BT": np.float32,
}


def write_shard(path: pathlib.Path, rows: Rows) -> None:
    """One file of rows, whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    length_B = [len(tokens) for tokens in rows.response]
    columns = {"prompt": list(rows.prompt), "response": list(rows.response)}
    for name in _RAGGED:
        x_BT = getattr(rows, name)
        if x_BT is not None:
            columns[name] = [x[:n] for x, n in zip(x_BT, length_B)]
    if rows.pair_B is not None:
        columns["pair_B"] = rows.pair_B
    columns["temperature"] = [rows.temperature] * len(rows)
    columns["limit"] = [rows.limit] * len(rows)
    write_columns(path, columns)


def read_shards(paths: Sequence[pathlib.Path]) -> Rows:
    """The rows of all files, in their order. Pairs of different files stay apart."""
    return join([_read(path) for path in paths])


def _read(path: pathlib.Path) -> Rows:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(path)

    def flat(name: str) -> np.ndarray:
        return pc.list_flatten(table[name]).to_numpy()

    def ragged(name: str) -> tuple[np.ndarray, ...]:
        ends_B = np.cumsum(pc.list_value_length(table[name]).to_numpy())
        return tuple(np.split(flat(name).astype(np.int32), ends_B[:-1]))

    response = ragged("response")
    length_B = np.array([len(tokens) for tokens in response])
    inside_BT = np.arange(length_B.max(initial=0)) < length_B[:, None]
    fields: dict[str, np.ndarray] = {}
    for name, dtype in _RAGGED.items():
        if name in table.column_names:
            fields[name] = np.zeros(inside_BT.shape, dtype)
            fields[name][inside_BT] = flat(name)
    if "pair_B" in table.column_names:
        fields["pair_B"] = table["pair_B"].to_numpy().astype(np.int32)
    return Rows(
        prompt=ragged("prompt"),
        response=response,
        temperature=table["temperature"][0].as_py(),
        limit=table["limit"][0].as_py(),
        **fields,
    )


def join(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.train_BT.shape[1] for part in parts)
    fields: dict[str, np.ndarray] = {}
    for name in _RAGGED:
        if getattr(parts[0], name) is not None:
            arrays = [getattr(part, name) for part in parts]
            fields[name] = np.concatenate(
                [np.pad(x_BT, ((0, 0), (0, width - x_BT.shape[1]))) for x_BT in arrays]
            )
    if parts[0].pair_B is not None:
        firsts = np.cumsum([0, *(part.pair_B.max() + 1 for part in parts[:-1])])
        fields["pair_B"] = np.concatenate([p.pair_B + first for p, first in zip(parts, firsts)])
    return dataclasses.replace(
        parts[0],
        prompt=sum((part.prompt for part in parts), ()),
        response=sum((part.response for part in parts), ()),
        limit=max(part.limit for part in parts),
        **fields,
    )
