"""Methods of several phases in real runs: what is collected, kept, told, forced and reset."""

import functools
import json
import os
import pathlib
import shutil
import signal
import types

import numpy as np
import pytest
from handmade import Row, graded
from test_prune import Died, at_visit, die, left_behind

from pruner_jax import methods
from pruner_jax.config import plain
from pruner_jax.learn import learn
from pruner_jax.learn.rows import Rows
from pruner_jax.pod.likeness import digests_of_rows
from pruner_jax.problems import last_digit
from pruner_jax.run import ahead, collect, learning, monitor, offers, step
from pruner_jax.run import prune as prune_module
from pruner_jax.run.checks import check_thoughts
from pruner_jax.run.engine import Engine
from pruner_jax.run.interrupts import Interrupted
from pruner_jax.run.prune import prune
from pruner_jax.run.state import RunState
from pruner_jax.store.records import read_rollouts, seconds_of
from pruner_jax.types import Origin

EVERYTHING = f"--method.name={pathlib.Path(__file__).parent / 'every_kind_of_phase.py'}"
EXPANDER = f"--expander.model={pathlib.Path(__file__).parents[2] / 'configs' / 'tiny_expander'}"
FEW = ("--problems.options.train=8", "--rounds.prompts=2", "--method.options={}")


def everything(settings, out, *words):
    words = ("--rounds.limits=[24]", "--optimizer.schedule=linear", *words)
    return settings(f"--out={out}", EVERYTHING, *FEW, *words)


def files(out):
    found = left_behind(out)
    for name in ("tables", "store"):
        found[name] = {
            str(path.relative_to(out)): read_rollouts(path)
            for path in sorted((out / name).rglob("*.parquet"))
        }
    return found


