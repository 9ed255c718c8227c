"""Bad input ends with one message that says what to change, a non-zero exit, and nothing half done.

Each case breaks one thing of a run that would work, and goes through the command line.
"""

import copy
import json
import os
import pathlib
import shutil
import subprocess
import types

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from pruner_jax import cli, methods
from pruner_jax.problems import last_digit

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
TINY = CONFIGS / "tiny_reasoner"
HALF_WRITTEN = ("*.tmp*", "*.orbax-checkpoint-tmp*", "*.partial", ".*.yaml.*", ".*.json*", "export")
pytestmark = pytest.mark.usefixtures("quick_to_compile")
SETTINGS = {
    "problems": {"name": "file", "monitor_from_train": 8, "test_from_train": 8},
    "method": {"name": "thinkprune", "options": {"samples": 2}},
    "rounds": {"limits": [16], "steps": 2, "prompts": 4, "evaluate_every": 1, "save_every": 1},
    "sample": {"rows": 8},
    "monitor": {"samples": 2, "temperature": 1.0, "top_p": 1.0},
    "test": {"samples": 2, "temperature": 1.0, "top_p": 1.0, "resamples": 100},
    "pick": {"tolerance": 0.9},
    "guards": {"action": "warn"},
    "verify": {"workers": 1},
}


class Run:
    """What a run is made of, ready to be broken: settings, a model folder, a table of problems."""

    def __init__(self, folder):
        self.out, self.model = folder / "out", folder / "model"
        self.settings_file, self.table = folder / "run.yaml", folder / "problems.jsonl"
        shutil.copytree(TINY, self.model)
        problems = last_digit.load(last_digit.Options(train=40), "train")
        self.rows = [json.dumps({"question": p.question, "answer": p.answer}) for p in problems]
        self.settings = copy.deepcopy(SETTINGS)
        self.settings |= {"model": str(self.model), "out": str(self.out)}
        self.settings["problems"]["options"] = {"train": str(self.table)}

    def set(self, section, **changes):
        self.settings[section].update(changes)

    def row(self, **columns):
        self.rows[3] = json.dumps(columns)

    def change(self, name, **fields):
        path = self.model / name
        before = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(before | fields))

    def method(self, name, **options):
        self.settings["method"] = {"name": name, "options": options}

    def expander(self):
        """A copy of the tiny expander whose tokenizer has no chat template."""
        folder = shutil.copytree(CONFIGS / "tiny_expander", self.out.parent / "expander")
        path = folder / "tokenizer_config.json"
        fields = json.loads(path.read_text())
        del fields["chat_template"]
        path.write_text(json.dumps(fields))
        self.method("hawkeye", samples=2)
        self.settings["expander"] = {"model": str(folder)}

    def add_token(self, number):
        added = json.loads((self.model / "tokenizer.json").read_text())["added_tokens"]
        more = added[0] | {"id": number, "content": "<more>"}
        self.change("tokenizer.json", added_tokens=[*added, more])

    @property
    def weights(self):
        return self.model / "model.safetensors"

    def prune(self, *words):
        self.settings_file.write_text(yaml.safe_dump(self.settings))
        self.table.write_text("\n".join(self.rows) + "\n")
        return cli.main(["prune", str(self.settings_file), *words])


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def message(capfd, code):
    """The one message of a failed command; it stands at the end of stderr."""
    said = capfd.readouterr().err
    _, _, block = said.partition("pruner-jax: error: ")
    assert code in (1, 2) and block and "pruner-jax: error:" not in block
    assert "Traceback" not in said and "[transformers]" not in said
    return block


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_nothing_half_written(out):
    assert not [path for pattern in HALF_WRITTEN for path in out.rglob(pattern)]


def table(*cases):
    return [pytest.param(*case[1:], id=case[0]) for case in cases]


