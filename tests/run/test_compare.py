"""Comparisons on a random model: what they leave, that they go on, and what they refuse."""

import dataclasses
import json
import pathlib
import shutil
import signal

import numpy as np
import pytest
import yaml

from pruner_jax.config import CompareConfig, ConfigError, load, plain
from pruner_jax.methods import MethodOptions, build
from pruner_jax.run import compare as compare_module
from pruner_jax.run.compare import compare
from pruner_jax.run.interrupts import Interrupted
from pruner_jax.run.planned import runs_of
from pruner_jax.run.played import generated_tokens, read

ENTRIES = [
    {"label": "thinkprune"},
    {
        "label": "tlmre",
        "settings": {"method": {"name": "tlmre", "options": {"samples": 4}}},
        "strengths": {"weak": {"method.options.alpha": 0.05}},
    },
]
EFFECT = {"claim": "a cap is shorter", "of": "thinkprune", "against": "tlmre/weak"}


@pytest.fixture(scope="session")
def comparison(settings, tmp_path_factory):
    """``comparison(out, **sections)``: two entries with two seeds, two steps each."""
    base = tmp_path_factory.mktemp("base") / "base.yaml"
    run = settings("--rounds.limits=[16]", "--rounds.steps=2", "--test.limit=24")
    base.write_text(yaml.safe_dump(plain(run)))

    def make(out, **sections) -> CompareConfig:
        given = {"out": str(out), "base": str(base), "seeds": [0, 1], "resamples": 200}
        given |= {"entries": ENTRIES, "effects": [EFFECT | {"expect": "less"}]}
        path = tmp_path_factory.mktemp("compare") / "compare.yaml"
        path.write_text(yaml.safe_dump(given | sections, sort_keys=False))
        return load(CompareConfig, str(path))

    return make


def timeless(value):
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "out")}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def left_behind(out):
    return timeless(json.loads((out / "compare.json").read_text()))


@pytest.fixture(scope="module")
def whole(comparison, tmp_path_factory):
    """The folder of an undisturbed comparison."""
    out = tmp_path_factory.mktemp("whole") / "out"
    compare(comparison(out))
    return out


def test_a_comparison_leaves_what_it_promises(whole, comparison):
    result = json.loads((whole / "compare.json").read_text())
    assert [run["run"] for run in result["runs"]] == [
        "all/thinkprune-seed0",
        "all/tlmre-weak-seed0",
        "all/thinkprune-seed1",
        "all/tlmre-weak-seed1",
    ]
    found = result["sets"]["all"]
    assert (found["problems"], found["samples"], found["limit"]) == (8, 2, 24)
    assert found["difficulty"] == {"easy": [2.0], "hard": [6.0]}
    point = found["points"][1]
    assert (point["name"], point["label"], point["strength"]) == ("tlmre/weak", "tlmre", "weak")
    assert point["seeds"] == [0, 1] and point["picked_steps"].keys() == {"0", "1"}
    (effect,) = result["effects"]
    assert effect["set"] == "all" and effect["holds"] in ("yes", "no", "undecided")
    assert found["hypervolume"]["of"].keys() == {"base", "thinkprune", "tlmre"}
    page = (whole / "compare.md").read_text()
    assert "| tlmre/weak | 2 |" in page and "4 of 4 runs are finished." in page
    assert (whole / "frontier.svg").read_text().startswith("<svg ")