@pytest.fixture(scope="module", autouse=True)
def small_parts():
    """A table of 8 problems with 3 rows each is made in two parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "rows_together", lambda self, limit: 12)
        yield


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory, small_parts, went):
    out = tmp_path_factory.mktemp("phases") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for module, names in (
            (learning, ("check_rows", "learn")),
            (offers, ("check_rows", "score")),
            (monitor, ("check_rows", "score")),
        ):
            for name in names:
                patch.setattr(module, name, _noted(getattr(module, name), went))
        prune(everything(settings, out))
    return out, files(out)


def _noted(function, went):
    def noted(*args, **kwargs):
        rows = [digests_of_rows(arg) for arg in args if isinstance(arg, Rows)]
        went.append((function.__name__, *rows))
        return function(*args, **kwargs)

    return noted


@pytest.fixture(scope="module")
def went():
    """Rows that were compared with those of the other hosts, and that reached the devices: names
    of functions, and digests, in order."""
    return []


def test_rows_are_compared_before_they_reach_the_devices(whole, went):
    compared = []
    for number, (name, *rows) in enumerate(went):
        if name == "check_rows":
            compared += rows
        else:  # right before it, at least the numbers that go with rows that were read before
            assert went[number - 1][0] == "check_rows" and rows[0] in compared
    assert {name for name, *_ in went} == {"check_rows", "learn", "score"}


def rows(path, *names):
    return list(zip(*read_rollouts(path, list(names)).values()))


def test_each_phase_collects_when_and_what_it_says(whole):
    out, found = whole
    tables = {name.split("/")[1] for name in found["tables"]}
    assert tables == {"table", "imitate-00000", "imitate-00002"}
    per_problem = {}
    for path in (out / "tables" / "table").glob("*.parquet"):
        for problem, temperature, purpose in rows(path, "problem_id", "temperature", "purpose"):
            per_problem[problem] = per_problem.get(problem, 0) + 1
            assert (temperature, purpose) == (1.0, "train")
    assert len(per_problem) == 8 and set(per_problem.values()) == {3}
    # A store that grows: the second shard joins the first. 6 problems, 2 rows and the empty one.
    assert list(found["store"]) == ["store/imitate-00000.parquet", "store/imitate-00002.parquet"]
    assert {len(shard["prompt"]) for shard in found["store"].values()} == {18}
    steps = [line for line in found["metrics"] if line["kind"] == "step"]
    # 18 rows in updates of 5 are 4 updates, spread over the 2 steps; then 36 rows, 8 updates.
    assert [line["prune/updates"] for line in steps] == [2, 2, 4, 4]
    assert [line["gradient/prune/updates"] for line in steps] == [2, 2, 2, 2]
    assert "gradient/kl" in steps[0] and "kl" not in steps[0]
    # It falls to 0 in 2 steps, then the optimiser is fresh; each phase has half of a step.
    rates = [line[name] / 1e-3 for line in steps for name in ("lr", "gradient/lr")]
    begins = np.array([(0, 0.25), (0.5, 0.75)])  # of the updates of a step
    wanted = [1 - (s + b).mean() / 2 for s in (0, 1) for b in begins]
    np.testing.assert_allclose(rates[:4], wanted, rtol=1e-4)
    wanted[0::2] = [1 - (s + np.array([0, 0.125, 0.25, 0.375])).mean() / 2 for s in (0, 1)]
    np.testing.assert_allclose(rates[4:], wanted, rtol=1e-4)
    # The reference moved with the iteration, so at its first update the policy was still there.
    assert steps[0]["gradient/kl"] > 0


def test_rows_are_told_and_made_to_write_what_the_condition_says(whole):
    out, _ = whole
    names = ("mode", "budget", "origin", "logp", "text", "prompt", "thinking")
    path = out / "rollouts" / "round-01-step-00002-gradient.parquet"
    seen = set()
    for mode, budget, origin, logp, text, prompt, thinking in rows(path, *names):
        assert 4 <= budget <= 9 and f"Use at most {budget} tokens." in prompt
        if mode == 1:
            assert text.startswith("</think>") and thinking == 1
            assert origin[0] == Origin.SAMPLED and logp[0] == pytest.approx(-0.7)
        if Origin.FORCED in origin:
            assert origin.index(Origin.FORCED) == budget and thinking == budget + 1
            seen.add("ended")
        seen.add(mode)
    assert seen == {0, 1, "ended"}


@pytest.mark.parametrize(
    ("module", "where", "visit"),
    [
        (collect, "sample", 1),  # the table of the start model
        (collect, "sample", 3),
        (step, "write_shard", 2),
        (step, "weigh", 3),
        (learning, "learn", 4),
        (prune_module, "save", 3),
    ],
)
def test_a_run_that_dies_goes_on_exactly(
    settings, tmp_path, whole, monkeypatch, module, where, visit
):
    at_visit(monkeypatch, module, where, visit, die)
    out = tmp_path / "run"
    with pytest.raises(Died):
        prune(everything(settings, out))
    prune(everything(settings, out))
    again = files(out)
    for part, value in whole[1].items():
        assert again[part] == value, part


def test_a_table_goes_on_in_parts_of_another_size(settings, tmp_path, whole, monkeypatch):
    at_visit(monkeypatch, collect, "sample", 2, die)
    out = tmp_path / "run"
    with pytest.raises(Died):
        prune(everything(settings, out))
    monkeypatch.setattr(Engine, "rows_together", lambda self, limit: 6)
    prune(everything(settings, out))
    again = files(out)
    for part in ("metrics", "summary", "store", "export"):
        assert again[part] == whole[1][part], part
    names = ("problem_id", "visit", "sample", "text")
    made = [
        sorted(x for p in (o / "tables").rglob("*.parquet") for x in rows(p, *names))
        for o in (out, whole[0])
    ]
    assert made[0] == made[1] and len(again["tables"]) > len(whole[1]["tables"])


@pytest.mark.parametrize(("limits", "steps"), [("[24,24]", 3), ("[24]", 6)])
def test_what_a_rollback_takes_is_collected_again(settings, tmp_path, monkeypatch, limits, steps):
    """The store is again what it was when the round began: here, empty. It comes again in the next
    round, or in the rest of this one, and has its two steps."""
    from pruner_jax.measure import guards

    def watch(history, options):
        third = history[-1]["kind"] == "step" and history[-1]["step"] == 3
        return [guards.Alarm("accuracy", "as the test wants it", {})] if third else []

    monkeypatch.setattr(guards, "watch", watch)
    out = tmp_path / "run"
    words = ("--guards.action=rollback", f"--rounds.limits={limits}", f"--rounds.steps={steps}")
    prune(everything(settings, out, *words))
    lines = (out / "metrics.jsonl").read_text().splitlines()
    steps = [line for line in map(json.loads, lines) if line["kind"] == "step"]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    collected = [line["step"] for line in steps if "prune/generated_tokens" in line]
    assert collected == [1, 3, 4, 6]  # the fourth step found nothing to go on with
    assert all(line["prune/updates"] > 0 for line in steps)


def test_a_table_with_numbers_that_are_none_rings(settings, tmp_path, monkeypatch):
    """Nothing is learnt from it, and without an alarm all steps would pass without a word."""
    real = collect.sample

    def sample(*args):
        graded, stats = real(*args)
        graded.rollouts.logp_BT[:, 0] = np.nan
        return graded, stats

    monkeypatch.setattr(collect, "sample", sample)
    for guard, rung in ((True, ["not_finite", "not_finite"]), (False, [])):
        out = tmp_path / str(guard)
        words = ("--rounds.limits=[24,24]", "--guards.action=rollback", "--guards.rollbacks=0")
        prune(o1(settings, out, f"--guards.not_finite={str(guard).lower()}", *words))
        lines = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
        assert [line["guard"] for line in lines if line["kind"] == "alarm"] == rung
        steps = [line for line in lines if line["kind"] == "step"]
        assert len(steps) == (2 if guard else 6)
        assert ("prune/sampled_logp" in steps[0]) == guard
        # The round after a rollback finds the table, which the run has paid for.
        tokens = [x["prune/generated_tokens"] for x in steps if "prune/generated_tokens" in x]
        assert tokens[0] > 0 and tokens[1:] == ([0] if guard else [])
        assert not any("time/table" in step for step in steps)


def test_a_signal_stops_between_the_updates_of_a_step(settings, tmp_path, monkeypatch, capfd):
    """In the second step: the first one, and what was collected, are saved."""
    small = ("--method.options={samples: 3, update_rows: 1}", "--rounds.steps=2")
    small = (*small, "--rounds.evaluate_every=2")
    prune(o1(settings, tmp_path / "whole", *small))
    metrics = left_behind(tmp_path / "whole")["metrics"]
    first, second = (x["prune/updates"] for x in metrics if x["kind"] == "step")
    assert second > 1
    stop = functools.partial(signal.raise_signal, signal.SIGTERM)
    at_visit(monkeypatch, learn, "to_devices", int(first) + 1, stop)
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        prune(o1(settings, tmp_path / "run", *small))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines].count("step") == 1
    assert "step 2 is given up after 1 updates" in capfd.readouterr().err
    prune(o1(settings, tmp_path / "run", *small))
    assert left_behind(tmp_path / "run") == left_behind(tmp_path / "whole")


def test_a_step_that_would_be_lost_with_others_is_finished():
    def looks(saved):
        state = RunState(learn=None, reference=None, steps=7)
        run = types.SimpleNamespace(saved=saved)
        return learning.heeds_signals(run, state, collected=False) is not None

    assert looks((0, 7, 0)) and not looks((0, 6, 0))


def test_a_step_that_has_collected_is_finished(settings, tmp_path, monkeypatch, capfd):
    """Or its weighing would be lost. Here the signal comes in the second step's updates."""
    checker = tmp_path / "checker.py"
    checker.write_text("def check(problem, text, answer): return True\n")
    words = ("--method.name=star", "--method.options={problems: 4, hints: false, update_rows: 1}")
    words = (*words, f"--verify.checker={checker}:check", "--rounds.limits=[24]")
    prune(settings(f"--out={tmp_path / 'whole'}", *words))
    metrics = left_behind(tmp_path / "whole")["metrics"]
    first, second, *_ = (x["prune/updates"] for x in metrics if x["kind"] == "step")
    assert second > 1
    stop = functools.partial(signal.raise_signal, signal.SIGTERM)
    at_visit(monkeypatch, learn, "to_devices", int(first) + 1, stop)
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        prune(settings(f"--out={tmp_path / 'run'}", *words))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines].count("step") == 2
    assert "given up" not in capfd.readouterr().err
    prune(settings(f"--out={tmp_path / 'run'}", *words))
    assert left_behind(tmp_path / "run") == left_behind(tmp_path / "whole")


