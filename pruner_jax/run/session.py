"""What stays the same during a run: settings, folder, problems, method, compiled update, verifier.

``open_session`` checks everything that can be checked before the first token is sampled, so that a
contradiction costs seconds and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pruner_jax import methods
from pruner_jax.config import ConfigError, PruneConfig, layered, plain
from pruner_jax.learn.optimizer import make_optimizer, warmup
from pruner_jax.learn.rows import Rows
from pruner_jax.learn.step import LearnState, Update, abstract_state, make_update
from pruner_jax.measure.outcomes import Outcomes
from pruner_jax.measure.pick import Candidate
from pruner_jax.mesh import LEARN_RULES
from pruner_jax.objective.groups import Groups
from pruner_jax.objective.method import Method, Phase, When, needs
from pruner_jax.pod.likeness import check_shared
from pruner_jax.pod.together import ALONE, Pod, PodError
from pruner_jax.policy import handle, hf, weights
from pruner_jax.policy.handle import Policy
from pruner_jax.problems.source import load_sets
from pruner_jax.report.progress import Progress
from pruner_jax.report.track import Tracker, check_installed
from pruner_jax.run.ahead import check_collections
from pruner_jax.run.checks import (
    cap,
    check_columns,
    check_context,
    check_method,
    check_settings,
    collection_limit,
    idle_hosts,
    idle_parts,
    inputs,
    problems_of,
    unlike_published,
)
from pruner_jax.run.clock import Clock
from pruner_jax.run.compilation import Compiled
from pruner_jax.run.engine import Engine
from pruner_jax.run.interrupts import Interrupts
from pruner_jax.run.measuring import read_outcomes
from pruner_jax.run.memory import Stage, check_memory, device_bytes, stages_of, update_bytes
from pruner_jax.run.profile import Profile, check_tracer
from pruner_jax.run.second import Second, check_room, load_expander, load_second
from pruner_jax.run.state import Mark, RunState
from pruner_jax.run.surroundings import Surroundings, open_surroundings
from pruner_jax.store.checkpoints import Checkpoints
from pruner_jax.store.folder import RunFolder, begun_with, check_folder, open_folder
from pruner_jax.store.records import Metrics, write_rollouts
from pruner_jax.types import Graded, Problem, Weighted

PyTree = Any

# Settings that change speed, memory or safety but not what a run is; they may differ later.
# (How rows are batched, packed and spread over devices moves sums by rounding, so a run continued
# under other values of those is the same run, not the same bits.)
MACHINE = (
    "dry_run",
    "guards.action",
    "guards.rollbacks",
    "learn.attention",
    "learn.attention_tokens",
    "learn.logp_chunk",
    "learn.micro_tokens",
    "learn.remat",
    "learn.row_tokens",
    "learn.unrolled_layers",
    "mesh",
    "pod",
    "profile",
    "profile_steps",
    "rounds.log_rollouts_every",
    "rounds.logp_tolerance",
    "rounds.save_every",
    "sample.block",
    "sample.refill",
    "sample.rows",
    "sample.share_prompts",
    "sample.slot_growth",
    "sample.slot_multiple",
    "track",
    "verify.memory_mb",
    "verify.workers",
)


@dataclasses.dataclass
class Session:
    """The fixed surroundings of a run. Once it is open only the records grow: metrics, history,
    rollout files."""

    settings: PruneConfig
    policy: Policy  # without parameters
    engine: Engine
    problems: dict[str, list[Problem]]
    longest: dict[str, int]  # tokens of the longest prompt of each set
    method: Method
    mesh: jax.sharding.Mesh
    optimizer: optax.GradientTransformation
    updates: dict[str, Update]  # by phase, compiled at their first use
    progress: Progress
    clock: Clock
    compiled: Compiled
    names: dict[str, str]  # by part (model, expander, teacher): by which to find it
    pod: Pod  # the processes of the run; files are the first one's
    interrupts: Interrupts | None = None  # entered once all is described
    expander: Second | None = None
    # By part: the name in the settings, and the commit of what came from the hub.
    models: dict[str, dict[str, str | None]] = dataclasses.field(default_factory=dict)
    folder: RunFolder | None = None  # these five: not in a dry run
    profile: Profile | None = None
    tracker: Tracker | None = None
    metrics: Metrics | None = None
    checkpoints: Checkpoints | None = None
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    rollout_files: list[str] = dataclasses.field(default_factory=list)
    stages: dict[str, Stage] = dataclasses.field(default_factory=dict)  # what each device holds
    saved: tuple[int, int, int] | None = None  # the position that was saved last
    tables: dict[Any, Groups] = dataclasses.field(default_factory=dict)  # read before
    # What each phase has to learn from, as read from its files: their names, and the rows.
    rows: dict[str, tuple[tuple[str, ...], Rows]] = dataclasses.field(default_factory=dict)

    @property
    def training(self) -> list[Phase]:
        """The phases that learn from what they collect."""
        return [phase for phase in self.method.phases if phase.loss is not None]

    @property
    def needs_reference(self) -> bool:
        """Whether a loss is measured against a reference policy."""
        return any(phase.loss.needs_reference for phase in self.training)

    def resets(self, what: str, when: str) -> bool:
        """Whether parameters, optimiser or reference start anew with every round or iteration."""
        return any(getattr(phase.reset, what) == when for phase in self.training)

    def cap(self, name: str) -> int:
        """Most tokens of a response on the monitor or the test set, the same for every model."""
        return cap(self.settings, name)

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
        return any("monitor" in needs(phase) for phase in self.training)

    def load_teacher(self) -> Second:
        """The teacher, from its folder each time: it is wanted while it writes and no longer."""
        return load_second(
            self.names["teacher"],
            text_options=self.settings.teacher.text,
            sampling=self.settings.sample,
            verifier=self.engine.verifier,
            seed=self.settings.seed,
            mesh=self.mesh,
            pod=self.pod,
        )

    def load_parameters(self) -> PyTree:
        """The parameters of the model that came, from its folder."""
        return handle.with_weights(self.policy, mesh=self.mesh, rules=LEARN_RULES).params

    @property
    def parameters_like(self) -> PyTree:
        """Shapes and places of the learner's parameters."""
        return self.learn_like.params

    @functools.cached_property
    def learn_like(self) -> LearnState:
        """Shapes and places of the learner's state."""
        return abstract_state(self.engine.config, self.optimizer, self.mesh)

    def fresh_optimizer(self, params: PyTree) -> LearnState:
        """The same parameters with an optimiser that has seen nothing; they are not copied."""
        places = jax.tree.map(lambda x: x.sharding, self.learn_like.opt_state)
        return LearnState(params, jax.jit(self.optimizer.init, out_shardings=places)(params))

    def rollouts(self, mark: Mark) -> pathlib.Path:
        """The file of an evaluation."""
        return self.folder.rollouts / mark.rollouts

    def candidate(self, mark: Mark) -> Candidate:
        """What the checkpoint rule looks at."""
        return Candidate(mark.step, self.outcomes(mark))

    def outcomes(self, mark: Mark) -> Outcomes:
        """What came of an evaluation."""
        return self.pod.lead(read_outcomes, self.rollouts(mark))

    def record(self, record: dict[str, Any]) -> dict[str, Any]:
        """Write one line of metrics and remember it, the same on all processes."""

        def write() -> dict[str, Any]:
            self.metrics.append(record)
            return record

        self.history.append(self.pod.lead(write))
        return self.history[-1]

    def latest_evaluation(self, state: RunState) -> dict[str, float]:
        """Numbers of the newest evaluation on monitor of what is trained, under ``monitor/``, and
        its ``step``: of this round since it was last rolled back, or else of the model that it
        then began with, for the others were of parameters that are gone. ``margin``, which the
        start model has not: lower confidence bound of the change in accuracy plus the tolerance."""
        for record in reversed(self.history):
            if record["kind"] != "evaluate":
                continue
            now = record["round"] == state.current_round and record["step"] > state.fresh
            if now or record["step"] == state.origin.step:
                names = ("step", "accuracy", "mean_tokens", "truncated", "margin")
                return {f"monitor/{name}": record[name] for name in names if name in record}
        return {}

    def lap(self) -> dict[str, float]:
        """Seconds by phase, and programs that were compiled, since the last lap."""
        return self.clock.lap() | self.compiled.lap()

    def write_rollouts(
        self, name: str, graded: Graded, *, round: int, step: int, weighted: Weighted | None = None
    ) -> None:
        """One Parquet file of rollouts that belongs to the run's records."""
        path = self.folder.rollouts / f"{name}.parquet"
        more = {"round": round, "step": step, "weighted": weighted}
        self.pod.lead(functools.partial(write_rollouts, path, graded, **more))
        if path.name not in self.rollout_files:
            self.rollout_files.append(path.name)

    def publish(self) -> None:
        """Bring the files into the bucket, of a run that is in one."""
        if self.folder.mirror is not None:
            self.pod.lead(self.folder.publish)

    def _rows(self, phase: Phase) -> str:
        """How many rows a phase collects, and how often."""
        each = problems_of(phase, self.settings, len(self.problems["train"]))
        often = "once" if phase.collect.every == "once" else f"per {phase.collect.every}"
        if phase.collect.extra_draws:
            often += f", up to {1 + phase.collect.extra_draws} times"
        return f"{each * phase.collect.samples} {often}"

    def describe(self) -> dict[str, Any]:
        """What a dry run shows: sizes, shapes and the least memory the learner's state takes."""
        config, rounds = self.engine.config, self.settings.rounds
        like = self.learn_like
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(like))
        parameters = sum(x.size for x in jax.tree.leaves(like.params))
        reference = parameters * 4 if self.needs_reference else 0
        found = {
            "model": config.model_type,
            "parameters": parameters,
            "layers": config.layers,
            "devices": dict(self.mesh.shape),
            "problems": {name: len(problems) for name, problems in self.problems.items()},
            "limits": rounds.limits,
            "rows": {phase.name: self._rows(phase) for phase in self.method.phases},
            "learner_state_bytes": size,
            "reference_bytes": reference,
            "gradient_bytes": update_bytes(
                parameters, self.settings.learn.resolve(jax.default_backend()).dtype
            ),
            # Two states and the one being written; the start, the round's start, a few candidates.
            "disk_bytes": 3 * size + 5 * parameters * 4,
            "sampler_bytes": parameters * jnp.dtype(self.engine.dtype).itemsize,
            **self._second_bytes(),
            # On each device; what stands above is of all together.
            "cache_bytes": {name: stage.cache for name, stage in self.stages.items() if stage.rows},
            "stage_bytes": {name: stage.bytes for name, stage in self.stages.items()},
            "device_bytes": device_bytes(self.mesh),
        }
        for name, value in found.items():
            self.progress.log(f"{name}: {value}")
        return found

    def _second_bytes(self) -> dict[str, int]:
        """What the weights of an expander and a teacher take beside those of the sampler."""
        size = jnp.dtype(self.engine.dtype).itemsize
        found = {}
        for name, model in self.names.items():
            if name != "model":
                shapes = weights.abstract(hf.read_config(hf.find_folder(model)), jnp.float32)
                found[f"{name}_bytes"] = sum(x.size for x in jax.tree.leaves(shapes)) * size
        return found


