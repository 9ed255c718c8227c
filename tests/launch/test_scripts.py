"""The shell scripts: shellcheck finds nothing, and a dry run prints what the laptop's would do."""

import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_shellcheck_has_nothing_to_say():
    beside = pathlib.Path(sys.executable).parent  # of an environment that is not activated
    shellcheck = shutil.which("shellcheck", path=f"{beside}:{os.environ['PATH']}")
    assert shellcheck, "shellcheck is missing: pip install -e '.[test]'"
    scripts = [*(ROOT / "launch").glob("*.sh"), *(ROOT / "benchmarks").glob("*.sh")]
    scripts.append(ROOT / ".ci" / "run")
    done = subprocess.run([shellcheck, *map(str, scripts)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert len(scripts) >= 5


def dry(script, *arguments, **settings):
    command = [str(ROOT / "launch" / script), *arguments]
    return subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True)


def test_dry_runs_of_laptop_and_gpu_print_the_same_but_for_the_packages(tmp_path):
    given = ("--dry-run", "configs/quickstart.yaml", "--note=two words")
    laptop = dry("local.sh", *given, VENV=str(tmp_path / "none"))
    gpu = dry("gpu.sh", *given, VENV=str(tmp_path / "none"))
    assert laptop.returncode == gpu.returncode == 0
    assert laptop.stdout.replace("-e .\n", "-e .\\[cuda\\]\n") == gpu.stdout
    assert laptop.stdout.splitlines()[-1].endswith("configs/quickstart.yaml --note=two\\ words")
    assert not (tmp_path / "none").exists()


def test_a_missing_config_is_said():
    done = dry("local.sh", "--dry-run")
    assert done.returncode == 2 and "usage: launch/local.sh" in done.stderr
