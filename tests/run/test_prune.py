"""The whole path on a random model: what a run leaves, and that it goes on where it stopped."""

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types
from hashlib import sha256

import numpy as np
import pytest

import pruner_jax as pj
from pruner_jax.measure import guards
from pruner_jax.measure.guards import Alarm
from pruner_jax.pod.together import Pod
from pruner_jax.report.read import read_run
from pruner_jax.run import collect, learning, monitor, step
from pruner_jax.run import prune as prune_module
from pruner_jax.run.engine import Engine
from pruner_jax.run.interrupts import Interrupted
from pruner_jax.run.prune import prune
from pruner_jax.run.state import meta_of
from pruner_jax.sample.options import SampleOptions
from pruner_jax.store.folder import FolderError
from pruner_jax.store.media import Disk
from pruner_jax.store.records import read_rollouts
from pruner_jax.types import Purpose

TIMES = ("time/", "perf/", "seconds")


def timeless(value):
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if not k.startswith(TIMES)}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def left_behind(out):
    """Everything that must not depend on when a run was stopped."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return {
        "metrics": [timeless(json.loads(line)) for line in lines],
        "summary": timeless(json.loads((out / "summary.json").read_text())),
        "rollouts": {p.name: read_rollouts(p) for p in sorted((out / "rollouts").iterdir())},
        "export": {p.name: sha256(p.read_bytes()).hexdigest() for p in (out / "export").iterdir()},
    }


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    """What an undisturbed run leaves."""
    out = tmp_path_factory.mktemp("whole") / "run"
    prune(settings(f"--out={out}"))
    return left_behind(out)


def test_a_run_leaves_what_it_promises(settings, tmp_path, monkeypatch):
    flush, slept = Disk.flush, []

    def slow(disk, folder):
        slept.append(time.sleep(0.02))
        flush(disk, folder)

    monkeypatch.setattr(Disk, "flush", slow)
    summary = prune(settings(f"--out={tmp_path / 'run'}"))
    out = tmp_path / "run"
    assert json.loads((out / "summary.json").read_text()) == summary
    assert [r["limit"] for r in summary["rounds"]] == [24, 16]
    assert {"value", "low", "high"} <= summary["token_ratio"].keys()
    assert summary["base"]["n_problems"] == 8
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    kinds = [line["kind"] for line in lines]
    # Whatever a save holds the run up for is told, at the step or evaluation after it.
    assert all("time/save" in line for line in lines if line["kind"] == "step")
    assert sum(line.get("time/save", 0) for line in lines) >= 0.02 * (len(slept) - 2)
    assert summary["seconds"]["save"] >= 0.02 * len(slept) >= 0.2
    assert kinds.count("step") == 8 and kinds.count("pick") == 2
    assert kinds.count("evaluate") == 1 + 2 * 2
    assert "<html" in (out / "report.html").read_text()[:200]
    read_run(out)
    # What was sampled on the three sets never meets.
    seen = {}
    for path in (out / "rollouts").iterdir():
        columns = read_rollouts(path, ["purpose", "problem_id"])
        for purpose, problem in zip(columns["purpose"], columns["problem_id"]):
            assert seen.setdefault(problem, purpose) == purpose
    assert set(seen.values()) == {"train", "monitor", "test"}
    # The export is a model that loads and answers.
    policy = pj.load(out / "export")
    assert np.isfinite(np.asarray(pj.logits(policy, [[1, 2, 3]]))).all()
    assert len(pj.generate(policy, ["1 + 1?"], max_tokens=4).text) == 1


class Died(BaseException):
    """Not an Exception: nothing may catch it."""


def at_visit(monkeypatch, module, name, visit, act):
    """Let the function act before its visit of that number; what was there is put back."""
    real, seen = getattr(module, name), []

    def watched(*args, **kwargs):
        seen.append(1)
        if len(seen) == visit:
            monkeypatch.setattr(module, name, real)
            act()
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, watched)


def die():
    raise Died


@pytest.mark.parametrize(
    ("module", "where", "visit"),
    [
        (step, "weigh", 3),
        (monitor, "record_evaluation", 2),
        (prune_module, "pick", 1),
        (prune_module, "save", 4),
        (prune_module, "test", 2),
        (prune_module, "export", 1),
    ],
)
def test_a_run_that_dies_goes_on_exactly(
    settings, tmp_path, whole, monkeypatch, module, where, visit
):
    at_visit(monkeypatch, module, where, visit, die)
    with pytest.raises(Died):
        prune(settings(f"--out={tmp_path / 'run'}"))
    prune(settings(f"--out={tmp_path / 'run'}"))
    again = left_behind(tmp_path / "run")
    for part, value in whole.items():
        assert again[part] == value, part


@pytest.mark.parametrize(
    ("visit", "then", "wanted"),
    [*((visit, 8, [4] * 5) for visit in (1, 2, 3, 4)), (2, 4, [4, 4, *[2] * 6])],
)
def test_a_test_goes_on_with_the_part_that_it_was_at(
    settings, tmp_path, whole, monkeypatch, visit, then, wanted
):
    """Here two parts for each model, of four problems with two samples; or smaller ones then."""
    monkeypatch.setattr(Engine, "rows_together", lambda self, limit: 8)
    real, sampled = monitor.measure, []

    def measure(engine, params, problems, *args, **kwargs):
        if kwargs["purpose"] is Purpose.TEST:
            sampled.append(len(problems))
            if len(sampled) == visit:
                raise Died
        return real(engine, params, problems, *args, **kwargs)

    monkeypatch.setattr(monitor, "measure", measure)
    given = settings(f"--out={tmp_path / 'run'}")
    with pytest.raises(Died):
        prune(given)
    monkeypatch.setattr(Engine, "rows_together", lambda self, limit: then)
    prune(given)
    assert sampled == wanted  # the one that was interrupted twice
    again = left_behind(tmp_path / "run")
    if then != 8:  # in other batches log-probabilities are rounded otherwise
        for name, found in again["rollouts"].items():
            before = whole["rollouts"][name]["logp"]
            for one, other in zip(found["logp"], before, strict=True):
                assert one == pytest.approx(other, rel=1e-5, abs=1e-5)
            found["logp"] = before
    assert again == whole


@pytest.mark.parametrize(
    ("limit", "shape", "seats", "hosts", "rows"),
    [
        (512, None, 64, 1, 4096),
        (1024, None, 64, 1, 2048),
        (8192, None, 64, 1, 512),
        (1024, {"data": 2, "fsdp": 4}, 64, 1, 4096),
        (8192, {"data": 2, "fsdp": 4}, 64, 1, 1024),
        (4096, None, 256, 1, 2048),
        (16384, None, 256, 1, 512),
        (65536, None, 256, 1, 512),
        (4096, {"data": 4, "fsdp": 1}, 256, 32, 65536),
        (16384, {"data": 4, "fsdp": 1}, 256, 64, 32768),
    ],
)
def test_long_rows_are_written_a_few_at_a_time(limit, shape, seats, hosts, rows):
    """Some two million tokens, but eight rows for each seat up to eight million, or two rows, as
    long as that is not more than a host holds."""
    mesh = shape and types.SimpleNamespace(shape=shape)
    sampling, pod = SampleOptions(rows=seats), Pod(count=hosts)
    engine = types.SimpleNamespace(mesh=mesh, sampling=sampling, pod=pod)
    assert Engine.rows_together(engine, limit) == rows


@pytest.fixture
def ctrl_c():
    """Ctrl-C as in the foreground, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(
    ("module", "where", "visit", "steps"),
    [
        (step, "weigh", 3, 3),  # in a step, which is finished
        (collect, "order", 4, 3),  # before a step's rollouts, which are not
        (monitor, "measure", 2, 2),  # in an evaluation within the round
    ],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_saves_its_last_step(
    settings, tmp_path, whole, monkeypatch, module, where, visit, steps, number
):
    """Nothing but what was being sampled is lost, whatever ``save_every``."""
    given = settings(f"--out={tmp_path / 'run'}", "--rounds.save_every=100")
    at_visit(monkeypatch, module, where, visit, lambda: signal.raise_signal(number))
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=f"stopped by {number.name}") as stop:
        prune(given)
    assert stop.value.exit_code == {signal.SIGTERM: 75, signal.SIGINT: 130}[number]
    assert signal.getsignal(number) is before
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines].count("step") == steps
    made = []
    monkeypatch.setattr(
        prune_module, "train_step", lambda *a: made.append(1) or step.train_step(*a)
    )
    prune(given)
    assert len(made) == 8 - steps
    again = left_behind(tmp_path / "run")
    for part, value in whole.items():
        assert again[part] == value, part