@pytest.mark.parametrize(
    ("harm", "says"),
    table(
        (
            "unknown section",
            lambda run: run.settings.update(seeed=1),
            ["run.yaml", "seeed is unknown; allowed: model, out, seed,"],
        ),
        (
            "unknown key",
            lambda run: run.set("rounds", limit=[16]),
            ["run.yaml", "rounds.limit is unknown; allowed: limits, most, steps,"],
        ),
        (
            "unknown key of a method",
            lambda run: run.set("method", options={"sample": 2}),
            ["method.options.sample is unknown; allowed: samples,"],
        ),
        (
            "unknown method",
            lambda run: run.method("thinkprun"),
            [f"method.name is 'thinkprun'; allowed: {', '.join(methods.available())}, or the path"],
        ),
        (
            "method whose second model is not there",
            lambda run: run.method("hawkeye"),
            ["method 'hawkeye', phase 'prune': task needs 'expander'", "(expander.model)"],
        ),
        (
            "method whose teacher is not there",
            lambda run: run.method("pad"),
            ["method 'pad', phase 'imitate': collect.policy needs 'teacher'", "(teacher.file)"],
        ),
        (
            "expander without a chat template",
            lambda run: run.expander(),
            ["expander' has no chat template; take an", "expander.text.template to plain"],
        ),
        (
            "top-p in rounds that learn from their own samples",
            lambda run: run.set("sample", top_p=0.9),
            ["top_p 0.9, min_p 0: rounds learn from their own samples", "top_p 1"],
        ),
        (
            "top-p of a phase that learns from its own samples",
            lambda run: run.set("method", collect={"top_p": 0.9}),
            ["method.collect: collect.top_p is 0.9", "the rows are on-policy"],
        ),
        (
            "unknown key of a problem source",
            lambda run: run.settings["problems"]["options"].update(colums={}),
            ["problems.options.colums is unknown; allowed: answer_pattern,"],
        ),
        (
            "wrong type",
            lambda run: run.set("rounds", steps="many"),
            ["run.yaml", "rounds.steps is 'many'; allowed: a whole number"],
        ),
        (
            "wrong type of a list",
            lambda run: run.set("rounds", limits=["many"]),
            [
                "run.yaml",
                "rounds.limits is ['many']; allowed: a list [a whole number, ...] or auto",
            ],
        ),
        (
            "a value where a section belongs",
            lambda run: run.settings.update(rounds=3),
            ["run.yaml", "rounds is 3; allowed: a mapping of limits, most, steps,"],
        ),
        (
            "wrong type of a method's",
            lambda run: run.set("method", options={"samples": "few"}),
            ["method.options.samples is 'few'; allowed: a whole number"],
        ),
        (
            "wrong type of a problem source's",
            lambda run: run.settings["problems"]["options"].update(boxed="yes"),
            ["problems.options.boxed is 'yes'; allowed: true or false"],
        ),
        (
            "unsupported architecture",
            lambda run: run.change("config.json", model_type="gpt2", architectures=["GPT2LMHead"]),
            ["model: config.json", "GPT2LMHead (model_type 'gpt2')", "take", "Qwen2ForCausalLM"],
        ),
        (
            "missing safetensors",
            lambda run: run.weights.unlink(),
            ["model: no weights; allowed: model.safetensors, or", "copy them there"],
        ),
        (
            "missing shard",
            lambda run: run.change(
                "model.safetensors.index.json",
                weight_map={"model.norm.weight": "model-00002-of-00002.safetensors"},
            ),
            ["model-00002-of-00002.safetensors: missing", "index.json lists it", "download"],
        ),
        (
            "truncated safetensors",
            lambda run: os.truncate(run.weights, 390_000),
            ["model.safetensors: truncated", "promises 390664 bytes, found 390000", "download"],
        ),
        (
            "safetensors without a whole header",
            lambda run: os.truncate(run.weights, 100),
            ["model.safetensors: truncated", "100 bytes, no whole header", "download it again"],
        ),
        (
            "tokenizer ids beyond the embedding",
            lambda run: run.add_token(64),
            ["model: the tokenizer has the id 64 ('<more>')", "only 64 rows (vocab_size", "put"],
        ),
        (
            "config and weights disagree on a shape",
            lambda run: run.change("config.json", intermediate_size=200),
            ["model: tensor model.layers.0.mlp.", "176", "asks for (200, 64)", "intermediate_size"],
        ),
        (
            "config and weights disagree on the layers",
            lambda run: run.change("config.json", num_hidden_layers=3),
            ["model: 13 missing tensor(s)", "model.layers.2.", "correct", "num_hidden_layers"],
        ),
        (
            "prompt longer than the context",
            lambda run: run.row(question="A1 " * 300, answer="1"),
            ["'train-0/3'", "a prompt of", "context of 512", "shorten its question"],
        ),
        (
            "problem without an answer",
            lambda run: run.row(question="A1 B2?", answer=" "),
            ["problems.jsonl:4: the answer is empty; problems.options.on_missing=skip leaves"],
        ),
        (
            "problem without a column for the answer",
            lambda run: run.row(question="A1 B2?"),
            ["problems.jsonl:4: no column for the answer", "problems.options.columns.answer"],
        ),
        (
            "malformed line",
            lambda run: run.rows.__setitem__(3, '{"question": "A1'),
            ["problems.jsonl:4: not JSON", "column 14", '{"question": "A1; mend that line or'],
        ),
        (
            "line that is no object",
            lambda run: run.rows.__setitem__(3, '["A1", 1]'),
            ['problems.jsonl:4: expected a JSON object, found ["A1", 1]'],
        ),
    ),
)
def test_it_is_refused_before_anything_is_written(run, capfd, harm, says):
    harm(run)
    said = message(capfd, run.prune())
    for words in says:
        assert words in said
    assert not run.out.exists()


