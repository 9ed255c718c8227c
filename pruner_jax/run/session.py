"""What stays the same during a run: settings, folder, problems, method, compiled update, verifier.

``open_session`` checks everything that can be checked before the first token is sampled, so that a
contradiction costs seconds and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from pruner_jax import methods
from pruner_jax.config import PruneConfig, plain
from pruner_jax.learn.optimizer import Optimizer, make_optimizer
from pruner_jax.learn.step import LearnState, Update, make_update, state_shardings
from pruner_jax.measure.pick import Candidate
from pruner_jax.mesh import LEARN_RULES, make_mesh
from pruner_jax.objective.loss_spec import LossSpec
from pruner_jax.objective.method import Method, Phase, check, needs
from pruner_jax.policy import handle, weights
from pruner_jax.policy.handle import Policy
from pruner_jax.problems.source import load_sets
from pruner_jax.report.progress import Progress
from pruner_jax.run.clock import Clock
from pruner_jax.run.compilation import keep_compiled_programs
from pruner_jax.run.engine import Engine
from pruner_jax.run.heap import give_back_large_blocks
from pruner_jax.run.interrupts import Interrupts
from pruner_jax.run.measuring import read_outcomes
from pruner_jax.run.state import Mark
from pruner_jax.store.checkpoints import Checkpoints
from pruner_jax.store.folder import RunFolder, check_folder, open_folder
from pruner_jax.store.records import Metrics, write_rollouts
from pruner_jax.types import Graded, Problem, Purpose, Weighted
from pruner_jax.verify.pool import Verifier

PyTree = Any

# Settings that change speed, memory or safety but not what a run is; they may differ later.
# (How rows are batched and packed moves sums by rounding, so a run continued under other values of
# those is the same run, not the same bits.)
MACHINE = (
    "dry_run",
    "guards.action",
    "learn.attention_tokens",
    "learn.logp_chunk",
    "learn.micro_tokens",
    "learn.remat",
    "learn.row_tokens",
    "rounds.log_rollouts_every",
    "rounds.logp_tolerance",
    "rounds.save_every",
    "sample.block",
    "sample.refill",
    "sample.rows",
    "sample.slot_growth",
    "sample.slot_multiple",
    "verify.memory_mb",
    "verify.workers",
)


@dataclasses.dataclass
class Session:
    """The fixed surroundings of a run. Once it is open only the records grow: metrics, history,
    rollout files."""

    settings: PruneConfig
    policy: Policy  # without parameters once they are taken
    engine: Engine
    problems: dict[str, list[Problem]]
    method: Method
    phase: Phase
    mesh: jax.sharding.Mesh
    optimizer: Optimizer
    update: Update
    progress: Progress
    clock: Clock
    interrupts: Interrupts
    folder: RunFolder | None = None  # these three: not in a dry run
    metrics: Metrics | None = None
    checkpoints: Checkpoints | None = None
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    rollout_files: list[str] = dataclasses.field(default_factory=list)
    saved: tuple[int, int, int] | None = None  # the position that was saved last

    @property
    def spec(self) -> LossSpec:
        """The loss of the method."""
        return self.phase.loss

    def cap(self, name: str) -> int:
        """Most tokens of a response on the monitor or the test set, the same for every model."""
        return _cap(self.settings, name)

    def set(self, name: str) -> list[Problem]:
        """The problems of the monitor or the test set that are measured."""
        return self.problems[name][: getattr(self.settings, name).problems]

    @property
    def logp_tolerance(self) -> float:
        """How far sampler and learner may differ."""
        given = self.settings.rounds.logp_tolerance
        precise = {self.engine.dtype, self.settings.learn.resolve(jax.default_backend()).dtype}
        return given or (1e-3 if precise == {"float32"} else 0.05)

    @property
    def needs_monitor(self) -> bool:
        """Whether the method takes statistics from the monitor set."""
        return "monitor" in needs(self.phase)

    def take_parameters(self) -> PyTree:
        """The parameters that were loaded; the session lets go of them."""
        params = self.policy.params
        self.policy = dataclasses.replace(self.policy, params=None)
        return params

    @property
    def parameters_like(self) -> PyTree:
        """Shapes and places of the learner's parameters."""
        return self.learn_like.params

    @functools.cached_property
    def learn_like(self) -> LearnState:
        """Shapes and places of the learner's state."""
        config = self.engine.config
        abstract = weights.abstract(config, jnp.float32)
        opt_state = jax.eval_shape(self.optimizer.transform.init, abstract)
        shapes = LearnState(abstract, opt_state, jax.ShapeDtypeStruct((), jnp.int32))
        return jax.tree.map(
            lambda shape, place: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place),
            shapes,
            state_shardings(config, self.optimizer, self.mesh),
        )

    def fresh_optimizer(self, params: PyTree) -> LearnState:
        """The same parameters with an optimiser that has seen nothing; they are not copied."""
        like = self.learn_like
        places = jax.tree.map(lambda x: x.sharding, like.opt_state)
        opt_state = jax.jit(self.optimizer.transform.init, out_shardings=places)(params)
        return LearnState(params, opt_state, jax.device_put(jnp.int32(0), like.step.sharding))

    def rollouts(self, mark: Mark) -> pathlib.Path:
        """The file of an evaluation."""
        return self.folder.rollouts / mark.rollouts

    def candidate(self, mark: Mark) -> Candidate:
        """What the checkpoint rule looks at."""
        return Candidate(mark.step, read_outcomes(self.rollouts(mark)))

    def record(self, record: dict[str, Any]) -> dict[str, Any]:
        """Write one line of metrics and remember it."""
        self.metrics.append(record)
        self.history.append(record)
        return record

    def latest_evaluation(self) -> dict[str, float]:
        """Numbers of the newest evaluation on monitor, under ``monitor/``."""
        for record in reversed(self.history):
            if record["kind"] == "evaluate":
                names = ("accuracy", "mean_tokens", "truncated")
                return {f"monitor/{name}": record[name] for name in names}
        return {}

    def write_rollouts(
        self, name: str, graded: Graded, *, round: int, step: int, weighted: Weighted | None = None
    ) -> None:
        """One Parquet file of rollouts that belongs to the run's records."""
        path = self.folder.rollouts / f"{name}.parquet"
        write_rollouts(path, graded, round=round, step=step, weighted=weighted)
        if path.name not in self.rollout_files:
            self.rollout_files.append(path.name)

    def describe(self) -> dict[str, Any]:
        """What a dry run shows: sizes, shapes and the least memory the learner's state takes."""
        config, rounds = self.engine.config, self.settings.rounds
        like = self.learn_like
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(like))
        parameters = sum(x.size for x in jax.tree.leaves(like.params))
        reference = parameters * 4 if self.spec.needs_reference else 0
        found = {
            "model": config.model_type,
            "parameters": parameters,
            "layers": config.layers,
            "devices": dict(self.mesh.shape),
            "problems": {name: len(problems) for name, problems in self.problems.items()},
            "limits": rounds.limits,
            "rows_per_step": rounds.prompts * self.phase.collect.samples,
            "learner_state_bytes": size,
            "reference_bytes": reference,
            "gradient_bytes": parameters * 4,
            # Two states and the one being written; the start, the round's start, a few candidates.
            "disk_bytes": 3 * size + 5 * parameters * 4,
            "sampler_bytes": parameters * jnp.dtype(self.engine.dtype).itemsize,
            "cache_bytes": {
                "round": self.engine.cache_bytes(
                    self.cap("monitor") if rounds.limits == "auto" else max(rounds.limits)
                ),
                "monitor": self.engine.cache_bytes(self.cap("monitor")),
                "test": self.engine.cache_bytes(self.cap("test")),
            },
        }
        for name, value in found.items():
            self.progress.log(f"{name}: {value}")
        return found


