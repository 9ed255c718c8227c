"""The whole configuration: what each verb takes, composed from the options of every room.

`load` reads a class from YAML and dotted overrides (see `settings`), and knows the one rule that
ties two classes: an evaluation ``like`` a prune run begins with that run's settings. `layered`
makes the settings of a prune run out of several layers, as a comparison has them. Nothing here
imports JAX.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pruner_jax import methods
from pruner_jax.learn.options import LearnOptions, MeshOptions, OptimizerOptions, PodOptions
from pruner_jax.measure.comparison import CompareConfig, EntryOptions
from pruner_jax.measure.options import AutoOptions, EvaluateOptions, GuardOptions, PickOptions
from pruner_jax.measure.programs import ProgramsOptions
from pruner_jax.objective.method import budget_sentence
from pruner_jax.problems.options import ProblemsOptions
from pruner_jax.report.track import TrackOptions
from pruner_jax.sample.options import SampleOptions
from pruner_jax.sample.second import ExpanderOptions, ServingOptions, TeacherOptions
from pruner_jax.settings import ConfigError, Given, build, parser, plain, read
from pruner_jax.store.mirror import local
from pruner_jax.text import TextOptions
from pruner_jax.verify.options import VerifyOptions

__all__ = [
    "CompareConfig",
    "ConfigError",
    "EntryOptions",
    "EvaluateConfig",
    "ExportConfig",
    "PlanConfig",
    "PruneConfig",
    "ReportConfig",
    "RoundsOptions",
    "SampleConfig",
    "WarmupConfig",
    "layered",
    "load",
    "parser",
    "plain",
]

T = TypeVar("T")


def load(cls: type[T], file: str | None = None, overrides: Sequence[str] = ()) -> T:
    """Read a configuration: defaults, then the YAML file, then the overrides, last one wins.

    Args:
      cls: the configuration class.
      file: a YAML file, or None.
      overrides: command-line words such as ``--seed=1`` or ``--method.options.samples=4``.

    Raises:
      ConfigError: with the field, what was found and what is allowed.
    """
    given = read(cls, file, overrides)
    run = _like(cls, given)
    if run is not None:
        given = given.over(_shared(cls, run))
    given, lists = _take_lists(cls, given)
    value = dataclasses.replace(build(cls, given), **lists)
    return value if run is None else _told_alike(value, run)


def layered(file: str | None, layers: Sequence[Mapping[str, Any]]) -> PruneConfig:
    """Settings of a prune run: a YAML file under layers of changes, the last one wins.

    A layer is nested ({method: {name: dler}}), or its keys are dotted ({rounds.steps: 20}). One
    that names another method takes nothing from the method below.

    Raises:
      ConfigError: as of `load`.
    """
    given = read(PruneConfig, file)
    for layer in map(_nested, layers):
        low, old = dict(given.tree), given.tree.get("method")
        name = _name_of(layer.get("method"))
        if name is not None and name != _name_of(old):
            low.pop("method", None)
        given = dataclasses.replace(given, tree=layer).over(low)
    return build(PruneConfig, given)


def _nested(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings as a tree, where keys may be dotted."""
    tree: Mapping[str, Any] = {}
    for key, value in settings.items():
        first, *rest = str(key).split(".")
        for part in reversed(rest):
            value = {part: value}
        tree = Given(None, {first: value}, ()).over(tree).tree
    return tree


def _name_of(method: Any) -> Any:
    return method.get("name") if isinstance(method, Mapping) else None


def _take_lists(cls: type, given: Given) -> tuple[Given, dict[str, list[Any]]]:
    """What is left without the lists of sections, and these, each section built by itself."""
    tree, lists = dict(given.tree), {}
    for name, hint in typing.get_type_hints(cls).items():
        kind = next(iter(typing.get_args(hint)), None)
        if typing.get_origin(hint) is not list or not dataclasses.is_dataclass(kind):
            continue
        if any(word.removeprefix("--").split("=")[0].split(".")[0] == name for word in given.words):
            raise ConfigError(
                f"{name} is a list of sections: it is set in the file, not by --{name}"
            )
        where = f"{given.file}: {name}" if given.file else name
        sections = tree.pop(name, None) or []
        if not isinstance(sections, list):
            raise ConfigError(f"{where} is {sections!r}; allowed: a list of sections")
        lists[name] = [_section(kind, part, f"{where}.{i}") for i, part in enumerate(sections)]
    return dataclasses.replace(given, tree=tree), lists