@pytest.mark.usefixtures("ctrl_c")
def test_the_second_signal_stops_at_once(settings, tmp_path, monkeypatch):
    def insist():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    at_visit(monkeypatch, collect, "order", 2, insist)
    with pytest.raises(KeyboardInterrupt, match="without saving"):
        prune(settings(f"--out={tmp_path / 'run'}"))
    assert prune(settings(f"--out={tmp_path / 'run'}"))["rounds"]


def test_a_signal_after_the_last_check_is_passed_on_and_the_run_is_finished(
    settings, tmp_path, monkeypatch
):
    """Or a comparison would go on with its next run."""
    given = settings(f"--out={tmp_path / 'run'}", "--rounds.limits=[16]")
    act = functools.partial(signal.raise_signal, signal.SIGTERM)
    at_visit(monkeypatch, prune_module, "export", 1, act)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        prune(given)
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / "run" / "report.html").exists()
    monkeypatch.setattr(prune_module, "open_session", None)
    assert prune(given)["rounds"]


def test_a_finished_run_is_not_played_again(settings, tmp_path, monkeypatch):
    summary = prune(settings(f"--out={tmp_path / 'run'}", "--rounds.limits=[16]"))
    monkeypatch.setattr(prune_module, "train_step", None)
    assert prune(settings(f"--out={tmp_path / 'run'}", "--rounds.limits=[16]")) == summary


