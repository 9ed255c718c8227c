"""A run's programs on a TPU slice, compiled or only counted, and what lies on a device meanwhile.

`prepare` checks the settings of a plan; `learning` finds out about the update of a phase,
`sampling` about the sampler of a set of problems, both as a run would make them from the same
settings. Left out: a force hook's part of the decode loop, and a teacher.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import optax
from jax.sharding import Mesh

from pruner_jax import methods
from pruner_jax.config import PlanConfig
from pruner_jax.learn.optimizer import make_optimizer
from pruner_jax.learn.step import LearnState, abstract_state, row_shards
from pruner_jax.mesh import make_mesh
from pruner_jax.objective.method import Method, Phase
from pruner_jax.pod import chips, programs
from pruner_jax.pod.chips import Chip
from pruner_jax.pod.compiled import Compiled, compile_program
from pruner_jax.policy import hf
from pruner_jax.policy.config import ModelConfig
from pruner_jax.run import traffic
from pruner_jax.run.checks import cap, check_method, check_settings, collection_limit, problems_of
from pruner_jax.run.engine import Engine
from pruner_jax.run.memory import on_a_device, sampler_bytes
from pruner_jax.sample.options import SampleOptions

SETS = ("train", "monitor", "test")


@dataclasses.dataclass(frozen=True)
class Slice:
    """The surroundings of a run on a slice."""

    settings: PlanConfig  # that leave nothing to the backend
    chip: Chip
    mesh: Mesh
    config: ModelConfig
    method: Method
    optimizer: optax.GradientTransformation

    @property
    def training(self) -> list[Phase]:
        """The phases that learn."""
        return [phase for phase in self.method.phases if phase.loss is not None]

    @functools.cached_property
    def state(self) -> LearnState:
        """Shapes and places of the learner's state."""
        return abstract_state(self.config, self.optimizer, self.mesh)

    @property
    def held(self) -> dict[str, int]:
        """What the learner keeps on a device while others work, in bytes."""
        found = {
            "weights": on_a_device(self.state.params),
            "optimizer": on_a_device(self.state.opt_state),
        }
        if any(phase.loss.needs_reference for phase in self.training):
            found["reference"] = found["weights"]
        return found

    def engine(self, config: ModelConfig) -> Engine:
        """What counts a sampler's bytes."""
        return Engine(
            config=config,
            tokenizer=None,
            end_ids=_end_ids(config),
            end_id=0,
            close_ids=(),
            open_ids=(),
            text=self.settings.text,
            sampling=self.settings.sample,
            verifier=None,
            seed=0,
            mesh=self.mesh if self.mesh.size > 1 else None,
        )


@dataclasses.dataclass(frozen=True)
class Finding:
    """A program, and what lies on a device while it runs, in bytes."""

    counted: dict[str, int]  # what is known without a compiler, by what it is
    beside: int  # of that, what the program itself does not see
    sizes: dict[str, int]
    compiled: dict[str, Compiled]  # by name; empty: not compiled
    traffic: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def refusal(self) -> str | None:
        """Why the compiler would not, if so."""
        return next((c.refusal for c in self.compiled.values() if c.refusal), None)

    @property
    def bytes(self) -> int | None:
        """The most that lies there at a time; at least, while nothing is compiled."""
        if self.refusal:
            return None
        least = sum(self.counted.values())
        return max([least, *(self.beside + c.bytes for c in self.compiled.values())])

    def fits(self, memory: int) -> bool:
        """Whether it does, as far as it is known."""
        return self.bytes is not None and self.bytes <= memory

    def plain(self, memory: int) -> dict[str, Any]:
        """For JSON."""
        found = {
            **self.sizes,
            "counted_bytes": self.counted,
            "bytes": self.bytes,
            "fits": self.fits(memory),
        }
        for name, one in self.compiled.items():
            values = {k: v for k, v in dataclasses.asdict(one).items() if k != "text"}
            found[name] = values | {"bytes": None if one.refusal else one.bytes}
        return found | self.traffic


def prepare(settings: PlanConfig) -> Slice:
    """Everything a plan needs, checked."""
    method = methods.build(methods.MethodOptions.of(settings.method))
    check_settings(settings, method)
    check_method(settings, method)
    chip = chips.find(settings.topology)
    config = _describe_model(settings.model)
    for name in SETS:
        if settings.prompt_tokens + limit_of(settings, name) > config.context:
            raise ValueError(
                f"prompt_tokens is {settings.prompt_tokens} and the {name} limit "
                f"{limit_of(settings, name)}, more than the model's context of {config.context}; "
                "lower one of them"
            )
    options = settings.mesh
    devices = chips.devices(settings.topology)
    mesh = make_mesh(options.data, options.fsdp, options.tensor, devices)
    learn, sample = programs.for_tpu(settings.learn, settings.sample)
    settings = dataclasses.replace(settings, learn=learn, sample=sample)
    return Slice(settings, chip, mesh, config, method, make_optimizer(settings.optimizer, config))