def test_the_numbers_are_those_of_the_runs(whole, comparison):
    """Means over seeds of what each summary says; tokens as the metrics count them."""
    result = json.loads((whole / "compare.json").read_text())
    for point in result["sets"]["all"]["points"]:
        runs = [
            whole / "runs" / "all" / f"{point['name'].replace('/', '-')}-seed{s}" for s in (0, 1)
        ]
        summaries = [json.loads((run / "summary.json").read_text()) for run in runs]
        for ours, theirs in (
            ("accuracy", "accuracy"),
            ("tokens", "mean_tokens"),
            ("thinking_tokens", "mean_thinking_tokens"),
        ):
            mean = np.mean([summary["final"][theirs] for summary in summaries])
            assert point[ours]["value"] == pytest.approx(mean)
        change = np.mean([summary["accuracy_change"]["value"] for summary in summaries])
        assert point["accuracy_change"]["value"] == pytest.approx(change)
        lines = [line for run in runs for line in (run / "metrics.jsonl").read_text().splitlines()]
        records = [json.loads(line) for line in lines]
        generated = sum(16 * r["completions/mean_length"] for r in records if r["kind"] == "step")
        measured = [r for r in records if r["kind"] == "evaluate"]  # the pick follows them
        rows = [sum(n for k, n in r.items() if k.startswith("prune/verdict/")) for r in measured]
        generated += sum(n * r["mean_tokens"] for n, r in zip(rows, measured))
        assert point["generated_tokens"] == pytest.approx(generated / 2)


def test_what_a_source_counts_as_redundant_is_counted(whole, comparison, monkeypatch):
    run = runs_of(comparison(whole))[0]
    assert read(run).quantities[5:] == ("checks", "second_passes")
    monkeypatch.delattr("pruner_jax.problems.last_digit.redundancy")
    assert read(run).quantities[5:] == ()


def test_generated_tokens_are_those_of_all_phases_or_rows_times_their_mean():
    assert generated_tokens({"a/prune/generated_tokens": 5, "b/prune/generated_tokens": 7}) == 12
    older = {"prune/verdict/correct": 3, "prune/verdict/wrong": 1, "completions/mean_length": 2.5}
    assert generated_tokens(older) == 10
    assert generated_tokens({"prune/verdict/wrong": 4, "mean_tokens": 2.5}) == 10  # an evaluation
    assert generated_tokens({"kind": "pick"}) == 0


@pytest.mark.parametrize(
    ("method", "follows"), [("harmonic", True), ("laser_d", True), ("tlmre", False)]
)
def test_evaluations_cost_the_methods_that_follow_them(whole, comparison, method, follows):
    run = runs_of(comparison(whole))[0]
    last = dataclasses.replace(run.settings.pick, rule="last")
    other = dataclasses.replace(run.settings, method={"name": method}, pick=last)
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    records = [r for r in map(json.loads, lines) if follows or r["kind"] != "evaluate"]
    counted = read(dataclasses.replace(run, settings=other)).training["generated_tokens"]
    assert counted == pytest.approx(sum(map(generated_tokens, records)))
    assert any(r["kind"] == "evaluate" and generated_tokens(r) > 0 for r in records) == follows


class Died(BaseException):
    """Not an Exception: nothing may catch it."""


def at_call(monkeypatch, number, act):
    """Let ``act(settings)`` stand in for a run, the one of that number."""
    real, seen = compare_module.prune, []

    def prune(settings):
        seen.append(settings.out)
        return act(settings) if len(seen) == number else real(settings)

    monkeypatch.setattr(compare_module, "prune", prune)
    return seen


def test_a_comparison_that_dies_goes_on(comparison, tmp_path, whole, monkeypatch):
    """Two runs were finished, the third dies."""
    for name in ("thinkprune-seed0", "tlmre-weak-seed0"):
        place = pathlib.Path("runs") / "all" / name
        shutil.copytree(whole / place, tmp_path / "out" / place)

    def die(_):
        raise Died

    with monkeypatch.context() as patch:
        at_call(patch, 1, die)
        with pytest.raises(Died):
            compare(comparison(tmp_path / "out"))
    seen = at_call(monkeypatch, 0, die)
    compare(comparison(tmp_path / "out"))
    assert len(seen) == 2
    assert left_behind(tmp_path / "out") == left_behind(whole)