def _section(kind: type[T], tree: Any, where: str) -> T:
    names = ", ".join(field.name for field in dataclasses.fields(kind))
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{where} is {tree!r}; allowed: a mapping of {names}")
    for field in dataclasses.fields(kind):
        if field.name not in tree and field.default is field.default_factory:  # both missing
            raise ConfigError(f"{where} lacks {field.name}; a section has {names}")
    try:
        return build(kind, Given(None, tree, ()))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _like(cls: type, given: Given) -> PruneConfig | None:
    """The run that ``like: RUN_OR_FILE`` names, in the file or on the command line, for a class
    that knows it."""
    if "like" not in {field.name for field in dataclasses.fields(cls)}:
        return None
    path = given.tree.get("like")
    for word in given.words:
        if word.partition("=")[0] == "--like":
            path = word.partition("=")[2]
            if not path:
                raise ConfigError("--like needs a run's folder or a YAML file")
    if path is None:
        return None
    if not isinstance(path, str):
        raise ConfigError(f"like is {path!r}; allowed: a run's folder or a YAML file")
    source = local(path, "like")
    return load(PruneConfig, str(source / "config.yaml" if source.is_dir() else source))


def _shared(cls: type, run: PruneConfig) -> dict[str, Any]:
    """What a run's settings say of another class."""
    names = {field.name for field in dataclasses.fields(cls)}
    # Which model is measured, where that is written, and by which hosts, is the evaluation's own.
    own = {"model", "out", "pod"}
    shared = names & {field.name for field in dataclasses.fields(PruneConfig)} - own
    settings = {name: plain(getattr(run, name)) for name in sorted(shared)}
    if settings["test"]["limit"] is None and run.rounds.limits != "auto":
        settings["test"]["limit"] = max(run.rounds.limits)  # as the run itself tests
    asked = run.method.get("options") or {}
    if "programs" in names and run.method.get("name") == "pad" and "template" in asked:
        settings["programs"] = {"template": asked["template"]}  # as its repairs were trained
    return settings


def _told_alike(value: T, run: PruneConfig) -> T:
    """The budget, if there is one, is told as the run told its own. The method is not built for
    less: its file may be gone."""
    test = value.test
    if test.budget is None or test.budget_sentence is not None:
        return value
    sentence = budget_sentence(methods.build(methods.MethodOptions.of(run.method)))
    return dataclasses.replace(value, test=dataclasses.replace(test, budget_sentence=sentence))


def _default(make: Any) -> Any:
    return dataclasses.field(default_factory=make)


