"""The whole configuration: what each verb takes, composed from the options of every room.

YAML plus dotted overrides (``--learn.remat=full``, ``--method.length.weight=0.1``) become frozen
dataclasses through jsonargparse: unknown keys, wrong types and contradictory values are errors that
name the field, what was found and what is allowed. Nothing here imports JAX.
"""

from __future__ import annotations

import atexit
import collections.abc
import dataclasses
import enum
import pathlib
import re
import tempfile
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import yaml

from pruner_jax.learn.options import LearnOptions, MeshOptions, OptimizerOptions
from pruner_jax.measure.options import AutoOptions, EvaluateOptions, GuardOptions, PickOptions
from pruner_jax.problems.options import ProblemsOptions
from pruner_jax.sample.options import SampleOptions
from pruner_jax.text import TextOptions
from pruner_jax.verify.options import VerifyOptions

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting is unknown, has the wrong type, or contradicts another."""


def parser(cls: type, prog: str = "pruner-jax", description: str | None = None) -> Any:
    """The jsonargparse parser of a configuration class; ``--config FILE`` reads YAML."""
    import jsonargparse

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    made = jsonargparse.ArgumentParser(prog=prog, description=description, exit_on_error=False)
    made.add_argument("--config", action="config", help="YAML file with any of the settings below.")
    made.add_class_arguments(cls)
    return made


def load(cls: type[T], file: str | None = None, overrides: Sequence[str] = ()) -> T:
    """Read a configuration: defaults, then the YAML file, then the overrides, last one wins.

    Args:
      cls: the configuration class.
      file: a YAML file, or None.
      overrides: command-line words such as ``--seed=1`` or ``--method.options.samples=4``.

    Raises:
      ConfigError: with the field, what was found and what is allowed.
    """
    import argparse

    overrides = _spell_out(cls, overrides)
    given = _read_yaml(file) if file else {}
    given = _overlay(_like(cls, given, overrides), given)
    rest, free = _take_free(cls, given, overrides)
    try:
        made = parser(cls)
        settings = made.parse_args([f"--config={_write_yaml(given)}", *rest])
        values = vars(made.instantiate(settings))
        value = cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})
        for name, mapping in free.items():
            value = _replace(value, name.split("."), mapping)
        return value
    except argparse.ArgumentError as error:
        where = f"{file}: " if file else ""
        raise ConfigError(f"{where}{error.message or error}") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _spell_out(cls: type, words: Sequence[str]) -> list[str]:
    """Command-line words with what people leave out: ``--dry-run`` is ``--dry_run=true``, and
    ``--problems last_digit`` names what fills the room: ``--problems.name=last_digit``."""
    kinds = typing.get_type_hints(cls)
    found: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        key, equals, value = word.removeprefix("--").partition("=")
        head, dot, tail = key.partition(".")
        name = head.replace("-", "_")
        kind = kinds.get(name)
        if not word.startswith("--") or kind is None:
            found.append(word)
            continue
        takes_next = left and (
            left[0].lower() in ("true", "false") if kind is bool else not left[0].startswith("--")
        )
        if not equals and takes_next:
            equals, value = "=", left.pop(0)
        if kind is bool and not equals:
            equals, value = "=", "true"
        parts = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
        named = not dot and "name" in {part.name for part in parts}
        if named and re.fullmatch(r"[\w./-]+", value):  # a mapping in YAML has braces
            dot, tail = ".", "name"
        found.append(f"--{name}{dot}{tail}{equals}{value}")
    return found


class _Loader(yaml.SafeLoader):
    """YAML whose numbers may be written 1e-6, as people write them (YAML 1.1 wants 1.0e-6)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _read_yaml(file: str) -> dict[str, Any]:
    path = pathlib.Path(file)
    if not path.is_file():
        raise ConfigError(f"there is no configuration at {file}")
    try:
        given = yaml.load(path.read_text(), _Loader) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not YAML: {error}") from None
    if not isinstance(given, dict):
        raise ConfigError(f"{file} holds {given!r}, not a mapping of settings")
    return given


