"""benchmarks/gpu.sh: a smoke run measures every part, and one without time says so."""

import configparser
import importlib.metadata
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import zipfile

import pip
import pytest

ROOT = pathlib.Path(__file__).parents[2]


def bench(tmp_path, *arguments, **settings):
    command = [str(ROOT / "benchmarks" / "gpu.sh"), f"--out={tmp_path}/gpu.json", *arguments]
    env = {**os.environ, "PYTHON": sys.executable, "JAX_PLATFORMS": "cpu", **settings}
    env.pop("XLA_FLAGS", None)
    return subprocess.run(command, env=env, capture_output=True, text=True)


def read(tmp_path):
    return json.loads((tmp_path / "gpu.json").read_text())


def test_carried_wheels_stand_beside_what_a_python_in_a_venv_has(tmp_path):
    python, venv = tmp_path / "python", tmp_path / "carrying"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(python)], check=True)
    (site,) = python.glob("lib/python*/site-packages")
    (site / "there.py").write_text("")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "linked.py").write_text("")
    (tmp_path / "linked" / "pip").symlink_to(pathlib.Path(pip.__file__).parent)
    (site / "linked.pth").write_text(f"{tmp_path}/linked\n")  # as of an editable install
    about = "carried-1.0.dist-info"
    files = {
        "carried.py": "",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/RECORD": "",
    }
    with zipfile.ZipFile(tmp_path / "carried-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    given = {"PYTHON": str(python / "bin" / "python"), "WHEELS": str(tmp_path), "VENV": str(venv)}
    done = bench(tmp_path, **given)
    # Before anything runs, it says what this Python does not have.
    assert done.returncode == 2 and "lacks jax, flax" in done.stderr, done.stderr
    assert "jsonargparse" in done.stderr and "gpu_wheels.sh" in done.stderr
    seen = "import there, linked, carried; print(carried.__file__)"
    done = subprocess.run([venv / "bin" / "python", "-c", seen], capture_output=True, text=True)
    assert done.stdout.startswith(str(venv)), done.stderr
    assert not [*venv.glob("lib/python*/site-packages/pip")]  # so that no ensurepip was needed


@pytest.mark.slow
def test_a_smoke_run_measures_every_part(tmp_path):
    done = bench(tmp_path, "--cpu-smoke", "--budget=2000")
    assert done.returncode == 0, done.stderr[-3000:]
    found = read(tmp_path)
    assert json.loads(done.stdout) == found
    assert "figures mean nothing" in found["smoke"] and "figures mean nothing" in done.stderr
    assert found["device"]["platform"] == "cpu" and found["versions"]["jax"] and not found["failed"]
    peers = found.pop("peers")
    peers.pop("seconds")
    assert len(peers) == 4 and all("only with --peers" in row for row in peers.values())
    assert "not measured" not in json.dumps(found)
    parity = found["parity"]["full precision"]
    assert parity["equal rows"] == {"greedy": parity["rows"], "drawn": parity["rows"]}
    assert found["quickstart"]["run"]["steps"] == 1 and found["quickstart"]["run"]["finished"]
    sampler, learner = found["sampler"]["4 prompts x 8, 17 + 32 tokens"], found["learner"]["8 rows"]
    assert sampler["tokens"] == 4 * 8 * 32 and sampler["slots"] == 32 + 16 / 8
    assert sampler["needed_of_copy"] < sampler["read_of_copy"]
    of_roofline = sampler["tokens_per_s"] / sampler["roofline_tokens_per_s"]
    assert of_roofline == pytest.approx(sampler["needed_of_copy"])
    assert not sampler["compiled"]  # what is timed was compiled before
    step = found["step"]["2 prompts x 8 x 24 tokens"]
    assert step["step"] == 2 and step["kl"] > 0 and not step["compiled"]
    assert step["seconds"] > sum(step["parts"].values()) > 0  # by the clock
    assert step["settings"]["learn.row_tokens"] == 64
    assert 0 < step["tokens"] <= 2 * 8 * 24 and step["generated_per_s"] > step["tokens_per_s"]
    assert learner["tokens_per_s"] > 0 and learner["of_product"] > 0
    exact, *measured = [row["measured"] for row in found["targets"][1:]]
    assert exact == parity["equal share"] == 1 and parity["logits"] < 1e-4
    assert measured[:2] == [sampler["tokens_per_s"], sampler["needed_of_copy"]]
    assert measured[2:4] == [learner["of_product"], step["seconds"]]
    assert {row["reached"] for row in found["targets"]} == {None}  # tiny sizes reach nothing
    assert all(f"| {row['target']} | {row['wanted']} |" in done.stderr for row in found["targets"])


def test_figures_are_held_against_their_targets(monkeypatch, benchmark):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    targets, sizes = benchmark("gpu_targets"), benchmark("gpu_sizes").GPU
    sampled, learned = sizes.sampled(1024), sizes.learned("auto")
    peer = {"tokens_per_s": 20_000.0, "beside": ["sampler", sampled]}
    found = {
        "parity": {"full precision": {"logits": 9e-5, "equal share": 0.99}},
        "sampler": {sampled: {"tokens_per_s": 60_000.0, "needed_of_copy": 0.549}},
        "learner": {learned: "not measured (time)"},
        "step": {sizes.stepped(1024): {"seconds": 30.0, "sampler against learner": 0.004}},
        "peers": {"transformers": peer, "TRL": "not measured (time)", "seconds": 1.0},
    }
    targets.beside(found)
    assert peer["times_ours"] == 3
    rows = targets.judged(found, sizes)
    assert [row["reached"] for row in rows] == [True, False, True, False, None, None, False, True]
    assert [row["measured"] for row in rows[4:6]] == ["not measured (time)", "not measured"]
    told = targets.table(rows, found)
    assert f"| sampler, {sampled}: tokens/s | at least 60000 | 60,000 | yes |" in told
    assert "| transformers | 20,000 | 3x |" in told and "| TRL | not measured (time) | |" in told
    found["sampler"][sampled].pop("needed_of_copy")  # the part was ended in between
    rows = targets.judged(found, sizes)
    assert rows[3]["measured"] == "not measured" and rows[3]["reached"] is None
    assert "| at least 0.55 | not measured | |" in targets.table(rows, found).replace("  ", " ")
    found["step"][sizes.stepped(1024)] |= {"seconds": 20.0, "compiled": 2.0}
    rows = targets.judged(found, sizes)
    assert [row["reached"] for row in rows[6:]] == [None, True]  # what was compared is as good
    assert "| below 30 | 20 | (it compiled) |" in targets.table(rows, found)


PEER = """#!{python}
import json, sys
if sys.argv[1] == "-c":
    print(json.dumps({absent}))
elif "transformers" in sys.argv[1]:
    sys.exit("CUDA out of memory")
elif (limit := json.load(open(sys.argv[2]))["limit"]) == 1024:
    for seconds in (9.0, 5.0):
        print(json.dumps(dict(seconds=seconds, tokens=8 * limit)))
else:
    sys.exit("no such file")
"""


@pytest.fixture
def play(monkeypatch, benchmark, tmp_path):
    """What is noted of peers whose Python lacks some packages, and the exit code."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script, sizes = benchmark("gpu_peers"), benchmark("gpu_sizes").GPU
    work = {"model": "", "samples": 8, "dtype": "bfloat16", "limit": 0, "vocabulary": 8}
    monkeypatch.setattr(script.gpu_step, "prepared", lambda *_: work)

    def play(absent, asked=True):
        python, noted = tmp_path / "python", []
        python.write_text(PEER.format(python=sys.executable, absent=absent))
        python.chmod(0o755)
        if not asked:
            monkeypatch.setattr(sys, "executable", str(python))
        code = script.peers(
            lambda *pair: noted.append(pair), sizes, tmp_path, str(python) if asked else None
        )
        found = dict(noted)
        planned = found.pop("planned")
        assert sorted(planned) == sorted(found)
        return {name: found[name] for name in planned}, code

    return play


def test_a_peer_that_fails_takes_no_other_row_with_it(play, capfd):
    found, code = play([])
    assert code == 1 and "transformers failed:\nCUDA out of memory" in capfd.readouterr().err
    small, large, trl, trl_small = found.values()
    assert small == large == "failed: CUDA out of memory" and trl_small == "failed: no such file"
    assert trl["step"] == 2 and trl["tokens_per_s"] == 8 * 1024 / 5 and trl["beside"][0] == "step"


@pytest.mark.parametrize(
    ("absent", "transformers", "trl"),
    [
        (["datasets", "trl"], "failed: CUDA out of memory", "no datasets, no trl"),
        (["torch", "trl"], "no torch", "no torch, no trl"),
        (["torch with CUDA"], "no torch with CUDA", "no torch with CUDA"),
    ],
)
def test_what_a_peer_lacks_is_said_in_its_own_rows(play, absent, transformers, trl):
    found, code = play(absent)
    said = [
        reason if ":" in reason else f"not measured ({reason})" for reason in (transformers, trl)
    ]
    assert list(found.values()) == [said[0]] * 2 + [said[1]] * 2 and code == 1


def test_this_python_need_not_have_the_peers(play):
    found, code = play(["torch"], asked=False)
    assert set(found.values()) == {"not measured (no torch)"} and code == 0


def test_what_there_is_no_time_for_is_not_measured(tmp_path):
    done = bench(tmp_path, "--cpu-smoke", "--budget=0", "--parts", "learner", "sampler")
    assert done.returncode == 0, done.stderr[-3000:]
    for part in ("learner", "sampler"):
        assert read(tmp_path)[part].pop(part) == "not measured (time)"


def test_each_part_is_written_when_it_is_done(tmp_path, monkeypatch, benchmark):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script, seen = benchmark("gpu"), []

    def part(name, *_):
        seen.append(read(tmp_path))
        return {"device": {"kind": "a GPU"}, name: 1.0}, 0

    monkeypatch.setattr(script, "part", part)
    given = ["gpu.py", f"--out={tmp_path}/gpu.json", "--commit=abc", "--parts", "parity", "sampler"]
    monkeypatch.setattr(sys, "argv", given)
    monkeypatch.setattr(script.signal, "signal", lambda *_: None)
    assert script.main() == 0
    first, second = seen
    assert "parity" not in first and second["parity"] == {"parity": 1.0}
    assert second["commit"] == "abc" and second["device"]["kind"] == "a GPU"
    assert {"orbax-checkpoint", "jsonargparse"} <= set(second["versions"])
    assert {row["measured"] for row in second["targets"]} == {"not measured"}


def test_a_signal_ends_the_part_that_runs_and_what_there_is_is_written(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), f"--out={tmp_path}/gpu.json"]
    command += ["--cpu-smoke", "--budget=900", "--parts", "learner", "sampler"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "gpu.json").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    found = read(tmp_path)
    assert set(found.get("learner", {}).values()) & {"not measured (ended by a signal)"}
    assert "sampler" not in found and found["commit"]


def test_wheels_that_are_not_there_are_said_before_anything_is_made(tmp_path):
    done = bench(tmp_path, WHEELS=str(tmp_path / "none"), VENV=str(tmp_path / "venv"))
    assert done.returncode == 2 and "gpu_wheels.sh" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_help_is_the_head_of_the_script_and_the_options():
    command = [str(ROOT / "benchmarks" / "gpu.sh"), "-h"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "\n  export WHEELS=.whl" in done.stdout and "--commit" in done.stdout


def test_what_is_needed_and_what_is_fetched_is_what_the_package_asks_for(monkeypatch, benchmark):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    asked = setup["options"]["install_requires"].split("\n")
    names = [re.match(r"[\w-]+", line)[0] for line in asked if line and line[0] != "#"]
    by_module = importlib.metadata.packages_distributions()
    packages = {
        package.lower().replace("_", "-")
        for module in benchmark("gpu").NEEDED
        for package in by_module[module.split(".")[0]]
    }
    unneeded = {
        "tensorflow-datasets",
        "pydantic-monty",
    }  # where their data or answers are asked for
    assert {name.lower().replace("_", "-") for name in names} - unneeded <= packages
    script = (ROOT / "benchmarks" / "gpu_wheels.sh").read_text()
    fetched = re.search(r"\^ \+\((.*?)\)", script)[1].split("|")
    assert set(fetched) < set(names)


def test_without_a_gpu_it_says_so(tmp_path):
    done = bench(tmp_path, "--parts", "parity")
    assert done.returncode == 1 and "no GPU here" in done.stderr
    assert read(tmp_path)["failed"] == ["parity"]
