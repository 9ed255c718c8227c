"""Where rows sit: the few shapes of the batch, and when it is worth laying it out anew.

Numpy only, and no randomness: a decision follows from row order and lengths alone. Seats come in
the full number or halves of it, slots in a growing series; so few programs are compiled. With
several shards (devices that each decode their own seats) all shards have the same shape, and a row
never leaves its shard.

Three things make a new layout: the cache is full, a smaller one would do (fewer live rows, or
shorter ones), or waiting rows come in. Waiting rows come in when the share ``refill`` of the seats
is free, as many as there are seats, whatever group they belong to: a group that is torn apart has
its prompt prefilled once more. That is cheaper than to wait for as many seats as a group has, or to
keep the prompt's cache: with 1024 rows in groups of 8, mean length 38 and refill = 0.25, 3505
prompt tokens were prefilled instead of 3246, 5 ms of the call's 3.4 s (CPU time, 2 cores).

Where all rows come in at once, the samples of a prompt, which are neighbours, share its slots until
rows move and each gets a copy: when half of them have ended, or what they share is so long that
a cache without it is smaller. (A group is what divides the samples of all prompts; with one sample
more of a single prompt there is none.) Where others wait for seats rows would soon move, in shapes
of other programs.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

FEWEST = 8  # seats: a smaller batch is hardly faster


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The shapes that the batch may take."""

    full: int  # most seats of a shard
    shards: int
    multiple: int  # of slots
    growth: float  # least factor from one number of slots to the next

    def rows(self, needed: int) -> int:
        """Seats of a shard that holds ``needed`` rows."""
        rows = self.full
        while rows > FEWEST and -(-rows // 2) >= needed:
            rows = max(FEWEST, -(-rows // 2))
        return rows

    def slots(self, needed: int) -> int:
        """Slots of a cache, or width of a prefill, of at least ``needed``."""
        slots = self.multiple
        while slots < needed:
            grown = math.ceil(slots * self.growth / self.multiple) * self.multiple
            slots = max(slots + self.multiple, grown)
        return slots

    def own(self, needed: int, limit: int) -> int:
        """Slots of a row behind a prefix, of at least ``needed``, for ``limit`` tokens at most."""
        return min(self.slots(needed), self.whole(limit))

    def whole(self, needed: int) -> int:
        """At least ``needed`` slots, in whole multiples."""
        return -(-needed // self.multiple) * self.multiple

    def most_slots(self, prompt: int, limit: int, block: int) -> int:
        """Slots that the cache may come to have: a block that the oldest row is the last to join,
        while others go on for all of it; or one right behind a prefill."""
        held = max(prompt + limit - 2, self.slots(prompt - 1))
        return self.slots(held + min(block, limit))

    def most_prompts(self, count: int, samples: int) -> int:
        """The most different prompts of the rows that come into a shard together, of ``count`` in
        groups of ``samples``. Where not all come in at once a run of them begins anywhere."""
        if count <= self.full * self.shards and self.full % samples == 0:
            return self.full // samples
        return min(self.full, 1 + -(-(self.full - 1) // samples))

    def may_share(self, group: int, prompt: int, limit: int, block: int) -> bool:
        """Whether so many neighbours may have the slots of their prompt in common: no more memory
        is taken than a cache without such slots may come to take."""
        shared = self.slots(prompt - 1) / group + self.whole(limit)
        return group > 1 and shared <= self.most_slots(prompt, limit, block)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Who sits where. Seats are numbered through, shard by shard (X seats in all)."""

    row_X: np.ndarray  # int64, the row in each seat, -1: none
    start_X: np.ndarray  # int32, its first live slot
    slot_s: np.ndarray  # int32, the next slot of each shard
    slots: int  # of a seat, the shared ones included
    group: int = 1  # neighbouring seats that share their first slots
    prefix: int = 0  # how many slots they share

    @property
    def rows(self) -> int:
        """Seats of one shard."""
        return len(self.row_X) // len(self.slot_s)

    @property
    def own(self) -> int:
        """Slots of a seat alone."""
        return self.slots - self.prefix

    @property
    def slots_read(self) -> int:
        """Slots that a decode step reads in one shard."""
        return self.rows * self.own + self.rows // self.group * self.prefix

    def seated(self) -> np.ndarray:
        """The rows that sit somewhere, in the order of their seats."""
        return self.row_X[self.row_X >= 0]


@dataclasses.dataclass(frozen=True)
class Move:
    """A new layout and how to get there."""

    layout: Layout
    source_X: np.ndarray  # int32, the old seat within the shard of who sits here now, -1: nobody
    fresh_X: np.ndarray  # bool, who comes in
    shift_s: np.ndarray  # int32, slots that everything moves down


def nobody(shapes: Shapes) -> Layout:
    """No seats at all."""
    return Layout(
        np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(shapes.shards, np.int32), 0
    )


def admitted(shapes: Shapes, live: int, waiting: int, refill: float) -> int:
    """How many of the waiting rows come in now."""
    seats = shapes.full * shapes.shards
    if live and seats - live < least_free(shapes, refill):
        return 0
    return min(waiting, seats - live)


def least_free(shapes: Shapes, refill: float) -> int:
    """Seats that must be free before waiting rows come in."""
    return max(1, math.ceil(refill * shapes.full * shapes.shards))


def rearrange(
    shapes: Shapes,
    old: Layout,
    left_B: np.ndarray,
    history_B: np.ndarray,
    entering: np.ndarray,
    block: int,
    group_B: np.ndarray | None = None,
) -> Move | None:
    """The layout for the next block, or None if the old one is good enough.

    ``left_B``: tokens that each row may still get (0: done); ``history_B``: tokens that it has, the
    prompt included; ``entering``: rows that come in, in this order; ``group_B``: which rows have
    the same prompt, where they may share it (None: nowhere).
    """
    live_X = (old.row_X >= 0) & (left_B[old.row_X] > 0)
    stay = [np.flatnonzero(part) for part in np.split(live_X, shapes.shards)]
    enter = _deal(shapes, [len(part) for part in stay], entering)
    rows = shapes.rows(max(len(a) + len(b) for a, b in zip(stay, enter)))
    going = np.concatenate([old.row_X[live_X], entering])
    if not len(going):
        return None
    left = int(left_B[going].max())
    steps = min(block, left)
    # Slots in use: of each shard's oldest row, and at least what a prefill takes.
    prefill = shapes.slots(int((history_B[entering] - 1).max())) if len(entering) else 0
    seats = np.split(old.start_X, shapes.shards)
    slot_s = np.array(
        [
            max(old.slot_s[s] - seats[s][part].min(initial=old.slot_s[s]), prefill)
            for s, part in enumerate(stay)
        ],
        np.int32,
    )
    slots = shapes.slots(int(slot_s.max()) + steps)
    fits = old.slot_s.max() + steps <= old.slots
    if old.prefix and not len(entering) and rows == old.rows:
        grown = old if fits else _grow(shapes, old, live_X, left, steps)
        if grown.slots_read <= rows * slots:
            return None if fits else _stay(grown)
    if not len(entering) and rows == old.rows and slots >= old.slots and fits:
        return None
    source_X = np.full((shapes.shards, rows), -1, np.int32)
    row_X = np.full((shapes.shards, rows), -1, np.int64)
    start_X = np.repeat(slot_s[:, None], rows, axis=1)
    shift_s = old.slot_s - slot_s
    for s, (kept, new) in enumerate(zip(stay, enter)):
        n, m = len(kept), len(kept) + len(new)
        source_X[s, :n] = kept
        row_X[s, :n] = np.split(old.row_X, shapes.shards)[s][kept]
        row_X[s, n:m] = new
        start_X[s, :n] = seats[s][kept] - shift_s[s]
        start_X[s, n:m] = slot_s[s] - (history_B[new] - 1)
    row_X, source_X = row_X.reshape(-1), source_X.reshape(-1)
    layout = Layout(row_X, start_X.reshape(-1), slot_s, slots)
    if group_B is not None and not len(old.row_X):
        layout = _share(shapes, layout, group_B, int(history_B[going].max()), left, block)
    return Move(layout, source_X, (row_X >= 0) & (source_X < 0), shift_s)


def _share(
    shapes: Shapes, layout: Layout, group_B: np.ndarray, history: int, left: int, block: int
) -> Layout:
    """The layout of rows that all come in, the prompts of neighbours in slots that they share where
    they may."""
    group_X = np.where(layout.row_X >= 0, group_B[layout.row_X], -1)
    group = int(np.gcd.reduce([layout.rows, *np.flatnonzero(np.diff(group_X)) + 1]))
    if not shapes.may_share(group, history, left, block):
        return layout
    prefix = int(layout.slot_s[0])  # of the longest prompt
    slots = prefix + shapes.own(min(block, left), left)
    return dataclasses.replace(layout, slots=slots, group=group, prefix=prefix)


def _grow(shapes: Shapes, old: Layout, live_X: np.ndarray, left: int, steps: int) -> Layout:
    """The same seats with more slots of their own, enough for the next block."""
    made = int(old.slot_s.max()) - old.prefix
    slots = old.prefix + shapes.own(made + steps, made + left)
    return dataclasses.replace(old, row_X=np.where(live_X, old.row_X, -1), slots=slots)


def _stay(layout: Layout) -> Move:
    """Everybody where they sit."""
    seats = np.tile(np.arange(layout.rows, dtype=np.int32), len(layout.slot_s))
    return Move(layout, seats, np.zeros(len(seats), bool), np.zeros_like(layout.slot_s))


def _deal(shapes: Shapes, live: list[int], entering: np.ndarray) -> list[np.ndarray]:
    """The entering rows dealt to the shards in runs, so that all end up about equally full."""
    target = -(-(sum(live) + len(entering)) // shapes.shards)
    hands, first = [], 0
    for n in live:
        last = first + max(0, target - n)
        hands.append(entering[first:last])
        first = last
    return hands