# -- tables that are shared ------------------------------------------------------------------------


def o1(settings, out, *words):
    return settings(
        f"--out={out}",
        "--method.name=o1_pruner",
        "--method.options={samples: 3, update_rows: 4}",
        "--problems.options.train=6",
        "--rounds.limits=[24]",
        "--rounds.steps=3",
        "--rounds.evaluate_every=3",
        *words,
    )


def test_a_reference_table_serves_other_runs(settings, tmp_path, monkeypatch):
    table = f"--reference_table={tmp_path / 'table'}"
    prune(o1(settings, tmp_path / "a", table))
    made = [json.loads(x) for x in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("prune/updates") for line in made if line["kind"] == "step"] == [1, 1, 1]
    # 6 problems, 2 of 3 rows kept: 12 rows in updates of 4 are 3, one a step.
    monkeypatch.setattr(collect, "_sample_parts", die)
    prune(o1(settings, tmp_path / "b", table, "--method.options.lam=5", "--seed=1"))
    # It is charged to both, in tokens and in seconds.
    used = [json.loads(x) for x in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()]
    first, then = (next(x for x in lines if x["kind"] == "step") for lines in (made, used))
    assert first["prune/generated_tokens"] == then["prune/generated_tokens"] > 0
    spent = sum(map(seconds_of, (tmp_path / "table").glob("part-*.parquet")))
    assert "time/table" not in first and then["time/table"] == pytest.approx(spent) and spent > 0
    for place, (words, says) in enumerate(
        (
            (["--text.instruction=Think."], "text: the table has"),
            (["--method.options.temperature=0.9"], "temperature: the table has 0.5, this run 0.9"),
            (["--method.options.samples=4"], "samples: the table has 3, this run 4"),
            (["--verify.checker=math"], "checker: the table has '', this run 'math'"),
            (
                ["--verify.settings={math: {longest: 9}}"],
                "checker_settings: the table has {}, this run {'math'",
            ),
            (["--verify.correct_from=0.5"], "correct_from: the table has 1.0, this run 0.5"),
            (["--sample.dtype=bfloat16"], "dtype: the table has 'float32', this run 'bfloat16'"),
            (["--rounds.limits=[20]"], "limit: the table has 24, this run 20"),
        )
    ):
        with pytest.raises(ValueError, match=says):
            prune(o1(settings, tmp_path / f"c{place}", table, *words))
        assert not (tmp_path / f"c{place}").exists()  # before the start model was measured
    with pytest.raises(ValueError, match="limit: the table has 24, this run 20"):
        prune(o1(settings, tmp_path / "c", table, "--rounds.limits=[20]", "--dry_run=true"))
    prune(o1(settings, tmp_path / "c", f"--reference_table={tmp_path / 'new'}", "--dry_run=true"))
    assert not (tmp_path / "new").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(ValueError, match="is no table"):
        prune(o1(settings, tmp_path / "d", f"--reference_table={tmp_path / 'other'}"))
    assert not (tmp_path / "d").exists()
    with pytest.raises(ValueError, match=r"thinkprune has no phase with collect.reference"):
        prune(settings(f"--out={tmp_path / 'e'}", table))