def test_ctrl_c_stops_before_the_next_run_and_all_of_it_goes_on(
    comparison, whole, monkeypatch, capsys
):
    """Of a comparison that has one entry more."""
    more = [*ENTRIES, {"label": "late"}]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    seen = at_call(monkeypatch, 1, lambda _: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(compare_module, "read", lambda *_: None)
    monkeypatch.setattr(compare_module, "_write", lambda *_: {})
    monkeypatch.setattr(compare_module.tables, "text", lambda _: "")
    try:
        with pytest.raises(Interrupted, match="the same command continues"):
            compare(comparison(whole, entries=more))
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(seen) == 1 and "every run goes on where it was stopped" in capsys.readouterr().err


def test_a_run_that_fails_does_not_stop_the_others(comparison, tmp_path, monkeypatch, capsys):
    """A tolerance that the monitor set cannot tell from noise is found when it is measured."""
    hopeless = {"label": "hopeless", "settings": {"pick.tolerance": 0.001}}
    given = comparison(tmp_path / "out", entries=[hopeless, ENTRIES[0]], effects=[], seeds=[0])
    with pytest.raises(ValueError, match=r"1 of 2 runs failed:\n  all/hopeless-seed0: pick\.tol"):
        compare(given)
    result = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [point["name"] for point in result["sets"]["all"]["points"]] == ["thinkprune"]
    assert [failed["run"] for failed in result["failed"]] == ["all/hopeless-seed0"]
    assert "1 of 2 runs are finished, 1 failed." in (tmp_path / "out" / "compare.md").read_text()


def test_a_dry_run_lists_the_runs_and_leaves_nothing(comparison, tmp_path):
    found = compare(comparison(tmp_path / "out", dry_run=True))
    assert len(found["runs"]) == 4 and not (tmp_path / "out").exists()


def test_what_cannot_start_is_said_before_anything_is_played(comparison, tmp_path, monkeypatch):
    wrong = {"label": "wrong", "settings": {"method.options.sample": 3}}
    with pytest.raises(ValueError, match=r"entry 'wrong' on set 'all': .*sample"):
        compare(comparison(tmp_path / "out", entries=[ENTRIES[0], wrong], effects=[]))
    assert not (tmp_path / "out").exists()


def test_a_run_of_other_settings_is_named(whole, comparison):
    with pytest.raises(
        ValueError, match=r"(?s)all/thinkprune-seed0: .*rounds\.steps: was 2, now 3"
    ):
        compare(comparison(whole, settings={"rounds.steps": 3}))


def test_the_first_seed_of_everything_comes_first(comparison):
    entries = [{"label": "a", "strengths": {"x": {}, "y": {}}}, {"label": "b", "sets": ["clean"]}]
    sets = {"noisy": {"problems.options.noise": 0.1}, "clean": None}
    runs = runs_of(comparison("o", entries=entries, sets=sets, effects=[]))
    assert [run.name for run in runs[:6]] == [
        "noisy/a-x-seed0",
        "noisy/a-y-seed0",
        "clean/a-x-seed0",
        "clean/a-y-seed0",
        "clean/b-seed0",
        "noisy/a-x-seed1",
    ]
    assert runs[0].settings.out == "o/runs/noisy/a-x-seed0"
    assert [run.settings.problems.options.get("noise") for run in runs[:3]] == [0.1, 0.1, None]


def test_runs_of_a_set_and_a_seed_can_share_a_table(comparison):
    o1 = {"label": "o1", "settings": {"method": {"name": "o1_pruner"}}}
    own = {"strengths": {"a": {"method.options.lam": 1.0}, "b": {"method.options.lam": 2.0}}}

    def tables(name):
        shared = o1["settings"] | {"reference_table": name}
        runs = runs_of(comparison("o", entries=[o1 | own | {"settings": shared}], effects=[]))
        return [run.settings.reference_table for run in runs]

    assert tables("t/{set}-{seed}") == ["t/all-0", "t/all-0", "t/all-1", "t/all-1"]
    assert tables("t") == ["t"] * 4
    with pytest.raises(ConfigError, match=r"'t/\{run\}'; in braces allowed: set, seed"):
        tables("t/{run}")


ROOT = pathlib.Path(__file__).parents[2]


def test_the_example_of_the_guide_can_be_planned(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    blocks = (ROOT / "docs" / "guide.md").read_text().split("```yaml\n")[1:]
    (example,) = [block.split("```")[0] for block in blocks if "entries:" in block]
    (tmp_path / "guide.yaml").write_text(example)
    runs = runs_of(load(CompareConfig, str(tmp_path / "guide.yaml")))
    assert len(runs) == 3 * (2 + 3) and {run.set for run in runs} == {"clean", "noisy"}


def test_the_comparison_that_ships_is_as_large_as_it_says(monkeypatch):
    monkeypatch.chdir(ROOT)
    runs = runs_of(load(CompareConfig, "configs/compare_tiny.yaml"))
    assert len(runs) == 102
    noisy = {run.settings.method["name"] for run in runs if run.set == "noisy"}
    clean = {run.settings.method["name"] for run in runs if run.set == "clean"}
    assert len(noisy) == 13 and clean == {"grpo", "thinkprune", "tlmre", "harmonic"}
    for point in {run.point.name: run for run in runs}.values():
        build(MethodOptions.of(point.settings.method))


A = {"label": "a"}


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"entries": []}, "entries is empty"),
        ({"entries": [A, A]}, "two entries are called 'a'"),
        ({"entries": [{"label": "base"}]}, "an entry is called 'base'"),
        ({"entries": [{"label": "a/b"}]}, "label 'a/b' cannot be the name of a folder"),
        ({"entries": [A | {"strengths": {"": {}}}]}, "entry 'a': strength '' cannot be the name"),
        ({"sets": {"..": {}}}, "set '..' cannot be the name"),
        ({"entries": [A | {"sets": ["noisy"]}]}, "entry 'a' plays on set 'noisy', .* allowed: all"),
        (
            {"entries": [A | {"strengths": {"b-c": {}}}, {"label": "a-b", "strengths": {"c": {}}}]},
            "'a/b-c' and 'a-b/c' would share the folder",
        ),
        (
            {"entries": [A | {"settings": {"rounds.stepz": 1}}]},
            r"entry 'a' on set 'all': .*rounds\.stepz is unknown",
        ),
        (
            {"entries": [A | {"strengths": {"weak": {"rounds.limits": []}}}]},
            r"entry 'a/weak' on set 'all': rounds\.limits",
        ),
        ({"entries": [A | {"settings": {"seed": 1}}]}, "entry 'a', settings sets seed"),
        ({"entries": [A | {"strengths": {"x": 3}}]}, "entry 'a', strength 'x' is 3; allowed: a m"),
        ({"sets": {"x": [1]}}, r"sets\.x is \[1\]"),
        (
            {"entries": [A, {"label": "b", "settings": {"problems.options.test": 9}}]},
            "entry 'b' has another problems than 'a' on set 'all'",
        ),
        ({"settings": {"test.limit": None}}, r"test\.limit is not set"),
        ({"base": "nowhere.yaml"}, r"there is no configuration at nowhere\.yaml"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused(comparison, sections, said):
    with pytest.raises(ConfigError, match=said):
        runs_of(comparison("o", effects=[], **sections))


@pytest.mark.parametrize(
    ("effect", "said"),
    [
        ({"of": "tlmre"}, "effect 'a cap is shorter': of is 'tlmre'; allowed: base, thinkprune, t"),
        ({"against": "grpo"}, "against is 'grpo'"),
        ({"set": "noisy"}, "set is 'noisy'; allowed: clean, dirty"),
        ({"set": "dirty"}, "'thinkprune' and 'tlmre/weak' do not both play on dirty"),
    ],
)
def test_a_claim_is_about_points_that_meet(comparison, effect, said):
    entries = [ENTRIES[0], ENTRIES[1] | {"sets": ["clean"]}]
    effects = [EFFECT | {"expect": "less"} | effect]
    sets = {"clean": {}, "dirty": {}}
    with pytest.raises(ConfigError, match=said):
        runs_of(comparison("o", entries=entries, sets=sets, effects=effects))
