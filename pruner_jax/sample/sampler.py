"""Prompts to rollouts: the loop of sampling, read top to bottom in ``sample``.

The device decodes in blocks (``decode``). In between the host looks once: it notes what was written
(``records``), and where that pays lays the batch out anew (``layout``), with finished rows out and
waiting ones in. While the device works on the next block the host reports the rows that the last
one finished, so that they are checked meanwhile.

A row's random numbers hang on the seed, the purpose, its problem, visit and sample, and the
position; not on its seat, its neighbours, or when it came in.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from pruner_jax.mesh import ROWS
from pruner_jax.policy.config import ModelConfig
from pruner_jax.sample import decode as device
from pruner_jax.sample.force import Hook, memory_of, window_of
from pruner_jax.sample.layout import Move, Shapes, admitted, least_free, nobody, rearrange
from pruner_jax.sample.options import SampleOptions
from pruner_jax.sample.pick import Picking
from pruner_jax.sample.records import Given, Records, Spellings, Stop
from pruner_jax.types import Origin, Prompts, Purpose, Rollouts

# Positions of one prefill: bounds its memory, and is enough to keep any device busy.
PREFILL_TOKENS = 16384


@dataclasses.dataclass
class SampleStats:
    """What a call of ``sample`` took."""

    rows: int = 0
    tokens: int = 0  # written in this call
    drawn: int = 0  # of those, by the policy
    prompt_tokens: int = 0  # prefilled
    seconds: float = 0.0
    blocks: int = 0  # times the host looked at the device
    steps: int = 0  # decode steps
    row_steps: int = 0  # seats that decode steps computed, alive or not
    slot_steps: int = 0  # slots that they read
    entropy: float = 0.0  # nats, summed over the drawn tokens

    def __add__(self, other: SampleStats) -> SampleStats:
        """What both calls took."""
        both = {
            field.name: getattr(self, field.name) + getattr(other, field.name)
            for field in dataclasses.fields(self)
        }
        return SampleStats(**both)

    def metrics(self) -> dict[str, float]:
        """For the metrics of a step."""
        return {
            "perf/sample_tokens_per_second": self.tokens / max(self.seconds, 1e-9),
            "perf/sample_live_rows": self.tokens / max(self.row_steps, 1),
            "perf/sample_slots": self.slot_steps / max(self.row_steps, 1),
            "perf/sample_blocks": float(self.blocks),
            "sampling/entropy": self.entropy / max(self.drawn, 1),
        }


def sample(
    params: Any,
    config: ModelConfig,
    prompts: Prompts,
    *,
    samples: int | np.ndarray,
    limit: int | np.ndarray,
    seed: int,
    end_ids: Sequence[int],
    close_ids: Spellings,
    opened: bool | Sequence[bool],
    decode: Callable[[np.ndarray], str],
    options: SampleOptions,
    open_ids: Spellings = (),
    stop: Stop | None = None,
    force: Hook | None = None,
    given: Mapping[int, Given] | None = None,
    mode_B: np.ndarray | None = None,
    budget_B: np.ndarray | None = None,
    on_row: Callable[[int, np.ndarray, bool], None] | None = None,
    on_progress: Callable[[int, int, int], None] | None = None,
    mesh: Mesh | None = None,
) -> tuple[Rollouts, SampleStats]:
    """Responses to P prompts: B rows in the order (prompt, sample), and what they took.

    Args:
      params: decode parameters (``policy.weights.unstack``); the cache has the dtype of their
        embedding. With a mesh they lie on it by ``DECODE_RULES``.
      config: of the model.
      prompts: what is answered.
      samples: how many responses to each prompt, one number or [P].
      limit: most tokens of a response, end token included, one number or [B]; a row of limit 0
        stays empty, whatever its prompt.
      seed: of all random numbers.
      end_ids: any of them ends a response.
      close_ids, open_ids: what closes and opens a thought (``text.tag_spellings``).
      opened: whether the prompt opens the thought itself, for all or [P].
      decode: text of token ids; the end token is left out before.
      options: how tokens are picked, and how many rows are decoded at once.
      stop: strings that end a response too; rows are the same however often the host looks, but the
        numbers of the call count what was written until it did.
      force: hook that may write other tokens than the policy drew (``sample.force``).
      given: rows that go on from what they already have, by row number.
      mode_B, budget_B: for the hook and the Rollouts; 0 and -1 where absent.
      on_row: called with (row, tokens, finished) as soon as a row is done, tokens as in the result.
      on_progress: called at every look with (rows done, B, tokens written).
      mesh: rows are spread over its data and fsdp axes.

    Raises:
      ValueError: a prompt and its limit are longer than the model's context, or arrays that do not
        fit the rows.
    """
    began = time.perf_counter()
    records = Records(
        prompts,
        samples=samples,
        limit=limit,
        end_ids=end_ids,
        context=config.context,
        given=given,
        mode_B=mode_B,
        budget_B=budget_B,
    )
    batch = _Batch(params, config, records, options, seed=seed, stop=stop, force=force, mesh=mesh)
    done = np.flatnonzero(records.left_B == 0)
    while batch.arrange():
        running = batch.start()
        _report(records, done, batch.stats, on_row, on_progress)
        done = batch.finish(running)
    _report(records, done, batch.stats, on_row, on_progress)
    rollouts = records.rollouts(
        decode,
        temperature=options.temperature,
        close_ids=close_ids,
        open_ids=open_ids,
        opened_P=np.broadcast_to(np.asarray(opened, bool), len(prompts)),
    )
    batch.stats.seconds = time.perf_counter() - began
    return rollouts, batch.stats


def shapes_of(options: SampleOptions, mesh: Mesh | None, count: int) -> Shapes:
    """The shapes that a batch may take where ``count`` rows are to be written."""
    options = options.resolve(jax.default_backend())
    shards = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in ROWS)
    return Shapes(
        full=max(1, min(options.rows, -(-count // shards))),
        shards=shards,
        multiple=options.slot_multiple,
        growth=options.slot_growth,
    )


def prefill_rows(width: int, distinct: int) -> int:
    """Prompts that a shard reads at a time, of so many different ones in slots of that width: few
    sizes, for each is a program."""
    return min(_power_of_two(distinct), max(1, _power_of_two(PREFILL_TOKENS // width + 1) // 2))


def _report(records: Records, done: np.ndarray, stats: SampleStats, on_row, on_progress) -> None:
    """Tell the callers which rows are done, in row order."""
    if on_row is not None:
        finished_B = records.finished_B
        for row in np.sort(done):
            tokens = records.tokens_BT[row, : records.length_B[row]]
            on_row(int(row), tokens.copy(), bool(finished_B[row]))
    if on_progress is not None:
        on_progress(int((records.left_B == 0).sum()), len(records), stats.tokens)


class _Batch:
    """The rows on the device, and those that wait for a seat; lives as long as one call."""

    def __init__(
        self,
        params: Any,
        config: ModelConfig,
        records: Records,
        options: SampleOptions,
        *,
        seed: int,
        stop: Stop | None,
        force: Hook | None,
        mesh: Mesh | None,
    ) -> None:
        self.params, self.records, self.options, self.stop = params, records, options, stop
        picking = Picking(options.temperature, options.top_k, options.top_p, options.min_p)
        end_ids = tuple(int(i) for i in records.end_ids)
        self.program = device.Program(config, picking, end_ids, options.block, force, mesh)
        self.key = _stream(seed, list(Purpose).index(records.prompts.purpose))
        self.identity_B3 = records.identity_B3()
        self.waiting = np.flatnonzero(records.left_B)
        self.shapes = shapes_of(options, mesh, len(self.waiting))
        self.layout = nobody(self.shapes)
        self.layers: list = []  # keys and values, on the device
        self.prefix: list | None = None  # those in slots that neighbours share
        self.rows: device.Rows | None = None
        self.memory_BM = np.zeros((len(records), memory_of(force)), np.int32)
        self._replay()
        self.stats = SampleStats(rows=len(records))

    def _replay(self) -> None:
        """The force hook's memory of what rows have been given."""
        rows = np.flatnonzero(self.records.length_B)
        if not self.memory_BM.shape[1] or not len(rows):
            return
        padded = np.resize(rows, _power_of_two(len(rows)))  # repeats some, to few sizes
        width = self.shapes.slots(int(self.records.length_B.max()))
        spare = width - self.records.tokens_BT.shape[1]
        tokens_BT = np.pad(self.records.tokens_BT, ((0, 0), (0, max(spare, 0))))[padded, :width]
        beginning = self._describe(padded, np.zeros(len(padded)), 0 * self.records.length_B)
        memory_BM = device.replay(
            beginning, tokens_BT, self.records.length_B[padded], self.key, program=self.program
        )
        self.memory_BM[rows] = np.asarray(memory_BM)[: len(rows)]

    # -- between blocks ----------------------------------------------------------------------------

    def arrange(self) -> bool:
        """Let waiting rows in and lay the batch out anew where that pays; False: all are done."""
        left_B = self.records.left_B
        live = int((left_B[self.layout.seated()] > 0).sum())
        if not live and not len(self.waiting):
            return False
        count = admitted(self.shapes, live, len(self.waiting), self.options.refill)
        entering, self.waiting = self.waiting[:count], self.waiting[count:]
        prompt_P = np.array([len(tokens) for tokens in self.records.prompts.tokens])
        group_B, length_B = self.records.group_B, self.records.length_B
        history_B = prompt_P[group_B] + length_B
        share = self.options.share_prompts and not len(self.waiting)
        share = share and not length_B[entering].any()  # each would begin with what it has
        move = rearrange(
            self.shapes,
            self.layout,
            left_B,
            history_B,
            entering,
            self.options.block,
            group_B if share else None,
        )
        if move is not None:
            self._relay(move)
            self.layout = move.layout
            self.rows = self._describe(
                move.layout.row_X, move.layout.start_X, self.records.length_B
            )
            if count:
                self._prefill(move)
        return True

    def _relay(self, move: Move) -> None:
        """Keys and values of the rows that stay, in the new layout; one layer after the other."""
        layout, seats, mesh = move.layout, len(move.source_X), self.program.mesh
        if (move.source_X < 0).all():
            self.layers, self.prefix = [], None  # freed before the new ones are there
            kind = {"config": self.program.config, "dtype": self.params["embed"].dtype}
            self.layers = device.empty(rows=seats, slots=layout.own, mesh=mesh, **kind)
            if layout.prefix:
                places = seats // layout.group
                self.prefix = device.empty(rows=places, slots=layout.prefix, mesh=mesh, **kind)
            return
        given_up = [None] * len(self.layers)
        if not layout.prefix and self.prefix:
            given_up, self.prefix = self.prefix, None
        for i, pair in enumerate(self.layers):
            shared, given_up[i] = given_up[i], None
            self.layers[i] = None  # so that the old pair is freed once the new one is there
            self.layers[i] = device.relay_layer(
                pair, move.source_X, move.shift_s, shared, slots=layout.own, mesh=mesh
            )

    def _describe(self, row_X: np.ndarray, start_X: np.ndarray, length_B: np.ndarray):
        """What the device must know of the rows (-1: an empty seat), ``length_B`` tokens long."""
        records, window = self.records, window_of(self.program.force)
        seated_X, row_X = row_X >= 0, np.maximum(row_X, 0)
        token_X = np.zeros(len(row_X), np.int32)
        recent_XW = np.full((len(row_X), window), -1, np.int32)
        for seat in np.flatnonzero(seated_X):
            row = row_X[seat]
            token_X[seat] = records.history(row, length_B[row])[-1]
            last = records.history(row, length_B[row])[-window:] if window else []
            recent_XW[seat, window - len(last) :] = last
        return device.Rows(
            token_B=token_X,
            start_B=start_X.astype(np.int32),
            count_B=np.where(seated_X, length_B[row_X], 0).astype(np.int32),
            limit_B=records.limit_B[row_X],
            alive_B=seated_X,
            identity_B3=self.identity_B3[row_X],
            mode_B=records.mode_B[row_X],
            budget_B=records.budget_B[row_X],
            memory_BM=self.memory_BM[row_X],
            recent_BW=recent_XW,
        )

    def _prefill(self, move: Move) -> None:
        """Keys and values of the rows that come in: once for all that begin alike, then forked
        into their seats, or into those that they share.

        A few prompts at a time, as many for each shard.
        """
        layout, records = move.layout, self.records
        # What is filled: a prefix, if there is one, for then nobody comes in later. The seats that
        # share it are one here.
        cache = self.prefix or self.layers
        fresh_Y, row_Y = move.fresh_X[:: layout.group], layout.row_X[:: layout.group]
        shard_Y = np.arange(len(row_Y)) // (layout.rows // layout.group)
        distinct: list[dict[bytes, int]] = [{} for _ in layout.slot_s]
        place_Y = np.full(len(row_Y), -1)
        for seat in np.flatnonzero(fresh_Y):
            row = row_Y[seat]
            prefix = records.history(row, records.length_B[row])[:-1].tobytes()
            own = distinct[shard_Y[seat]]
            place_Y[seat] = own.setdefault(prefix, len(own))
        longest = max(len(prefix) // 4 for own in distinct for prefix in own)
        width = self.shapes.slots(longest)
        most = max(len(own) for own in distinct)
        some = prefill_rows(width, most)
        for first in range(0, most, some):
            tokens_BT = np.zeros((len(distinct), some, width), np.int32)
            start_B = np.full((len(distinct), some), width, np.int32)
            for shard, own in enumerate(distinct):
                for place, prefix in enumerate(list(own)[first : first + some]):
                    tokens = np.frombuffer(prefix, np.int32)
                    start_B[shard, place] = width - len(tokens)
                    tokens_BT[shard, place, width - len(tokens) :] = tokens
                    self.stats.prompt_tokens += len(tokens)
            fresh = device.prefill(
                self.params,
                tokens_BT.reshape(-1, width),
                start_B.reshape(-1),
                config=self.program.config,
                mesh=self.program.mesh,
            )
            here_Y = (place_Y >= first) & (place_Y < first + some)
            source_Y = np.where(here_Y, place_Y - first, -1).astype(np.int32)
            for i, pair in enumerate(fresh):
                cache[i] = device.put_layer(
                    cache[i], pair, source_Y, layout.slot_s, mesh=self.program.mesh
                )
            del fresh, pair  # before the next ones are made

    # -- a block -----------------------------------------------------------------------------------

    def start(self) -> device.Written:
        """Set the device to work on a block; does not wait for it."""
        left = int(self.records.left_B[self.layout.seated()].max())
        steps = min(self.options.block, left, self.layout.slots - int(self.layout.slot_s.max()))
        self.layers, self.rows, written = device.decoder(self.program.mesh)(
            self.params,
            self.layers,
            self.prefix,
            self.rows,
            self.layout.slot_s,
            np.array([steps, self._enough()], np.int32),
            self.key,
            program=self.program,
        )
        return written

    def _enough(self) -> int:
        """Live rows at which the block ends early, because the batch is to be laid out anew.

        With several shards none waits for another: each goes on as long as a row of it lives.
        """
        if self.shapes.shards > 1:
            return 0
        live = int((self.records.left_B[self.layout.seated()] > 0).sum())
        if len(self.waiting):
            return min(self.shapes.full - least_free(self.shapes, self.options.refill), live - 1)
        fewer = self.shapes.rows(-(-self.layout.rows // 2))
        return fewer if fewer < min(self.layout.rows, live) else 0

    def finish(self, written: device.Written) -> np.ndarray:
        """Look at the block, note what it wrote; the rows that it finished."""
        written, memory_XM = jax.device_get((written, self.rows.memory_BM))
        layout, stats = self.layout, self.stats
        seats = np.flatnonzero(layout.row_X >= 0)
        rows = layout.row_X[seats]
        before, length = self.records.left_B[rows] > 0, self.records.length_B[rows]
        self.memory_BM[rows] = memory_XM[seats]
        stats.tokens += self.records.append(
            rows,
            written.token_BT[seats],
            written.logp_BT[seats],
            written.origin_BT[seats],
        )
        if self.stop is not None:
            self._end_stopped(seats[before], length[before])
        steps_s = written.steps_B[:: layout.rows]
        self.layout = dataclasses.replace(layout, slot_s=layout.slot_s + steps_s)
        stats.drawn += int((written.origin_BT == Origin.SAMPLED).sum())
        stats.entropy += float(written.entropy_B.sum())
        stats.blocks += 1
        stats.steps += int(steps_s.max())
        stats.row_steps += int(steps_s.sum()) * layout.rows
        stats.slot_steps += int(steps_s.sum()) * layout.slots_read
        return rows[before & (self.records.left_B[rows] == 0)]

    def _end_stopped(self, seats: np.ndarray, seen: np.ndarray) -> None:
        """End the rows in these seats that hold a stop string, here and on the device."""
        ended = seats[self.records.end_at(self.stop, self.layout.row_X[seats], seen)]
        if len(ended):
            goes_on_X = ~np.isin(np.arange(len(self.layout.row_X)), ended)
            self.rows = self.rows.replace(alive_B=self.rows.alive_B & goes_on_X)


@functools.partial(jax.jit, static_argnames="seed")
def _stream(seed: int, purpose: int) -> jax.Array:
    """The key of all draws for a purpose; one program, with the seed in it."""
    return jax.random.fold_in(jax.random.key(seed), purpose)


def _power_of_two(n: int) -> int:
    """The least power of two that is at least ``n``."""
    return 1 << (n - 1).bit_length()
