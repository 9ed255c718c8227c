"""Whether a run or an evaluation fits into the memory of its devices, told before the first token.

Counted are the arrays whose shapes are known: the learner's state and reference, what an update
holds of their shape beside them (gradients, `update_bytes`), the sampler's weights, and its cache
at its largest. Not counted is what a program takes besides while it works (activations, logits, and
copies that the compiler makes), nor what an expander takes to write.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from pruner_jax.measure.options import EvaluateOptions
from pruner_jax.mesh import DECODE_RULES
from pruner_jax.objective.method import Method
from pruner_jax.policy import hf, weights
from pruner_jax.run.ahead import own_sampling
from pruner_jax.run.checks import cap, collection_limit, problems_of
from pruner_jax.run.measuring import measured
from pruner_jax.types import Problem, Purpose

if TYPE_CHECKING:
    from pruner_jax.config import PruneConfig
    from pruner_jax.run.engine import Engine
    from pruner_jax.run.session import Session


@dataclasses.dataclass(frozen=True)
class Stage:
    """What one device holds at a time of the run, in bytes."""

    weights: int  # whatever the number of rows: parameters, moments, gradients
    cache: int = 0
    rows: int = 0  # on each device, that share the cache
    limit: str = ""  # the setting that says how long they get
    learner: bool = True  # whether what is held is of a run that learns

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.weights + self.cache


@dataclasses.dataclass(frozen=True)
class Writing:
    """What a model writes at a time of a run, all of it together."""

    rows: int
    samples: int  # of a prompt
    limit: int  # most tokens of a row
    setting: str  # that says so
    sampling: Mapping[str, float]  # in place of the run's settings of sampling
    teacher: bool = False  # a second model writes, and not the policy


def writings(
    settings: PruneConfig, method: Method, problems: Mapping[str, int]
) -> dict[str, Writing]:
    """What the policy and a teacher write in a run, by name: of the collections that are sampled
    alike the largest, and the measured sets. ``problems``: how many each set has."""
    found: dict[str, Writing] = {}
    for phase in method.phases:
        collect, taught = phase.collect, phase.collect.policy == "teacher"
        if taught and settings.teacher.model is None:
            continue  # its responses come from a file
        rows = problems_of(phase, settings, problems["train"]) * collect.samples
        limit, own = collection_limit(settings), own_sampling(phase)
        one = Writing(rows, collect.samples, limit, "rounds.limits", own, taught)
        alike = (n for n, w in found.items() if (w.sampling, w.teacher) == (own, taught))
        name = "teacher" if taught else "train"
        name = next(alike, f"{name} {phase.name}" if name in found else name)
        found[name] = max(found.get(name, one), one, key=lambda writing: writing.rows)
    for name in ("monitor", "test"):
        given = getattr(settings, name)
        setting = "rounds.limits" if given.limit is None else f"{name}.limit"
        own = {key: getattr(given, key) for key in ("temperature", "top_p", "top_k")}
        rows = problems[name] * given.samples
        found[name] = Writing(rows, given.samples, cap(settings, name), setting, own)
    return found


def stages_of(run: Session, longest: Mapping[str, int]) -> dict[str, Stage]:
    """The stages of a run; ``longest``: tokens of the longest prompt of each set."""
    settings, engine = run.settings, run.engine
    params, state = on_a_device(run.parameters_like), on_a_device(run.learn_like)
    second = sampler_bytes(run.expander.engine, run.mesh) if run.expander else 0
    precision = settings.learn.resolve(jax.default_backend()).dtype
    state += second + (params if run.needs_reference else 0)
    sets = {name: len(run.set(name)) for name in ("monitor", "test")}
    # Gradients lie like the parameters.
    stages = {"learn": Stage(state + update_bytes(params // 4, precision))}
    for name, one in writings(
        settings, run.method, {"train": len(run.problems["train"]), **sets}
    ).items():
        held = second + params if name == "test" else state  # then the learner is gone
        writer, prompt = engine, longest[name if name in sets else "train"]
        if one.teacher:
            config = hf.read_config(hf.find_folder(run.names["teacher"]))
            writer = dataclasses.replace(engine, config=config)
        stages[name] = _writing(writer, run.mesh, held, one.limit, prompt, one.rows, one.setting)
    return stages


def evaluation_stages(
    engines: Mapping[str, Engine],
    expander: Engine | None,
    mesh: jax.sharding.Mesh,
    problems: Sequence[Problem],
    options: EvaluateOptions,
    split: str,
) -> dict[str, Stage]:
    """The stages of an evaluation: one model after the other, and the expander all the while. Not
    counted is what a second try or a search adds to the prompts of programs."""
    held = 0 if expander is None else sampler_bytes(expander, mesh)
    stages = {}
    for name, engine in engines.items():
        asking = measured(engine, options)
        prompts = asking.prompts(problems, purpose=Purpose(split), limit=options.limit)
        longest, count = max(map(len, prompts.tokens)), len(problems) * options.samples
        writing = _writing(asking, mesh, held, options.limit, longest, count, "test.limit")
        stages[name] = dataclasses.replace(writing, learner=False)
    return stages


def _writing(
    writer: Engine,
    mesh: jax.sharding.Mesh,
    held: int,
    limit: int,
    prompt: int,
    count: int,
    setting: str,
) -> Stage:
    """A model writes so many rows of up to ``limit`` tokens (as ``setting`` says) after prompts of
    up to ``prompt``, beside what is held anyway."""
    rows = writer.seats(count)
    weights = held + sampler_bytes(writer, mesh)
    return Stage(weights, writer.cache_bytes(limit, prompt, rows), rows, setting)


def update_bytes(parameters: int, dtype: str) -> int:
    """What an update of so many parameters holds beside the learner's state: the float32 sum of the
    gradients, those of one micro-batch in the precision of its passes, and if that is not float32
    the parameters in it.

    Of a Qwen2 model of 3 M parameters `jax.stages.Compiled.memory_analysis` says on a CPU 2.4 times
    the parameters' float32 bytes for float32 and 2.9 times for bfloat16 (which a CPU copies to
    float32 to compute with); counted are 2 and 2.
    """
    size = jnp.dtype(dtype).itemsize
    return parameters * (4 + size + (size if dtype != "float32" else 0))


def sampler_bytes(engine: Engine, mesh: jax.sharding.Mesh) -> int:
    """The sampler's weights on a device."""
    shapes = weights.abstract(engine.config, engine.dtype, stacked=False)
    places = weights.weight_shardings(engine.config, mesh, DECODE_RULES, stacked=False)
    return on_a_device(
        jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes, places
        )
    )