def test_a_folder_of_other_settings_is_refused(settings, tmp_path):
    prune(settings(f"--out={tmp_path / 'run'}", "--rounds.limits=[16]"))
    with pytest.raises(FolderError, match="seed: was 0, now 1"):
        prune(settings(f"--out={tmp_path / 'run'}", "--rounds.limits=[16]", "--seed=1"))


def test_a_run_goes_on_with_other_devices(settings, tmp_path, whole, monkeypatch):
    """On eight, two of which share a copy of the parameters; they are a process of their own."""
    out = tmp_path / "run"
    at_visit(monkeypatch, learning, "learn", 7, die)
    with pytest.raises(Died):
        prune(settings(f"--out={out}"))
    changes = ["--mesh.fsdp=2", "--learn.unrolled_layers=0"]
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "pruner_jax", "prune", out / "config.yaml", *changes],
        env={**os.environ, **flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "mesh.fsdp: was 1, now 2" in done.stderr and "after step 6" in done.stderr
    metrics = [left_behind(out)["metrics"], whole["metrics"]]
    found, wanted = ([x for x in lines if x["kind"] == "step"] for lines in metrics)
    for name in ("loss", "entropy", "grad_norm", "completions/mean_length"):
        assert [x[name] for x in found] == pytest.approx([x[name] for x in wanted], rel=1e-3)


def test_what_a_run_depends_on_is_looked_at_again(settings, tmp_path, monkeypatch, capsys):
    """A reward that was edited between two starts."""
    checker = tmp_path / "checker.py"
    checker.write_text("def check(problem, text, answer): return False\n")
    given = settings(f"--out={tmp_path / 'run'}", f"--verify.checker={checker}:check")
    at_visit(monkeypatch, step, "weigh", 2, die)
    with pytest.raises(Died):
        prune(given)
    assert "its content" not in capsys.readouterr().err
    checker.write_text("def check(problem, text, answer): return True\n")
    prune(given)
    assert f"changed since the run was stopped: {checker}: its content" in capsys.readouterr().err


def test_a_tolerance_may_be_raised_where_it_was_refused(settings, tmp_path, monkeypatch):
    """The costly first evaluation is not lost."""
    with pytest.raises(ValueError, match=r"pick\.tolerance is 0\.001"):
        prune(settings(f"--out={tmp_path / 'run'}", "--pick.tolerance=0.001"))
    monkeypatch.setattr(prune_module, "start", None)
    assert prune(settings(f"--out={tmp_path / 'run'}"))["rounds"]


def test_auto_limits_follow_the_lengths_and_end(settings, tmp_path):
    summary = prune(
        settings(
            f"--out={tmp_path / 'run'}",
            "--rounds.limits=auto",
            "--rounds.most=2",
            "--monitor.limit=24",
            "--test.limit=24",
        )
    )
    limits = [r["limit"] for r in summary["rounds"]]
    assert len(limits) <= 2 and all(a > b for a, b in zip([24, *limits], limits))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("--sample.top_p=0.9", "rounds learn from their own samples"),
        ("--method.name=thinkprun", "thinkprun"),
        ("--pick.tolerance=0.001", "pick.tolerance is 0.001"),
        ("--rounds.limits=[512]", "max_position_embeddings"),
        ("--model=no/such/model/here", "no/such/model/here"),
        ("--monitor.samples=1", "monitor.samples is 1"),
    ],
)
def test_contradictions_end_with_a_clear_message(settings, tmp_path, override, said):
    with pytest.raises((ValueError, OSError), match=said):
        prune(settings(f"--out={tmp_path / 'run'}", override))


