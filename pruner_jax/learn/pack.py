"""Ragged rows -> packed rows of one fixed size, cut into micro-batches of one fixed shape.

Takes ``Rows``; gives a ``Batch`` of numpy arrays whose shapes come from a short list, so that few
programs are compiled. Several rows share a packed row: segments number them from 1 (0 is padding),
positions restart. A row goes in up to the token before its last trained one, which is only
predicted. The hidden states that predict a trained token are listed (``place``), so prompts and
padding never reach the vocabulary product. Leaves out the order of the updates (``rows``).

The M micro-batches of an update are the leading axis; ``Batch.steps`` of them hold rows and the
rest is never run, so M can be rounded up for free.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from flax import struct

from pruner_jax.learn.options import LearnOptions
from pruner_jax.learn.rows import Rows, active, count, share
from pruner_jax.objective.loss_spec import LossSpec

Array = Any  # numpy.ndarray, or jax.Array once it is on the devices


@struct.dataclass
class Micro:
    """One micro-batch of R packed rows of T tokens, with N trained places in each and U units.

    In a ``Batch`` every array has M in front. A unit is what a sequence-level loss sums over: a
    row, or the two rows of a preference pair.
    """

    tokens_RT: Array  # int32
    positions_RT: Array  # int32, restart at 0 in every segment
    segments_RT: Array  # int32, 1.. in each packed row, 0 = padding
    place_RN: Array  # int32, where the hidden state that predicts the target is
    target_RN: Array  # int32, the token to be scored
    share_RN: Array  # float32, factor of the token's loss before summing; 0 = padding
    weight_RN: Array  # float32
    old_logp_RN: Array  # float32
    ref_logp_RN: Array  # float32
    unit_RN: Array  # int32
    size_U: Array  # float32, trained tokens of the unit; 0 = padding


@struct.dataclass
class Batch:
    """Everything of one optimiser update."""

    micro: Micro  # arrays with a leading M
    steps: Array  # int32 scalar, how many of the M are to be run
    count: Array  # float32 scalar, what the summed loss is divided by
    temperature: Array  # float32 scalar


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes that all updates of a collection share."""

    tokens: int  # T
    rows: int  # R, a multiple of the devices that rows are cut over


@dataclasses.dataclass(frozen=True)
class Places:
    """Where each row went; rows that were left out have micro-batch -1."""

    micro_B: np.ndarray
    row_B: np.ndarray
    start_B: np.ndarray  # its first token in the packed row
    segment_B: np.ndarray

    @property
    def packed(self) -> np.ndarray:
        """The rows that were packed, int [<= B]."""
        return np.flatnonzero(self.micro_B >= 0)


def used(rows: Rows) -> np.ndarray:
    """Tokens of each row that go forward, int [B]: up to the one before its last trained token."""
    last_B = rows.train_BT.shape[1] - 1 - rows.train_BT[:, ::-1].argmax(1)
    prompt_B = np.array([len(tokens) for tokens in rows.prompt], int)
    return np.where(rows.train_BT.any(1), prompt_B + last_B, 0)