def _describe_model(name: str) -> ModelConfig:
    try:
        return hf.read_config(hf.find_folder(name, described=True))
    except ValueError as error:
        raise ValueError(
            f"{error} (a plan wants no more of a model than its config.json; a folder that holds "
            "one will do, see configs/models)"
        ) from None


def _end_ids(config: ModelConfig) -> tuple[int, ...]:
    named = config.hf.get("eos_token_id", 0)
    return tuple(named) if isinstance(named, list) else (int(named or 0),)


def limit_of(settings: PlanConfig, name: str) -> int:
    """Most tokens of a response of a set."""
    return collection_limit(settings) if name == "train" else cap(settings, name)


# -- the programs ----------------------------------------------------------------------------------


def rows_of(here: Slice, phase: Phase) -> int:
    """Rows of a collection of a phase; of the training set ``rounds.prompts`` problems count."""
    problems = problems_of(phase, here.settings, here.settings.rounds.prompts)
    return problems * phase.collect.samples * (1 + phase.collect.extra_draws)


def learning(here: Slice, phase: Phase) -> Finding:
    """The update of a phase, and what lies beside it."""
    settings = here.settings
    made = programs.learner(
        here.config,
        phase.loss,
        settings.learn,
        here.optimizer,
        here.mesh,
        rows=rows_of(here, phase) // (1 + phase.collect.extra_draws),
        prompt=settings.prompt_tokens,
        limit=limit_of(settings, "train"),
    )
    beside = here.held.get("reference", 0) + _second_bytes(here)
    counted = here.held | {"batch": on_a_device(made.program.arguments["batch"])}
    counted |= {"gradients": counted["weights"]}
    if second := _second_bytes(here):
        counted["expander"] = second
    sizes = {
        "row_tokens": made.tokens,
        "micro_rows": made.rows,
        "micro_tokens": made.tokens * made.rows,
        "micro_batches": made.micro_batches,
        "updates": made.updates,
    }
    if settings.dry_run:
        return Finding(counted, beside, sizes, {})
    compiled = compile_program(made.program)
    passing = {} if compiled.refusal else traffic.of_learner(compiled.text)
    return Finding(counted, beside, sizes, {"update": compiled}, passing)


def sampling(here: Slice, name: str) -> Finding:
    """The sampler of a set of problems, and what lies beside it."""
    settings = here.settings
    made = programs.sampler(
        here.config,
        _picking(settings, name),
        here.mesh,
        count=_count(here, name),
        prompt=settings.prompt_tokens,
        limit=limit_of(settings, name),
        end_ids=_end_ids(here.config),
    )
    engine = here.engine(here.config)
    learner = here.held if name != "test" else {"weights": here.held["weights"]}
    held = sum(learner.values()) + _second_bytes(here)
    counted = {
        "held": held,
        "weights": sampler_bytes(engine, here.mesh),
        "cache": engine.cache_bytes(limit_of(settings, name), settings.prompt_tokens, made.rows),
    }
    sizes = {"rows": made.rows, "slots": made.slots}
    if settings.dry_run or sum(counted.values()) > here.chip.memory:
        return Finding(counted, held, sizes, {})
    compiled = {"decode": compile_program(made.decode), "prefill": compile_program(made.prefill)}
    passing = {}
    if not compiled["decode"].refusal:
        given = made.decode.arguments
        passing = traffic.of_decode(compiled["decode"].text, given["weights"], given["cache"])
    # The cache is there while prompts are read, though their program does not see it.
    if not compiled["prefill"].refusal:
        cache = on_a_device(made.decode.arguments["cache"])
        compiled["prefill"] = dataclasses.replace(
            compiled["prefill"], arguments=compiled["prefill"].arguments + cache
        )
    return Finding(counted, held, sizes, compiled, passing)


def _picking(settings: PlanConfig, name: str) -> SampleOptions:
    if name == "train":
        return settings.sample
    given = getattr(settings, name)
    return dataclasses.replace(
        settings.sample, temperature=given.temperature, top_p=given.top_p, top_k=given.top_k
    )


def _count(here: Slice, name: str) -> int:
    """Rows that are to be written; of a whole set nobody knows, so that every seat is taken."""
    if name == "train":
        return max(rows_of(here, phase) for phase in here.method.phases)
    given = getattr(here.settings, name)
    seats = here.settings.sample.rows * row_shards(here.mesh)
    return seats if given.problems is None else given.problems * given.samples


def _second_bytes(here: Slice) -> int:
    """The weights of an expander, which lie there all the while."""
    name = here.settings.expander.model
    return 0 if name is None else sampler_bytes(here.engine(_describe_model(name)), here.mesh)