def test_weights_are_read_once_for_a_table_and_not_again_when_a_run_goes_on(
    settings, tmp_path, monkeypatch
):
    read = []

    def watched(path, *args):
        read.extend([path.parent] if path.suffix == ".safetensors" else [])
        return open(path, *args)

    monkeypatch.setattr(ahead, "open", watched, raising=False)
    ahead._digest_of.cache_clear()
    given = o1(settings, tmp_path / "run", f"--reference_table={tmp_path / 'table'}")
    prune(o1(settings, tmp_path / "other", f"--reference_table={tmp_path / 'table'}"))
    at_visit(monkeypatch, learning, "learn", 2, die)
    with pytest.raises(Died):
        prune(given)
    assert len(read) == 1
    ahead._digest_of.cache_clear()  # a new process
    prune(given)
    assert len(read) == 1


def test_weights_that_were_changed_are_read_again(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"a")
    os.utime(path, ns=(1, 1))
    before = ahead.model_digest(tmp_path)
    path.write_bytes(b"b")
    os.utime(path, ns=(2, 2))
    assert ahead.model_digest(tmp_path) != before


def test_rows_that_were_weighed_without_their_tokens_are_logged_with_them(
    settings, tmp_path, monkeypatch
):
    monkeypatch.setattr(Engine, "rows_together", lambda self, limit: 6)
    prune(o1(settings, tmp_path / "run", "--rounds.log_rollouts_every=1"))
    names = [f"round-01-step-00001{part}" for part in ("", "-00001")]  # none else collected
    logged = [tmp_path / "run" / "rollouts" / f"{name}.parquet" for name in names]
    found = logged[0].parent.glob("round-01-step-*")
    assert {path.stem for path in found} == {*names, "round-01-step-00003-monitor"}
    kept = sorted((tmp_path / "run" / "store").iterdir(), key=lambda path: path.stem)
    for path, shard in zip(logged, map(read_rollouts, kept), strict=True):
        assert [row for (row,) in rows(path, "tokens")] == shard["response"]
        assert [round(x, 5) for (x,) in rows(path, "weight")] == [
            round(weights[0], 5) for weights in shard["weight_BT"]
        ]
        assert all(said for (said,) in rows(path, "text"))


