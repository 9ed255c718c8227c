"""docs/data.md: every config in it is read, over stand-ins with the published columns."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from pruner_jax.problems import file
from pruner_jax.problems.options import ProblemsOptions
from pruner_jax.problems.settings import resolve
from pruner_jax.problems.source import find, load_sets
from pruner_jax.text import TextOptions

DOCS = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
CONFIGS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", DOCS, re.S)]
PARQUET = "train-00000-of-00001.parquet"
SUFFIX = "\n\nPresent the answer in LaTex format: \\boxed{Your answer}"


def _verl(i, source, **more):
    return {
        "data_source": source,
        "prompt": [
            {"role": "system", "content": "Take these actions."},
            {"role": "user", "content": f"{source} {i}?{SUFFIX}"},
        ],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(i)},
        "extra_info": {"split": "train", "index": i},
    } | more


def _gsm8k(i):
    return {"question": f"gsm8k {i}?", "answer": f"So.\n#### {i}"}


def _solved(i, name):
    return {"problem": f"{name} {i}?", "solution": f"Thus $\\boxed{{{i}}}$.", "answer": str(i)}


# Path -> (rows, row i), with the columns of the published tables.
PUBLISHED = {
    f"openai/gsm8k/main/{PARQUET}": (700, _gsm8k),
    f"openai/gsm8k/main/{PARQUET.replace('train', 'test')}": (20, lambda i: _gsm8k(1000 + i)),
    "agentica-org/DeepScaleR-Preview-Dataset/deepscaler.json": (
        700,
        lambda i: _solved(i, "deep") | ({"answer": ""} if i % 100 == 7 else {}),
    ),
    "HuggingFaceH4/MATH-500/test.jsonl": (
        20,
        lambda i: (
            _solved(i, "deep" if i == 3 else "math-500")
            | {"subject": "Algebra", "level": 1 + i % 5, "unique_id": f"test/algebra/{i}.json"}
        ),
    ),
    "PRIME-RL/Eurus-2-RL-Data/train.parquet": (
        40,
        lambda i: _verl(i, "numina_amc_aime" if i % 2 else "codeforces"),
    ),
    f"AI-MO/aimo-validation-aime/data/{PARQUET}": (
        9,
        lambda i: _solved(i, "aime") | {"id": i, "url": "..."},
    ),
    f"EleutherAI/hendrycks_math/*/{PARQUET}": (
        700,
        lambda i: {
            "problem": f"hendrycks {i}?",
            "level": "Level 5",
            "type": "Algebra",
            "solution": f"It is $\\boxed{{{i}}}$.",
        },
    ),
    f"open-r1/DAPO-Math-17k-Processed/en/{PARQUET}": (
        700,
        lambda i: _verl(i, "math_dapo", prompt=f"dapo {i}?", solution=str(i)),
    ),
    f"HuggingFaceH4/aime_2024/data/{PARQUET}": (
        9,
        lambda i: _solved(i, "aime24") | {"id": 60 + i, "url": "...", "year": "2024"},
    ),
}


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """The hub's tables are written here instead of being fetched."""

    def fetch(path):
        import pyarrow
        import pyarrow.parquet

        count, row = PUBLISHED[path.removeprefix("hf://datasets/")]
        rows = [row(i) for i in range(count)]
        table = tmp_path / path.rpartition("/")[2]
        if table.suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), table)
        elif table.suffix == ".json":
            table.write_text(json.dumps(rows))
        else:
            table.write_text("\n".join(map(json.dumps, rows)))
        return [table]

    monkeypatch.setattr(file, "_fetch", fetch)


def _title(config):
    options = config["problems"]["options"]
    return str(options.get("train", options))[-40:]


@pytest.mark.parametrize("config", CONFIGS, ids=_title)
def test_every_config_resolves(config):
    assert set(config) <= {"problems", "text"}
    options = resolve(ProblemsOptions, config["problems"], "problems")
    resolve(find(options.name).Options, options.options, "problems.options")
    resolve(TextOptions, config.get("text", {}), "text")


HUB = [c for c in CONFIGS if "hf://" in str(c)]


@pytest.mark.parametrize("config", HUB, ids=_title)
def test_every_published_set_loads(config, stand_in):
    sets = load_sets(ProblemsOptions(**config["problems"]))
    for split, problems in sets.items():
        assert problems, split
        for problem in problems:
            assert re.fullmatch(r"[\w-]+ \d+\?", problem.question), problem.question
            assert problem.answer == re.search(r"\d+(?=\?)", problem.question).group()


def test_what_the_recipes_say_of_their_sets(stand_in, capsys):
    def sets_of(name):
        (config,) = [c for c in HUB if name in str(c)]
        return load_sets(ProblemsOptions(**config["problems"]))

    # Seven rows without an answer, and one of MATH-500's questions, which leaves train or monitor.
    deepscaler = sets_of("deepscaler")
    assert len(deepscaler["train"]) + len(deepscaler["monitor"]) == 700 - 7 - 1
    assert "7 train rows have no question or no answer" in capsys.readouterr().err
    thinkprune = sets_of("Eurus")
    assert {p.source for p in thinkprune["train"]} == {"numina_amc_aime"}
    assert len(thinkprune["train"]) == 20 and len(thinkprune["monitor"]) == 9
    assert {p.difficulty for p in sets_of("hendrycks")["test"]} == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_the_source_of_your_own(tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", DOCS, re.S)
    path = tmp_path / "double.py"
    path.write_text(block)
    options = ProblemsOptions(str(path), monitor_from_train=10, test_from_train=20)
    assert {k: len(v) for k, v in load_sets(options).items()} == {
        "train": 70,
        "monitor": 10,
        "test": 20,
    }
