"""The shell scripts and what docs/pods.md shows: shellcheck, dry runs, syntax."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import yaml

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


@pytest.mark.parametrize("word", ["-h", "--help"])
@pytest.mark.parametrize("script", ["local.sh", "gpu.sh", "tpu_pod.sh", "tpu_worker.sh"])
def test_help_is_the_head_of_the_script(script, word):
    done = dry(script, word)
    assert done.returncode == 0 and f"\n  launch/{script}" in done.stdout
    assert "#" not in done.stdout.splitlines()[0] and "set -euo" not in done.stdout


def test_dry_runs_of_laptop_and_gpu_print_the_same_but_for_the_gpu(tmp_path):
    given = ("--dry-run", "configs/quickstart.yaml", "--note=two words")
    laptop = dry("local.sh", *given, VENV=str(tmp_path / "none"))
    gpu = dry("gpu.sh", *given, VENV=str(tmp_path / "none"))
    assert laptop.returncode == gpu.returncode == 0
    added = ["+ nvidia-smi --list-gpus", "+ export XLA_PYTHON_CLIENT_MEM_FRACTION=0.92"]
    common = [line for line in gpu.stdout.splitlines() if line not in added]
    assert laptop.stdout.replace("-e .\n", "-e .\\[cuda\\]\n").splitlines() == common
    assert gpu.stdout.splitlines()[1:3] == added
    assert laptop.stdout.splitlines()[-1].endswith("configs/quickstart.yaml --note=two\\ words")
    assert not (tmp_path / "none").exists()


def test_a_missing_config_is_said():
    done = dry("local.sh", "--dry-run")
    assert done.returncode == 2 and "usage: launch/local.sh" in done.stderr
    done = dry("local.sh", "--dry-run", "configs/nothing.yaml")
    assert done.returncode == 2 and "there is no configs/nothing.yaml" in done.stderr


@pytest.mark.parametrize("script", ["local.sh", "gpu.sh"])
def test_a_dry_run_that_is_asked_for_too_late_runs_nothing(script):
    done = dry(script, "configs/quickstart.yaml", "--dry-run", VENV="/nowhere")
    assert done.returncode == 2 and "give it before CONFIG" in done.stderr and not done.stdout


def test_a_machine_without_a_driver_is_told_before_anything_is_installed(tmp_path):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = dry("gpu.sh", "configs/quickstart.yaml", VENV="/nowhere", PATH=path)
    assert done.returncode == 1 and "no NVIDIA driver here" in done.stderr
    assert "venv" not in done.stderr


PAGE = (ROOT / "docs" / "pods.md").read_text()


def test_what_the_page_shows_can_be_read():
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S):
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr + block
    task, jobset = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.S))
    again = [75, 134, 137, 143]  # every recipe starts the same ones again
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == again
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == again
    assert f"--restart-on-exit-codes={','.join(map(str, again))} " in PAGE
    assert f"  {' | '.join(map(str, again))}) " in PAGE


def test_the_script_says_the_same_of_workers_as_the_page():
    script = (ROOT / "launch" / "tpu_pod.sh").read_text()
    (said,) = re.findall(r"^POD_ENVIRONMENT=\((.*)\)$", script, re.M)
    assert f"`{said}`" in PAGE
    shown = re.search(r"^launch/tpu_pod.sh (--name.*?)\n```", PAGE, re.S | re.M)[1]
    command = "launch/tpu_pod.sh --dry-run " + shown
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "queued-resources create mine" in done.stdout, done.stderr