def test_a_table_that_does_not_say_what_it_was_made_with_is_refused(settings, tmp_path):
    table = tmp_path / "table"
    prune(o1(settings, tmp_path / "a", f"--reference_table={table}"))
    key = json.loads((table / "key.json").read_text())
    for name in ("checker", "dtype", "end_tokens"):
        del key[name]
    (table / "key.json").write_text(json.dumps(key))
    says = (
        r"an older version, which did not note dtype, end_tokens, checker, so .* Take the folder "
        r"away and they are made anew, or name another folder \(reference_table\)"
    )
    with pytest.raises(ValueError, match=says):
        prune(o1(settings, tmp_path / "b", f"--reference_table={table}"))
    (table / "key.json").write_text(json.dumps(key | {"limit": 20}))
    with pytest.raises(
        ValueError, match=r"something else \(limit: the table has 20, this run 24\)"
    ):
        prune(o1(settings, tmp_path / "b", f"--reference_table={table}"))


def test_a_runs_own_table_that_does_not_fit_asks_for_another_run(settings, tmp_path, monkeypatch):
    at_visit(monkeypatch, learning, "learn", 1, die)
    with pytest.raises(Died):
        prune(o1(settings, tmp_path / "run"))
    path = tmp_path / "run" / "tables" / "prune" / "key.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"limit": 20}))
    with pytest.raises(ValueError, match=r"limit: the table has 20.*another --out") as told:
        prune(o1(settings, tmp_path / "run"))
    assert "reference_table" not in str(told.value)


@pytest.fixture(scope="module")
def shared(settings, tmp_path_factory):
    """A reference table that a run of o1_pruner made, as published: at 0.5, with top-p 0.8."""
    folder = tmp_path_factory.mktemp("shared")
    prune(o1(settings, folder / "run", f"--reference_table={folder / 'table'}"))
    return folder / "table"


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def another_weight(folder):
    path = folder / "model.safetensors"
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)


def another_template(folder):
    path = folder / "tokenizer_config.json"
    given = json.loads(path.read_text())
    given["chat_template"] = given["chat_template"].replace("<|im_start|>", "<|im_start|> ", 1)
    path.write_text(json.dumps(given))


def another_vocabulary(folder):
    """The same ids of all that is said here, but one that nobody uses has another name."""
    path = folder / "tokenizer.json"
    said = path.read_text()
    assert said.count('" I"') == 1
    path.write_text(said.replace('" I"', '" J"'))


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (another_weight, "model"),
        (another_template, "template"),
        (another_vocabulary, "tokenizer"),
    ],
)
def test_another_model_template_or_vocabulary_does_not_fit_the_table(
    settings, tmp_path, model, shared, change, name
):
    folder, before = shutil.copytree(model, tmp_path / "model"), content(shared)
    change(folder)
    words = (f"--reference_table={shared}", f"--model={folder}")
    here = json.loads(before["key.json"])[name]
    with pytest.raises(ValueError, match=rf"\({name}: the table has '{here}', this run '\w+'\);"):
        prune(o1(settings, tmp_path / "run", *words))
    assert not (tmp_path / "run").exists() and content(shared) == before


