"""What holds for every file of problems/ that is a source."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pruner_jax.problems.options import ProblemsOptions
from pruner_jax.problems.source import SPLITS, find, load_problems, load_sets, names
from pruner_jax.types import Problem


def _table(folder):
    path = folder / "train.jsonl"
    path.write_text(
        "".join(json.dumps({"question": f"{i}+{i}?", "answer": 2 * i}) + "\n" for i in range(60))
    )
    return {"train": str(path)}


def _tfds(folder):
    """A data set of TFDS's own making, defined here, because the published ones need a download."""
    pytest.importorskip("tensorflow_datasets")
    (folder / "tiny_sums.py").write_text(
        "import tensorflow_datasets.public_api as tfds\n"
        "class TinySums(tfds.core.GeneratorBasedBuilder):\n"
        "    VERSION = tfds.core.Version('1.0.0')\n"
        "    def _info(self):\n"
        "        text = {k: tfds.features.Text() for k in ('question', 'answer')}\n"
        "        return tfds.core.DatasetInfo(\n"
        "            builder=self, features=tfds.features.FeaturesDict(text))\n"
        "    def _split_generators(self, manager):\n"
        "        return {'train': self._generate_examples()}\n"
        "    def _generate_examples(self):\n"
        "        for i in range(60):\n"
        "            yield i, {'question': f'{i}+{i}?', 'answer': str(2 * i)}\n"
    )
    return {
        "builder": "tiny_sums",
        "module": "tiny_sums",
        "columns": {},
        "test": "",
        "data_dir": str(folder),
    }


def _reasoning_gym(folder):
    pytest.importorskip("reasoning_gym")
    return {"train": 30, "monitor": 6, "test": 8}


# Settings that make a source small; a source without an entry is tried with its defaults.
SETTINGS = {"file": _table, "tfds": _tfds, "reasoning_gym": _reasoning_gym}


@pytest.fixture
def options(request, tmp_path, monkeypatch):
    name = request.param
    monkeypatch.syspath_prepend(tmp_path)
    settings = SETTINGS.get(name, lambda folder: {})(tmp_path)
    return ProblemsOptions(name, settings, monitor_from_train=5, test_from_train=7)


def test_the_listing():
    assert {"file", "last_digit", "reasoning_gym", "tfds"} <= set(names())
    assert not {"options", "source", "rows", "order"} & set(names())


@pytest.mark.parametrize("name", names())
def test_it_declares_itself(name):
    module = find(name)
    assert len(module.__doc__.strip().splitlines()) >= 3
    assert module.Options.__dataclass_params__.frozen
    assert module.load.__doc__


@pytest.mark.parametrize("options", names(), indirect=True)
def test_its_sets(options):
    sets = load_sets(options)
    assert list(sets) == list(SPLITS)
    everything = [problem for split in SPLITS for problem in sets[split]]
    assert all(isinstance(problem, Problem) for problem in everything)
    assert all(p.question.strip() and p.answer.strip() and p.checker for p in everything)
    assert len({p.id for p in everything}) == len(everything)
    questions = [{p.question for p in sets[split]} for split in SPLITS]
    assert len(set().union(*questions)) == sum(map(len, questions))
    # The same settings give the same problems, set by set or all at once.
    assert all(load_problems(options, split) == sets[split] for split in SPLITS)


@pytest.mark.parametrize("options", names(), indirect=True)
def test_its_settings_are_checked(options):
    wrong = dataclasses.replace(options, options=options.options | {"no_such_setting": 1})
    with pytest.raises(ValueError, match=r"options\.no_such_setting is unknown; allowed: "):
        load_sets(wrong)