def on_a_device(shapes: Any) -> int:
    """Bytes that one device has of arrays whose places are known."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(shapes)
    )


def device_bytes(mesh: jax.sharding.Mesh) -> int | None:
    """What every device of this process gives to arrays; None where that is not known."""
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in mesh.local_devices]
    return None if None in limits else min(limits)


def check_memory(stages: Mapping[str, Stage], most: int | None) -> str:
    """A line that says what each stage holds on a device that gives ``most`` bytes.

    Raises:
      ValueError: a stage holds more; with what to lower, and to what.
    """
    for name, stage in stages.items():
        if most is None or stage.bytes <= most:
            continue
        fitting = (most - stage.weights) * stage.rows // stage.cache if stage.cache else 0
        cure = "split the learner over more devices with mesh.fsdp"
        if stage.cache:
            cure += ", or all with mesh.tensor: the sampler's weights and cache lie split over it"
        if not stage.learner:
            cure = "split the model with mesh.tensor, take larger devices, or a smaller model"
        if fitting > 0:
            cure = (
                f"lower sample.rows to {fitting} ({stage.rows} share the cache now), or lower "
                f"{stage.limit}"
            )
        raise ValueError(
            f"memory: the stage {name!r} holds {said_size(stage.bytes)} on each device "
            f"({said_size(stage.weights)} of weights, {said_size(stage.cache)} of cache), which "
            f"gives {said_size(most)} (of a GPU the share XLA_PYTHON_CLIENT_MEM_FRACTION); {cure}"
        )
    held = ", ".join(f"{name} {said_size(stage.bytes)}" for name, stage in stages.items())
    return f"memory on each device: {held}" + (f"; it gives {said_size(most)}" if most else "")


def said_size(size: int) -> str:
    """Bytes as people read them."""
    power, unit = (30, "GiB") if size >= 1 << 30 else (20, "MiB")
    return f"{size / (1 << power):.1f} {unit}"
