"""Programs: each is compiled once, where its shapes are new, and the metrics name it."""

import collections
import functools
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from pruner_jax import text
from pruner_jax.learn import step as learning
from pruner_jax.policy import export, handover
from pruner_jax.run import session
from pruner_jax.run.compilation import COMPILED
from pruner_jax.run.prune import prune
from pruner_jax.sample import decode, sampler

# Where programs are asked for, by the module that calls them.
STAGES = {
    decode: ("empty", "prefill", "relay_layer", "put_layer", "decode"),
    sampler: ("_stream",),
    learning: ("_copied", "_score"),
    handover: ("hand_over_layer", "hand_over_rest"),
    export: ("_one",),
}
# Of these, the argument that is a number of any value: learning rate, purpose, layer.
NUMBERS = {"update": 2, "stream": 1, "one": 1, "hand_over_layer": 1}
# JAX's and optax's own, when a run begins.
FIXED = collections.Counter({"init_fn": 1, "convert_element_type": 1})


@pytest.fixture
def asked(monkeypatch):
    """What programs are asked for while it is in use: by name, the shapes and settings."""
    seen = collections.defaultdict(set)

    def watched(name, function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            told = [type(x) if i == NUMBERS.get(name) else x for i, x in enumerate(args)]
            leaves, tree = jax.tree.flatten((told, kwargs))
            shapes = [(np.shape(x), x.dtype) if hasattr(x, "dtype") else x for x in leaves]
            seen[name].add(str((shapes, tree)))
            return function(*args, **kwargs)

        return call

    for module, names in STAGES.items():
        for name in names:
            monkeypatch.setattr(module, name, watched(name.lstrip("_"), getattr(module, name)))
    make = session.make_update
    monkeypatch.setattr(session, "make_update", lambda *args: watched("update", make(*args)))
    jax.clear_caches()
    COMPILED.clear()
    return seen


def records_of(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def compiled_in(record):
    start = "perf/compiled/"
    return {k.removeprefix(start): n for k, n in record.items() if k.startswith(start)}


def test_a_program_is_compiled_where_its_shapes_are_new_and_once(
    settings, tmp_path, monkeypatch, asked
):
    """Rows that end anywhere: what was compiled up to each record is what had been asked for."""
    told = []
    lap = session.Session.lap

    def looked(run):
        told.append({name: len(shapes) for name, shapes in asked.items()})
        return lap(run)

    monkeypatch.setattr(session.Session, "lap", looked)
    prune(settings(f"--out={tmp_path / 'run'}"))
    records = [r for r in records_of(tmp_path / "run") if "perf/compiled" in r]
    assert len(records) == len(told) == 8 + 5
    total = collections.Counter()
    for number, (record, wanted) in enumerate(zip(records, told)):
        found = compiled_in(record)
        assert record["perf/compiled"] == sum(found.values())
        if number == 0 and jax.device_count() > 1:  # Orbax's: each device saves its part of arrays
            COMPILED["slice"] -= found.pop("slice")
        total.update(found)
        assert total - FIXED == wanted, (record["kind"], record["step"])
    # The test and the export add no more than their own.
    assert {name: len(shapes) for name, shapes in asked.items()} == COMPILED - FIXED


def test_so_it_is_on_two_devices():
    """As on a computer with two processors; they are a process of their own."""
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    test = f"{__file__}::{test_a_program_is_compiled_where_its_shapes_are_new_and_once.__name__}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", test],
        env={**os.environ, **flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_nothing_is_compiled_after_the_first_step_in_a_bucket(settings, tmp_path, monkeypatch):
    """Rows that all go on to the limit: a limit is a bucket, and its second step finds it all."""
    ends = text.end_token_ids
    monkeypatch.setattr(text, "end_token_ids", lambda *args: (1000 + max(ends(*args)),))
    jax.clear_caches()
    words = ("--rounds.limits=[60,40]", "--monitor.limit=60", "--test.limit=60")
    # One response a packed row; else prompts of other lengths may make two go into one.
    prune(settings(f"--out={tmp_path / 'run'}", *words, "--learn.row_tokens=96"))
    records = [r for r in records_of(tmp_path / "run") if "perf/compiled" in r]
    first = {r["limit"]: r["step"] for r in reversed(records) if r["kind"] == "step"}
    assert first == {60: 1, 40: 5}
    for record in records:
        assert record.get("completions/clipped_ratio", record.get("truncated")) == 1
        new = record["step"] in (0, *first.values())
        assert new == bool(compiled_in(record)), (record["step"], compiled_in(record))


def test_a_further_run_of_a_process_compiles_nothing(settings, tmp_path):
    prune(settings(f"--out={tmp_path / 'first'}"))
    before = COMPILED.copy()
    prune(settings(f"--out={tmp_path / 'second'}"))
    assert before == COMPILED
