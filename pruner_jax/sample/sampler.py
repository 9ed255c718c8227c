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
from pruner_jax.sample.layout import Layout, Move, Shapes, admitted, least_free, nobody, rearrange
from pruner_jax.sample.options import SampleOptions
from pruner_jax.sample.pick import Picking
from pruner_jax.sample.records import Given, Records, Spellings
from pruner_jax.types import Origin, Prompts, Purpose, Rollouts

# Positions of one prefill: bounds its memory, and is enough to keep any device busy.
PREFILL_TOKENS = 16384

# Slots come in multiples of this. An accelerator wants whole tiles; a CPU wants to read few.
SLOT_MULTIPLE = {"cpu": 32}
SLOT_MULTIPLE_ELSEWHERE = 128


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
    programs: dict[str, int] = dataclasses.field(default_factory=dict)  # compiled in this call

    def metrics(self) -> dict[str, float]:
        """For the metrics of a step."""
        return {
            "perf/sample_tokens_per_second": self.tokens / max(self.seconds, 1e-9),
            "perf/sample_live_rows": self.tokens / max(self.row_steps, 1),
            "perf/sample_slots": self.slot_steps / max(self.row_steps, 1),
            "perf/sample_blocks": float(self.blocks),
            "perf/sample_programs": float(sum(self.programs.values())),
            "entropy": self.entropy / max(self.drawn, 1),
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
      limit: most tokens of a response, end token included, one number or [B].
      seed: of all random numbers.
      end_ids: any of them ends a response.
      close_ids, open_ids: what closes and opens a thought (``text.tag_spellings``).
      opened: whether the prompt opens the thought itself, for all or [P].
      decode: text of token ids; the end token is left out before.
      options: how tokens are picked, and how many rows are decoded at once.
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
    batch = _Batch(params, config, records, options, seed=seed, force=force, mesh=mesh)
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
        force: Hook | None,
        mesh: Mesh | None,
    ) -> None:
        self.params, self.records, self.options = params, records, options
        picking = Picking(options.temperature, options.top_k, options.top_p, options.min_p)
        end_ids = tuple(int(i) for i in records.end_ids)
        self.program = device.Program(config, picking, end_ids, options.block, force, mesh)
        purpose = list(Purpose).index(records.prompts.purpose)
        self.key = jax.random.fold_in(jax.random.key(seed), purpose)
        self.identity_B3 = records.identity_B3()
        self.waiting = np.flatnonzero(records.left_B)
        shards = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in ROWS)
        self.shapes = Shapes(
            full=max(1, min(options.rows, -(-len(self.waiting) // shards))),
            shards=shards,
            multiple=options.slot_multiple
            or SLOT_MULTIPLE.get(jax.default_backend(), SLOT_MULTIPLE_ELSEWHERE),
            growth=options.slot_growth,
        )
        self.layout = nobody(self.shapes)
        self.layers: list = []  # keys and values, on the device
        self.rows: device.Rows | None = None
        self.memory_XM = np.zeros((0, memory_of(force)), np.int32)
        self.stats = SampleStats(rows=len(records))
        self.compiled = device.COMPILED.copy()

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
        history_B = prompt_P[self.records.group_B] + self.records.length_B
        move = rearrange(
            self.shapes, self.layout, left_B, history_B, entering, self.options.block
        )
        if move is not None:
            self._relay(move)
            self.layout = move.layout
            self.rows = self._describe(move)
            if count:
                self._prefill(move)
        return True

    def _relay(self, move: Move) -> None:
        """Keys and values of the rows that stay, in the new layout; one layer after the other."""
        shape = {"slots": move.layout.slots, "program": self.program}
        if (move.source_X < 0).all():
            dtype = self.params["embed"].dtype
            self.layers = device.empty(rows=len(move.source_X), dtype=dtype, **shape)
            return
        for i, pair in enumerate(self.layers):
            self.layers[i] = None  # so that the old pair is freed once the new one is there
            self.layers[i] = device.relay_layer(pair, move.source_X, move.shift_s, **shape)

    def _describe(self, move: Move) -> device.Rows:
        """All about the seated rows that the device needs to know."""
        records, layout = self.records, move.layout
        row_X = np.maximum(layout.row_X, 0)
        taken_X = layout.row_X >= 0
        window, count_X = window_of(self.program.force), np.where(taken_X, records.length_B[row_X], 0)
        token_X = np.zeros(len(row_X), np.int32)
        recent_XW = np.full((len(row_X), window), -1, np.int32)
        for seat in np.flatnonzero(taken_X):
            history = records.history(row_X[seat])
            token_X[seat] = history[-1]
            last = history[max(len(history) - window, 0) :]
            recent_XW[seat, window - len(last) :] = last
        stays_X = move.source_X >= 0
        shard_X = np.repeat(np.arange(self.shapes.shards), layout.rows)
        old_X = shard_X * self.layout_rows_before(move) + move.source_X
        memory_XM = np.zeros((len(row_X), self.memory_XM.shape[1]), np.int32)
        memory_XM[stays_X] = self.memory_XM[old_X[stays_X]]
        return device.Rows(
            token_B=token_X,
            start_B=layout.start_X,
            count_B=count_X.astype(np.int32),
            limit_B=records.limit_B[row_X],
            alive_B=taken_X,
            identity_B3=self.identity_B3[row_X],
            mode_B=records.mode_B[row_X],
            budget_B=records.budget_B[row_X],
            memory_BM=memory_XM,
            recent_BW=recent_XW,
        )
