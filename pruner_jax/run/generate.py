"""``pj.generate`` and the verb ``sample``: responses to questions that have no gold answer.

``sample --expander.model=E`` shows both parts of a pipeline: the model's thought, and E's answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax

from pruner_jax.config import SampleConfig
from pruner_jax.learn.options import PodOptions
from pruner_jax.mesh import make_mesh
from pruner_jax.pod.start import refuse
from pruner_jax.policy import handle
from pruner_jax.policy.handle import Policy
from pruner_jax.run.compilation import keep_compiled_programs
from pruner_jax.run.engine import Engine
from pruner_jax.run.joint import respond
from pruner_jax.run.second import (
    check_room,
    load_expander,
    load_second,
    thoughts_of,
    too_long,
)
from pruner_jax.sample.options import SampleOptions
from pruner_jax.text import TextOptions
from pruner_jax.types import Problem, Purpose, Rollouts


def generate(
    policy: Policy,
    questions: Sequence[str],
    *,
    max_tokens: int = 512,
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    text_options: TextOptions | None = None,
    options: SampleOptions | None = None,
) -> Rollouts:
    """Responses to questions, in the order (question, sample).

    Args:
      policy: a loaded model with its tokenizer.
      questions: P of them; each is rendered with the chat template, if there is one.
      max_tokens: most tokens of a response.
      samples: G responses to each question.
      temperature: 0 is greedy.
      seed: of the draws. Equal questions get equal responses.
      text_options: system message, instruction and so on.
      options: other settings of sampling (``temperature`` above wins).
    """
    if isinstance(questions, str):
        raise ValueError("questions is one string; give a list of questions")
    engine = Engine.of(
        policy,
        text_options=text_options or TextOptions(),
        sampling=dataclasses.replace(options or SampleOptions(), temperature=temperature),
        verifier=None,
        seed=seed,
    )
    problems = [Problem(id=question, question=question, answer="") for question in questions]
    prompts = engine.prompts(problems, purpose=Purpose.TEST, limit=max_tokens)
    params = engine.decode_params(policy.params)
    rollouts, _ = engine.sample(params, prompts, samples=samples, limit=max_tokens)
    return rollouts


def sample_verb(settings: SampleConfig) -> dict[str, Any]:
    """Print the responses to one question, with their token counts."""
    refuse("sample", PodOptions())
    keep_compiled_programs()
    if settings.expander.model is not None:
        return _sample_joint(settings)
    policy = handle.load(settings.model, settings.sample.resolve(jax.default_backend()).dtype)
    rollouts = generate(
        policy,
        [settings.question],
        max_tokens=settings.max_tokens,
        samples=settings.samples,
        temperature=settings.sample.temperature,
        seed=settings.seed,
        text_options=settings.text,
        options=settings.sample,
    )
    found = []
    for b in range(len(rollouts)):
        length, thinking = int(rollouts.length_B[b]), int(rollouts.thinking_B[b])
        end = "" if rollouts.finished_B[b] else f", cut at the limit of {settings.max_tokens}"
        print(rollouts.text[b])
        print(f"[{length} tokens: {thinking} thought, {length - thinking} answer{end}]")
        found.append(
            {
                "text": rollouts.text[b],
                "tokens": length,
                "thinking_tokens": thinking,
                "finished": bool(rollouts.finished_B[b]),
            }
        )
    return {"question": settings.question, "responses": found}


def _sample_joint(settings: SampleConfig) -> dict[str, Any]:
    """Print chains and what the expander answers to them."""
    shared = {"sampling": settings.sample, "verifier": None, "seed": settings.seed}
    shared["mesh"] = make_mesh()
    large = load_second(settings.model, text_options=settings.text, **shared)
    expander = load_expander(settings.expander, **shared)
    problem = Problem(id=settings.question, question=settings.question, answer="")
    check_room(expander, settings.expander, [problem], settings.max_tokens, "max_tokens")
    chains, answers = respond(
        large,
        expander,
        settings.expander,
        large.engine.prompts([problem], purpose=Purpose.TEST, limit=settings.max_tokens),
        samples=settings.samples,
        limit=settings.max_tokens,
    )
    found, too_long_B = [], too_long(answers)
    for b, thought in enumerate(thoughts_of(large.engine, chains)):
        chain, answer = int(chains.length_B[b]), int(answers.length_B[b])
        closed = bool(chains.finished_B[b]) or large.engine.text.think_close in chains.text[b]
        end = "" if closed else f", cut at the limit of {settings.max_tokens}"
        print(f"{thought}\n[{chain} tokens of {settings.model}{end}]")
        end = "" if answers.finished_B[b] else f", cut at the limit of {settings.expander.limit}"
        said = f"{answer} tokens of {settings.expander.model}{end}"
        if too_long_B[b]:
            said = f"the chain does not fit into the context of {settings.expander.model}"
        print(f"{answers.text[b]}\n[{said}]")
        found.append(
            {
                "chain": thought,
                "chain_tokens": chain,
                "chain_finished": closed,
                "text": answers.text[b],
                "answer_tokens": answer,
                "finished": bool(answers.finished_B[b]),
            }
        )
    return {"question": settings.question, "responses": found}