def _write_yaml(settings: Mapping[str, Any]) -> str:
    """A file that jsonargparse can read, gone when the program ends."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False) as file:
        yaml.safe_dump(dict(settings), file)
    atexit.register(pathlib.Path(file.name).unlink, missing_ok=True)
    return file.name


def _overlay(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees of settings as one; where both have a value, the second's.

    A mapping over a list changes the entries it numbers, or the single entry there is.
    """
    merged = dict(low)
    for key, value in high.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            value = _overlay(old, value)
        elif isinstance(value, Mapping) and isinstance(old, list):
            value = _overlay_list(str(key), old, value)
        merged[key] = value
    return merged


def _overlay_list(key: str, old: list[Any], changes: Mapping[str, Any]) -> list[Any]:
    if not all(str(place).isdigit() for place in changes):
        changes = {0: changes} if len(old) == 1 else changes
    entries = dict(enumerate(old))
    for place, change in changes.items():
        if not str(place).isdigit() or int(place) >= len(old):
            raise ConfigError(
                f"{key} is a list of {len(old)} entries, and {place!r} names none of them; say "
                f"which one by its number, {key}.0 to {key}.{len(old) - 1}"
            )
        entries |= _overlay({int(place): entries[int(place)]}, {int(place): change})
    return list(entries.values())


def _replace(value: Any, path: Sequence[str], new: Any) -> Any:
    if not path:
        return new
    part = _replace(getattr(value, path[0]), path[1:], new)
    return dataclasses.replace(value, **{path[0]: part})


# -- free mappings ---------------------------------------------------------------------------------
# What a method or a problem source declares for itself is not known here. These settings go round
# jsonargparse, which would read every text in them as YAML once more ("#### (.+)" as a comment).


def _free_names(cls: type, prefix: str = "") -> list[str]:
    """Dotted names of the fields that are free mappings."""
    found = []
    for name, kind in typing.get_type_hints(cls).items():
        if typing.get_origin(kind) in (dict, collections.abc.Mapping):
            found.append(prefix + name)
        elif dataclasses.is_dataclass(kind):
            found += _free_names(kind, f"{prefix}{name}.")
    return found


def _take_free(
    cls: type, given: dict[str, Any], overrides: Sequence[str]
) -> tuple[list[str], dict[str, Any]]:
    """Free mappings, taken out of the file's settings (in place) and of the overrides."""
    names = _free_names(cls)
    free: dict[str, Any] = {}
    for name in names:
        *way, last = name.split(".")
        place: Any = given
        for part in way:
            place = place.get(part) if isinstance(place, dict) else None
        if isinstance(place, dict) and last in place:
            free[name] = place.pop(last) or {}
            if not isinstance(free[name], dict):
                raise ConfigError(f"{name} is {free[name]!r}; allowed: a mapping")
    rest: list[str] = []
    for word in overrides:
        key, equals, value = word.removeprefix("--").partition("=")
        name = next((n for n in names if key == n or key.startswith(f"{n}.")), None)
        if not word.startswith("--") or name is None:
            rest.append(word)
            continue
        if not equals:
            raise ConfigError(f"{word} needs a value: {word}=VALUE")
        try:
            tree = yaml.load(value, _Loader)
        except yaml.YAMLError as error:
            raise ConfigError(
                f"{word}: the value is not YAML ({' '.join(str(error).split())}); put text that "
                f"YAML would read otherwise in quotes"
            ) from None
        for part in reversed(key.removeprefix(name).split(".")[1:]):
            tree = {part: tree}
        if not isinstance(tree, dict):
            raise ConfigError(f"{word}: {name} takes a mapping")
        free[name] = _overlay(free.get(name, {}), tree)
    return rest, free


