"""Settings: files, overrides, and errors that name the field, the value and what is allowed."""

import pathlib
import re

import pytest
import yaml

from pruner_jax import config, methods
from pruner_jax.config import (
    CompareConfig,
    ConfigError,
    EvaluateConfig,
    PruneConfig,
    layered,
    load,
    plain,
)
from pruner_jax.run.planned import runs_of

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "model": "some/model",
                "out": "runs/x",
                "method": {"name": "thinkprune", "options": {"samples": 8}},
                "rounds": {"limits": [64, 32], "steps": 4, "evaluate_every": 2},
                "problems": {"options": {"train": 10}},
            }
        )
    )
    return str(path)


def test_overrides_win_over_the_file_and_the_file_over_defaults(file):
    got = load(
        PruneConfig, file, ["--seed=3", "--rounds.limits=auto", "--optimizer.learning_rate=1e-4"]
    )
    assert (got.seed, got.rounds.limits, got.rounds.steps) == (3, "auto", 4)
    assert got.optimizer.learning_rate == 1e-4
    assert got.sample.temperature == 1.0


def test_overrides_reach_into_free_mappings_with_their_types(file):
    got = load(
        PruneConfig,
        file,
        [
            "--method.length.weight=0.1",
            "--method.options.kl=0",
            "--problems.options.test",
            "7",
        ],
    )
    assert got.method == {
        "name": "thinkprune",
        "options": {"samples": 8, "kl": 0},
        "length": {"weight": 0.1},
    }
    assert got.problems.options == {"train": 10, "test": 7}


def test_text_in_free_mappings_stays_text(tmp_path, file):
    given = yaml.safe_load(pathlib.Path(file).read_text())
    texts = {"answer_pattern": "#### *(.+)", "cut": "a: b", "name": "1e-3x"}
    given["problems"]["options"] = texts
    pathlib.Path(file).write_text(yaml.safe_dump(given))
    assert load(PruneConfig, file).problems.options == texts
    got = load(PruneConfig, file, ["--problems.options.rate=1e-3", "--problems.options.cut='#x'"])
    assert got.problems.options == {**texts, "rate": 1e-3, "cut": "#x"}


def test_overrides_reach_into_lists(tmp_path, file):
    given = yaml.safe_load(pathlib.Path(file).read_text())
    given["method"]["length"] = [{"kind": "sigmoid", "weight": 0.2}]
    pathlib.Path(file).write_text(yaml.safe_dump(given))
    for name in ("length.weight", "length.0.weight"):
        got = load(PruneConfig, file, [f"--method.{name}=0.1"])
        assert got.method["length"] == [{"kind": "sigmoid", "weight": 0.1}]
    with pytest.raises(ConfigError, match="length is a list of 1 entries, and '3' names none"):
        load(PruneConfig, file, ["--method.length.3.weight=0.1"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("--learn.rematerialise=full", "rematerialise"),
        ("--optimizer.learning_rate=fast", "optimizer.learning_rate"),
        ("--split=dev", "split"),
    ],
)
def test_unknown_keys_and_wrong_types_are_named(file, override, said):
    with pytest.raises(ConfigError, match=said):
        load(PruneConfig, file, [override])


def test_an_unknown_key_of_the_file_is_named(tmp_path, file):
    settings = yaml.safe_load(pathlib.Path(file).read_text())
    settings["rounds"]["stepz"] = 3
    pathlib.Path(file).write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match="stepz"):
        load(PruneConfig, file)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("--rounds.evaluate_every=9", "rounds.evaluate_every is 9, rounds.steps 4"),
        ("--rounds.limits=[]", "rounds.limits is"),
        ("--sample.rows=0", "sample.rows is 0; allowed: 1 or more"),
        ("--pick.tolerance=2", "tolerance is 2.0; allowed"),
    ],
)
def test_contradictions_name_the_field_and_what_is_allowed(file, override, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace("[", r"\[")):
        load(PruneConfig, file, [override])