@dataclasses.dataclass(frozen=True)
class RoundsOptions:
    """The rounds of a run: their limits, how long they are, how often they are measured."""

    limits: list[int] | typing.Literal["auto"] = _default(lambda: [4096, 3072, 2048])
    """Token limit of each round, or auto: each limit follows from the lengths of correct answers on
    the monitor set, until no checkpoint stays in the band."""

    most: int = 8
    """With limits auto: no more rounds than this."""

    steps: int = 180
    """Steps of a round."""

    patience: int = 0
    """Further steps of a round, at most, ``evaluate_every`` at a time: while its newest checkpoint
    is shorter than all in the band, not in the band itself, but above the lowest of the round by
    more than ``pick.tolerance`` (a limit that many responses exceed costs accuracy at first)."""

    prompts: int = 128
    """Problems sampled at every step."""

    evaluate_every: int = 20
    """Steps between evaluations on the monitor set; each makes a candidate to pick from."""

    save_every: int = 20
    """Steps between saved states; a run that is stopped loses at most these."""

    log_rollouts_every: int = 10
    """Steps between rollouts written to OUT/rollouts; 0 writes those of evaluations only. A step
    that collects nothing has none, and of a collection whose tokens the method does not look at
    (o1_pruner, sft_shortest...) those that count are written, part by part."""

    logp_tolerance: float | None = None
    """The run stops when the log-probabilities of sampler and learner differ by more than this on
    average. null: 0.001 when the sampler computes in float32, 0.05 otherwise."""

    def __post_init__(self) -> None:
        if self.limits != "auto" and (not self.limits or min(self.limits) < 1):
            raise ValueError(
                f"rounds.limits is {self.limits}; allowed: auto, or at least one number of tokens"
            )
        for name in ("most", "steps", "prompts", "evaluate_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"rounds.{name} is {getattr(self, name)}; allowed: 1 or more")
        for name in ("patience", "log_rollouts_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"rounds.{name} is {getattr(self, name)}; allowed: 0 or more")
        if self.evaluate_every > self.steps:
            raise ValueError(
                f"rounds.evaluate_every is {self.evaluate_every}, rounds.steps {self.steps}: no "
                "candidate would be measured; set evaluate_every to at most steps"
            )


@dataclasses.dataclass(frozen=True)
class PruneConfig:
    """Shorten a model's thinking: rounds of sampling and learning under token limits."""

    model: str
    """Hugging Face folder or hub id (owner/name, or owner/name@revision) of the model to begin
    with."""

    out: str
    """Folder of the run, a path or gs://BUCKET/FOLDER; one that holds a run of the same settings is
    continued."""

    seed: int = 0
    """Seed of everything that is random."""

    problems: ProblemsOptions = _default(ProblemsOptions)
    text: TextOptions = _default(TextOptions)
    verify: VerifyOptions = _default(VerifyOptions)
    method: dict[str, Any] = _default(lambda: {"name": "thinkprune"})
    """Method: name (a file of methods/, or path/to/file.py), its options, and any slot to override,
    e.g. {name: thinkprune, options: {samples: 8}, loss: {kl: 0.0}}."""
    rounds: RoundsOptions = _default(RoundsOptions)
    reference_table: str | None = None
    """Folder of the method's reference table: used if it is there (made with the same model,
    template, sampling, number of samples and rules of verification), else made there for other
    runs. null: OUT/tables. In a comparison {set} and {seed} stand for their names."""
    expander: ExpanderOptions = _default(ExpanderOptions)
    teacher: TeacherOptions = _default(TeacherOptions)
    sample: SampleOptions = _default(SampleOptions)
    learn: LearnOptions = _default(LearnOptions)
    optimizer: OptimizerOptions = _default(OptimizerOptions)
    mesh: MeshOptions = _default(MeshOptions)
    pod: PodOptions = _default(PodOptions)
    monitor: EvaluateOptions = _default(EvaluateOptions)
    test: EvaluateOptions = _default(EvaluateOptions)
    pick: PickOptions = _default(PickOptions)
    auto: AutoOptions = _default(AutoOptions)
    guards: GuardOptions = _default(GuardOptions)
    track: TrackOptions = _default(TrackOptions)

    profile: bool = False
    """Write a trace of some steps to OUT/profile, for Perfetto, TensorBoard or xprof. --profile
    alone says true."""

    profile_steps: list[int] = _default(lambda: [3, 4])
    """First and last step of the trace, counted from this start: the steps before them compile."""

    dry_run: bool = False
    """Resolve and check everything, show shapes and memory, and stop. --dry-run alone says true."""

    def __post_init__(self) -> None:
        steps = self.profile_steps
        if len(steps) not in (1, 2) or not 1 <= steps[0] <= steps[-1]:
            raise ValueError(
                f"profile_steps is {steps}; allowed: one step or a first and a last one, from 1"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanConfig(PruneConfig):
    """Compile the programs of a prune run for a TPU slice that nobody needs to have."""

    topology: str = ""
    """The slice: v5e:4x4, v6e:2x4, v5p:2x2x4 and so on; of a wrong one the right ones are named."""

    prompt_tokens: int = 512
    """Tokens of the longest prompt. The problems are not read, nor is the model: of it only
    config.json is wanted."""

    mean_tokens: int | None = None
    """Tokens of a mean response, for the estimate of time. null: as many as it may have."""

    learn_flops: float = 0.4
    """Share of the chip's peak FLOP/s that the learner is taken to reach."""

    decode_flops: float = 0.4
    """Share of the peak FLOP/s that sampling is taken to reach, where it computes."""

    read_bandwidth: float = 0.7
    """Share of the memory's bandwidth that sampling is taken to reach, where it reads."""

    search: bool = False
    """Find the largest micro-batch and the most rows that fit, and the smallest slice. --search
    alone says true; it compiles a dozen programs or two."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prompt_tokens", "mean_tokens"):
            value = getattr(self, name)
            least = 2 if name == "prompt_tokens" else 1
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; allowed: {least} or more")
        for name in ("learn_flops", "decode_flops", "read_bandwidth"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: above 0, at most 1")


@dataclasses.dataclass(frozen=True)
class WarmupConfig:
    """Supervised fine-tuning on traces that a problem source writes."""

    out: str
    """Folder that will hold the model in Hugging Face format."""

    model: str | None = None
    """Folder or hub id to begin with. null: a new model, from architecture and the source's own
    tokenizer."""

    architecture: dict[str, Any] = _default(dict)
    """For a new model: the fields of its config.json (model_type, hidden_size, ...); the size of
    the vocabulary follows from the tokenizer."""

    seed: int = 0
    """Seed of everything that is random."""

    problems: ProblemsOptions = _default(ProblemsOptions)
    text: TextOptions = _default(TextOptions)
    verify: VerifyOptions = _default(VerifyOptions)

    steps: int = 1000
    """Updates."""

    batch: int = 64
    """Traces per update."""

    limit: int = 256
    """Token limit of a trace; a longer one is an error."""

    sample: SampleOptions = _default(SampleOptions)
    learn: LearnOptions = _default(LearnOptions)
    optimizer: OptimizerOptions = _default(OptimizerOptions)
    mesh: MeshOptions = _default(MeshOptions)
    pod: PodOptions = _default(PodOptions)
    test: EvaluateOptions = _default(EvaluateOptions)
    """How the model is measured at the end, on the test set."""

    export_dtype: typing.Literal["float32", "bfloat16"] = "float32"
    """Precision of the written weights."""

    dry_run: bool = False
    """Resolve and check everything, show sizes, and stop. --dry-run alone says true."""


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Measure a model: accuracy, lengths, truncation, with intervals."""

    model: str
    """Hugging Face folder or hub id (owner/name, or owner/name@revision)."""

    against: str | None = None
    """A second model, measured on the same problems and compared pair by pair."""

    like: str | None = None
    """Take problems, text, verify, test, expander and seed from a prune run: its folder or its YAML
    file. Settings given beside it win."""

    problems: ProblemsOptions = _default(ProblemsOptions)
    split: typing.Literal["train", "monitor", "test"] = "test"
    """Which of the three sets."""

    text: TextOptions = _default(TextOptions)
    verify: VerifyOptions = _default(VerifyOptions)
    sample: SampleOptions = _default(SampleOptions)
    mesh: MeshOptions = _default(MeshOptions)
    pod: PodOptions = _default(PodOptions)
    test: EvaluateOptions = _default(EvaluateOptions)
    programs: ProgramsOptions = _default(ProgramsOptions)
    seed: int = 0
    """Seed of everything that is random."""

    expander: ExpanderOptions = _default(ExpanderOptions)
    """A second model that answers from the thoughts; measured beside the model alone."""
    serving: ServingOptions = _default(ServingOptions)
    """How the two are timed and priced."""

    out: str | None = None
    """Folder for the rollouts (Parquet) and evaluation.json, with which the same command goes on
    where it was stopped; null: nothing is written."""


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """Answers of one model to one question."""

    model: str
    """Hugging Face folder or hub id (owner/name, or owner/name@revision)."""

    question: str
    """The question."""

    text: TextOptions = _default(TextOptions)
    expander: ExpanderOptions = _default(ExpanderOptions)
    """A second model that answers from the thought."""
    sample: SampleOptions = _default(SampleOptions)
    samples: int = 1
    """How many answers."""
    max_tokens: int = 1024
    """Token limit of an answer."""
    seed: int = 0
    """Seed of everything that is random."""


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """A Hugging Face folder from a run."""

    run: str
    """Folder of the run."""

    to: str
    """Folder to be written."""

    checkpoint: str | None = None
    """Which parameters: a name under checkpoints/parameters; null: the latest picked ones."""


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Build report.html of a run again."""

    run: str
    """Folder of the run."""

    picture: str | None = None
    """Also write the chart of accuracy against tokens over the rounds to this .svg file."""