def plan(
    rows: Rows, spec: LossSpec, options: LearnOptions, *, shards: int = 1, shares: int = 1
) -> Sizes:
    """T and R for all updates of a collection, so that they share one program.

    Args:
      rows: all rows of the collection.
      spec: the loss; it says which rows go forward.
      options: resolved for the backend.
      shards: devices that the packed rows are cut over.
      shares: how many updates a pass over the rows is cut into.

    Raises:
      ValueError: a row does not fit into ``learn.row_tokens``.
    """
    used_B = used(rows)  # also of rows that stay out, so that the sizes do not follow their number
    room = rows.prompt_limit + rows.limit - 1 if rows.prompt_limit else 0
    T = options.row_tokens or _cheapest(used_B, options.attention_tokens, room)
    if used_B.max(initial=0) > T:
        b = int(used_B.argmax())
        raise ValueError(
            f"row {b} takes {used_B[b]} tokens ({len(rows.prompt[b])} of them prompt) but "
            f"learn.row_tokens is {T}; set it to {used_B[b]} or more, or to null"
        )
    least = 2 if spec.kind == "pairs" else 1  # the rows of a pair share a micro-batch
    most = max(least, options.micro_tokens // T)
    wanted = max(least, _power_of_two(-(-_bins(used_B, T) // (shards * shares))))
    return Sizes(T, shards * min(most, wanted))


def _cheapest(used_B: np.ndarray, attention_tokens: int, room: int = 0) -> int:
    """The T that costs least: short rows cost less attention, long ones leave fewer slots empty.

    A slot costs ``1 + T / attention_tokens``. Few sizes are tried, because a new one compiles a new
    program: powers of two; three quarters of the first, where that saves a twentieth (two rows of
    half the longest share it); and a tight fit, where it saves a tenth (many rows cut off at the
    limit): to the ``room`` that a row may need, so that it does not follow the longest prompt at
    hand.
    """
    longest = int(used_B.max(initial=8))
    top, room = _power_of_two(longest), max(longest, room)
    step = max(8, _power_of_two(room) // 16)
    handicap = {step * -(-room // step): 1.1} | {top * k: 1.0 for k in (1, 2, 4)}
    if longest <= top * 3 // 4:
        handicap[top * 3 // 4] = 1.05

    def cost(T: int) -> float:
        return handicap[T] * _bins(used_B, T) * T * (1 + T / attention_tokens)

    return min(handicap, key=cost)


def _bins(used_B: np.ndarray, T: int) -> int:
    """How many packed rows of T tokens first-fit-decreasing takes."""
    free = np.full(len(used_B) + 1, T)
    for n in sorted(used_B[used_B > 0].tolist(), reverse=True):
        free[(free >= n).argmax()] -= n
    return int((free < T).sum())


def first_fit(rows: Rows, spec: LossSpec, sizes: Sizes) -> Places:
    """First-fit-decreasing over packed rows; the rows of a pair go into one micro-batch.

    Ties go by row number, so equal rows give equal places.
    """
    used_B = np.where(active(rows, spec), used(rows), 0)
    T, R, B = sizes.tokens, sizes.rows, len(rows)
    paired = spec.kind == "pairs"
    free_MR = np.full((B // 2 + 1 if paired else B // R + 1, R), T)
    segments_MR = np.zeros_like(free_MR)
    micro_B, row_B, start_B, segment_B = np.full((4, B), -1)

    def put(b: int, m: int, r: int) -> None:
        micro_B[b], row_B[b], start_B[b] = m, r, T - free_MR[m, r]
        free_MR[m, r] -= used_B[b]
        segments_MR[m, r] += 1
        segment_B[b] = segments_MR[m, r]

    order = [int(b) for b in np.argsort(-used_B, kind="stable") if used_B[b]]
    for b in order:
        if micro_B[b] >= 0:
            continue
        if paired:
            other = next(c for c in order if c != b and rows.pair_B[c] == rows.pair_B[b])
            m, r, s = _first_pair(free_MR, used_B[b], used_B[other])
            put(b, m, r)
            put(other, m, s)
        else:
            put(b, *divmod(int((free_MR.reshape(-1) >= used_B[b]).argmax()), R))
    return Places(micro_B, row_B, start_B, segment_B)


def _first_pair(free_MR: np.ndarray, long: int, short: int) -> tuple[int, int, int]:
    """The first micro-batch, and its two packed rows, that hold both rows of a pair."""
    for m, free_R in enumerate(free_MR):
        left_R = free_R.copy()
        r = int((left_R >= long).argmax())
        if left_R[r] < long:
            continue
        left_R[r] -= long
        s = int((left_R >= short).argmax())
        if left_R[s] >= short:
            return m, r, s
    raise AssertionError("plan gives a micro-batch two packed rows, so an empty one holds any pair")


def pack(rows: Rows, spec: LossSpec, sizes: Sizes) -> tuple[Batch, Places]:
    """The batch of one update (numpy), and where its rows went."""
    places = first_fit(rows, spec, sizes)
    T, R, packed = sizes.tokens, sizes.rows, places.packed
    # Few numbers of them, where those that stay empty are cheap: each number is another program.
    M = max(32 if R * T <= 2**15 else 8, _power_of_two(places.micro_B.max(initial=-1) + 1))
    # N is all of T, half or a quarter of it: few programs, and short responses to long prompts pay
    # for a part of the vocabulary products only.
    trained_MR = np.zeros((M, R), int)
    np.add.at(
        trained_MR, (places.micro_B[packed], places.row_B[packed]), rows.train_BT[packed].sum(1)
    )
    N = next(n for n in (-(-T // 4), -(-T // 2), T) if n >= trained_MR.max())
    unit_B, U = _units(rows, spec, sizes, places)
    micro = _empty(M, R, T, N, U)
    _fill_tokens(micro, rows, places)
    _fill_targets(micro, rows, places, share(rows, spec), unit_B)
    batch = Batch(
        micro=micro,
        steps=np.int32(places.micro_B.max(initial=-1) + 1),
        count=np.float32(count(rows, spec)),
        temperature=np.float32(rows.temperature),
    )
    return batch, places


def _empty(M: int, R: int, T: int, N: int, U: int) -> Micro:
    """Padding alone."""

    def zeros(dtype: type, *shape: int) -> np.ndarray:
        return np.zeros((M, *shape), dtype)

    return Micro(
        tokens_RT=zeros(np.int32, R, T),
        positions_RT=zeros(np.int32, R, T),
        segments_RT=zeros(np.int32, R, T),
        place_RN=zeros(np.int32, R, N),
        target_RN=zeros(np.int32, R, N),
        share_RN=zeros(np.float32, R, N),
        weight_RN=zeros(np.float32, R, N),
        old_logp_RN=zeros(np.float32, R, N),
        ref_logp_RN=zeros(np.float32, R, N),
        unit_RN=zeros(np.int32, R, N),
        size_U=zeros(np.float32, U),
    )


def _fill_tokens(micro: Micro, rows: Rows, places: Places) -> None:
    used_B = used(rows)
    for b in places.packed:
        n, start = used_B[b], places.start_B[b]
        spot = places.micro_B[b], places.row_B[b], slice(start, start + n)
        micro.tokens_RT[spot] = np.concatenate([rows.prompt[b], rows.response[b]])[:n]
        micro.positions_RT[spot] = np.arange(n)
        micro.segments_RT[spot] = places.segment_B[b]


def _fill_targets(
    micro: Micro, rows: Rows, places: Places, share_BT: np.ndarray, unit_B: np.ndarray
) -> None:
    for b, spot in spots(rows, places):
        train = np.flatnonzero(rows.train_BT[b])
        micro.place_RN[spot] = places.start_B[b] + len(rows.prompt[b]) + train - 1
        micro.target_RN[spot] = rows.response[b][train]
        micro.share_RN[spot] = share_BT[b, train]
        micro.weight_RN[spot] = rows.weight_BT[b, train]
        if rows.old_logp_BT is not None:
            micro.old_logp_RN[spot] = rows.old_logp_BT[b, train]
        if rows.ref_logp_BT is not None:
            micro.ref_logp_RN[spot] = rows.ref_logp_BT[b, train]
        micro.unit_RN[spot] = unit_B[b]
        micro.size_U[spot[0], unit_B[b]] += len(train)


def spots(rows: Rows, places: Places) -> Iterator[tuple[int, tuple[int, int, slice]]]:
    """Each packed row, and where in [M, R, N] its trained tokens lie, in the order of the row."""
    filled: dict[tuple[int, int], int] = {}
    for b in places.packed:
        line = int(places.micro_B[b]), int(places.row_B[b])
        first = filled.get(line, 0)
        filled[line] = first + int(rows.train_BT[b].sum())
        yield int(b), (*line, slice(first, filled[line]))


def _units(rows: Rows, spec: LossSpec, sizes: Sizes, places: Places) -> tuple[np.ndarray, int]:
    """The number of each row's unit within its micro-batch, and how many there is room for."""
    unit_B, most = np.zeros(len(rows), int), 1
    if spec.kind == "ce" or (spec.kind == "pg" and spec.ratio == "token"):
        return unit_B, most
    name_B = rows.pair_B if spec.kind == "pairs" else np.arange(len(rows))
    for m in np.unique(places.micro_B[places.packed]):
        here = np.flatnonzero(places.micro_B == m)
        names, unit_B[here] = np.unique(name_B[here], return_inverse=True)
        most = max(most, len(names))
    return unit_B, _power_of_two(max(most, 2 * sizes.rows))


def _power_of_two(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << max(0, int(n) - 1).bit_length()