def test_a_missing_file_and_broken_yaml(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no configuration at .*nothing\.yaml"):
        load(PruneConfig, str(tmp_path / "nothing.yaml"))
    broken = tmp_path / "broken.yaml"
    broken.write_text("model: [unclosed\n")
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load(PruneConfig, str(broken))


def test_resolved_settings_come_back_the_same(tmp_path, file):
    first = load(PruneConfig, file, ["--method.options.kl=0"])
    written = tmp_path / "resolved.yaml"
    written.write_text(yaml.safe_dump(plain(first)))
    assert load(PruneConfig, str(written)) == first


def test_like_takes_what_evaluation_shares_with_a_run(file):
    got = load(EvaluateConfig, None, ["--model=m", f"--like={file}", "--test.samples=2"])
    assert got.problems.options == {"train": 10}
    assert (got.test.limit, got.test.samples) == (64, 2)
    with pytest.raises(ConfigError, match="there is no configuration at"):
        load(EvaluateConfig, None, ["--model=m", "--like=nowhere"])


def test_like_a_run_whose_method_is_gone(file):
    """The method is wanted only where a budget is told in its words."""
    run = yaml.safe_load(pathlib.Path(file).read_text()) | {"method": {"name": "gone/method.py"}}
    pathlib.Path(file).write_text(yaml.safe_dump(run))
    words = ["--model=m", f"--like={file}"]
    assert load(EvaluateConfig, None, words).test.limit == 64
    own = load(EvaluateConfig, None, [*words, "--test={budget: 8, budget_sentence: 'By {budget}'}"])
    assert own.test.note() == "By 8"
    for budget in ("--test.budget=8", "--test={budget: 8}"):
        with pytest.raises(ValueError, match=r"gone/method\.py"):
            load(EvaluateConfig, None, [*words, budget])


def test_like_tells_a_budget_as_the_run_did(file):
    method = {"name": "l1_max", "options": {"low": 4, "high": 20}}
    run = yaml.safe_load(pathlib.Path(file).read_text()) | {"method": method}
    for budget in (None, 12):
        pathlib.Path(file).write_text(yaml.safe_dump(run | {"test": {"budget": budget}}))
        words = ["--model=m", f"--like={file}"]
        told = load(EvaluateConfig, None, words).test
        assert told.note() == ("Think for maximum 12 tokens." if budget else "")
        told = load(EvaluateConfig, None, [*words, "--test.budget=5"]).test
        assert told.note() == "Think for maximum 5 tokens."


@pytest.mark.parametrize("first", ["like: {file}\n", ""])
def test_like_may_stand_in_the_file_and_the_command_line_wins(tmp_path, file, first):
    other = yaml.safe_load(pathlib.Path(file).read_text()) | {"seed": 9}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    mine = tmp_path / "evaluate.yaml"
    mine.write_text(first.format(file=file) + "model: m\ntest: {samples: 3}\n")
    words = [] if first else [f"--like={file}"]
    got = load(EvaluateConfig, str(mine), words)
    assert (got.test.limit, got.test.samples, got.seed) == (64, 3, 0)
    assert load(EvaluateConfig, str(mine), ["--like", str(tmp_path / "other.yaml")]).seed == 9
    mine.write_text(f"like: {file}\nmodel: m\nout: o\n")
    with pytest.raises(ConfigError, match="like"):
        load(PruneConfig, str(mine))  # a run is like nothing else


@pytest.mark.parametrize("words", [["--dry-run"], ["--dry_run"], ["--dry_run=true"]])
def test_a_switch_may_stand_alone(file, words):
    assert load(PruneConfig, file, words).dry_run
    assert load(PruneConfig, file, [*words, "--seed", "4"]).seed == 4
    assert load(config.WarmupConfig, None, [*words, "--out=x"]).dry_run
    assert not load(PruneConfig, file, ["--dry-run", "false"]).dry_run


def test_what_was_read_or_refused_before_leaves_nothing(file):
    """One parser of a class reads them all."""
    first = load(PruneConfig, file)
    load(PruneConfig, file, ["--seed=4", "--rounds.limits=[7]", "--guards.accuracy=0.4"])
    for word in ("--seed=x", "--nonsense=1", "--monitor.samples=0"):
        with pytest.raises(ConfigError):
            load(PruneConfig, file, [word])
    again = load(PruneConfig, file)
    assert again == first and again.rounds.limits is not first.rounds.limits


@pytest.mark.parametrize("words", [["--problems", "gsm8k"], ["--problems=gsm8k"]])
def test_a_bare_word_names_the_problems(file, words):
    got = load(EvaluateConfig, None, ["--model=m", *words])
    assert got.problems.name == "gsm8k"
    got = load(EvaluateConfig, None, ["--model=m", *words, "--problems.options.test=3"])
    assert (got.problems.name, got.problems.options) == ("gsm8k", {"test": 3})
    got = load(EvaluateConfig, None, ["--model=m", "--problems={name: math500}"])
    assert got.problems.name == "math500"


def test_a_bare_word_names_the_expander():
    got = load(EvaluateConfig, None, ["--model=m", "--expander", "small", "--expander.limit=9"])
    assert (got.expander.model, got.expander.limit) == ("small", 9)


@pytest.mark.parametrize("word", ["--method.options={a:", "--method.options='x"])
def test_broken_yaml_in_an_override_names_the_override(file, word):
    with pytest.raises(ConfigError, match=r"method\.options=.*not YAML"):
        load(PruneConfig, file, [word])


def shipped(path):
    """A configuration that comes with the package, read for the verb that its header names."""
    header = path.read_text().split("\n\n")[0]
    assert header.startswith("# ")
    (verb,) = re.findall(rf"pruner-jax (\w+) configs/{path.name}", header)
    kinds = {
        "prune": PruneConfig,
        "warmup": config.WarmupConfig,
        "compare": CompareConfig,
        "plan": config.PlanConfig,
    }
    return load(kinds[verb], str(path))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_config_is_valid_and_tells_its_story(path, monkeypatch):
    """Down to the options of its methods, which only the methods know; a comparison is planned."""
    monkeypatch.chdir(CONFIGS.parent)  # a comparison names the file of its base
    settings = shipped(path)
    if isinstance(settings, CompareConfig):
        runs = [run.settings for run in runs_of(settings)]
        assert len(runs) >= len(settings.entries) * len(settings.seeds)
    else:
        runs = [settings] if isinstance(settings, PruneConfig) else []
    for run in runs:
        methods.build(methods.MethodOptions.of(run.method))


def test_the_preset_for_a_base_model_shows_what_it_says_and_ends_responses():
    found = load(PruneConfig, str(CONFIGS / "rational_metareasoning_llama3_8b.yaml"))
    assert found.method["options"]["examples"] == len(found.text.examples) == 5
    assert found.text.plain.startswith(found.text.stop[0])  # of the next question
    assert (found.optimizer.schedule, found.optimizer.warmup_fraction) == ("linear", 0.01)


def test_presets_are_as_published_and_split_what_no_device_holds():
    found = {
        path.stem: load(PruneConfig, str(path))
        for path in CONFIGS.glob("*b.yaml")
        if re.search(r"_\w*\db$", path.stem)
    }
    assert found["thinkprune_r1_distill_qwen_1p5b"].rounds.limits == [4000, 3000, 2000]
    large = {name: one for name, one in found.items() if re.search(r"_[78]b$", name)}
    assert len(large) == 3 and all(one.mesh.fsdp != 1 for one in large.values())


def test_another_method_takes_no_options_of_the_first(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("{model: m, out: o, method: {name: a, options: {kl: 0.1}, loss: {kl: 1}}}")
    for words, method in (
        (["--method.name=b"], {"name": "b"}),
        (["--method={name: b, options: {beta: 2}}"], {"name": "b", "options": {"beta": 2}}),
        (["--method.name=b", "--method.options.beta=2"], {"name": "b", "options": {"beta": 2}}),
        (
            ["--method.name=a", "--method.options.samples=4"],
            {"name": "a", "options": {"kl": 0.1, "samples": 4}, "loss": {"kl": 1}},
        ),
    ):
        assert load(PruneConfig, str(file), words).method == method


COMPARISON = """\
out: o
base: {file}
settings: {{rounds.steps: 6}}
entries:
- label: a
  settings: {{method: {{name: dler}}, problems.options.test: 7}}
  strengths: {{weak: {{rounds.limits: [48]}}, strong: }}
effects: [{{claim: it shortens, of: a/weak, expect: less}}]
"""


def test_a_comparison_has_sections(tmp_path, file):
    path = tmp_path / "compare.yaml"
    path.write_text(COMPARISON.format(file=file))
    got = load(CompareConfig, str(path), ["--seeds=[4, 5]", "--settings.seed=1", "--dry-run"])
    (entry,), (effect,) = got.entries, got.effects
    assert entry.strengths == {"weak": {"rounds.limits": [48]}, "strong": None}
    assert (effect.measure, effect.against, effect.set) == ("tokens", "base", None)
    assert (got.seeds, got.dry_run, got.sets) == ([4, 5], True, {"all": {}})
    assert got.settings == {"rounds.steps": 6, "seed": 1}
    written = tmp_path / "resolved.yaml"
    written.write_text(yaml.safe_dump(plain(got)))
    assert load(CompareConfig, str(written)) == got


def test_layers_of_settings_the_last_one_wins(file):
    dler = {"method": {"name": "dler"}, "problems.options": {"test": 7}}
    got = layered(file, [{"rounds.steps": 6}, dler, {"rounds": {"limits": [9]}}])
    assert (got.rounds.steps, got.rounds.limits) == (6, [9])
    assert got.problems.options == {"train": 10, "test": 7}
    assert got.method == {"name": "dler"}  # the file's options are those of another method
    same = layered(file, [{"method.name": "thinkprune"}, {"method.options.kl": 0}])
    assert same.method == {"name": "thinkprune", "options": {"samples": 8, "kl": 0}}
    with pytest.raises(ConfigError, match=r"run\.yaml: stepz is unknown"):
        layered(file, [{"stepz": 3}])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("entries: {a: {}}", "entries is {'a': {}}; allowed: a list of sections"),
        ("entries: [a]", r"entries\.0 is 'a'; allowed: a mapping of label, settings"),
        ("entries: [{settings: {}}]", r"entries\.0 lacks label"),
        ("entries: [{label: a, setings: {}}]", r"entries\.0: setings is unknown; allowed: label"),
        ("entries: [{label: a, settings: 3}]", r"entries\.0: settings is 3; allowed: a mapping"),
        ("effects: [{claim: c, of: a, expect: mroe}]", r"effects\.0: expect is 'mroe'; allowed: m"),
        ("effects: [{claim: c, of: a, expect: more, measure: x}]", r"effects\.0: measure is 'x'"),
        ("seeds: [1, 1]", "seeds is"),
        ("seeds: []", "seeds is"),
        ("sets: {}", "sets is empty"),
        ("confidence: 95", "confidence is 95"),
        ("resamples: 9", "resamples is 9"),
    ],
)
def test_a_section_that_is_wrong_is_named_by_its_place(tmp_path, given, said):
    path = tmp_path / "compare.yaml"
    path.write_text(f"out: o\n{given}\n")
    with pytest.raises(ConfigError, match=said):
        load(CompareConfig, str(path))


def test_sections_are_set_in_the_file(tmp_path, file):
    with pytest.raises(ConfigError, match="entries is a list of sections: it is set in the file"):
        load(CompareConfig, None, ["--out=o", "--entries.0.label=b"])
