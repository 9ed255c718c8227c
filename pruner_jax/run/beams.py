"""Answers by a beam search over lines (`sample.steps`), by all processes of a pod.

Takes an engine and rendered problems; gives one graded row for each. Leaves out the search itself,
and what else is done with programs (`run.programs`).
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from pruner_jax import plugin, text
from pruner_jax.pod.together import ALONE
from pruner_jax.run.engine import Engine, Progress
from pruner_jax.run.spread import spread
from pruner_jax.sample.sampler import SampleStats
from pruner_jax.sample.steps import Scorer, line_ends, step_beam
from pruner_jax.types import Graded, Prompts

PyTree = Any


def load_scorer(spec: str | None) -> Scorer | None:
    """The function path/to/file.py:function; None is that of `step_beam` itself.

    Raises:
      ValueError: there is no such file, or no such function in it.
    """
    if spec is None:
        return None
    place, _, name = spec.rpartition(":")
    path = pathlib.Path(place).expanduser()
    if not path.is_file():
        raise ValueError(f"programs.scorer is {spec!r}, but there is no file {place}")
    function = getattr(plugin.load(path, "scorer"), name, None)
    if not callable(function):
        raise ValueError(f"programs.scorer is {spec!r}, but {place} has no function {name}")
    return function


def by_steps(
    engine: Engine,
    params: PyTree,
    prompts: Prompts,
    *,
    beams: int,
    chains: int,
    limit: int,
    score: Scorer | None = None,
    on_progress: Progress | None = None,
) -> tuple[Graded, np.ndarray]:
    """One graded row for each prompt, the best of a beam search, and the tokens of all its beams,
    int64 [P]. Each process of the pod searches for its share of the prompts.

    Arguments as in `sample.steps.step_beam`.

    Raises:
      ValueError: the problems have an environment, for which a beam has no memory, or text.stop is
        set, which it does not look for.
    """
    if engine.environment is not None:
        raise ValueError("beam search knows no environment; set the problems' noise to 0")
    if engine.text.stop:
        raise ValueError(
            f"text.stop is {engine.text.stop}, but a beam search ends at end tokens only; set "
            "text.stop to [] or programs.beams to 0"
        )
    if engine.pod.count > 1:
        how = {"beams": beams, "chains": chains, "score": score, "on_progress": on_progress}
        return _by_steps_together(engine, params, prompts, limit, how)
    rollouts, tokens_P, _ = step_beam(
        params,
        engine.config,
        prompts,
        beams=beams,
        chains=chains,
        limit=limit,
        seed=engine.seed,
        end_ids=engine.end_ids,
        line_ids=line_ends(lambda ids: text.decode(engine.tokenizer, ids), len(engine.tokenizer)),
        close_ids=engine.close_ids,
        open_ids=engine.open_ids,
        opened=engine.opened(prompts),
        decode=engine.decode,
        options=engine.sampling,
        score=score,
        on_progress=on_progress,
        mesh=engine.mesh,
    )
    return engine.grade(rollouts), tokens_P


def _by_steps_together(
    engine: Engine, params: PyTree, prompts: Prompts, limit: int, how: Mapping[str, Any]
) -> tuple[Graded, np.ndarray]:
    """The same by all processes of the pod."""
    alone, pod, tokens = dataclasses.replace(engine, pod=ALONE), engine.pod, np.zeros(0, np.int64)

    def work(
        params: PyTree, prompts: Prompts, samples: int, *, limit: int
    ) -> tuple[Graded, SampleStats]:
        nonlocal tokens
        graded, tokens = by_steps(alone, params, prompts, limit=limit, **how)
        return graded, SampleStats()

    graded, _ = spread(pod, prompts, 1, {"limit": limit}, work, params)
    tokens_P = np.zeros(len(prompts), np.int64)
    for share, found in pod.gather((pod.share(len(prompts)), tokens), "the tokens of all beams"):
        tokens_P[share] = found
    return graded, tokens_P