def test_a_reference_table_of_another_model_stays_as_it_is(run, tmp_path, capfd):
    run.settings["reference_table"] = str(tmp_path / "table")
    run.method("o1_pruner", samples=2)
    assert run.prune() == 0
    before = contents(tmp_path / "table")
    content = bytearray(run.weights.read_bytes())
    content[-1] ^= 1
    run.weights.write_bytes(content)
    other = tmp_path / "other"
    capfd.readouterr()
    said = message(capfd, run.prune(f"--out={other}"))
    assert f"{tmp_path / 'table'} was made with something else (model: the table has" in said
    assert "; name another folder (reference_table), or leave reference_table out" in said
    assert not other.exists() and contents(tmp_path / "table") == before


# -- found out in the course of a run --------------------------------------------------------------


def metrics(run):
    return [json.loads(line) for line in (run.out / "metrics.jsonl").read_text().splitlines()]


def wrong_answers(run):
    """No response of the model is correct: it answers with a digit."""
    for n, line in enumerate(run.rows):
        run.rows[n] = json.dumps(json.loads(line) | {"answer": "12"})


@pytest.mark.parametrize("method", ["rational_metareasoning", "star"])
def test_expert_iteration_with_nothing_to_imitate_stops_each_time(run, capfd, method):
    wrong_answers(run)
    run.method(method, samples=2, problems=4, hints=False)
    for _ in range(2):  # the rows of the table are there at the second try
        said = message(capfd, run.prune())
        assert "phase 'imitate': of 8 rows none is kept (" in said
        assert (
            "unfinished), so there is nothing to learn from" in said
            and "more samples (method.options.samples), or easier" in said
        )
        assert_nothing_half_written(run.out)
        assert not list(run.out.glob("store/*"))
        assert "step" not in {line["kind"] for line in metrics(run)}