@contextlib.contextmanager
def open_session(settings: PruneConfig, pod: Pod = ALONE) -> Iterator[Session]:
    """Everything a run needs, checked; the folder is locked for this process meanwhile."""
    method = methods.build(methods.MethodOptions.of(settings.method))
    check_installed(settings.track)
    check_settings(settings, method)
    check_method(settings, method)
    with contextlib.ExitStack() as stack:
        load = functools.partial(load_sets, settings.problems)
        around = stack.enter_context(open_surroundings(settings, pod, load))
        if settings.profile:
            check_tracer()
        session = _described(settings, method, around)
        session.interrupts = stack.enter_context(Interrupts(pod))
        progress, names, shared = session.progress, session.names, around.shared
        if settings.expander.model is not None:
            expander = dataclasses.replace(settings.expander, model=names["expander"])
            session.expander = load_expander(expander, **shared, checked_only=True)
            limit, train = collection_limit(settings), session.problems["train"]
            check_room(session.expander, settings.expander, train, limit, "rounds.limits")
        session.stages = stages_of(session, session.longest)
        progress.log(check_memory(session.stages, device_bytes(session.mesh)))
        for line in (
            *unlike_published(method, settings),
            *idle_parts(method, settings),
            *idle_hosts(settings, method, pod.count),
        ):
            progress.log(line)
        if not settings.dry_run:
            session.models = _models(settings, names)
            commits = {m["name"]: m["commit"] for m in session.models.values() if m["commit"]}
            take = functools.partial(
                open_folder, settings.out, plain(settings), MACHINE, inputs(settings), _today
            )

            def changes() -> tuple[str, ...]:
                session.folder = stack.enter_context(take(commits))
                return session.folder.changes

            session.folder = RunFolder.at(settings.out)
            if session.folder.mirror is not None:
                pod.each(session.folder.mirror.check)
            changed = tuple(pod.lead(changes))
            session.folder = dataclasses.replace(session.folder, changes=changed)
            check_shared(pod, session.folder.checkpoints)
            for change in session.folder.changes:
                progress.log(f"changed since the run was stopped: {change}")
            session.tracker = Tracker(
                settings.track, session.folder.root, plain(settings), progress.log
            )
            stack.callback(session.tracker.close)
            traced = settings.profile_steps if settings.profile and pod.leads else []
            session.profile = Profile(traced, session.folder.profile, progress.log)
            stack.callback(session.profile.close)
            session.metrics = Metrics(session.folder.metrics, session.tracker)
            session.checkpoints = Checkpoints(
                session.folder.checkpoints,
                lead=pod.lead,
                mirror=session.folder.mirror,
                held_up=functools.partial(session.clock.phase, "save"),
            )
            stack.enter_context(_closing(session.checkpoints, pod))
            if session.expander is not None:
                session.expander = load_expander(expander, **shared)
        yield session


