"""tfds: the real gsm8k builder over a few rows of our own, with neither network nor TensorFlow."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pruner_jax.problems.options import ProblemsOptions
from pruner_jax.problems.source import load_sets
from pruner_jax.problems.tfds import Options, load, plain

tensorflow_datasets = pytest.importorskip("tensorflow_datasets")

ROWS = {
    "train": [
        {"question": f"Ann has {i} eggs and buys 7.", "answer": f"Sum.\n#### {i + 7}"}
        for i in range(12)
    ],
    "test": [{"question": f"Bob has {i} hens ü.", "answer": f"None.\n#### {i}"} for i in range(5)],
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """What the builder's own download_and_prepare writes when the download is these rows."""
    import tensorflow_datasets.text.gsm8k.gsm8k as gsm8k

    folder = tmp_path_factory.mktemp("tfds")
    downloads = {}
    for split in gsm8k._URLS:
        downloads[split] = folder / f"{split}.jsonl"
        rows = ROWS[split.removesuffix("_socratic")]
        downloads[split].write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        manager = tensorflow_datasets.download.DownloadManager
        patch.setattr(manager, "download_and_extract", lambda self, urls: downloads)
        load(Options(data_dir=str(folder)), "train")
    return str(folder)


def test_gsm8k(data_dir, capsys):
    problems = load(Options(data_dir=data_dir), "train")  # in the order TFDS shuffled them to
    assert {p.question: p.answer for p in problems} == {
        row["question"]: str(i + 7) for i, row in enumerate(ROWS["train"])
    }
    assert [p.id for p in problems] == [f"train/{i}" for i in range(12)]
    assert problems[3].columns["annotation"] == "Sum.\n"
    test = load(Options(data_dir=data_dir), "test")
    assert {p.question for p in test} == {row["question"] for row in ROWS["test"]}
    assert load(Options(data_dir=data_dir), "monitor") is None
    assert len(load(Options(data_dir=data_dir, train="train[:25%]"), "train")) == 3
    assert capsys.readouterr().out == ""


def test_the_three_sets(data_dir):
    options = ProblemsOptions("tfds", {"data_dir": data_dir}, monitor_from_train=4)
    sets = load_sets(options)
    assert {k: len(v) for k, v in sets.items()} == {"train": 8, "monitor": 4, "test": 5}


def test_a_process_of_its_own_without_tensorflow(data_dir):
    code = (
        "import sys\n"
        "from pruner_jax.problems.tfds import Options, load\n"
        f"print(len(load(Options(data_dir={data_dir!r}), 'test')))\n"
        "assert not {'tensorflow', 'jax'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "5\n", done.stderr


def test_errors(data_dir):
    with pytest.raises(ValueError, match=r"split 'dev' of 'gsm8k'.*train"):
        load(Options(data_dir=data_dir, train="dev"), "train")
    with pytest.raises(ValueError, match="'gsm9k': there is no such builder"):
        load(Options(data_dir=data_dir, builder="gsm9k"), "train")
    with pytest.raises(ValueError, match="no column for the answer"):
        load(Options(data_dir=data_dir, columns={"answer": "gold"}), "train")


def test_without_the_package(data_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ValueError, match=r"takes the packages tensorflow-datasets and importlib_r"):
        load(Options(data_dir=data_dir), "train")


def test_plain():
    import numpy as np

    row = {
        "a": b"x",
        "b": np.int64(3),
        "c": np.array([b"y", b"z"], object),
        "d": [{"e": b"\xc3\xbc"}],
    }
    assert plain(row) == {"a": "x", "b": 3, "c": ["y", "z"], "d": [{"e": "ü"}]}
    assert type(plain(row)["b"]) is int
