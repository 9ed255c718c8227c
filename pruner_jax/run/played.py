"""A finished run of a comparison, read from its folder.

Takes summary.json, metrics.jsonl and the rollouts of both models on the test set; gives means over
the samples of every problem, and what training took.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pruner_jax import methods
from pruner_jax.config import PruneConfig
from pruner_jax.measure import paired
from pruner_jax.measure.guards import EMPTY_THOUGHT
from pruner_jax.measure.outcomes import Outcomes
from pruner_jax.measure.stats import per_problem
from pruner_jax.objective.method import follows_monitor
from pruner_jax.problems import source
from pruner_jax.run.measuring import read_outcomes
from pruner_jax.run.planned import Run
from pruner_jax.store.folder import RunFolder
from pruner_jax.store.records import Metrics, read_rollouts

QUANTITIES = ("accuracy", "tokens", "thinking_tokens", "at_once", "difficulty")


@dataclasses.dataclass(frozen=True)
class Played:
    """A finished run: both models on P problems, and what training took."""

    run: Run
    problem_ids: tuple[str, ...]
    difficulty_P: np.ndarray
    limit: int
    samples: int
    quantities: tuple[str, ...]
    values_MPQ: np.ndarray  # float64, means over the samples of a problem
    training: dict[str, Any]  # generated_tokens, seconds, picked_steps, alarms, ended

    def of(self, quantity: str, model: int = 1) -> np.ndarray:
        """A quantity of the final model (or the base, 0), float64 [P]."""
        return self.values_MPQ[model, :, self.quantities.index(quantity)]


def read(run: Run) -> Played:
    """A finished run, from its folder."""
    folder = RunFolder(run.folder)
    records = Metrics(folder.metrics).read()
    paths = [folder.rollouts / f"{name}-test.parquet" for name in ("base", "final")]
    models = paired.aligned(*map(read_outcomes, paths))
    count = getattr(source.find(run.settings.problems.name), "redundancy", None)
    values = [
        _measured(outcomes) | (_counted(path, outcomes, count) if count else {})
        for path, outcomes in zip(paths, models)
    ]
    return Played(
        run=run,
        problem_ids=models[0].problem_ids,
        difficulty_P=models[0].difficulty_P,
        limit=models[0].limit,
        samples=int(models[0].samples_P.max()),
        quantities=tuple(values[0]),
        values_MPQ=np.stack([np.stack(list(value.values()), axis=1) for value in values]),
        training=_training(folder, records, run),
    )


def _measured(outcomes: Outcomes) -> dict[str, np.ndarray]:
    empty_PG = outcomes.thinking_PG <= EMPTY_THOUGHT
    cells = (outcomes.correct_PG, outcomes.length_PG, outcomes.thinking_PG, empty_PG)
    found = (*(per_problem(x_PG, outcomes) for x_PG in cells), outcomes.difficulty_P)
    return dict(zip(QUANTITIES, found))


def _counted(
    path: pathlib.Path, outcomes: Outcomes, count: Callable[[str], Any]
) -> dict[str, np.ndarray]:
    """What the source counts in a response as redundant, means of each problem."""
    columns = read_rollouts(path, ["problem_id", "text"])
    place = {name: p for p, name in enumerate(outcomes.problem_ids)}
    at_B = np.array([place[name] for name in columns["problem_id"]])
    rows = [dataclasses.asdict(count(text)) for text in columns["text"]]
    samples_P = np.bincount(at_B)
    return {name: np.bincount(at_B, [row[name] for row in rows]) / samples_P for name in rows[0]}


def _training(folder: RunFolder, records: Sequence[dict[str, Any]], run: Run) -> dict[str, Any]:
    """What training took, and how it went. Evaluations on monitor are part of it where something
    follows them; else they, the test and saving are left out. A table that other runs share is
    charged in full to each that uses it, tokens and seconds, whoever made it (``time/table``)."""
    summary = json.loads(folder.summary.read_text())
    followed = _follows_monitor(run.settings)
    training = [record for record in records if followed or record["kind"] != "evaluate"]
    left_out = {"time/save"} if followed else {"time/save", "time/evaluate"}
    times = [
        value
        for record in training
        for name, value in record.items()
        if name.startswith("time/") and name not in left_out
    ]
    return {
        "generated_tokens": sum(map(generated_tokens, training)),
        "seconds": sum(times),
        "picked_steps": [entry["picked_step"] for entry in summary["rounds"]],
        "alarms": [record["guard"] for record in records if record["kind"] == "alarm"],
        "ended": summary["ended"],
    }


def _follows_monitor(settings: PruneConfig) -> bool:
    """Whether the evaluations on the monitor set have a part in what comes out: by the method, the
    limits, the length of the rounds, or the pick."""
    rounds = settings.rounds
    if rounds.limits == "auto" or rounds.patience or settings.pick.rule != "last":
        return True
    method = methods.build(methods.MethodOptions.of(settings.method))
    return any(map(follows_monitor, method.phases))


def generated_tokens(record: Mapping[str, Any]) -> float:
    """Tokens that were sampled for a record, by all phases of the method: rows, second tries with a
    hint, and an expander's answers, whose tokens count as the policy's; for an evaluation, and in
    older runs, rows times their mean length."""
    found = [n for name, n in record.items() if name.endswith("prune/generated_tokens")]
    if found:
        return sum(found)
    rows = sum(n for name, n in record.items() if name.startswith("prune/verdict/"))
    return rows * record.get("completions/mean_length", record.get("mean_tokens", 0.0))
