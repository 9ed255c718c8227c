"""What collections will need, looked at before the first token: another run's table, the teacher.

They are wanted at the first step, which comes when the start model has been measured; so that what
does not fit costs seconds, the session asks here.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from pruner_jax.config import PruneConfig, plain
from pruner_jax.objective.method import Method, Phase
from pruner_jax.policy import handle
from pruner_jax.run.checks import collection_limit
from pruner_jax.run.engine import Engine
from pruner_jax.run.second import read_responses
from pruner_jax.store.folder import steps_made
from pruner_jax.store.table import find_table
from pruner_jax.types import Problem


def check_collections(
    settings: PruneConfig,
    method: Method,
    engine: Engine,
    folder: pathlib.Path,
    problems: Sequence[Problem],
    teacher: str | None,
) -> None:
    """The reference table fits if it is there, the teacher's file or model can be read; nothing is
    written. ``folder``: of the start model; ``problems``: those to train on; ``teacher``: the name
    by which to find its model. A run that goes on after its first step has what it wants of the
    table, which is looked at again if it does not.

    Raises:
      ValueError: with what differs, or which line or file is wrong.
    """
    limit = collection_limit(settings)
    goes_on = steps_made(settings.out) > 0
    for phase in method.phases:
        once = phase.collect.reference and phase.collect.every == "once"
        if once and settings.reference_table is not None and not goes_on:
            place = pathlib.Path(settings.reference_table)
            key = functools.partial(table_key, settings, engine, folder, phase, limit)
            table = find_table(place, key)
            if table is not None:
                table.check_same(problems)
    if any(phase.collect.policy == "teacher" for phase in method.phases):
        if settings.teacher.file is not None:
            read_responses(settings.teacher, problems)
        else:
            _check_teacher(settings, teacher)


def _check_teacher(settings: PruneConfig, model: str) -> None:
    """The teacher's description and tokenizer are there, and fit each other."""
    teacher = handle.describe(model)
    Engine.of(
        teacher,
        text_options=settings.teacher.text,
        sampling=settings.sample,
        verifier=None,
        seed=settings.seed,
    )


def own_sampling(phase: Phase) -> dict[str, float]:
    """The settings of sampling that a phase has in place of the run's."""
    given = {name: getattr(phase.collect, name) for name in ("temperature", "top_p", "top_k")}
    return {name: value for name, value in given.items() if value is not None}


def table_key(
    settings: PruneConfig, engine: Engine, folder: pathlib.Path, phase: Phase, limit: int
) -> dict[str, Any]:
    """What a table's rows depend on, the seed left out: they are draws, whichever. ``folder``: of
    the start model."""
    collect = phase.collect
    options = dataclasses.replace(settings.sample, **own_sampling(phase))
    named: dict[str, Any] = {"policy": collect.policy}
    if collect.policy == "teacher":
        named["teacher_text"] = plain(settings.teacher.text)
        named["teacher"] = settings.teacher.model or settings.teacher.file
    if collect.policy != "teacher" or settings.teacher.model is not None:
        named["dtype"] = engine.dtype
    if collect.every == "once" and collect.policy != "teacher":
        named["model"] = model_digest(folder)
    chosen = {name: getattr(options, name) for name in ("temperature", "top_p", "top_k", "min_p")}
    rules = {  # all that may change a verdict: those of the table are kept, not made again
        name: getattr(settings.verify, name)
        for name in ("answer", "after_thought", "unfinished_is_wrong", "checker", "correct_from")
    }
    return {
        **named,
        "tokenizer": _digest(json.dumps(engine.tokenizer.get_vocab(), sort_keys=True)),
        "template": _digest(str(engine.tokenizer.chat_template)),
        "text": plain(engine.text),
        "condition": repr(phase.condition),
        **chosen,
        "limit": limit,
        "samples": collect.samples,
        "end_tokens": list(engine.end_ids),
        **rules,
        "checker_settings": plain(settings.verify)["settings"],
        "problems": settings.problems.name,
        "noise": repr(engine.environment),
    }


def model_digest(folder: pathlib.Path) -> str:
    """Of a model's weights, which are read once as long as the files stay as they are."""
    stats = [(path, path.stat()) for path in sorted(folder.glob("*.safetensors"))]
    return _digest_of(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))


@functools.cache
def _digest_of(files: tuple[tuple[pathlib.Path, int, int], ...]) -> str:
    """Of files, each with its size and when it was changed."""
    digest = hashlib.blake2b(digest_size=8)
    for path, _, _ in files:
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def _digest(said: str) -> str:
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()