def test_a_dry_run_shows_sizes_and_leaves_nothing(settings, tmp_path):
    found = prune(settings(f"--out={tmp_path / 'run'}", "--dry_run=true"))
    assert found["rows"] == {"prune": "16 per step"} and found["learner_state_bytes"] > 0
    assert "teacher_bytes" not in found and not (tmp_path / "run").exists()
    tiny = pathlib.Path(__file__).parents[2] / "configs" / "tiny_expander"
    words = (
        "--dry_run=true",
        f"--teacher.model={tiny}",
        "--method.name=pad",
        "--method.options={}",
    )
    found = prune(settings(f"--out={tmp_path / 'run'}", *words))
    assert found["teacher_bytes"] == 53_664 * 4


# -- a round that goes on --------------------------------------------------------------------------


def ring(monkeypatch, *at):
    """Alarms after these records, each a kind and a step."""

    def watch(history, options):
        rings = (history[-1]["kind"], history[-1]["step"]) in at
        return [Alarm("entropy", "as the test wants it", {})] if rings else []

    monkeypatch.setattr(guards, "watch", watch)


GUARDED = ("--guards.action=rollback", "--guards.window=1", "--pick.rule=last", "--rounds.steps=6")


def test_after_an_alarm_a_round_goes_on_with_the_steps_left(settings, tmp_path, monkeypatch):
    """Of 6 steps the fifth rings: back to the fourth's parameters, on to problems not seen yet.
    Killed in the sixth, it ends the same."""
    words = (*GUARDED, "--rounds.limits=[24]", "--rounds.log_rollouts_every=1")
    words = (*words, "--optimizer.warmup_steps=2", "--optimizer.learning_rate=0.01")
    ring(monkeypatch, ("step", 5))
    real, seen = learning.learn, []

    def learn(state, *args, **kwargs):
        before = np.array(state.params["final_norm"])
        state, metrics = real(state, *args, **kwargs)
        seen.append((before, np.array(state.params["final_norm"])))
        return state, metrics

    monkeypatch.setattr(learning, "learn", learn)
    out = tmp_path / "whole"
    summary = prune(settings(f"--out={out}", *words))
    assert [(r["steps"], r["picked_step"]) for r in summary["rounds"]] == [(6, 6)]
    assert (seen[5][0] == seen[3][1]).all() and (seen[5][0] != seen[4][1]).any()
    records = left_behind(out)["metrics"]
    assert [r["step"] for r in records if r["kind"] == "pick"] == [4, 6]
    rates = [r["lr"] for r in records if r["kind"] == "step"]
    assert rates == pytest.approx([0.005, 0.01, 0.01, 0.01, 0.01, 0.005])  # it rises anew
    files = [out / f"rollouts/round-01-step-0000{step}.parquet" for step in (5, 6)]
    asked = [set(read_rollouts(path, ["problem_id"])["problem_id"]) for path in files]
    assert not asked[0] & asked[1]
    at_visit(monkeypatch, learning, "learn", 6, die)
    with pytest.raises(Died):
        prune(settings(f"--out={tmp_path / 'killed'}", *words))
    prune(settings(f"--out={tmp_path / 'killed'}", *words))
    assert left_behind(tmp_path / "killed") == left_behind(out)


