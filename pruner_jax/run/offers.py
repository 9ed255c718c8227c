"""What a method may know of a step and ask of the run: its ``Context``.

Log-probabilities and likelihoods come from the learner, verdicts from the verifier, second opinions
from the expander; all of them for whole collections at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from pruner_jax import text
from pruner_jax.learn.rows import Rows, rows_of_rollouts
from pruner_jax.learn.step import score
from pruner_jax.objective.context import Context, PolicyName
from pruner_jax.objective.method import Phase
from pruner_jax.pod.likeness import check_rows
from pruner_jax.run import second
from pruner_jax.run.collect import (
    GENERATED,
    filling,
    is_charged,
    parameters,
    reference,
    table_folder,
    writer,
)
from pruner_jax.run.session import PyTree, Session
from pruner_jax.run.state import RunState
from pruner_jax.store.table import Table
from pruner_jax.types import Graded, Problem, Rollouts

_SCORED = 4_000_000  # response tokens that are scored together: their batch takes some 200 MB


def context(
    run: Session, state: RunState, phase: Phase, told: dict[str, float] | None = None
) -> Context:
    """What the method may know of this step, and what it may ask; what the asking took is added to
    ``told``, metrics of the step."""
    engine = run.engine
    told = Counter() if told is None else told  # missing ones are 0

    def prompt(problem: Problem, question: str) -> np.ndarray:
        asked = dataclasses.replace(problem, question=question, messages=None)
        return engine.prompts([asked], purpose="train", limit=state.limit).tokens[0]

    def likelihood(
        policy: PolicyName,
        graded: Graded,
        what: Literal["tokens", "answer"],
        template: str = "{answer}",
    ) -> np.ndarray:
        if what == "tokens":
            params, rollouts = parameters(run, state, policy), graded.rollouts
            return log_probabilities(run, params, rollouts, rollouts.temperature or 1.0)
        return answer_likelihoods(run, state, policy, graded.rollouts, template)

    def resample(graded: Graded, prompts: Sequence[np.ndarray]) -> Graded:
        with run.clock.phase("rollout"):
            asked, params = writer(run, state, phase)
            limit = graded.rollouts.limit
            folder, only = None, contextlib.nullcontext()
            if phase.collect.every != "step":
                table = Table(table_folder(run, state, phase))
                folder, only = table.folder, filling(run, table)
            check = run.interrupts.check
            with only:
                again, spent = second.ask_again(
                    asked, params, graded, prompts, limit, check, folder
                )
        if not is_charged(run, phase):
            told[GENERATED] += int(again.rollouts.length_B.sum())
            run.clock.charge("table", spent)
        return again

    def expand(graded: Graded, mask_answers: bool = False) -> Graded:
        with run.clock.phase("expand"):
            expanded = second.expand(
                run.expander,
                run.settings.expander,
                graded.rollouts,
                second.thoughts_of(engine, graded.rollouts),
                mask_answers,
                on_progress=run.interrupts.check,
            )
        told["prune/expander_too_long"] = float(second.too_long(expanded.rollouts).mean())
        told[GENERATED] += int(expanded.rollouts.length_B.sum())
        return expanded

    offered = {} if run.expander is None else {"expand": expand}
    return Context(
        limit=state.limit,
        step=state.steps,
        round_step=state.step,
        round=state.round,
        seed=run.settings.seed,
        metrics=run.latest_evaluation(state),
        reference=reference(run, state),
        end_token=engine.end_id,
        encode=lambda said: text.encode(engine.tokenizer, said),
        decode=engine.decode,
        closing=lambda rollouts: closing(run, rollouts),
        thoughts=lambda rollouts: second.thoughts_of(engine, rollouts),
        prompt=prompt,
        score=likelihood,
        grade=engine.grade,
        resample=resample,
        **offered,
    )


def closing(run: Session, rollouts: Rollouts) -> tuple[np.ndarray, ...]:
    """What has to be written after the thought of each row for an answer to follow: the closing tag
    where a thought was opened and is still open, else nothing."""
    engine = run.engine
    tag = text.encode(engine.tokenizer, engine.text.think_close)
    nothing = np.zeros(0, np.int32)
    opened_P = engine.opened(rollouts.prompts)
    lengths_B = text.thinking_lengths(
        rollouts.tokens_BT, rollouts.length_B, engine.close_ids, False, ()
    )
    closed_B = lengths_B > 0
    open_B = ~closed_B & (opened_P[rollouts.group_B] | (rollouts.thinking_B > 0))
    return tuple(tag if is_open else nothing for is_open in open_B)


def log_probabilities(
    run: Session,
    params: PyTree,
    rollouts: Rollouts,
    temperature: float,
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Of every token at a temperature, float32 [B, T]; NaN past the end."""
    rows = rows_of_rollouts(rollouts, temperature)
    rows = dataclasses.replace(rows, prompt_limit=run.longest["train"])
    return _scored(run, params, rows, check)


def _scored(run: Session, params: PyTree, rows: Rows, check: Callable[[], None]) -> np.ndarray:
    """Log-probabilities of the trained tokens, float32 [B, T]; NaN elsewhere. So many rows at a
    time that a whole training set fits; ``check`` is called before each and may raise."""
    check_rows(run.pod, "the hosts' rows to be scored", rows)
    B, T = rows.train_BT.shape
    found = np.full((B, T), np.nan, np.float32)
    at_once = max(1, _SCORED // max(1, T))
    for first in range(0, B, at_once):
        check()
        index = np.arange(first, min(B, first + at_once))
        found[index] = score(
            params,
            run.engine.config,
            rows.take(index),
            options=run.settings.learn,
            mesh=run.mesh,
        )
    return found


def answer_likelihoods(
    run: Session, state: RunState, policy: PolicyName, rollouts: Rollouts, template: str
) -> np.ndarray:
    """Summed log-probability of each row's gold answer after its prompt and thought, float32 [B].

    The answer stands in ``template``; only its own tokens count. Scored at temperature 1 under the
    prompt that the row is trained under.
    """
    encode = run.engine.tokenizer
    before, _, after = template.partition("{answer}")
    around = [text.encode(encode, part) for part in (before, after)]
    responses, scored = [], []
    for b, close in enumerate(closing(run, rollouts)):
        problem = rollouts.prompts.problems[rollouts.group_B[b]]
        answer = text.encode(encode, template.replace("{answer}", problem.answer))
        first = _common(answer, around[0])
        last = len(answer) - _common(answer[first:][::-1], around[1][::-1])
        thought = rollouts.tokens_BT[b, : rollouts.thought_B[b]]
        responses.append(np.concatenate([thought, close, answer]).astype(np.int32))
        start = len(thought) + len(close)
        scored.append((start + first, start + last))
    width = max(len(tokens) for tokens in responses)
    train_BT = np.zeros((len(responses), width), bool)
    for train_T, (first, last) in zip(train_BT, scored):
        train_T[first:last] = True
    bare = rows_of_rollouts(rollouts, 1.0)
    rows = Rows(bare.prompt, tuple(responses), train_BT, train_BT.astype(np.float32))
    params = parameters(run, state, policy)
    return np.nansum(_scored(run, params, rows, run.interrupts.check_together), axis=1)


def _common(tokens: np.ndarray, beginning: np.ndarray) -> int:
    """How many tokens both begin with."""
    n = min(len(tokens), len(beginning))
    differing = np.flatnonzero(tokens[:n] != beginning[:n])
    return int(differing[0]) if len(differing) else n