@pytest.mark.parametrize("method", ["hawkeye", "adaptthink"])
def test_a_table_of_one_method_serves_another(settings, tmp_path, shared, monkeypatch, method):
    """It is the table of the same rows: as many of a problem, drawn in the same way."""
    known, real = [], step.weigh

    def weighing(phase, graded, state, context):
        known.append((graded.rollouts.prompts.problems, context.reference))
        return real(phase, graded, state, context)

    def play(name, *words):
        return prune(
            settings(
                f"--out={tmp_path / name}",
                f"--method.name={method}",
                "--method.options={reference_samples: 3, samples: 2}",
                "--problems.options.train=6",
                "--rounds.limits=[24]",
                "--rounds.steps=1",
                "--rounds.evaluate_every=1",
                *([EXPANDER, "--expander.limit=16"] if method == "hawkeye" else []),
                *words,
            )
        )

    monkeypatch.setattr(step, "weigh", weighing)
    monkeypatch.setattr(collect, "_sample_parts", die)
    before, table = content(shared), f"--reference_table={shared}"
    with pytest.raises(ValueError, match=r"temperature: the table has 0\.5, this run 1\.0; top_p"):
        play("unlike", table)
    play("run", table, "--method.table.collect={temperature: 0.5, top_p: 0.8}")
    assert content(shared) == before and not list((tmp_path / "run" / "tables").glob("*/*"))
    names = ("problem_id", "thinking", "verdict")
    made = [row for path in shared.glob("part-*") for row in rows(path, *names)]
    ((problems, reference),) = known
    found = reference.at([problem.id for problem in problems])
    assert len(made) == 18 and found.mask_PG.sum() == 3 * len(problems) == 12
    for p, problem in enumerate(problems):
        wanted = [(thinking, v == "correct") for name, thinking, v in made if name == problem.id]
        measured = (found.measure(measure)[p].tolist() for measure in ("thinking", "correct"))
        assert list(zip(*measured)) == wanted
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    (line,) = (line for line in lines if line["kind"] == "step")
    spent = sum(map(seconds_of, shared.glob("part-*.parquet")))
    assert line["time/table"] == pytest.approx(spent)  # it is charged for them all the same


# -- a teacher's file ------------------------------------------------------------------------------


def taught(settings, out, path, *words):
    return settings(
        f"--out={out}",
        "--method.name=pad",
        "--method.options={}",
        f"--teacher.file={path}",
        "--problems.options.train=4",
        "--rounds.limits=[24]",
        "--rounds.steps=2",
        "--rounds.evaluate_every=2",
        *words,
    )