def _described(settings: PruneConfig, method: Method, around: Surroundings) -> Session:
    """The session of a model whose weights are not loaded yet, without folder and signals."""
    problems, pod, mesh = around.problems, around.pod, around.mesh
    names = pod.lead(_names, settings)
    policy = handle.describe(names["model"])
    hf.open_weights(policy.folder, policy.config)  # checks
    around.check_models(names)
    engine = Engine.of(policy, **around.own)
    check_columns(method, problems["train"])
    longest = check_context(settings, method, engine, problems)
    train, teacher = problems["train"], names.get("teacher")
    pod.lead(check_collections, settings, method, engine, policy.folder, train, teacher)
    warmup(settings.optimizer, optimizer_steps(settings, method))  # checks
    optimizer = make_optimizer(settings.optimizer, policy.config)
    return Session(
        settings=settings,
        policy=policy,
        engine=engine,
        problems=problems,
        longest=longest,
        method=method,
        mesh=mesh,
        optimizer=optimizer,
        updates={
            phase.name: make_update(policy.config, phase.loss, settings.learn, optimizer, mesh)
            for phase in method.phases
            if phase.loss is not None
        },
        progress=around.progress,
        clock=Clock(),
        compiled=Compiled(),
        names=names,
        pod=pod,
    )


@contextlib.contextmanager
def _closing(checkpoints: Checkpoints, pod: Pod) -> Iterator[None]:
    """Complete what is being saved, in the end; where one process has failed alone nobody can: the
    run goes on from the state before."""
    try:
        yield
    except BaseException as error:
        if pod.fail(error):
            with contextlib.suppress(PodError):
                checkpoints.close()
        raise
    checkpoints.close()


