"""What turns parameters into graded rollouts, fixed for a whole run.

``Engine`` holds the description of the model, its tokenizer and end tokens, the verifier and the
settings of sampling; ``rollout`` takes decode parameters and problems and gives ``Graded``.
Training, evaluation and generation all go through it, so the same rendering, sampling and checking
serve all.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pruner_jax import text
from pruner_jax.mesh import ROWS, local_mesh, on_this_process
from pruner_jax.pod.start import MANY
from pruner_jax.pod.together import ALONE, Pod
from pruner_jax.policy.config import ModelConfig
from pruner_jax.policy.handle import Policy
from pruner_jax.policy.handover import hand_over
from pruner_jax.problems.options import ProblemsOptions
from pruner_jax.run.clock import Clock
from pruner_jax.run.environment import environment
from pruner_jax.run.spread import spread, spread_checks
from pruner_jax.sample.force import Hook, chain
from pruner_jax.sample.options import SampleOptions
from pruner_jax.sample.records import Stop
from pruner_jax.sample.sampler import SampleStats, sample, shapes_of
from pruner_jax.text import TextOptions
from pruner_jax.types import Graded, Problem, Prompts, Purpose, Rollouts
from pruner_jax.verify.grade import Grader
from pruner_jax.verify.pool import Verifier

PyTree = Any
Progress = Callable[[int, int, int], None]  # rows done, rows in all, tokens so far

# Of what is sampled and written together: most rows and tokens; but so many rows for each seat, as
# long as that is not four times as many tokens; and two rows for each seat whatever they are.
_TOGETHER, _TOKENS, _REFILLS = 4096, 4096 * 512, 8
# Most tokens of them, padding counted: every process holds the rows of all, for a while several
# times (31 bytes a token, so some 16 GB). On a large pod that is less than two rows for each seat.
_HELD = 1 << 29


@dataclasses.dataclass(frozen=True)
class Engine:
    """Sampling and checking for one model."""

    config: ModelConfig
    tokenizer: Any
    end_ids: tuple[int, ...]  # any of them ends a response
    end_id: int  # the one that a written response ends with
    close_ids: tuple[tuple[int, ...], ...]  # spellings of the closing tag, see text.tag_spellings
    open_ids: tuple[tuple[int, ...], ...]
    text: TextOptions
    sampling: SampleOptions
    verifier: Verifier | None  # None: it samples only
    seed: int
    mesh: jax.sharding.Mesh | None = None  # of this process's devices; None: one device
    everywhere: jax.sharding.Mesh | None = None  # where the learner's parameters lie; None: as mesh
    pod: Pod = ALONE  # each process samples and checks its part
    environment: Hook | None = None  # what the source of problems does to every response
    examples: int = 0  # worked examples in prompts that do not ask for a number of their own
    note: str = ""  # appended to the questions of prompts that bring no notes of their own

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
        problems: ProblemsOptions | None = None,
        pod: Pod = ALONE,
    ) -> Engine:
        """An engine for a loaded policy, which needs a tokenizer; ``problems`` may bring an
        environment (`run.environment`). With several processes ``mesh`` is that of all."""
        if policy.tokenizer is None:
            raise ValueError(f"{policy.folder} has no tokenizer; prompts cannot be encoded")
        tokenizer = policy.tokenizer
        close_ids = text.tag_spellings(tokenizer, text_options.think_close)
        end_ids = text.end_token_ids(tokenizer, policy.generation)
        end_id = text.end_token_id(tokenizer, text_options)
        mesh = mesh if mesh is not None and mesh.size > 1 else None
        own = None if mesh is None else local_mesh(mesh)
        if own is not None and own.size < mesh.size and pod is ALONE:
            raise ValueError(
                f"this works on one host, but JAX has devices of {jax.process_count()} here; start "
                f"it on a machine of its own (on many work {', '.join(MANY)})"
            )
        return cls(
            config=policy.config,
            tokenizer=tokenizer,
            end_ids=end_ids,
            end_id=end_ids[0] if end_id is None else end_id,
            close_ids=close_ids,
            open_ids=text.tag_spellings(tokenizer, text_options.think_open),
            text=text_options,
            sampling=sampling,
            verifier=verifier,
            seed=seed,
            mesh=own if own is not None and own.size > 1 else None,
            everywhere=mesh,
            pod=pod,
            environment=None if problems is None else environment(problems, close_ids),
        )

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Text of a response, its end token left out."""
        ids = [int(token) for token in tokens]
        return text.decode(self.tokenizer, ids[:-1] if ids and ids[-1] in self.end_ids else ids)

    def decode_params(self, params: PyTree) -> PyTree:
        """The sampler's form of the learner's parameters: cast, a list of layers."""
        params = hand_over(params, self.config, self.dtype, self.everywhere)
        return jax.tree.map(on_this_process, params)

    @property
    def dtype(self) -> str:
        """Precision of the sampler."""
        return self.sampling.resolve(jax.default_backend()).dtype

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
        notes: Sequence[str] | None = None,
        examples: int | None = None,
    ) -> Prompts:
        """Rendered and encoded problems; ``limit`` may stand in the prompt. The others as in
        `text.make_prompts`."""
        return text.make_prompts(
            self.tokenizer,
            problems,
            self.text,
            limit=limit,
            purpose=purpose,
            visit_P=visit_P,
            notes=[self.note] * len(problems) if notes is None else notes,
            examples=self.examples if examples is None else examples,
        )

    def seats(self, count: int) -> int:
        """Most rows that a device holds at a time while ``count`` are written."""
        return shapes_of(self.sampling, self.mesh, -(-count // self.pod.count)).full

    def cache_bytes(self, limit: int, prompt: int, rows: int) -> int:
        """Keys and values of so many rows on a device, responses of ``limit`` tokens to a prompt of
        ``prompt``, at their largest: one layer is there twice while rows move. Devices that share
        the rows share the heads."""
        config = self.config
        heads = config.kv_heads // (1 if self.mesh is None else self.mesh.shape["tensor"])
        shapes = shapes_of(self.sampling, self.mesh, rows)
        slots = shapes.most_slots(prompt, limit, self.sampling.block)
        per_slot = 2 * (config.layers + 1) * heads * config.head_width
        return rows * slots * per_slot * jnp.dtype(self.dtype).itemsize

    def rows_together(self, limit: int) -> int:
        """How many rows of up to so many tokens are sampled and written together, where they last:
        no more than a stop may cost, for what is written of it is lost then, but each seat is taken
        several times, for most stand empty while the last rows are written; and no more than fit
        into the memory of every host."""
        shards = 1 if self.mesh is None else math.prod(self.mesh.shape[axis] for axis in ROWS)
        seats = self.sampling.rows * shards * self.pod.count
        refilled = max(2 * seats, min(_REFILLS * seats, 4 * _TOKENS // limit))
        return min(max(refilled, min(_TOGETHER, _TOKENS // limit)), _HELD // limit)

    def rollout(
        self,
        params: PyTree,
        prompts: Prompts,
        *,
        samples: int,
        limit: int | np.ndarray,
        clock: Clock | None = None,
        on_progress: Progress | None = None,
        **conditions: Any,
    ) -> tuple[Graded, SampleStats]:
        """Sample and check ``samples`` responses to each of P rendered problems.

        Args:
          params: decode parameters.
          prompts: what is answered.
          samples: G responses to each.
          limit: most tokens of a response, one number or [B].
          clock: counts the phases ``rollout`` and ``verify``.
          on_progress: told how far it is.
          conditions: ``force``, ``mode_B`` and ``budget_B`` of `sampler.sample`.

        Returns:
          Graded rows in the order (problem, sample), and what sampling them took.
        """
        clock = clock or Clock()
        if self.pod.count > 1:
            work = functools.partial(self._part, clock=clock, on_progress=on_progress)
            conditions = {"limit": limit, **conditions}
            with clock.phase("rollout"):
                return spread(self.pod, prompts, samples, conditions, work, params)
        return self._part(
            params,
            prompts,
            samples,
            limit=limit,
            clock=clock,
            on_progress=on_progress,
            **conditions,
        )

    def _part(
        self,
        params: PyTree,
        prompts: Prompts,
        samples: int,
        *,
        clock: Clock,
        on_progress: Progress | None,
        **conditions: Any,
    ) -> tuple[Graded, SampleStats]:
        """What one process samples and checks."""
        with clock.phase("rollout"):
            grader = self._grader(np.repeat(self.opened(prompts), samples))

            def check(row: int, tokens: np.ndarray, finished: bool) -> None:
                problem = prompts.problems[row // samples]
                grader.add(row, problem, self.decode(tokens), finished, tokens)

            rollouts, stats = self.sample(
                params,
                prompts,
                samples=samples,
                on_row=check,
                on_progress=on_progress,
                **conditions,
            )
        with clock.phase("verify"):
            return grader.result(rollouts), stats

    def sample(
        self,
        params: PyTree,
        prompts: Prompts,
        *,
        samples: int,
        limit: int | np.ndarray,
        force: Hook | None = None,
        **others: Any,
    ) -> tuple[Rollouts, SampleStats]:
        """The same without checking; ``others`` are `sampler.sample`'s. What ``force`` writes
        stands, whatever the environment would have made of the token."""
        hooks = [hook for hook in (self.environment, force) if hook is not None]
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
            opened=self.opened(prompts),
            decode=self.decode,
            options=self.sampling,
            mesh=self.mesh,
            stop=Stop(tuple(self.text.stop), self.end_id, self.decode) if self.text.stop else None,
            force=chain(*hooks) if len(hooks) > 1 else next(iter(hooks), None),
            **others,
        )

    def grade(self, rollouts: Rollouts) -> Graded:
        """Verdicts of rows that are there; each process of the pod checks a part."""
        return spread_checks(self.pod, rollouts, self._check)

    def _check(self, rollouts: Rollouts) -> Graded:
        return self._grader(self.opened(rollouts.prompts)[rollouts.group_B]).result(rollouts)

    def _grader(self, opened_B: np.ndarray) -> Grader:
        return Grader(
            self.verifier,
            opened=opened_B,
            think_open=self.text.think_open,
            think_close=self.text.think_close,
        )

    def opened(self, prompts: Prompts) -> np.ndarray:
        """Which prompts open the thought themselves, bool [P]."""
        return np.array([text.opens_thought(prompt, self.text) for prompt in prompts.text], bool)