def _like(cls: type, given: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Settings that ``like: RUN_OR_FILE``, in the file or on the command line, brings to a class
    that knows it."""
    names = {field.name for field in dataclasses.fields(cls)}
    if "like" not in names:
        return {}
    path = given.get("like")
    for word in overrides:
        if word.partition("=")[0] == "--like":
            path = word.partition("=")[2]
            if not path:
                raise ConfigError("--like needs a run's folder or a YAML file")
    if path is None:
        return {}
    if not isinstance(path, str):
        raise ConfigError(f"like is {path!r}; allowed: a run's folder or a YAML file")
    source = pathlib.Path(path)
    run = load(PruneConfig, str(source / "config.yaml" if source.is_dir() else source))
    shared = names & {field.name for field in dataclasses.fields(PruneConfig)} - {"model", "out"}
    settings = {name: plain(getattr(run, name)) for name in sorted(shared)}
    if settings["test"]["limit"] is None and run.rounds.limits != "auto":
        settings["test"]["limit"] = max(run.rounds.limits)
    return settings


def plain(value: Any) -> Any:
    """Settings as plain data (dicts, lists, numbers, text), to be written as YAML or JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, enum.Enum):
        return value.value
    return value


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

    prompts: int = 128
    """Problems sampled at every step."""

    evaluate_every: int = 20
    """Steps between evaluations on the monitor set; each makes a candidate to pick from."""

    save_every: int = 20
    """Steps between saved states; a run that is stopped loses at most these."""

    log_rollouts_every: int = 10
    """Steps between rollouts written to OUT/rollouts; 0 writes those of evaluations only."""

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
        if self.log_rollouts_every < 0:
            raise ValueError(
                f"rounds.log_rollouts_every is {self.log_rollouts_every}; allowed: 0 or more"
            )
        if self.evaluate_every > self.steps:
            raise ValueError(
                f"rounds.evaluate_every is {self.evaluate_every}, rounds.steps {self.steps}: no "
                "candidate would be measured; set evaluate_every to at most steps"
            )


@dataclasses.dataclass(frozen=True)
class PruneConfig:
    """Shorten a model's thinking: rounds of sampling and learning under token limits."""

    model: str
    """Hugging Face folder or hub id of the model to begin with."""

    out: str
    """Folder of the run; one that holds a run of the same settings is continued."""

    seed: int = 0
    """Seed of everything that is random."""

    problems: ProblemsOptions = _default(ProblemsOptions)
    text: TextOptions = _default(TextOptions)
    verify: VerifyOptions = _default(VerifyOptions)
    method: dict[str, Any] = _default(lambda: {"name": "thinkprune"})
    """Method: name (a file of methods/, or path/to/file.py), its options, and any slot to override,
    e.g. {name: thinkprune, options: {samples: 8}, loss: {kl: 0.0}}."""
    rounds: RoundsOptions = _default(RoundsOptions)
    sample: SampleOptions = _default(SampleOptions)
    learn: LearnOptions = _default(LearnOptions)
    optimizer: OptimizerOptions = _default(OptimizerOptions)
    mesh: MeshOptions = _default(MeshOptions)
    monitor: EvaluateOptions = _default(EvaluateOptions)
    test: EvaluateOptions = _default(EvaluateOptions)
    pick: PickOptions = _default(PickOptions)
    auto: AutoOptions = _default(AutoOptions)
    guards: GuardOptions = _default(GuardOptions)

    dry_run: bool = False
    """Resolve and check everything, show shapes and memory, and stop. --dry-run alone says true."""


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
    """Hugging Face folder or hub id."""

    against: str | None = None
    """A second model, measured on the same problems and compared pair by pair."""

    like: str | None = None
    """Take problems, text, verify, test and seed from a prune run: its folder or its YAML file.
    Settings given beside it win."""

    problems: ProblemsOptions = _default(ProblemsOptions)
    split: typing.Literal["train", "monitor", "test"] = "test"
    """Which of the three sets."""

    text: TextOptions = _default(TextOptions)
    verify: VerifyOptions = _default(VerifyOptions)
    sample: SampleOptions = _default(SampleOptions)
    mesh: MeshOptions = _default(MeshOptions)
    test: EvaluateOptions = _default(EvaluateOptions)
    seed: int = 0
    """Seed of everything that is random."""

    out: str | None = None
    """Folder for the rollouts (Parquet) and evaluation.json; null: nothing is written."""


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """Answers of one model to one question."""

    model: str
    """Hugging Face folder or hub id."""

    question: str
    """The question."""

    text: TextOptions = _default(TextOptions)
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