@pytest.fixture
def all_correct(tmp_path):
    """The setting by which every answer of the random model counts."""
    path = tmp_path / "checker.py"
    path.write_text("def check(problem, text, answer): return True\n")
    return f"--verify.checker={path}:check"


def watch_states(monkeypatch):
    """``seen[n]``: what is saved of the state before step n + 1 and after it."""
    seen, real = {}, step.train_step

    def watched(run, state):
        before = meta_of(state)
        record = real(run, state)
        seen[before["steps"]] = before, meta_of(state)
        return record

    monkeypatch.setattr(prune_module, "train_step", watched)
    return seen


@pytest.mark.parametrize("method", ["hapo", "harmonic"])
def test_a_rollback_restores_what_the_method_remembered(
    settings, tmp_path, monkeypatch, all_correct, method
):
    """Steps 5 and 6 ring: back to the fourth's parameters and memory, twice. Killed at any of the
    steps that follow, it ends the same."""
    words = (*GUARDED, f"--method.name={method}", all_correct, "--rounds.steps=8")
    words = (*words, "--rounds.limits=[24]", "--rounds.save_every=1")
    ring(monkeypatch, ("step", 5), ("step", 6))
    out, seen = tmp_path / "whole", watch_states(monkeypatch)
    summary = prune(settings(f"--out={out}", *words))
    assert [(r["steps"], r["picked_step"]) for r in summary["rounds"]] == [(8, 8)]
    (began, _), (fifth, rang) = seen[0], seen[4]
    assert seen[5][0]["method"] == seen[6][0]["method"] == fifth["method"]
    assert fifth["method"] != began["method"] and fifth["method"] != rang["method"]
    assert seen[7][0]["method"] != fifth["method"]
    for visit in (6, 7):
        at_visit(monkeypatch, learning, "learn", visit, die)
        killed = tmp_path / str(visit)
        with pytest.raises(Died):
            prune(settings(f"--out={killed}", *words))
        prune(settings(f"--out={killed}", *words))
        assert left_behind(killed) == left_behind(out)