def test_a_teachers_file_is_learnt_from_and_what_cannot_be_used_is_told(settings, tmp_path, capfd):
    problems = last_digit.load(last_digit.Options(train=4), "train")
    lines = [
        {"id": problems[0].id, "response": f"</think>\n\\boxed{{{problems[0].answer}}}"},
        {"question": problems[0].question, "response": "</think>\n\\boxed{}"},
        {"id": problems[1].id, "response": "</think>\n"},
        {"id": problems[2].id, "response": " check=1" * 40 + "</think>\n\\boxed{1}"},
        {"id": "nobody", "response": "x"},
    ]
    path = tmp_path / "teacher.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    prune(taught(settings, tmp_path / "run", path))
    rejects = (tmp_path / "run" / "rejects.jsonl").read_text().splitlines()
    reasons = [json.loads(line)["why"] for line in rejects]
    assert reasons[0] == "no problem of the train set" and len(reasons) >= 3
    assert any("the limit is 24" in reason for reason in reasons)
    assert "no answer was found in it" in reasons
    assert f"{len(reasons)} responses of the teacher cannot be used" in capfd.readouterr().err
    shard = read_rollouts(next((tmp_path / "run" / "store").iterdir()))
    assert len(shard["response"]) == 1 and all(shard["train_BT"][0])
    # The one that is too long is there, so that a teacher would not be asked again for it.
    table = read_rollouts(next((tmp_path / "run" / "tables").rglob("*.parquet")))
    assert problems[2].id in table["problem_id"] and max(table["length"]) > 24
    with pytest.raises(ValueError, match="has only rows of more than 24 tokens"):
        path.write_text(json.dumps(lines[3]) + "\n")
        prune(taught(settings, tmp_path / "none", path))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"id": "a"}\n', "line 1: allowed is a JSON object"),
        ("no json\n", "line 1: allowed is a JSON object"),
        (
            '{"id": "a", "response": "b"}\n',
            r"answers none of the 4 problems of the train set \(line 1: no problem of the train",
        ),
        ("", "answers none of the 4 problems of the train set;"),
        (None, "which is not there"),
    ],
)
def test_a_teachers_file_that_is_none_is_told_before_anything_starts(
    settings, tmp_path, content, says
):
    if content is not None:
        (tmp_path / "teacher.jsonl").write_text(content)
    for words in ((), ("--dry_run=true",)):
        with pytest.raises(ValueError, match=says):
            prune(taught(settings, tmp_path / "run", tmp_path / "teacher.jsonl", *words))
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_cannot_be_read_is_told_before_anything_starts(settings, tmp_path, model):
    folder = shutil.copytree(model, tmp_path / "teacher")
    (folder / "tokenizer.json").unlink()
    for teacher, says in ((folder, "tokenizer"), (tmp_path / "nothing", "no such folder")):
        with pytest.raises(ValueError, match=says):
            words = ("--method.name=pad", "--method.options={}", f"--teacher.model={teacher}")
            prune(settings(f"--out={tmp_path / 'run'}", *words))
    assert not (tmp_path / "run").exists()


# -- needs that are not met ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--method.name=hawkeye", "--method.options={}"], "needs 'expander'"),
        (["--method.name=pad", "--method.options={}"], "needs 'teacher'"),
        (["--sample.top_p=0.9"], "rounds learn from their own samples"),
        (["--method.collect={top_p: 0.9}"], "the rows are on-policy"),
        (
            ["--teacher.model=a", "--teacher.file=b"],
            "teacher.model is 'a' and teacher.file 'b'; set one of them",
        ),
        (["--expander.prompt={question}"], "expander.prompt lacks {thought}"),
        (
            ["--method.name=hawkeye", "--method.options={}", EXPANDER, "--expander.limit=9999"],
            r"the expander .* has a context of \d+ tokens; a question of \d+ \(problem",
        ),
    ],
)
def test_what_a_method_needs_is_checked_before_anything_starts(settings, tmp_path, words, says):
    with pytest.raises(ValueError, match=says):
        prune(settings(f"--out={tmp_path / 'run'}", *words))
    assert not (tmp_path / "run").exists()


def test_expert_iteration_without_a_correct_answer_says_so(settings, tmp_path):
    words = ("--method.name=rational_metareasoning", "--method.options={problems: 4, hints: false}")
    with pytest.raises(ValueError, match=r"of 12 rows none is kept \(.*unparsed.*nothing to learn"):
        prune(settings(f"--out={tmp_path / 'run'}", *words))


def test_groups_without_variance_are_told(settings, tmp_path, capfd):
    prune(settings(f"--out={tmp_path / 'run'}", "--method.name=grpo"))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    told = [line for line in map(json.loads, lines) if line["kind"] == "no_signal"]
    assert [line["round"] for line in told] == [1, 2]  # once in a round
    assert "no row of step 1 has a weight" in capfd.readouterr().err


# -- what a method asks for ------------------------------------------------------------------------


