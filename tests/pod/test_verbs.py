"""``evaluate`` and ``warmup`` by two processes are those of one, and stop together."""

import json
import pathlib
import re

import numpy as np
import processes
import pytest
import verbs
from test_runs import PATIENT, POD, ROOT

from pruner_jax.config import CompareConfig, SampleConfig, load
from pruner_jax.pod.together import ALONE, PodError
from pruner_jax.policy.tensorfile import read_tensors
from pruner_jax.run.compare import compare
from pruner_jax.run.generate import sample_verb

pytestmark = pytest.mark.usefixtures("quick_to_compile")  # as the processes are, to the last bit
SCRIPT = pathlib.Path(__file__).with_name("verbs.py")
ENV = {"PYTHONPATH": str(ROOT)}
FEW = ["--problems.options.test=8", "--test.problems=5", "--test.resamples=100"]
FEW += ["--verify.workers=1", "--test.temperature=1.0"]
FEW += ["--sample={rows: 16, slot_multiple: 128}"]
TINY = ["--model=configs/tiny_reasoner", *FEW]
SHAPE = (
    "{model_type: llama, hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, "
    "num_attention_heads: 2, num_key_value_heads: 1, max_position_embeddings: 256, "
    "rms_norm_eps: 1e-6, tie_word_embeddings: true, hidden_act: silu, initializer_range: 0.1}"
)
PROGRAMS = [*TINY, "--problems.options.target=program", "--test.limit=16"]
COMMANDS = [
    (
        "joint",  # with an expander
        "evaluate",
        [
            *TINY,
            "--test.samples=2",
            "--test.limit=32",
            "--expander.model=configs/tiny_expander",
            "--expander.limit=8",
            "--serving.concurrency=[]",
        ],
    ),
    ("again", "evaluate", [*PROGRAMS, "--test.samples=2", "--programs={refine: 1, vote: true}"]),
    ("beams", "evaluate", [*PROGRAMS, "--test.samples=1", "--programs={beams: 2, chains: 2}"]),
    (
        "made",
        "warmup",
        [
            *FEW,
            "--test.samples=2",
            "--problems.options.train=32",
            "--problems.options.monitor=4",
            f"--architecture={SHAPE}",
            "--limit=96",
            "--test.limit=16",
            "--steps=4",
            "--batch=8",
            "--learn.row_tokens=128",
            "--optimizer.learning_rate=1e-3",
            "--mesh={data: 1, fsdp: -1}",
        ],
    ),
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two processes printed, and the folder in which each had folders of its own."""
    folder = tmp_path_factory.mktemp("pair")
    words = [SCRIPT, "each", folder, json.dumps(COMMANDS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        outs = processes.run(words, 2, folder / "logs", timeout=PATIENT, env=ENV)
    return [out.splitlines() for out in outs], folder


def untimed(text):
    """An evaluation as it is written, without how long requests take."""
    found = json.loads(text)
    found.get("model", {}).get("joint", {}).pop("serving", None)
    return json.dumps(found)


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=[name for name, *_ in COMMANDS])
def test_two_processes_are_one(pair, tmp_path, monkeypatch, number):
    monkeypatch.chdir(ROOT)
    (first, second), folder = pair
    name, verb, words = COMMANDS[number]
    alone = verbs.play(verb, words, ALONE, tmp_path / name)
    assert untimed(first[number]) == untimed(second[number]) == untimed(json.dumps(alone))
    assert not (folder / f"{name}-1").exists()  # the first one writes
    one, two = tmp_path / name, folder / f"{name}-0"
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    if verb == "evaluate":
        for path in one.glob("*.json"):
            assert untimed((two / path.name).read_text()) == untimed(path.read_text())
        return
    a, b = (read_tensors(model / "model.safetensors") for model in (one, two))
    assert a.keys() == b.keys() and max(np.abs(a[n] - b[n]).max() for n in a) < 1e-5


def test_a_signal_to_one_stops_a_warm_up_of_which_nothing_is_kept(pair):
    (first, second), folder = pair
    says = "stopped by SIGTERM; the same command begins again, for nothing was kept"
    assert first[len(COMMANDS) + 1 :] == second[len(COMMANDS) + 1 :] == [says]
    assert not list(folder.glob("stopped-*"))


def test_hosts_with_other_data_at_a_step_are_told(pair):
    """They would learn from a mixture without a word."""
    (first, second), folder = pair
    assert first[len(COMMANDS)] == second[len(COMMANDS)]
    assert re.match(
        r"the hosts' traces of step 2 differ: weight is \w+ on process 0 and \w+ on process 1; ",
        first[len(COMMANDS)],
    )
    assert not list(folder.glob("unlike-*"))


def test_a_signal_to_one_stops_an_evaluation_and_one_host_goes_on(tmp_path, monkeypatch):
    """On the command line. The part that both were at is lost, the one before is kept."""
    monkeypatch.chdir(ROOT)
    words = [*TINY, "--test.samples=2", "--test.limit=32"]
    out = tmp_path / "out"
    command = [SCRIPT, "stopped", "evaluate", *words, f"--out={out}", *POD]
    with processes.started(command, 2, tmp_path / "logs", env=ENV) as group:
        assert group.wait(PATIENT) == [75, 75], group.story()
        assert "stopped by SIGTERM; the same command continues" in group.err(0)
    assert [path.name for path in out.glob("*.parquet")] == ["model.0-2.parquet"]
    found = verbs.play("evaluate", words, ALONE, out)
    whole = verbs.play("evaluate", words, ALONE, tmp_path / "whole")
    assert found == whole
    files = [folder / "evaluation.json" for folder in (out, tmp_path / "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_verb_of_one_host_says_so_and_which_work_on_many(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PRUNER_POD", "pod")
    question = ["--model=configs/tiny_reasoner", "--question=C7 A4."]
    with pytest.raises(PodError, match=r"sample works on one host.*prune, evaluate, warmup"):
        sample_verb(load(SampleConfig, None, question))
    with pytest.raises(PodError, match="compare works on one host"):
        compare(load(CompareConfig, "configs/compare_tiny.yaml"))