def test_a_round_without_variance_is_told_and_changes_nothing(run, capfd):
    wrong_answers(run)
    assert run.prune() == 0
    assert "no row of step 1 has a weight: the samples of every problem are worth the same" in (
        capfd.readouterr().err
    )
    (told,) = (line for line in metrics(run) if line["kind"] == "no_signal")
    assert (told["round"], told["step"], told["phase"]) == (1, 1, "prune")
    folders = (run.model, run.out / "export")
    before, after = (load_file(folder / "model.safetensors") for folder in folders)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_teachers_programs_that_do_not_parse_are_counted_and_written_down(run, capfd):
    options = {"train": 4, "monitor": 8, "test": 8, "max_terms": 3, "target": "program"}
    run.settings["problems"] = {"name": "last_digit", "options": options}
    path = run.out.parent / "teacher.jsonl"
    run.settings["teacher"] = {"file": str(path)}
    run.method("pad", epochs=1)
    run.set("rounds", limits=[112], steps=1)
    problems, rng = last_digit.load(last_digit.Options(**options), "train"), np.random.default_rng()

    def teach(*mistakes):
        lines = [
            {"id": p.id, "response": "</think>\n" + last_digit.program(p, rng, wrong)}
            for p, wrong in zip(problems, mistakes)
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return run.prune(), [line["response"] for line, wrong in zip(lines, mistakes) if wrong]

    code, broken = teach("syntax", "syntax", "syntax", "syntax")
    assert code == 1
    said = capfd.readouterr().err
    assert f"4 responses of the teacher cannot be used: {run.out / 'rejects.jsonl'}" in said
    assert "pruner-jax: error: phase 'imitate': of 4 rows none is kept (4 wrong), so" in said
    run.out = run.out.with_name("other")
    run.settings["out"] = str(run.out)
    code, broken = teach("syntax", False, "syntax", False)
    said = capfd.readouterr().err
    assert code == 0 and f"2 responses of the teacher cannot be used: {run.out}" in said
    (told,) = (line for line in said.splitlines() if line.startswith("teacher: "))
    assert all(part in told for part in ("4 responses", "2 correct", "2 Syntax"))
    rejects = [json.loads(line) for line in (run.out / "rejects.jsonl").read_text().splitlines()]
    assert [reject["response"] for reject in rejects] == broken
    assert all(reject["why"].startswith("Syntax: ") for reject in rejects)


# -- the run's folder ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nothing went wrong with."""
    run = Run(tmp_path_factory.mktemp("finished"))
    assert run.prune() == 0
    return run


def test_a_run_of_other_settings_stays_as_it_is(finished, capfd):
    before = contents(finished.out)
    said = message(capfd, finished.prune("--seed=1"))
    assert "belongs to a run with other settings:\n  seed: was 0, now 1\n" in said
    assert "or another --out to start a new run" in said
    assert contents(finished.out) == before


def test_a_run_of_a_version_without_a_setting_is_known_by_its_default(finished, capfd):
    config = finished.out / "config.yaml"
    written = config.read_text()
    older = yaml.safe_load(written)
    del older["pick"]["rule"], older["mesh"]
    try:
        config.write_text(yaml.safe_dump(older))
        assert finished.prune() == 0
        said = message(capfd, finished.prune("--pick.rule=last"))
        assert "  pick.rule: was 'shortest', now 'last'\n" in said
    finally:
        config.write_text(written)


def test_a_folder_that_is_no_run_stays_as_it_is(run, capfd):
    run.out.mkdir()
    (run.out / "thesis.tex").write_text("To be finished.")
    said = message(capfd, run.prune())
    assert "holds files but no config.yaml" in said and "new folder with --out" in said
    assert contents(run.out) == {"thesis.tex": b"To be finished."}


@pytest.fixture
def disk(tmp_path):
    """A disk of its own that can be resized."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size, how="rw"):
        command = ["mount", "-t", "tmpfs", "-o", f"{how},size={size}", "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, text=True)

    if os.geteuid() or mount("4k").returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield types.SimpleNamespace(
        folder=folder, resize=lambda size: mount(size, "remount").check_returncode()
    )
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize(
    ("size", "where"),
    [
        ("4k", "config.yaml"),
        ("2m", "checkpoints"),  # the start model's parameters fit
        ("4m", "checkpoints"),  # one full state does
    ],
)
def test_a_full_disk_costs_nothing_but_the_wait(run, finished, disk, capfd, size, where):
    disk.resize(size)
    out = disk.folder / "run"
    said = message(capfd, run.prune(f"--out={out}"))
    assert f"the disk is full ({out / where}" in said
    assert where == "config.yaml" or "MB are free" in said
    assert "free some space and run the same command to continue" in said
    assert_nothing_half_written(out)
    disk.resize("64m")
    assert run.prune(f"--out={out}") == 0
    assert ("continuing" in capfd.readouterr().err) == (size == "4m")
    assert contents(out / "export") == contents(finished.out / "export")
    assert contents(out / "rollouts") == contents(finished.out / "rollouts")