@contextlib.contextmanager
def open_session(settings: PruneConfig) -> Iterator[Session]:
    """Everything a run needs, checked; the folder is locked for this process meanwhile."""
    keep_compiled_programs()
    give_back_large_blocks()
    method = methods.build(methods.MethodOptions.of(settings.method))
    phase = _the_phase(method)
    _check_settings(settings, phase)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress())
        problems = load_sets(settings.problems)
        mesh = make_mesh(settings.mesh.data, settings.mesh.fsdp, settings.mesh.tensor)
        policy = handle.load(settings.model, mesh=mesh, rules=LEARN_RULES)
        check(method, {"monitor"})
        verifier = stack.enter_context(Verifier(settings.verify))
        verifier.prepare(problem for part in problems.values() for problem in part)
        engine = Engine.of(
            policy,
            text_options=settings.text,
            sampling=settings.sample,
            verifier=verifier,
            seed=settings.seed,
            mesh=mesh,
            problems=settings.problems,
        )
        _check_context(settings, engine, problems)
        optimizer = make_optimizer(settings.optimizer, policy.config, _updates(settings, phase))
        session = Session(
            settings=settings,
            policy=policy,
            engine=engine,
            problems=problems,
            method=method,
            phase=phase,
            mesh=mesh,
            optimizer=optimizer,
            update=make_update(policy.config, phase.loss, settings.learn, optimizer, mesh),
            progress=progress,
            clock=Clock(),
            interrupts=stack.enter_context(Interrupts()),
        )
        for line in _unlike_published(method, settings):
            progress.log(line)
        del policy, engine  # the session alone holds the parameters, until they are taken
        if not settings.dry_run:
            session.folder = stack.enter_context(
                open_folder(settings.out, plain(settings), MACHINE, _inputs(settings))
            )
            for change in session.folder.changes:
                progress.log(f"changed since the run was stopped: {change}")
            session.metrics = Metrics(session.folder.metrics)
            session.checkpoints = Checkpoints(session.folder.checkpoints)
            stack.callback(session.checkpoints.close)
        yield session


def finished_folder(settings: PruneConfig) -> RunFolder | None:
    """The folder of a run that is complete, checked and locked as for any start, or None."""
    folder = check_folder(settings.out, plain(settings), machine=MACHINE)
    return folder if folder.summary.exists() else None


