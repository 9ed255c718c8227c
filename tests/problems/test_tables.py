"""file and rows: tables in the shapes that published data sets have."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from typing import ClassVar

import pytest

from pruner_jax.problems.file import Options, load, read, tables
from pruner_jax.problems.options import ProblemsOptions
from pruner_jax.problems.rows import RowOptions, last_boxed, to_problem, wanted
from pruner_jax.problems.source import load_problems, load_sets

GSM8K = [
    {"question": "Ann has 7 eggs and buys 7.", "answer": "She has 7+7=<<7+7=14>>14.\n#### 14"},
    {"question": "Bob has 1 egg.", "answer": "#### 1,000\nNo: #### 1"},
]
CHAT = [{"role": "system", "content": "Use actions."}]
SUFFIX = "\n\nPresent the answer in LaTex format: \\boxed{Your answer}"


def verl(source, question, answer, index, system=True):
    return {
        "data_source": source,
        "prompt": CHAT * system + [{"role": "user", "content": question + SUFFIX}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": answer},
        "extra_info": {"split": "train", "index": index},
    }


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def parquet(path, rows, **more):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, **more)
    return str(path)


# -- one published shape after the other -----------------------------------------------------------


def test_gsm8k(tmp_path):
    path = jsonl(tmp_path / "train.jsonl", GSM8K)
    problems = load(Options(train=path, answer_pattern="#### *(.+)"), "train")
    assert [(p.id, p.answer) for p in problems] == [("train-0/0", "14"), ("train-0/1", "1")]
    assert problems[0].question == GSM8K[0]["question"] and problems[0].columns == GSM8K[0]
    assert load(Options(train=path), "test") is None


def test_deepscaler_is_a_json_list_with_problem_answer_solution(tmp_path, capsys):
    path = tmp_path / "deepscaler.json"
    rows = [{"problem": "x?", "answer": "2", "solution": "s"}, {"problem": "y?", "answer": ""}]
    path.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=r"json: row 1: the answer is empty; .*on_missing=skip"):
        load(Options(train=str(path)), "train")
    problems = load(Options(train=str(path), on_missing="skip"), "train")
    assert [p.question for p in problems] == ["x?"] and problems[0].columns["solution"] == "s"
    assert "1 train rows have no question or no answer" in capsys.readouterr().err


def test_math_500(tmp_path):
    row = {
        "problem": "Convert.",
        "solution": "so \\boxed{1}, no, $\\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}$.",
        "answer": "\\left( 3, \\frac{\\pi}{2} \\right)",
        "level": 2,
        "unique_id": "test/precalculus/807.json",
    }
    path = jsonl(tmp_path / "test.jsonl", [row])
    columns = {"id": "unique_id", "difficulty": "level"}
    (given,) = load(Options(test=path, columns=columns), "test")
    assert (given.id, given.difficulty, given.answer) == (row["unique_id"], 2.0, row["answer"])
    boxed = Options(test=path, columns=columns | {"answer": "solution"}, boxed=True)
    assert load(boxed, "test") == [given]


def test_verl_parquet_as_it_is(tmp_path):
    rows = [
        verl("numina_amc_aime", "A?", "1", 0),
        verl("numina_olympiads", "B?", "2", 1),
        verl("numina_amc_aime", "C?", "3", 2, system=False),
    ]
    path = parquet(tmp_path / "train.parquet", rows)
    options = Options(
        train=path,
        where={"data_source": "numina_amc_aime"},
        cut=r"\n\nPresent the answer in LaTex format: \\boxed\{Your answer\}",
    )
    first, second = load(options, "train")
    # A row keeps its number whatever is filtered out, and with it its random key.
    assert (first.id, second.id) == ("train-0/0", "train-0/2")
    assert (first.question, first.answer, first.source) == ("A?", "1", "numina_amc_aime")
    assert first.messages == (*CHAT, {"role": "user", "content": "A?"})
    assert second.messages is None and second.question == "C?"
    assert first.columns["extra_info"] == {"split": "train", "index": 0}
    assert first.columns["reward_model"] == rows[0]["reward_model"]


def test_dapo_repeats_every_question(tmp_path, capsys):
    rows = [verl("math_dapo", f"{i % 3}?", str(i % 3), i, system=False) for i in range(30)]
    path = parquet(tmp_path / "dapo.parquet", rows)
    assert len(load(Options(train=path), "train")) == 30
    problems = load(Options(train=path, unique=True), "train")
    assert [p.answer for p in problems] == ["0", "1", "2"]
    assert "27 train rows repeat a question" in capsys.readouterr().err


def test_several_tables_and_settings_of_one_split(tmp_path):
    jsonl(tmp_path / "a.jsonl", GSM8K[:1])
    jsonl(tmp_path / "b.jsonl", GSM8K[1:])
    test = jsonl(tmp_path / "test.jsonl", [{"problem": "z?", "answer": 204}])
    options = ProblemsOptions(
        "file",
        {
            "train": str(tmp_path / "[ab].jsonl"),
            "test": test,
            "answer_pattern": "#### *(.+)",
            "per_split": {"test": {"answer_pattern": "", "checker": "number"}},
        },
        monitor_from_train=1,
    )
    sets = load_sets(options)
    assert {p.id for p in sets["train"] + sets["monitor"]} == {"train-0/0", "train-1/0"}
    assert (sets["test"][0].answer, sets["test"][0].checker) == ("204", "number")
    assert sets["train"][0].checker == "math"


def test_parquet_over_many_batches(tmp_path):
    rows = [{"question": f"{i}?", "answer": str(i), "level": i % 7} for i in range(5000)]
    path = parquet(tmp_path / "big.parquet", rows, row_group_size=700)
    options = Options(train=path, where={"level": [3, 5]}, columns={"difficulty": "level"})
    problems = load(options, "train")
    assert [p.question for p in problems] == [r["question"] for r in rows if r["level"] in (3, 5)]
    assert all(p.id == f"train-0/{p.answer}" for p in problems)
    assert len(list(read(tables(path)[0], {}))) == 5000


# -- what goes wrong is named by file and line -----------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"question": "a", "answer": "1"}\n\n{"question": \n',
            r"t\.jsonl:3: not JSON .*column 13.*question",
        ),
        ('["question", "answer"]\n', r"t\.jsonl:1: expected a JSON object, found \["),
        ('{"query": "a", "answer": "1"}\n', r"t\.jsonl:1: no column for the question .*query, ans"),
        ('{"question": "a"}\n', r"t\.jsonl:1: no column for the answer .*columns\.answer"),
        ('{"question": " ", "answer": "1"}\n', r"t\.jsonl:1: the question is empty"),
        ('{"question": "a", "answer": null}\n', r"t\.jsonl:1: the answer is empty"),
        ('{"question": "a", "answer": ["1", "2"]}\n', r"t\.jsonl:1: there are 2 answers"),
        ('{"question": ["a"], "answer": "1"}\n', r"t\.jsonl:1: .*neither text nor a chat"),
    ],
)
def test_bad_rows(tmp_path, text, message):
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load(Options(train=str(path)), "train")


def test_rows_without_the_column_are_skipped_too_but_not_all_of_them(tmp_path, capsys):
    path = jsonl(tmp_path / "t.jsonl", [{"question": "a?", "answer": "1"}, {"question": "b?"}])
    problems = load(Options(train=path, on_missing="skip"), "train")
    assert [p.question for p in problems] == ["a?"] and "1 train rows" in capsys.readouterr().err
    wrong = {"columns": {"answer": "anser"}, "on_missing": "skip"}
    with pytest.raises(ValueError, match=r"all 2 rows lack .*t\.jsonl:1: no column .*anser"):
        load(Options(train=path, **wrong), "train")
    wrong = {"columns": {"id": "number"}, "on_missing": "skip"}
    with pytest.raises(ValueError, match=r"t\.jsonl:1: no column for the id .*columns\.id"):
        load(Options(train=path, **wrong), "train")


def test_bad_files(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(b'{"question": "a", "answer": "1"}\n{"question": "\xe9')
    with pytest.raises(ValueError, match=r"latin\.jsonl:2: not UTF-8 .*save the file as UTF-8"):
        load(Options(train=str(tmp_path / "latin.jsonl")), "train")
    (tmp_path / "latin.json").write_bytes(b'["\xe9"]')
    with pytest.raises(ValueError, match=r"latin\.json: not UTF-8"):
        load(Options(train=str(tmp_path / "latin.json")), "train")
    with pytest.raises(ValueError, match=r"train set of 'file': there is no file .*no\.jsonl"):
        load_problems(ProblemsOptions("file", {"train": str(tmp_path / "no.jsonl")}), "train")
    (tmp_path / "t.csv").write_text("question,answer\n")
    with pytest.raises(ValueError, match=r"t\.csv: .*allowed: \.jsonl, \.json, \.parquet"):
        load(Options(train=str(tmp_path / "t.csv")), "train")
    (tmp_path / "t.json").write_text('{"question": "a"}\n{"question": "b"}')
    with pytest.raises(ValueError, match=r"t\.json:2: not JSON"):
        load(Options(train=str(tmp_path / "t.json")), "train")
    (tmp_path / "t.json").write_text('{"question": "a"}')
    with pytest.raises(ValueError, match="expected a JSON list"):
        load(Options(train=str(tmp_path / "t.json")), "train")
    with pytest.raises(ValueError, match="hf://datasets/ORG/NAME"):
        load(Options(train="hf://openai/gsm8k/train.jsonl"), "train")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"columns": {"gold": "answer"}}, "unknown part gold; allowed: question, answer"),
        ({"answer_pattern": "#### ("}, "answer_pattern is no regular expression"),
        ({"answer_pattern": "####"}, "one group, found 0"),
        ({"answer_pattern": "(.)", "boxed": True}, "set one"),
        ({"on_missing": "ignore"}, "on_missing is 'ignore'"),
        ({"per_split": {"dev": {}}}, "per_split has the keys dev"),
        ({"train": ""}, "none of train, monitor, test"),
        ({"difficulty": 3}, r"options\.difficulty is unknown; allowed: answer_pattern"),
    ],
)
def test_settings_are_checked(wrong, message):
    with pytest.raises(ValueError, match=message):
        load_sets(ProblemsOptions("file", {"train": "x.jsonl"} | wrong))


def test_settings_of_one_split_are_checked_too(tmp_path):
    path = jsonl(tmp_path / "t.jsonl", GSM8K)
    with pytest.raises(ValueError, match=r"per_split\.train\.pattern is unknown"):
        load(Options(train=path, per_split={"train": {"pattern": ""}}), "train")


def test_where_must_name_a_column():
    with pytest.raises(ValueError, match="where names the column 'sorce', but the row has q, a"):
        wanted({"q": 1, "a": 2}, {"sorce": "x"})


def test_nested_and_dotted_columns():
    row = {"a.b": "dotted", "x": {"y": {"z": 5}}, "q": [{"role": "user", "content": "hi"}]}
    options = RowOptions(columns={"question": "q", "answer": "a.b", "difficulty": "x.y.z"})
    problem = to_problem(row, options, "n")
    assert (problem.question, problem.answer, problem.difficulty) == ("hi", "dotted", 5.0)
    with pytest.raises(ValueError, match="difficulty must be a number, found 'hard'"):
        to_problem(row | {"x": {"y": {"z": "hard"}}}, options, "n")


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("\\boxed{1} \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed {3} and \\boxed{never closed", "3"),
        ("\\boxed{\\text{a}\\\\}", "\\text{a}\\\\"),
        ("no box", None),
        ("\\boxed{", None),
    ],
)
def test_last_boxed(text, inside):
    assert last_boxed(text) == inside


# -- the hub, by a stand-in that speaks its protocol -----------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    """Just enough of the hub: the listing of a repository, and its files with ETag and commit."""

    files: ClassVar[dict[str, bytes]] = {}
    commit = "c" * 40

    def answer(self, with_body):
        path = self.path.split("?")[0]
        at = "/datasets/org/set/resolve/"
        if path.startswith("/api/datasets/org/set/tree/"):
            listing = [
                {"type": "file", "path": name, "size": len(body), "oid": "0" * 40}
                for name, body in self.files.items()
            ]
            body, tag = json.dumps(listing).encode(), "listing"
        elif path.startswith(at) and path[len(at) :].partition("/")[2] in self.files:
            body = self.files[path[len(at) :].partition("/")[2]]
            tag = hashlib.sha256(body).hexdigest()
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", f'"{tag}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def do_GET(self):
        self.answer(True)

    def do_HEAD(self):
        self.answer(False)

    def log_message(self, *words):
        pass


@pytest.fixture
def hub(tmp_path):
    """Loads in a process whose hub is the stand-in; after ``stop()`` there is no network."""
    Hub.files = {
        "main/train-00000-of-00002.jsonl": json.dumps(GSM8K[0]).encode(),
        "main/train-00001-of-00002.jsonl": json.dumps(GSM8K[1]).encode(),
        "README.md": b"#",
    }
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()} | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }

    def run(*paths, **more):
        code = (
            "from pruner_jax.problems.file import Options, load\n"
            f"for path in {paths!r}:\n"
            "    try:\n"
            "        found = load(Options(train=path, answer_pattern='#### *(.+)'), 'train')\n"
            "        print([(p.id, p.answer) for p in found])\n"
            "    except ValueError as error:\n"
            "        print(error)\n"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment | more, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    run.stop = server.shutdown
    yield run
    server.shutdown()
    server.server_close()


def test_the_hub(hub):
    root = "hf://datasets/org/set"
    one = f"{root}@main/main/train-00000-of-00002.jsonl"
    shown = "[('train-0/0', '14')]"
    both, single, missing, nothing = hub(
        f"{root}/main/train-*.jsonl", one, f"{root}/no.jsonl", f"{root}/main/*.parquet"
    )
    assert both == "[('train-0/0', '14'), ('train-1/0', '1')]"
    assert single == shown
    assert missing.startswith(f"cannot fetch {root}/no.jsonl: ")
    assert nothing.endswith("no file of the repository matches main/*.parquet")
    hub.stop()
    assert hub(one, HF_HUB_OFFLINE="1") == [shown]
