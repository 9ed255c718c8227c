"""``warmup``: supervised fine-tuning on traces that a problem source writes.

Makes the tiny models from nothing, or adapts a given one. Every visit to a problem draws a new
trace. The learner is the one of the rounds, with cross-entropy on the tokens of the trace; what it
made is measured on the source's test set before it is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np

from pruner_jax import text
from pruner_jax.config import WarmupConfig
from pruner_jax.learn.learn import learn
from pruner_jax.learn.optimizer import learning_rate, make_optimizer, warmup
from pruner_jax.learn.rows import Rows, rows_of_examples
from pruner_jax.learn.step import init_state, make_update
from pruner_jax.measure import stats
from pruner_jax.measure.outcomes import outcomes
from pruner_jax.measure.summary import plain
from pruner_jax.mesh import make_mesh
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.policy import handle, hf, weights
from pruner_jax.policy.config import from_hf
from pruner_jax.policy.export import check_target
from pruner_jax.policy.handle import Policy
from pruner_jax.problems import source
from pruner_jax.problems.order import order
from pruner_jax.report.progress import Progress
from pruner_jax.run.compilation import keep_compiled_programs
from pruner_jax.run.engine import Engine
from pruner_jax.run.measuring import measure
from pruner_jax.store.mirror import local
from pruner_jax.types import Problem, Purpose
from pruner_jax.verify.pool import Verifier

SPEC = LossSpec(kind="ce")


def warmup_verb(settings: WarmupConfig) -> dict[str, Any]:
    """Train, measure and write a model; what the measurement said, in a dry run the sizes."""
    check_target(local(settings.out, "out"))
    settings.test.note()  # raises where a budget cannot be told
    settings.test.check_budget(settings.test.limit or settings.limit)
    keep_compiled_programs()
    module = source.find(settings.problems.name)
    if not hasattr(module, "trace"):
        raise ValueError(
            f"problems.name is {settings.problems.name!r}, a source that writes no traces; warmup "
            "needs one with a function trace(problem, rng, options) -> str"
        )
    traces = source.resolve(module.Options, settings.problems.options, "problems.options")
    problems = source.load_sets(settings.problems)
    mesh = make_mesh(settings.mesh.data, settings.mesh.fsdp, settings.mesh.tensor)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress())
        scratch = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        policy = _begin(settings, module, scratch, mesh)
        verifier = stack.enter_context(Verifier(settings.verify))
        verifier.prepare(problems["test"])
        engine = Engine.of(
            policy,
            text_options=settings.text,
            sampling=settings.sample,
            verifier=verifier,
            seed=settings.seed,
            problems=settings.problems,
        )

        def write(problem: Problem, rng: np.random.Generator) -> str:
            return module.trace(problem, rng, traces)

        if settings.dry_run:
            _batch(settings, engine, write, problems["train"], 0)  # its traces fit
            return _describe(settings, policy, problems, mesh, progress)
        policy = _train(settings, policy, engine, write, problems["train"], mesh, progress)
        graded = measure(
            engine,
            engine.decode_params(policy.params),
            problems["test"],
            settings.test,
            limit=settings.test.limit or settings.limit,
            purpose=Purpose.TEST,
            progress=progress,
            title="test set",
        )
        handle.save(policy, settings.out, dtype=settings.export_dtype)
        result = plain(
            stats.describe(
                outcomes(graded),
                settings.test.confidence,
                settings.test.resamples,
                budget=settings.test.budget,
            )
        )
        for name, value in result.items():
            progress.log(f"{name}: {value}")
        progress.log(f"model: {settings.out}")
    return result


def _begin(settings: WarmupConfig, module: Any, scratch: pathlib.Path, mesh: Any) -> Policy:
    """The given model, or a new one around the source's own tokenizer; without parameters in a dry
    run."""
    if settings.model is not None:
        policy = handle.describe(settings.model)
        hf.open_weights(policy.folder, policy.config)  # checks
        return policy if settings.dry_run else handle.with_weights(policy, mesh=mesh)
    if not settings.architecture or not hasattr(module, "write_tokenizer"):
        raise ValueError(
            "model is not set: a new one needs architecture (the fields of its config.json) and a "
            f"source with its own tokenizer, which {settings.problems.name!r} "
            f"{'has' if hasattr(module, 'write_tokenizer') else 'has not'}"
        )
    module.write_tokenizer(scratch)
    tokenizer = text.load_tokenizer(scratch)
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = from_hf({"vocab_size": len(tokenizer), **ids, **settings.architecture})
    seed = settings.seed
    params = None if settings.dry_run else weights.init(config, jax.random.key(seed), "float32")
    generation = scratch / "generation_config.json"
    return Policy(
        config,
        params,
        tokenizer,
        json.loads(generation.read_text()) if generation.exists() else None,
        scratch,
    )


def _describe(
    settings: WarmupConfig,
    policy: Policy,
    problems: dict[str, list[Problem]],
    mesh: jax.sharding.Mesh,
    progress: Progress,
) -> dict[str, Any]:
    """What a dry run shows."""
    warmup(settings.optimizer, settings.steps)  # checks
    optimizer = make_optimizer(settings.optimizer, policy.config)
    make_update(policy.config, SPEC, settings.learn, optimizer, mesh)  # checks, compiles nothing
    params = weights.abstract(policy.config, "float32")
    state = (params, jax.eval_shape(optimizer.init, params))
    found = {
        "model": policy.config.model_type,
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "layers": policy.config.layers,
        "devices": dict(mesh.shape),
        "problems": {name: len(part) for name, part in problems.items()},
        "steps": settings.steps,
        "traces_per_step": settings.batch,
        "learner_state_bytes": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)),
    }
    for name, value in found.items():
        progress.log(f"{name}: {value}")
    return found


def _train(
    settings: WarmupConfig,
    policy: Policy,
    engine: Engine,
    write: Any,
    problems: list[Problem],
    mesh: jax.sharding.Mesh,
    progress: Progress,
) -> Policy:
    """The policy after all steps of cross-entropy."""
    optimizer = make_optimizer(settings.optimizer, policy.config)
    state = init_state(policy.params, policy.config, optimizer, mesh)
    update = make_update(policy.config, SPEC, settings.learn, optimizer, mesh)
    progress.start(settings.steps, "warm-up")
    for step in range(settings.steps):
        state, metrics = learn(
            state,
            _batch(settings, engine, write, problems, step),
            update,
            spec=SPEC,
            options=settings.learn,
            mesh=mesh,
            seed=settings.seed,
            rate=lambda begin, end, done=step: learning_rate(
                settings.optimizer, done + begin, done + end, settings.steps
            ),
        )
        progress.update(step + 1, loss=metrics["loss"])
        if not np.isfinite(metrics["loss"]):
            raise ValueError(
                f"the loss is {metrics['loss']} after step {step + 1}; lower "
                f"optimizer.learning_rate ({settings.optimizer.learning_rate:g})"
            )
    progress.finish()
    return dataclasses.replace(policy, params=state.params)


def _batch(
    settings: WarmupConfig, engine: Engine, write: Any, problems: list[Problem], step: int
) -> Rows:
    """The traces of one step; each draw has a random stream of its own."""
    first = step * settings.batch
    index, _ = order(len(problems), settings.seed, first, settings.batch)
    chosen = [problems[i] for i in index]
    prompts = engine.prompts(chosen, purpose=Purpose.TRAIN, limit=settings.limit)
    examples = []
    for place, (problem, prompt) in enumerate(zip(chosen, prompts.tokens)):
        trace = write(problem, np.random.default_rng([settings.seed, first + place]))
        tokens = np.append(text.encode(engine.tokenizer, trace), engine.end_id)
        if len(tokens) > settings.limit:
            raise ValueError(
                f"the trace of problem {problem.id!r} has {len(tokens)} tokens, limit is "
                f"{settings.limit}; raise limit, or make the traces shorter"
            )
        examples.append((prompt, tokens, 1.0))
    return rows_of_examples(examples)