def _inputs(settings: PruneConfig) -> list[pathlib.Path]:
    """Files on which the run depends, wherever the settings name one: the code of a method or a
    checker, tables of problems; and the description of the model."""

    def texts(tree: Any) -> Iterator[str]:
        if isinstance(tree, dict):
            for key, value in tree.items():
                yield from (key, *texts(value))
        elif isinstance(tree, list):
            for value in tree:
                yield from texts(value)
        elif isinstance(tree, str):
            yield tree

    named = texts([plain(getattr(settings, name)) for name in ("problems", "verify", "method")])
    paths = [
        pathlib.Path(name.rpartition(".py:")[0] + ".py" if ".py:" in name else name)
        for name in named
    ]
    paths.append(pathlib.Path(settings.model) / "config.json")
    return sorted({path for path in paths if path.is_file()})


def _the_phase(method: Method) -> Phase:
    """The one phase of a method that rounds can play: on-policy, collected at every step."""
    phases = method.phases
    plain_rounds = (
        len(phases) == 1
        and phases[0].loss is not None
        and phases[0].collect.policy == "current"
        and phases[0].collect.every == "step"
        and not phases[0].collect.keep
        and not phases[0].condition.modes
        and phases[0].condition.budget is None
        and phases[0].collect.problems is None
        and phases[0].collect.temperature is None
        and phases[0].reset.parameters == "never"
        and "iteration" not in (phases[0].reset.optimiser, phases[0].reset.reference)
    )
    if not plain_rounds:
        raise ValueError(
            f"method {method.name!r} collects other than at every step with the current policy, "
            "gives its rows modes or budgets, or resets by iteration; prune cannot play that yet. "
            "It plays methods of one phase with collect.policy current and collect.every step"
        )
    return phases[0]


def _check_settings(settings: PruneConfig, phase: Phase) -> None:
    sample = settings.sample
    if sample.truncates or sample.temperature == 0:
        raise ValueError(
            f"sample.temperature is {sample.temperature:g}, top_k {sample.top_k}, top_p "
            f"{sample.top_p:g}, min_p {sample.min_p:g}: rounds learn from their own samples, whose "
            "log-probabilities must be those of the whole distribution; set temperature above 0, "
            "top_k 0, top_p 1, min_p 0 (monitor and test have their own)"
        )
    for name in ("monitor", "test"):
        _cap(settings, name)
    if settings.monitor.samples < 2:
        raise ValueError(
            f"monitor.samples is {settings.monitor.samples}; the checkpoint rule needs 2 or more "
            "to tell a loss from noise"
        )


def _unlike_published(method: Method, settings: PruneConfig) -> Iterator[str]:
    """A line for every setting of another room under which the method is not the published one."""
    for room, wanted in method.wants.items():
        for name, value in wanted.items():
            found = getattr(getattr(settings, room), name)
            if found != value:
                yield (
                    f"{room}.{name} is {found!r}; {method.name} as asked for was published with "
                    f"{value!r}"
                )


def _check_context(
    settings: PruneConfig, engine: Engine, problems: dict[str, list[Problem]]
) -> None:
    """Every prompt with its longest response fits into the model: now, not on the second day."""
    limits = settings.rounds.limits
    longest = {
        "train": _cap(settings, "monitor") if limits == "auto" else max(limits),
        "monitor": _cap(settings, "monitor"),
        "test": _cap(settings, "test"),
    }
    context = engine.config.context
    for name, part in problems.items():
        limit = longest[name]
        tokens = engine.prompts(part, purpose=Purpose(name), limit=limit).tokens
        for problem, prompt in zip(part, tokens):
            if len(prompt) + limit > context:
                cure = "lower the limit (rounds.limits, monitor.limit, test.limit)"
                if len(prompt) >= context:
                    cure = "shorten its question"
                raise ValueError(
                    f"{name} set, problem {problem.id!r}: a prompt of {len(prompt)} tokens and a "
                    f"response of up to {limit} do not fit into the model's context of {context} "
                    f"(max_position_embeddings in {settings.model}/config.json); {cure}, or take "
                    "the problem out of its source"
                )


def _updates(settings: PruneConfig, phase: Phase) -> int:
    """Optimiser updates until the schedule of the learning rate ends: a round's if every round has
    a fresh optimiser, else the run's."""
    rounds = settings.rounds
    count = rounds.most if rounds.limits == "auto" else len(rounds.limits)
    if phase.reset.optimiser == "round":
        count = 1
    each = phase.loss.minibatches
    if phase.loss.update_rows is not None:
        each = math.ceil(rounds.prompts * phase.collect.samples / phase.loss.update_rows)
    return count * rounds.steps * phase.loss.epochs * each


def _cap(settings: PruneConfig, name: str) -> int:
    given = getattr(settings, name).limit
    limits = settings.rounds.limits
    if given is None and limits == "auto":
        raise ValueError(
            f"{name}.limit is not set and rounds.limits is auto: say how long an answer may "
            f"be when models are measured ({name}.limit)"
        )
    return given or max(limits)
