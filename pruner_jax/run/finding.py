"""A run's programs on a TPU slice, compiled or only counted, and what lies on a device meanwhile.

`prepare` checks the settings of a plan; `learning` finds out about the update of a phase,
`sampling` about a model that writes, both as a run would make them from the same settings. What is
left out, `Slice.not_planned` says.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import optax
from jax.sharding import Mesh

from pruner_jax import methods
from pruner_jax.config import PlanConfig
from pruner_jax.learn.optimizer import make_optimizer
from pruner_jax.learn.step import LearnState, abstract_state, row_shards
from pruner_jax.mesh import make_mesh
from pruner_jax.objective import slots
from pruner_jax.objective.condition import Begin, EndThought
from pruner_jax.objective.method import Method, Phase, most_kept, needs
from pruner_jax.pod import chips, programs, roofline
from pruner_jax.pod.chips import Chip
from pruner_jax.pod.compiled import Compiled, compile_program
from pruner_jax.policy import hf
from pruner_jax.policy.config import ModelConfig
from pruner_jax.run import traffic
from pruner_jax.run.checks import cap, check_method, check_settings, collection_limit, problems_of
from pruner_jax.run.engine import Engine
from pruner_jax.run.found import Finding
from pruner_jax.run.memory import Writing, on_a_device, sampler_bytes, writings
from pruner_jax.sample.sampler import shapes_of

UNKNOWN = 1 << 40  # problems of a set that nobody has read: more than there are seats


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

    @functools.cached_property
    def writings(self) -> dict[str, Writing]:
        """What models write in the run, as the run counts it; of a set that nobody has read the
        rows take every seat."""
        problems = {"train": self.settings.problems.train_limit}
        for name in ("monitor", "test"):
            given = getattr(self.settings, name).problems
            problems[name] = given or getattr(self.settings.problems, f"{name}_limit")
        known = {name: UNKNOWN if n is None else n for name, n in problems.items()}
        return writings(self.settings, self.method, known)

    def problems(self, phase: Phase) -> int | None:
        """Of a collection of a phase; None: as many as there are, which is not known."""
        limit = self.settings.problems.train_limit
        found = problems_of(phase, self.settings, UNKNOWN if limit is None else limit)
        return None if found == UNKNOWN else found

    def learnt(self, phase: Phase) -> int:
        """Rows of a collection that reach the learner, at most; those of an update, or one for each
        seat, while their number is not known."""
        problems = self.problems(phase)
        if problems is not None:
            return problems * most_kept(phase)
        return phase.loss.update_rows or self.settings.sample.rows * row_shards(self.mesh)

    def not_planned(self) -> list[str]:
        """What the run does beside, of which a plan says nothing."""
        found = [f"the expander's answers ({self.settings.expander.model})"]
        found = found if self.settings.expander.model else []
        for phase in self.method.phases:
            walked = [slot for _, slot in slots.walk(phase)]
            if any(isinstance(s, Begin | EndThought) and s.text is not None for s in walked):
                found.append(f"what phase {phase.name} writes in the policy's place (a force hook)")
            if phase.shape:
                kinds = ", ".join(slots.kind_of(type(step)) for step in phase.shape)
                found.append(f"what phase {phase.name} makes of its rows ({kinds})")
            if "answers" in needs(phase):
                found.append(f"the likelihoods of answers that phase {phase.name} asks for")
            if phase.collect.keep:
                found.append(f"rows of earlier collections, which phase {phase.name} learns again")
        for name in ("monitor", "test"):
            if getattr(self.settings, name).thinking_budget is not None:
                found.append(f"the end of thoughts in the {name} set (a force hook)")
        return found

    def config_of(self, writing: Writing) -> ModelConfig:
        """Of the model that writes."""
        return _describe_model(self.settings.teacher.model) if writing.teacher else self.config

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


def prepare(settings: PlanConfig) -> Slice:
    """Everything a plan needs, checked."""
    method = methods.build(methods.MethodOptions.of(settings.method))
    check_settings(settings, method)
    check_method(settings, method)
    chip = chips.find(settings.topology)
    config = _describe_model(settings.model)
    for name in ("train", "monitor", "test"):
        if settings.prompt_tokens + limit_of(settings, name) > config.context:
            raise ValueError(
                f"prompt_tokens is {settings.prompt_tokens} (512 if it is not said) and the {name} "
                f"limit {limit_of(settings, name)}, more than the model's context of "
                f"{config.context}; lower one of them: --prompt_tokens=N to the length of the "
                "longest prompt, or the limit"
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


def learning(here: Slice, phase: Phase) -> Finding:
    """The update of a phase, and what lies beside it."""
    settings, rows, limit = here.settings, here.learnt(phase), limit_of(here.settings, "train")
    made = programs.learner(
        here.config,
        phase.loss,
        settings.learn,
        here.optimizer,
        here.mesh,
        rows=rows,
        prompt=settings.prompt_tokens,
        limit=limit,
    )
    second = _second_bytes(here)
    counted = here.held | {"batch": on_a_device(made.program.arguments["batch"])}
    counted |= {"gradients": counted["weights"]} | ({"expander": second} if second else {})
    sizes = {
        "row_tokens": made.tokens,
        "micro_rows": made.rows,
        "micro_tokens": made.tokens * made.rows,
        "micro_batches": made.micro_batches,
        "updates": made.updates,
    }
    row = roofline.learn_flops(here.config, settings.prompt_tokens, limit)
    flops = row * rows * phase.loss.epochs / made.updates / here.mesh.size
    found = Finding(counted, here.held.get("reference", 0) + second, sizes, {}, flops)
    if settings.dry_run:
        return found
    compiled = compile_program(made.program)
    rounds = {"micro-batch": made.micro_batches, "layer": here.config.layers, "chunk": made.chunks}
    passing = {} if compiled.refusal else traffic.of_learner(compiled.text, rounds)
    return dataclasses.replace(found, compiled={"update": compiled}, traffic=passing)


def sampling(here: Slice, name: str) -> Finding:
    """A model that writes (`Slice.writings`), and what lies beside it."""
    settings, memory = here.settings, here.chip.memory
    writing = here.writings[name]
    config, rows = here.config_of(writing), writing.rows
    group = shared_by(here, writing)
    make = functools.partial(
        programs.sampler,
        config,
        dataclasses.replace(settings.sample, **writing.sampling),
        here.mesh,
        prompt=settings.prompt_tokens,
        limit=writing.limit,
        end_ids=_end_ids(config),
        samples=writing.samples,
    )
    made, engine = make(count=rows, group=group), here.engine(config)
    learner = here.held if name != "test" else {"weights": here.held["weights"]}
    held = sum(learner.values()) + _second_bytes(here)
    # Samples share their prompt until half of the rows have ended.
    later = make(count=row_shards(here.mesh) * made.fewer) if group > 1 else None
    if later is None:
        cache = engine.cache_bytes(writing.limit, settings.prompt_tokens, made.rows)
    else:
        cache = max(on_a_device(one.decode.arguments["cache"]) for one in (made, later))
        cache += cache // config.layers  # one is there twice while rows move
    counted = {"held": held, "weights": sampler_bytes(engine, here.mesh), "cache": cache}
    sizes = {"rows": made.rows, "slots": made.slots}
    sizes |= {"share_a_prompt": group} if group > 1 else {}
    given, tensor = made.decode.arguments, here.mesh.shape["tensor"]
    flops = roofline.decode_flops(config, made.rows, made.slots) / tensor
    least = traffic.least(given["weights"], given["cache"])
    found = Finding(counted, held, sizes, {}, flops, least)
    if settings.dry_run or sum(counted.values()) > memory:
        return found
    compiled = _compiled(made, later)
    if not writing.teacher:
        compiled["hand_over"] = _handed_over(here, counted["weights"])
    passing = {}
    if not compiled["decode"].refusal:
        passing = traffic.of_decode(compiled["decode"].text, given["weights"], given["cache"])
    return dataclasses.replace(found, compiled=compiled, traffic=passing)


def _compiled(made: programs.Sampler, later: programs.Sampler | None) -> dict[str, Compiled]:
    """The programs of a sampler, and the decode block of what becomes of it ``later``."""
    compiled = {"decode": compile_program(made.decode), "prefill": compile_program(made.prefill)}
    if later is not None:
        compiled["decode_later"] = compile_program(later.decode)
    # The cache is there while prompts are read, though their program does not see it.
    if not compiled["prefill"].refusal:
        arguments = compiled["prefill"].arguments + on_a_device(made.decode.arguments["cache"])
        compiled["prefill"] = dataclasses.replace(compiled["prefill"], arguments=arguments)
    return compiled


def _handed_over(here: Slice, weights: int) -> Compiled:
    """Of the programs that give the sampler its weights, so many bytes in all, the one beside which
    the most lies: that of a layer beside all of them, that of the rest, which comes first, beside
    nothing. (The learner's weights, which they take, are counted with it.)"""
    dtype = here.settings.sample.dtype
    made = programs.hand_over(here.config, here.state.params, dtype, here.mesh)
    layer, rest = (dataclasses.replace(compile_program(one), arguments=0) for one in made)
    layer = dataclasses.replace(layer, results=weights)
    return max(layer, rest, key=lambda one: (one.refusal is not None, one.bytes))


def shared_by(here: Slice, writing: Writing) -> int:
    """How many samples of a prompt share its slots, as they do where all rows come in at once."""
    options, prompt = here.settings.sample, here.settings.prompt_tokens
    shapes = shapes_of(options, here.mesh, writing.rows)
    group = math.gcd(shapes.full, writing.samples)
    at_once = options.share_prompts and writing.rows <= shapes.full * shapes.shards
    may = at_once and shapes.may_share(group, prompt, writing.limit, options.block)
    return group if may else 1


def _second_bytes(here: Slice) -> int:
    """The weights of an expander, which lie there all the while."""
    name = here.settings.expander.model
    return 0 if name is None else sampler_bytes(here.engine(_describe_model(name)), here.mesh)
