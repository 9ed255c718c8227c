"""The verbs: ``pruner-jax VERB``, also ``python -m pruner_jax VERB``.

Each verb is one configuration class, the words that may stand without a name, and one function. The
function is imported when its verb is called, so ``--help`` needs neither JAX nor a network. Exit
code: 0 when what was asked for was done, 1 when it failed, 2 when a word or a setting is unknown or
of the wrong type, 130 when interrupted (by Ctrl-C), 75 when the same command is to be started
again: after SIGTERM, or because another host is gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from pruner_jax import __version__, config


@dataclasses.dataclass(frozen=True)
class Verb:
    """One verb of the command line."""

    name: str
    help: str
    config: type
    function: str  # "module:function", called with the configuration; returns plain data for --json
    words: tuple[str, ...] = ()  # settings given by position; "config" is the YAML file


VERBS = (
    Verb(
        "prune",
        "shorten a model's thinking: all rounds, evaluation, report, export; continues a run",
        config.PruneConfig,
        "pruner_jax.run.prune:prune_verb",
        ("config",),
    ),
    Verb(
        "warmup",
        "supervised fine-tuning on traces of a problem source (makes the tiny models)",
        config.WarmupConfig,
        "pruner_jax.run.imitate:warmup_verb",
        ("config",),
    ),
    Verb(
        "evaluate",
        "accuracy, lengths, truncation with intervals; --against BASE pairs two models",
        config.EvaluateConfig,
        "pruner_jax.run.evaluate:evaluate_verb",
        ("model",),
    ),
    Verb(
        "compare",
        "methods or strengths x seeds on one problem set: frontier plot, table, claims",
        config.CompareConfig,
        "pruner_jax.run.compare:compare_verb",
        ("config",),
    ),
    Verb(
        "plan",
        "compile a run's programs for a TPU slice without having it: memory, FLOPs, what fits",
        config.PlanConfig,
        "pruner_jax.run.plan:plan_verb",
        ("config",),
    ),
    Verb(
        "sample",
        "look at answers to one question",
        config.SampleConfig,
        "pruner_jax.run.generate:sample_verb",
        ("model", "question"),
    ),
    Verb(
        "export",
        "a Hugging Face folder from a run",
        config.ExportConfig,
        "pruner_jax.run.export:export_verb",
        ("run",),
    ),
    Verb(
        "report",
        "build report.html of a run again",
        config.ReportConfig,
        "pruner_jax.run.export:report_verb",
        ("run",),
    ),
)

USAGE = """usage: pruner-jax VERB [WORDS] [--setting=value ...]

The same answers in fewer tokens.

verbs:
{verbs}

Every verb knows:
  --help            its settings, with their types, defaults and meaning
  --config FILE     read settings from a YAML file
  --print_config    print the resolved settings and stop
  --json            results as JSON on stdout, and nothing else there
  --traceback       show where an error came from
prune, warmup, compare and plan also know:
  --dry-run         check everything, show sizes, and stop
prune also knows:
  --profile         write a trace of a few steps to OUT/profile

pruner-jax --version prints the version."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"pruner-jax {__version__}")
        return 0
    verb = next((verb for verb in VERBS if verb.name == words[0]), None)
    if verb is None:
        names = ", ".join(verb.name for verb in VERBS)
        return _fail(2, f"there is no verb {words[0]!r}; the verbs are {names}")
    return _run(verb, words[1:])


def _usage() -> str:
    lines = [
        f"  {' '.join([verb.name, *(word.upper() for word in verb.words)]):<24}{verb.help}"
        for verb in VERBS
    ]
    return USAGE.format(verbs="\n".join(lines))


def _run(verb: Verb, words: list[str]) -> int:
    as_json = _take_flag(words, "--json")
    traceback = _take_flag(words, "--traceback")
    if {"-h", "--help"} & set(words):
        _print_help(verb)
        return 0
    print_only = _take_flag(words, "--print_config")
    try:
        settings = _settings(verb, words)
        if print_only:
            import yaml

            print(yaml.safe_dump(config.plain(settings), sort_keys=False), end="")
            return 0
        module, _, name = verb.function.partition(":")
        # With --json, what libraries print goes to stderr: stdout holds one JSON value.
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            result = getattr(importlib.import_module(module), name)(settings)
    except KeyboardInterrupt as stop:
        print(f"pruner-jax: {str(stop) or 'interrupted'}", file=sys.stderr)
        return getattr(stop, "exit_code", 130)
    except config.ConfigError as error:
        return _fail(2, str(error))
    except Exception as error:
        if traceback:
            raise
        return _fail(getattr(error, "exit_code", 1), _explain(error))
    if as_json and _leads():
        print(json.dumps(result))
    return 0


def _leads() -> bool:
    """Whether what a verb has found is for this process to print: on many hosts the first one's."""
    start = sys.modules.get("pruner_jax.pod.start")  # there if the verb could work on many
    return start is None or start.leads()


def _take_flag(words: list[str], flag: str) -> bool:
    found = flag in words
    words[:] = [word for word in words if word != flag]
    return found


def _settings(verb: Verb, words: list[str]) -> Any:
    """The verb's configuration from its words, by position first and then by name."""
    file, named = None, []
    given = list(words)
    for place in verb.words:
        if not given or given[0].startswith("--"):
            break
        value = given.pop(0)
        if place == "config":
            file = value
        else:
            named.append(f"--{place}={value}")
    while given:
        word = given.pop(0)
        if word == "--config" and given:
            file = given.pop(0)
        elif word.startswith("--config="):
            file = word.removeprefix("--config=")
        else:
            named.append(word)
    return config.load(verb.config, file, named)


def _print_help(verb: Verb) -> None:
    words = " ".join(word.upper() for word in verb.words)
    config.parser(verb.config, f"pruner-jax {verb.name} {words}".strip(), verb.help).print_help()


def _explain(error: Exception) -> str:
    """What to tell about a failure. Our own errors are ValueErrors and say what to change."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = str(error.filename or "while writing")
        if error.strerror and " are free" in error.strerror:  # our own words: how much is needed
            where += f": {error.strerror}"
        return (
            f"the disk is full ({where}); what was complete is kept: free some space and run the "
            "same command to continue"
        )
    first = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in first  # as XLA says it
    ):
        return (
            f"out of memory ({first or type(error).__name__}); less is needed with smaller "
            "sample.rows (rows decoded at once), learn.micro_tokens (tokens per pass of the "
            "learner) or rounds.prompts (problems per step), or with learn.remat=full"
        )
    if isinstance(error, (ValueError, OSError)):
        return str(error) or type(error).__name__
    return f"{type(error).__name__}: {first} (--traceback shows where)"


def _fail(code: int, message: str) -> int:
    print(f"pruner-jax: error: {message}", file=sys.stderr)
    return code


def console() -> None:
    """Entry point of the installed command."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
