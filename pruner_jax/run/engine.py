"""What turns parameters into graded rollouts, fixed for a whole run.

``Engine`` holds the description of the model, its tokenizer and end tokens, the verifier and the
settings of sampling; ``rollout`` takes decode parameters and problems and gives ``Graded``.
Training, evaluation and generation all go through it, so the same rendering, sampling and checking
serve all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruner_jax import text
from pruner_jax.mesh import DECODE_RULES
from pruner_jax.policy.config import ModelConfig
from pruner_jax.policy.handle import Policy
from pruner_jax.policy.weights import unstack, weight_shardings
from pruner_jax.run.clock import Clock
from pruner_jax.sample.options import SampleOptions
from pruner_jax.sample.sampler import SampleStats, sample
from pruner_jax.text import TextOptions
from pruner_jax.types import Graded, Problem, Prompts, Purpose, Rollouts
from pruner_jax.verify.grade import Grader
from pruner_jax.verify.pool import Verifier

PyTree = Any
Progress = Callable[[int, int, int], None]  # rows done, rows in all, tokens so far


@dataclasses.dataclass(frozen=True)
class Engine:
    """Sampling and checking for one model."""

    config: ModelConfig
    tokenizer: Any
    end_ids: tuple[int, ...]
    close_ids: tuple[tuple[int, ...], ...]  # spellings of the closing tag, see text.tag_spellings
    open_ids: tuple[tuple[int, ...], ...]
    text: TextOptions
    sampling: SampleOptions
    verifier: Verifier | None  # None: it samples only
    seed: int
    mesh: jax.sharding.Mesh | None = None  # None: one device

    @classmethod
    def of(
        cls,
        policy: Policy,
        *,
        text_options: TextOptions,
        sampling: SampleOptions,
        verifier: Verifier | None,
        seed: int,
        mesh: jax.sharding.Mesh | None = None,
    ) -> Engine:
        """An engine for a loaded policy; it needs a tokenizer."""
        if policy.tokenizer is None:
            raise ValueError(f"{policy.folder} has no tokenizer; prompts cannot be encoded")
        tokenizer = policy.tokenizer
        return cls(
            config=policy.config,
            tokenizer=tokenizer,
            end_ids=text.end_token_ids(tokenizer, policy.generation),
            close_ids=text.tag_spellings(tokenizer, text_options.think_close),
            open_ids=text.tag_spellings(tokenizer, text_options.think_open),
            text=text_options,
            sampling=sampling,
            verifier=verifier,
            seed=seed,
            mesh=mesh if mesh is not None and mesh.size > 1 else None,
        )

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Text of a response, its end token left out."""
        ids = [int(token) for token in tokens]
        return text.decode(self.tokenizer, ids[:-1] if ids and ids[-1] in self.end_ids else ids)

    def decode_params(self, params: PyTree) -> PyTree:
        """The sampler's form of the learner's parameters: cast, a list of layers."""
        if self.mesh is None:
            return _decode_params(params, self.dtype)
        places = weight_shardings(self.config, self.mesh, DECODE_RULES, stacked=False)
        cast = jax.jit(lambda params: unstack(params, jnp.dtype(self.dtype)), out_shardings=places)
        return cast(params)

    @property
    def dtype(self) -> str:
        """Precision of the sampler."""
        return self.sampling.resolve_dtype(jax.default_backend())

    def with_sampling(self, **changes: Any) -> Engine:
        """The same engine with other settings of sampling."""
        return dataclasses.replace(self, sampling=dataclasses.replace(self.sampling, **changes))

    def prompts(
        self,
        problems: Sequence[Problem],
        *,
        purpose: Purpose,
        limit: int,
        visit_P: np.ndarray | int = 0,
    ) -> Prompts:
        """Rendered and encoded problems; ``limit`` may stand in the prompt."""
        return text.make_prompts(
            self.tokenizer,
            problems,
            self.text,
            limit=limit,
            purpose=purpose,
            visit_P=visit_P,
        )

    def cache_bytes(self, limit: int) -> int:
        """Keys and values of a full batch of responses of ``limit`` tokens, prompts left out."""
        config = self.config
        per_token = 2 * config.layers * config.kv_heads * config.head_width
        return self.sampling.rows * limit * per_token * jnp.dtype(self.dtype).itemsize

    def rollout(
        self,
        params: PyTree,
        problems: Sequence[Problem],
        *,
        purpose: Purpose,
        samples: int,
        limit: int,
        visit_P: np.ndarray | int = 0,
        clock: Clock | None = None,
        on_progress: Progress | None = None,
    ) -> tuple[Graded, SampleStats]:
        """Sample and check ``samples`` responses to each problem.

        Args:
          params: decode parameters.
          problems: P of them.
          purpose: which of the three sets they come from; part of the random keys.
          samples: G responses to each.
          limit: most tokens of a response.
          visit_P: how often each problem was drawn before.
          clock: counts the phases ``rollout`` and ``verify``.
          on_progress: told how far it is.

        Returns:
          Graded rows in the order (problem, sample), and what sampling them took.
        """
        clock = clock or Clock()
        with clock.phase("rollout"):
            prompts = self.prompts(problems, purpose=purpose, limit=limit, visit_P=visit_P)
            grader = Grader(
                self.verifier,
                opened=np.repeat(self._opened(prompts), samples),
                think_open=self.text.think_open,
                think_close=self.text.think_close,
            )

            def check(row: int, tokens: np.ndarray, finished: bool) -> None:
                problem = prompts.problems[row // samples]
                grader.add(row, problem, self.decode(tokens), finished, tokens)

            rollouts, stats = self.sample(
                params,
                prompts,
                samples=samples,
                limit=limit,
                on_row=check,
                on_progress=on_progress,
            )
        with clock.phase("verify"):
            return grader.result(rollouts), stats

    def sample(
        self, params: PyTree, prompts: Prompts, *, samples: int, limit: int, **callbacks: Any
    ) -> tuple[Rollouts, SampleStats]:
        """The same for rendered prompts and without checking; ``callbacks``: `sampler.sample`'s."""
        return sample(
            params,
            self.config,
            prompts,
            samples=samples,
            limit=limit,
            seed=self.seed,
            end_ids=self.end_ids,
            close_ids=self.close_ids,
            open_ids=self.open_ids,
            opened=self._opened(prompts),
            decode=self.decode,
            options=self.sampling,
            mesh=self.mesh,
            **callbacks,
        )

    def _opened(self, prompts: Prompts) -> np.ndarray:
        """Which prompts open the thought themselves, bool [P]."""
        return np.array([text.opens_thought(prompt, self.text) for prompt in prompts.text], bool)


@jax.jit(static_argnames="dtype")
def _decode_params(params: PyTree, dtype: str) -> PyTree:
    return unstack(params, jnp.dtype(dtype))
