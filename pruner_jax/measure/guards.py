"""Is the run still doing what it is for? Numbers per step, and checks on their history.

``diagnose`` turns one step's graded rows into the metrics the guards need (keys under ``prune/``).
Each guard is a pure function of the history (the records of metrics.jsonl, oldest first; ``kind``
is "step" or "evaluate") and the options, and gives None or an ``Alarm`` with the numbers that rang
it. What is done about an alarm (stop, roll back, warn) is the run's business.

A guard compares the mean of the last window of steps with the mean of the run's first window, so
it is silent until two windows have passed. After a rollback only later records count as "now": what
was rolled back does not ring again. A metric that a run does not record keeps its guard
silent. The latest record must come as it is in memory: in the file null stands for NaN.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pruner_jax import masked
from pruner_jax.measure.options import GuardOptions
from pruner_jax.types import Graded

History = Sequence[Mapping[str, Any]]

_HASH = 0x9E3779B97F4A7C15  # odd, so that no power of it loses bits
EMPTY_THOUGHT = 4  # tokens: an opening tag, a closing tag and a line break on either side


@dataclasses.dataclass(frozen=True)
class Alarm:
    """A guard that fired, the sentence to print, and the numbers in it."""

    guard: str
    reason: str
    values: Mapping[str, float]


def repeated_ngrams(tokens_BT: np.ndarray, length_B: np.ndarray, n: int = 8) -> np.ndarray:
    """Share of each row's n-grams that occurred earlier in the same row, float64 [B].

    1 - distinct / all, counted as equal neighbours once sorted; 0 for rows shorter than n. N-grams
    are compared by a 64-bit polynomial hash.
    """
    powers_n = np.array([pow(_HASH, i, 1 << 64) for i in range(n)], np.uint64)

    def share(row_T: np.ndarray) -> float:
        if len(row_T) < n:
            return 0.0
        grams_Tn = np.lib.stride_tricks.sliding_window_view(row_T, n)
        hashes = np.sort(grams_Tn @ powers_n)
        return np.count_nonzero(hashes[1:] == hashes[:-1]) / len(hashes)

    tokens_BT = np.asarray(tokens_BT).astype(np.uint64)
    return np.array([share(row_T[:length]) for row_T, length in zip(tokens_BT, length_B)])


def diagnose(graded: Graded) -> dict[str, float]:
    """The guards' metrics of one step's rows.

    Thought and answer are averaged over finished rows: an unfinished row is all thought, so a
    change in truncation alone would look like a change in the split. Rows without tokens have no
    repetition.
    """
    rollouts = graded.rollouts
    finished_B = rollouts.finished_B

    def mean(x_B: np.ndarray, mask_B: np.ndarray) -> float:
        return float(masked.mean(x_B.astype(np.float64), mask_B, empty=0.0))

    found = {
        "prune/thinking_tokens": mean(rollouts.thinking_B, finished_B),
        "prune/answer_tokens": mean(rollouts.answer_B, finished_B),
        "prune/empty_thinking": mean(rollouts.thinking_B <= EMPTY_THOUGHT, finished_B),
    }
    if rollouts.tokens_BT.shape[1] >= rollouts.length_B.max(initial=0):  # they were read, too
        repeated_B = repeated_ngrams(rollouts.tokens_BT, rollouts.length_B)
        found["prune/repetition"] = mean(repeated_B, np.ones(len(rollouts), bool))
    return found


def watch(history: History, options: GuardOptions) -> list[Alarm]:
    """Every guard that fires on this history, the gravest first."""
    guards = (not_finite, accuracy_collapse, entropy_collapse, repetition, moved_reasoning)
    alarms = [guard(history, options) for guard in (*guards, empty_thinking)]
    return [alarm for alarm in alarms if alarm is not None]


def not_finite(history: History, options: GuardOptions) -> Alarm | None:
    """A NaN or an infinity in the latest record."""
    if not options.not_finite or not history:
        return None
    bad = {
        name: value
        for name, value in history[-1].items()
        if isinstance(value, float) and not math.isfinite(value)
    }
    if not bad:
        return None
    names = ", ".join(sorted(bad))
    return Alarm("not_finite", f"not finite at step {history[-1].get('step')}: {names}", bad)


def accuracy_collapse(history: History, options: GuardOptions) -> Alarm | None:
    """Monitor accuracy far below the start model's (the first evaluation of the run)."""
    first = _accuracies(history)[:1]
    last = _accuracies(_since_rollback(history))[-1:]
    if options.accuracy is None or not last or first[0] - last[0] <= options.accuracy:
        return None
    return Alarm(
        "accuracy",
        f"monitor accuracy fell from {first[0]:.3f} to {last[0]:.3f}, by more than "
        f"{options.accuracy:g} (guards.accuracy)",
        {"start": first[0], "now": last[0]},
    )