@pytest.mark.parametrize(
    ("rings", "trained_on", "part", "collected"),
    [
        (11, [0, 4, 8], (3, 4), [0, 4, 8, 12]),  # back to step 10, which had learnt from these
        (9, [0, 4, 9], (0, 4), [0, 4, 8, 9, 13]),  # back to the round's start: the rest is over
    ],
)
def test_a_rollback_restores_what_was_collected(
    settings, tmp_path, monkeypatch, all_correct, rings, trained_on, part, collected
):
    """Iterations of 4 steps whose rows are kept, in rounds of 8. Killed after the rollback, the run
    ends the same, without the files that nobody needs."""
    words = (*GUARDED, all_correct, "--rounds.steps=8", "--method.name=star")
    words = (*words, "--method.options={problems: 4, hints: false, update_rows: 1}")
    words = (*words, "--method.collect.steps=4", "--rounds.save_every=1")
    ring(monkeypatch, ("step", rings))
    out, seen, parts, real = tmp_path / "whole", watch_states(monkeypatch), [], learning.learn
    monkeypatch.setattr(
        learning, "learn", lambda *a, **kw: parts.append(kw["part"]) or real(*a, **kw)
    )
    prune(settings(f"--out={out}", *words))
    ((phase, shards),) = seen[rings][1]["store"]["shards"].items()
    assert shards == tuple(f"{phase}-{n:05d}.parquet" for n in trained_on)
    assert parts[rings] == part
    steps = [n for n, (before, after) in seen.items() if before["cursors"] != after["cursors"]]
    assert steps == collected
    killed = tmp_path / "killed"
    at_visit(monkeypatch, learning, "learn", rings + 1, die)
    with pytest.raises(Died):
        prune(settings(f"--out={killed}", *words))
    prune(settings(f"--out={killed}", *words))
    assert left_behind(killed) == left_behind(out)
    known = [*trained_on, collected[-1]] if part[0] == 0 else collected
    wanted = [f"{phase}-{n:05d}.parquet" for n in known]
    assert sorted(path.name for path in (killed / "store").iterdir()) == wanted


def test_the_third_alarm_ends_a_round(settings, tmp_path, monkeypatch):
    """What was rolled back is not measured again; the next round plays all its steps."""
    ring(monkeypatch, ("evaluate", 2), ("step", 3), ("step", 4))
    summary = prune(settings(f"--out={tmp_path / 'run'}", *GUARDED))
    assert [(r["steps"], r["picked_step"]) for r in summary["rounds"]] == [(4, 0), (6, 10)]
    assert steps_of(tmp_path / "run") == (list(range(1, 11)), [0, 2, 6, 8, 10])


PATIENT = ("--rounds.patience=3", "--rounds.limits=[24]")


def steps_of(out):
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    found = [(line["kind"], line["step"]) for line in lines if line["kind"] in ("step", "evaluate")]
    return [step for kind, step in found if kind == "step"], [
        step for kind, step in found if kind == "evaluate"
    ]


def test_a_round_goes_on_while_its_newest_checkpoint_recovers(settings, tmp_path, monkeypatch):
    """4 steps measured every 2, and 3 more at most: 2, then 1. Killed in them, it ends the same."""
    monkeypatch.setattr(monitor, "recovers", lambda *_: True)
    prune(settings(f"--out={tmp_path / 'whole'}", *PATIENT))
    assert steps_of(tmp_path / "whole") == ([1, 2, 3, 4, 5, 6, 7], [0, 2, 4, 6, 7])
    at_visit(monkeypatch, learning, "learn", 6, die)
    with pytest.raises(Died):
        prune(settings(f"--out={tmp_path / 'killed'}", *PATIENT))
    prune(settings(f"--out={tmp_path / 'killed'}", *PATIENT))
    assert left_behind(tmp_path / "killed") == left_behind(tmp_path / "whole")
    monkeypatch.setattr(monitor, "recovers", lambda *_: False)
    prune(settings(f"--out={tmp_path / 'done'}", *PATIENT))
    assert steps_of(tmp_path / "done") == ([1, 2, 3, 4], [0, 2, 4])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--optimizer.schedule=cosine"], "with optimizer.schedule 'cosine' the learning rate is"),
        (["--method.name=sft_shortest", "--method.options={}"], "passes over collected rows in so"),
        (["--pick.rule=last"], "but pick.rule is 'last'"),
        (["--rounds.patience=-1"], "rounds.patience is -1; allowed: 0 or more"),
    ],
)
def test_patience_that_makes_no_sense(settings, tmp_path, words, said):
    with pytest.raises(ValueError, match=said):
        prune(settings(f"--out={tmp_path / 'run'}", "--rounds.patience=2", *words))
