"""All rows of a call on the host: what each begins with, what has been written, and the Rollouts.

Numpy only. Leaves out where a row sits on the device (``layout``) and how it is continued.
"""

from __future__ import annotations

import bisect
import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pruner_jax import text
from pruner_jax.types import Origin, Prompts, Rollouts

Spellings = Sequence[int | Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Given:
    """What a row already has; it goes on from there. It counts towards the row's length and limit.

    ``sample``: the sample number of the row's random key, where it is not its place in the group.
    """

    tokens: np.ndarray  # int32
    logp: np.ndarray  # float32, as many
    origin: np.ndarray  # uint8 of Origin, as many
    parent: int = -1  # the row it was cut from
    sample: int | None = None


def cut(rollouts: Rollouts, row: int, length: int) -> Given:
    """The first ``length`` tokens of a row, to go on from. Left alone it writes the same again."""
    return Given(
        tokens=rollouts.tokens_BT[row, :length],
        logp=rollouts.logp_BT[row, :length],
        origin=rollouts.origin_BT[row, :length],
        parent=row,
        sample=int(rollouts.sample_B[row]),
    )


@dataclasses.dataclass(frozen=True)
class Stop:
    """Strings that end a row: it is cut before the first to be complete, and given an end token."""

    strings: tuple[str, ...]
    end_id: int
    decode: Callable[[np.ndarray], str]

    def cut(self, tokens: np.ndarray, seen: int) -> int | None:
        """How many of a row's tokens stay, int32 [T] of which ``seen`` hold no string; None: all.

        The tokens whose text lies wholly before the string. Found from the first tokens that hold
        one, whatever follows, so it does not matter how far the row had been written when the host
        looked.
        """
        # A string is at most as many tokens long as bytes; some more, for a decoder that treats the
        # first token of what it is given in a way of its own.
        reach = 8 + max(len(string.encode()) for string in self.strings)
        if not self._begin(self.decode(tokens[max(0, seen - reach) :])):
            return None
        lengths = range(seen + 1, len(tokens) + 1)
        place = bisect.bisect_left(
            lengths, True, key=lambda n: bool(self._begin(self.decode(tokens[:n])))
        )
        if place == len(lengths):
            return None
        first = lengths[place]
        text = self.decode(tokens[:first])
        before = text[: min(self._begin(text))]
        return next(n for n in reversed(range(first)) if before.startswith(self.decode(tokens[:n])))

    def _begin(self, text: str) -> list[int]:
        """Where strings begin in a text."""
        return [text.index(string) for string in self.strings if string in text]


class Records:
    """B rows in the order (prompt, sample), each as far as it has been written."""

    def __init__(
        self,
        prompts: Prompts,
        *,
        samples: int | np.ndarray,
        limit: int | np.ndarray,
        end_ids: Sequence[int],
        context: int,
        given: Mapping[int, Given] | None = None,
        mode_B: np.ndarray | None = None,
        budget_B: np.ndarray | None = None,
    ) -> None:
        samples_P = np.broadcast_to(np.asarray(samples, np.int32), len(prompts))
        if samples_P.min(initial=0) < 0:
            raise ValueError(f"samples is {samples}; allowed: 0 or more for every prompt")
        rows = int(samples_P.sum())
        self.prompts, self.end_ids = prompts, np.asarray(end_ids, np.int32)
        self.group_B = np.repeat(np.arange(len(prompts), dtype=np.int32), samples_P)
        self.sample_B = np.concatenate([np.arange(n) for n in [0, *samples_P]]).astype(np.int32)
        self.limit_B = _per_row("limit", limit, rows, 0)
        self.mode_B = _per_row("mode_B", mode_B, rows, 0)
        self.budget_B = _per_row("budget_B", budget_B, rows, -1)
        self.parent_B = np.full(rows, -1, np.int32)
        self.length_B = np.zeros(rows, np.int32)
        self.tokens_BT = np.zeros((rows, 0), np.int32)
        self.logp_BT = np.zeros((rows, 0), np.float32)
        self.origin_BT = np.zeros((rows, 0), np.uint8)
        self._check(context, least=0 if np.ndim(limit) else 1)
        for row, start in (given or {}).items():
            self._begin(row, start)

    def __len__(self) -> int:
        return len(self.length_B)

    def _check(self, context: int, least: int) -> None:
        """Every prompt that is answered has a token, and fits into the context together with its
        rows' limit."""
        if self.limit_B.min(initial=1) < least:
            raise ValueError(
                f"limit is {self.limit_B.min()}; allowed: 1 token or more (0 for rows of "
                "a list, which then stay empty)"
            )
        longest_P = np.zeros(len(self.prompts), np.int64)
        np.maximum.at(longest_P, self.group_B, self.limit_B)
        for problem, tokens, limit in zip(self.prompts.problems, self.prompts.tokens, longest_P):
            if limit == 0:
                continue
            if len(tokens) == 0:
                raise ValueError(f"the prompt of problem {problem.id!r} has no tokens")
            if len(tokens) + limit > context:
                raise ValueError(
                    f"problem {problem.id!r}: a prompt of {len(tokens)} tokens and a limit of "
                    f"{limit} are {len(tokens) + limit} positions, but the model's context is "
                    f"{context} (max_position_embeddings). Lower the limit, or drop the problem"
                )

    def _begin(self, row: int, start: Given) -> None:
        n = len(start.tokens)
        if not 0 <= row < len(self):
            raise ValueError(f"given names row {row}; there are rows 0 to {len(self) - 1}")
        if not len(start.logp) == len(start.origin) == n <= self.limit_B[row]:
            raise ValueError(
                f"given row {row} has {n} tokens, {len(start.logp)} log-probabilities and "
                f"{len(start.origin)} origins; allowed: as many of each, and no more than the "
                f"row's limit of {self.limit_B[row]}"
            )
        self._widen(n)
        self.tokens_BT[row, :n] = start.tokens
        self.logp_BT[row, :n] = start.logp
        self.origin_BT[row, :n] = start.origin
        self.length_B[row] = n
        self.parent_B[row] = start.parent
        if start.sample is not None:
            self.sample_B[row] = start.sample

    def _widen(self, width: int) -> None:
        """Room for so many tokens; doubled, so that a long row is copied rarely."""
        spare = width - self.tokens_BT.shape[1]
        if spare > 0:
            spare = max(spare, self.tokens_BT.shape[1])
            for name in ("tokens_BT", "logp_BT", "origin_BT"):
                setattr(self, name, np.pad(getattr(self, name), ((0, 0), (0, spare))))

    # -- while rows are written --------------------------------------------------------------------

    def append(
        self, rows: np.ndarray, token_BT: np.ndarray, logp_BT: np.ndarray, origin_BT: np.ndarray
    ) -> int:
        """What a block wrote for the given rows, PAD from where a row was done; how many tokens."""
        place, step = np.nonzero(origin_BT)  # Origin.PAD is 0
        b = rows[place]
        t = self.length_B[b] + step
        self._widen(int(t.max(initial=-1)) + 1)
        self.tokens_BT[b, t] = token_BT[place, step]
        self.logp_BT[b, t] = logp_BT[place, step]
        self.origin_BT[b, t] = origin_BT[place, step]
        self.length_B[rows] += np.count_nonzero(origin_BT, axis=1).astype(np.int32)
        return len(step)

    def end_at(self, stop: Stop, rows: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """End those of the given rows that hold a stop string; which did, bool. ``seen``: how many
        tokens of each are known to hold none."""
        kept = [stop.cut(self.tokens_BT[b, : self.length_B[b]], n) for b, n in zip(rows, seen)]
        for b, n in zip(rows, kept):
            if n is None:
                continue
            for array, end in (
                (self.tokens_BT, stop.end_id),
                (self.logp_BT, np.nan),  # the policy did not draw it
                (self.origin_BT, Origin.FORCED),
            ):
                array[b, n:] = 0
                array[b, n] = end
            self.length_B[b] = n + 1
        return np.array([n is not None for n in kept], bool)

    @property
    def finished_B(self) -> np.ndarray:
        """Whether each row has its end token, bool [B]."""
        if not self.tokens_BT.shape[1]:
            return np.zeros(len(self), bool)
        last_B = self.tokens_BT[np.arange(len(self)), np.maximum(self.length_B - 1, 0)]
        return (self.length_B > 0) & np.isin(last_B, self.end_ids)

    @property
    def left_B(self) -> np.ndarray:
        """How many more tokens each row may get, int32 [B]; 0 for a row that is done."""
        return np.where(self.finished_B, 0, self.limit_B - self.length_B)

    def history(self, row: int, length: int) -> np.ndarray:
        """Prompt and first ``length`` tokens of a row, int32."""
        prompt = self.prompts.tokens[self.group_B[row]]
        return np.concatenate([prompt, self.tokens_BT[row, :length]]).astype(np.int32)

    def identity_B3(self) -> np.ndarray:
        """Problem, visit and sample of every row, uint32: what its random key is made of."""
        problem_P = [zlib.crc32(problem.id.encode()) for problem in self.prompts.problems]
        of_P = np.stack([np.array(problem_P, np.uint32), self.prompts.visit_P.astype(np.uint32)], 1)
        return np.concatenate([of_P[self.group_B], self.sample_B[:, None].astype(np.uint32)], 1)

    # -- the result --------------------------------------------------------------------------------

    def rollouts(
        self,
        decode: Callable[[np.ndarray], str],
        *,
        temperature: float,
        close_ids: Spellings,
        open_ids: Spellings,
        opened_P: np.ndarray,
    ) -> Rollouts:
        """All rows as they are now."""
        width = int(self.length_B.max(initial=0))
        finished_B = self.finished_B
        responses = [
            decode(self.tokens_BT[b, : self.length_B[b] - finished_B[b]]) for b in range(len(self))
        ]
        return Rollouts(
            prompts=self.prompts,
            group_B=self.group_B,
            sample_B=self.sample_B,
            tokens_BT=self.tokens_BT[:, :width],
            logp_BT=self.logp_BT[:, :width],
            origin_BT=self.origin_BT[:, :width],
            length_B=self.length_B,
            thinking_B=text.thinking_lengths(
                self.tokens_BT[:, :width],
                self.length_B,
                close_ids,
                opened_P[self.group_B],
                open_ids,
            ),
            finished_B=finished_B,
            text=tuple(responses),
            temperature=temperature,
            limit=int(self.limit_B.max(initial=0)),
            mode_B=self.mode_B,
            budget_B=self.budget_B,
            parent_B=self.parent_B,
        )


def _per_row(name: str, value: int | np.ndarray | None, rows: int, default: int) -> np.ndarray:
    value = np.asarray(default if value is None else value, np.int32)
    if value.shape not in ((), (rows,)):
        raise ValueError(
            f"{name} has shape {value.shape}; allowed: one number, or one for each of {rows} rows"
        )
    return np.broadcast_to(value, rows).copy()