def _asked(settings: PruneConfig) -> dict[str, str]:
    """The models that the settings name, by part."""
    named = {part: getattr(settings, part).model for part in ("expander", "teacher")}
    return {"model": settings.model} | {part: name for part, name in named.items() if name}


def _names(settings: PruneConfig) -> dict[str, str]:
    """By what to find them: those that the run in the folder was begun with."""
    return {part: begun_with(settings.out, name) for part, name in _asked(settings).items()}


def _models(settings: PruneConfig, names: Mapping[str, str]) -> dict[str, dict[str, str | None]]:
    """Which models the run works with, as the settings name them and as they were found."""
    return {
        part: {"name": name, "commit": hf.commit_of(hf.find_folder(names[part]))}
        for part, name in _asked(settings).items()
    }


def finished_folder(settings: PruneConfig) -> RunFolder | None:
    """The folder of a run that is complete, checked and locked as for any start, or None."""
    folder = check_folder(settings.out, plain(settings), MACHINE, _today)
    return folder if folder.summary.exists() else None


def _today(written: dict[str, Any]) -> dict[str, Any]:
    """Settings that an older version wrote, as this one would: what came since is at its default,
    which is how that version ran. With one that is no more they stay what they are."""
    try:
        return plain(layered(None, [written]))
    except ConfigError:
        return written


def iteration_steps(phase: Phase, settings: PruneConfig) -> int:
    """Steps over which a phase spreads its passes over what it has collected."""
    rounds = settings.rounds
    if phase.collect.every == "step":
        return 1
    if phase.collect.every == "iteration":
        return phase.collect.steps
    return rounds.steps * (1 if rounds.limits == "auto" else len(rounds.limits))


def optimizer_term(method: Method) -> tuple[When, Phase | None]:
    """How long an optimiser lasts: an iteration of a phase, a round, or ("never") the run."""
    training = [phase for phase in method.phases if phase.loss is not None]
    for phase in training:
        if phase.reset.optimiser == "iteration" and phase.collect.every == "iteration":
            return "iteration", phase
    if any(phase.reset.optimiser == "round" for phase in training):
        return "round", None
    return "never", None


def optimizer_steps(settings: PruneConfig, method: Method) -> int:
    """Steps until the schedule of the learning rate ends: those that the optimiser lasts."""
    rounds, (term, phase) = settings.rounds, optimizer_term(method)
    if term == "iteration":
        return phase.collect.steps
    if term == "round":
        return rounds.steps
    return rounds.steps * (rounds.most if rounds.limits == "auto" else len(rounds.limits))
