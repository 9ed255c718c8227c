"""``warmup``: supervised fine-tuning on traces that a problem source writes.

Makes the tiny models from nothing, or adapts a given one. Every visit to a problem draws a new
trace. The learner is the one of the rounds, with cross-entropy on the tokens of the trace; what it
made is measured on the source's test set before it is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
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
from pruner_jax.mesh import LEARN_RULES
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.pod.likeness import check_rows
from pruner_jax.pod.start import start as start_pod
from pruner_jax.pod.together import ALONE, Pod
from pruner_jax.policy import handle, hf, weights
from pruner_jax.policy.config import ModelConfig, from_hf
from pruner_jax.policy.export import check_target
from pruner_jax.policy.handle import Policy
from pruner_jax.problems import source
from pruner_jax.problems.order import order
from pruner_jax.report.progress import Progress
from pruner_jax.run.engine import Engine
from pruner_jax.run.interrupts import Interrupts
from pruner_jax.run.measuring import measure, measured
from pruner_jax.run.surroundings import Surroundings, check_hosts, open_surroundings
from pruner_jax.store.mirror import local
from pruner_jax.types import Graded, Problem, Purpose

PyTree = Any

SPEC = LossSpec(kind="ce")


def warmup_verb(settings: WarmupConfig) -> dict[str, Any]:
    """Train, measure and write a model; what the measurement said, in a dry run the sizes."""
    settings.test.note()  # raises where a budget cannot be told
    settings.test.check_budget(settings.test.limit or settings.limit)
    with start_pod(settings.pod) as pod:
        return warm_up(settings, pod)


def warm_up(settings: WarmupConfig, pod: Pod = ALONE) -> dict[str, Any]:
    """The same by the processes of a pod: the learner's state lies on the devices of all, each
    samples and checks its share of the test, and the first one writes and shows. Nothing is kept of
    a warm-up that is stopped."""
    check_hosts(settings, pod)
    out = pod.lead(lambda: settings.out)
    pod.lead(lambda: check_target(local(out, "out")))
    module = source.find(settings.problems.name)
    if not hasattr(module, "trace"):
        raise ValueError(
            f"problems.name is {settings.problems.name!r}, a source that writes no traces; warmup "
            "needs one with a function trace(problem, rng, options) -> str"
        )
    traces = source.resolve(module.Options, settings.problems.options, "problems.options")

    def write(problem: Problem, rng: np.random.Generator) -> str:
        return module.trace(problem, rng, traces)

    with contextlib.ExitStack() as stack:
        load = functools.partial(source.load_sets, settings.problems)
        around = stack.enter_context(open_surroundings(settings, pod, load))
        scratch = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        policy = _begin(settings, module, scratch, around)
        engine = Engine.of(policy, **around.own)
        _check_context(settings, engine, around.problems["test"])
        if settings.dry_run:
            _batch(settings, engine, write, around.problems["train"], 0)  # its traces fit
            return _describe(settings, policy, around)
        interrupts = stack.enter_context(Interrupts(pod, kept=False))
        policy = _train(settings, policy, engine, write, around, interrupts)
        graded = measure(
            engine,
            engine.decode_params(policy.params),
            around.problems["test"],
            settings.test,
            limit=settings.test.limit or settings.limit,
            purpose=Purpose.TEST,
            progress=around.progress,
            title="test set",
            check=interrupts.check,
        )
        handle.save(policy, out, dtype=settings.export_dtype, each=pod.each)
        return _tell(settings, graded, around.progress, out)


def _check_context(settings: WarmupConfig, engine: Engine, problems: list[Problem]) -> None:
    """Every response of the test fits into the model: now, not when all steps are made."""
    test, limit = settings.test, settings.test.limit or settings.limit
    some = problems[: test.problems]
    prompts = measured(engine, test).prompts(some, purpose=Purpose.TEST, limit=limit)
    longest, problem = max((len(ids), p.id) for ids, p in zip(prompts.tokens, some))
    if longest + limit > engine.config.context:
        raise ValueError(
            f"a prompt of {longest} tokens (problem {problem!r}) and a response of up to {limit} "
            f"(test.limit, or else limit) do not fit into the model's context of "
            f"{engine.config.context}; lower test.limit"
        )


def _tell(settings: WarmupConfig, graded: Graded, progress: Progress, out: str) -> dict[str, Any]:
    """What the test said, also shown."""
    test = settings.test
    found = stats.describe(outcomes(graded), test.confidence, test.resamples, budget=test.budget)
    result = plain(found)
    for name, value in result.items():
        progress.log(f"{name}: {value}")
    progress.log(f"model: {out}")
    return result


def _begin(
    settings: WarmupConfig, module: Any, scratch: pathlib.Path, around: Surroundings
) -> Policy:
    """The given model, or a new one around the source's own tokenizer; without parameters in a dry
    run, else where the learner wants them."""
    if settings.model is not None:
        around.check_models({"model": settings.model})
        policy = handle.describe(settings.model)
        hf.open_weights(policy.folder, policy.config)  # checks
        return policy if settings.dry_run else handle.with_weights(policy, mesh=around.mesh)
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
    params = None if settings.dry_run else _drawn(config, settings.seed, around.mesh)
    generation = scratch / "generation_config.json"
    return Policy(
        config,
        params,
        tokenizer,
        json.loads(generation.read_text()) if generation.exists() else None,
        scratch,
    )


def _drawn(config: ModelConfig, seed: int, mesh: jax.sharding.Mesh) -> PyTree:
    """Random parameters; every device draws the part that it holds."""
    places = weights.weight_shardings(config, mesh, LEARN_RULES)
    draw = jax.jit(lambda key: weights.init(config, key, "float32"), out_shardings=places)
    return draw(jax.random.key(seed))


def _describe(settings: WarmupConfig, policy: Policy, around: Surroundings) -> dict[str, Any]:
    """What a dry run shows."""
    mesh = around.mesh
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
        "problems": {name: len(part) for name, part in around.problems.items()},
        "steps": settings.steps,
        "traces_per_step": settings.batch,
        "learner_state_bytes": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)),
    }
    for name, value in found.items():
        around.progress.log(f"{name}: {value}")
    return found


def _train(
    settings: WarmupConfig,
    policy: Policy,
    engine: Engine,
    write: Any,
    around: Surroundings,
    interrupts: Interrupts,
) -> Policy:
    """The policy after all steps of cross-entropy."""
    mesh, progress = around.mesh, around.progress
    optimizer = make_optimizer(settings.optimizer, policy.config)
    state = init_state(policy.params, policy.config, optimizer, mesh)
    update = make_update(policy.config, SPEC, settings.learn, optimizer, mesh)
    progress.start(settings.steps, "warm-up")
    for step in range(settings.steps):
        rows = _batch(settings, engine, write, around.problems["train"], step)
        check_rows(around.pod, f"the hosts' traces of step {step + 1}", rows)
        state, metrics = learn(
            state,
            rows,
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
        interrupts.check_together()
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