def test_answer_likelihoods_are_those_of_the_forward_pass(settings, tmp_path, monkeypatch):
    import jax

    import pruner_jax as pj

    seen = []
    real = offers.answer_likelihoods

    def watched(run, state, policy, rollouts, template):
        found = real(run, state, policy, rollouts, template)
        seen.append((run.engine, state.learn.params, rollouts, template, found))
        raise Died

    monkeypatch.setattr(offers, "answer_likelihoods", watched)
    given = everything(settings, tmp_path / "run")
    with pytest.raises(Died):
        prune(given)
    engine, _, rollouts, template, found = seen[0]
    policy = pj.load(given.model)
    checked = 0
    for b in [*range(4), len(rollouts) - 1]:
        problem = rollouts.prompts.problems[rollouts.group_B[b]]
        thought = engine.decode(rollouts.tokens_BT[b, : rollouts.thought_B[b]])
        closed = thought if "</think>" in thought else thought + "</think>"
        before = (
            rollouts.prompts.text[rollouts.group_B[b]]
            + closed
            + template[: template.index("{answer}")]
        )
        ids = engine.tokenizer.encode(before + problem.answer, add_special_tokens=False)
        start = len(engine.tokenizer.encode(before, add_special_tokens=False))
        logits = np.asarray(pj.logits(policy, [ids]))[0]
        logp = np.asarray(jax.nn.log_softmax(logits, -1))
        wanted = sum(logp[t - 1, ids[t]] for t in range(start, len(ids)))
        assert found[b] == pytest.approx(wanted, abs=1e-4)
        checked += 1
    assert checked == 5


def test_a_model_without_thoughts_is_no_model_for_thoughts():
    rows = graded([Row(5, True, thinking=0), Row(9, thinking=0)])
    for name in ("rational_metareasoning", "hawkeye"):
        with pytest.raises(ValueError, match=f"{name} looks at the thoughts .* none was found"):
            check_thoughts(methods.load(name), rows)
    words = methods.load("hawkeye", {"expander": False, "unit": "words", "solution": "answer"})
    with pytest.raises(ValueError, match=r"hawkeye looks at the thoughts .* none was found"):
        check_thoughts(words, rows)
    check_thoughts(methods.load("rational_metareasoning"), graded([Row(5, thinking=3)]))
    check_thoughts(methods.load("thinkprune"), rows)


def test_a_table_of_other_problems_is_refused(settings, tmp_path):
    """Rows of a file without ids are numbered, so two files have the same ids."""
    problems = last_digit.load(last_digit.Options(train=16), "train")
    parts = {"a": problems[:6], "b": problems[6:12], "monitor": problems[12:14]}
    for name, part in (parts | {"test": problems[14:]}).items():
        lines = [{"question": p.question, "answer": p.answer} for p in part]
        (tmp_path / name).with_suffix(".jsonl").write_text("\n".join(map(json.dumps, lines)))

    def run(train):
        names = {"train": train, "monitor": "monitor", "test": "test"}
        options = {split: str(tmp_path / f"{name}.jsonl") for split, name in names.items()}
        table = f"--reference_table={tmp_path / 'table'}"
        given = plain(o1(settings, tmp_path / train, table))
        given["problems"] |= {"name": "file", "options": options}
        (tmp_path / f"{train}.yaml").write_text(json.dumps(given))
        prune(str(tmp_path / f"{train}.yaml"))

    run("a")
    with pytest.raises(ValueError, match="was made with other problems: "):
        run("b")
    assert not (tmp_path / "b").exists()


def test_a_reference_that_has_said_everything_leaves_the_device(settings, tmp_path, monkeypatch):
    """Pairs are collected once and carry its log-probabilities; a KL asks it at every step."""
    there, real = [], prune_module.train_step

    def watched(run, state):
        before = state.reference is not None
        record = real(run, state)
        there.append((before, state.reference is not None))
        return record

    monkeypatch.setattr(prune_module, "train_step", watched)
    words = ("--rounds.limits=[24]", "--problems.options.train=8", "--rounds.evaluate_every=4")
    method = f"--method.name={pathlib.Path(__file__).parent / 'pairs_by_length.py'}"
    prune(settings(f"--out={tmp_path / 'pairs'}", method, "--method.options={}", *words))
    assert there == [(True, False), *[(False, False)] * 3]
    there.clear()
    kl = "--method.options={samples: 4, kl: 0.1}"
    prune(settings(f"--out={tmp_path / 'kl'}", "--method.name=grpo", kl, *words))
    assert there == [(True, True)] * 4