def _accuracies(history: History) -> list[float]:
    return [record["accuracy"] for record in history if record.get("kind") == "evaluate"]


def _since_rollback(history: History) -> History:
    """The records after the last alarm that rolled the run back; all of them without one."""
    back = [i for i, r in enumerate(history) if r.get("action") == "rollback"]
    return history[back[-1] + 1 :] if back else history


def entropy_collapse(history: History, options: GuardOptions) -> Alarm | None:
    """The policy hardly samples any more: entropy a small share of what it was."""
    first, last = _windows(history, "entropy", options.window)
    if options.entropy is None or first is None or last >= options.entropy * first:
        return None
    return Alarm(
        "entropy",
        f"entropy fell from {first:.4g} to {last:.4g}, below {options.entropy:g} of its start "
        "(guards.entropy)",
        {"start": first, "now": last},
    )


def repetition(history: History, options: GuardOptions) -> Alarm | None:
    """Responses repeat themselves far more than at the start."""
    first, last = _windows(history, "prune/repetition", options.window)
    if options.repetition is None or first is None or last - first <= options.repetition:
        return None
    return Alarm(
        "repetition",
        f"the share of repeated n-grams rose from {first:.3f} to {last:.3f}, by more than "
        f"{options.repetition:g} (guards.repetition)",
        {"start": first, "now": last},
    )


def moved_reasoning(history: History, options: GuardOptions) -> Alarm | None:
    """The thought got shorter because its content went behind the end of thought."""
    answer_0, answer = _windows(history, "prune/answer_tokens", options.window)
    thought_0, thought = _windows(history, "prune/thinking_tokens", options.window)
    if options.answer_growth is None or answer_0 is None or thought_0 is None:
        return None
    grown = answer >= options.answer_growth * max(answer_0, 1.0)
    if not grown or thought >= thought_0:
        return None
    return Alarm(
        "moved_reasoning",
        f"answers grew from {answer_0:.1f} to {answer:.1f} tokens while thoughts shrank from "
        f"{thought_0:.1f} to {thought:.1f}: the reasoning moved behind the end of thought "
        "(guards.answer_growth)",
        {
            "answer_start": answer_0,
            "answer": answer,
            "thought_start": thought_0,
            "thought": thought,
        },
    )


def empty_thinking(history: History, options: GuardOptions) -> Alarm | None:
    """Most thoughts are empty, and they were not at the start."""
    first, last = _windows(history, "prune/empty_thinking", options.window)
    most = options.empty_thinking
    if most is None or first is None or first > most or last <= most:
        return None
    return Alarm(
        "empty_thinking",
        f"{last:.0%} of the thoughts are empty (at the start {first:.0%}), more than {most:.0%} "
        "(guards.empty_thinking)",
        {"start": first, "now": last},
    )


def _windows(history: History, name: str, window: int) -> tuple[float, float] | tuple[None, None]:
    """Mean over the first and over the last window of steps; None while they overlap."""
    everything, now = _values(history, name), _values(_since_rollback(history), name)
    if len(everything) < 2 * window or len(now) < window:
        return None, None
    return float(np.mean(everything[:window])), float(np.mean(now[-window:]))


def _values(history: History, name: str) -> list[float]:
    """The metric at every step that recorded it as a number."""
    found = [record.get(name) for record in history if record.get("kind") == "step"]
    return [value for value in found if value is not None and math.isfinite(value)]
