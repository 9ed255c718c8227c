"""Reward functions written for TRL and for verl, run unchanged as checkers.

Each adapter takes such a function and gives one from `Job` to what `outcome.settle` accepts. One
response is passed per call, so a function that compares the responses of a group does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pruner_jax.types import Verdict
from pruner_jax.verify.outcome import Job

Check = Callable[[Job], Any]


def native(function: Callable[..., Any], settings: Mapping[str, Any]) -> Check:
    """``check(problem, text, answer, **settings) -> Verdict | float | bool | tuple``."""
    return lambda job: function(job.problem, job.text, job.answer, **settings)


def trl(function: Callable[..., Any], settings: Mapping[str, Any]) -> Check:
    """``f(prompts, completions, completion_ids, **columns) -> list[float | None]``, plain text.

    Columns are those of the problem, and ``answer`` and ``solution`` with its gold answer. None (in
    TRL: the function does not apply to this row) gives UNSUPPORTED.
    """
    return lambda job: _call_trl(function, settings, job, job.problem.question, job.text)


def trl_chat(function: Callable[..., Any], settings: Mapping[str, Any]) -> Check:
    """The same with prompt and completion as lists of messages, as TRL gives them for chats."""

    def check(job: Job) -> Any:
        asked = job.problem.messages or ({"role": "user", "content": job.problem.question},)
        prompt = [dict(message) for message in asked]
        return _call_trl(
            function, settings, job, prompt, [{"role": "assistant", "content": job.text}]
        )

    return check


def _call_trl(
    function: Callable[..., Any],
    settings: Mapping[str, Any],
    job: Job,
    prompt: Any,
    completion: Any,
) -> Any:
    gold = {"answer": job.problem.answer, "solution": job.problem.answer}
    columns = {name: [value] for name, value in {**gold, **job.problem.columns}.items()}
    rewards = function(
        prompts=[prompt],
        completions=[completion],
        completion_ids=[list(job.tokens or ())],
        **columns,
        **settings,
    )
    if len(rewards) != 1:
        raise ValueError(f"the reward function returned {len(rewards)} rewards for 1 completion")
    if rewards[0] is None:
        return Verdict.UNSUPPORTED, "the reward function returned None"
    return float(rewards[0])


def verl(function: Callable[..., Any], settings: Mapping[str, Any]) -> Check:
    """``compute_score(data_source, solution_str, ground_truth, extra_info) -> float | dict``.

    Of a dict, ``score`` is the score; ``acc``, where there is one, says whether it is correct (as
    in verl's own evaluation).
    """

    def check(job: Job) -> Any:
        result = function(
            data_source=job.problem.source,
            solution_str=job.text,
            ground_truth=job.problem.answer,
            extra_info=dict(job.problem.columns),
            **settings,
        )
        if not isinstance(result, Mapping):
            return float(result)
        score = float(result["score"])
        return (bool(result["acc"]), score) if "acc" in result else score

    return check


ADAPTERS = {"": native, "trl": trl, "trl-chat": trl_chat, "verl": verl}
