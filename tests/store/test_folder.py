import json
import os
import subprocess
import sys

import pytest
import yaml

from pruner_jax.store.folder import (
    DURABLE,
    FolderError,
    check_folder,
    open_folder,
    write_atomically,
)

CONFIG = {"out": "a", "seed": 0, "learn": {"lr": 1e-4, "clip": [0.2, 0.28]}}


def test_a_folder_is_continued_by_the_same_settings(tmp_path):
    with open_folder(tmp_path / "run", CONFIG) as folder:
        assert folder.config.exists()
    with open_folder(tmp_path / "run", {**CONFIG, "out": "elsewhere"}):
        pass


def saved(folder):
    """As if a checkpoint had been completed."""
    (folder.checkpoints / "states" / "0").mkdir(parents=True)
    (folder.checkpoints / "states" / "0" / DURABLE).touch()


def test_other_settings_are_refused_by_name(tmp_path):
    with open_folder(tmp_path / "run", CONFIG) as folder:
        saved(folder)
    other = {"out": "a", "seed": 1, "learn": {"lr": 2e-4, "clip": [0.2, 0.28]}}
    with pytest.raises(
        FolderError, match=r"learn.lr: was 0.0001, now 0.0002\n  seed: was 0, now 1"
    ):
        with open_folder(tmp_path / "run", other):
            pass


def test_settings_of_the_machine_may_differ_between_starts(tmp_path):
    config = {**CONFIG, "verify": {"workers": 1, "timeout_s": 5.0}, "verifying": 1}
    machine = frozenset({"verify.workers", "learn"})
    with open_folder(tmp_path / "run", config, machine) as folder:
        saved(folder)
        assert folder.changes == ()
    other = {**config, "verify": {"workers": 8, "timeout_s": 5.0}, "learn": {"lr": 1, "clip": []}}
    with open_folder(tmp_path / "run", other, machine) as folder:
        assert folder.changes == (
            "learn.clip: was [0.2, 0.28], now []",
            "learn.lr: was 0.0001, now 1",
            "verify.workers: was 1, now 8",
        )
        assert yaml.safe_load(folder.config.read_text()) == other
    # A prefix ends at a dot, and one refused key refuses all.
    slower = {"workers": 8, "timeout_s": 1.0}
    for key, change in (("verify.timeout_s", {"verify": slower}), ("seed", {"seed": 2})):
        with pytest.raises(FolderError, match=f"settings:\n  {key}: was .*\nGive"):
            with open_folder(tmp_path / "run", {**other, **change}, {"verify.workers", "see"}):
                pass
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == other


def test_the_rules_may_change_until_the_first_step(tmp_path):
    """What has been measured by then is kept, and true under any tolerance."""
    config = {**CONFIG, "pick": {"tolerance": 0.001}}
    other = {**CONFIG, "pick": {"tolerance": 0.02}}
    with open_folder(tmp_path / "run", config) as folder:
        saved(folder)
        folder.metrics.write_text('{"kind": "evaluate", "step": 0}\n')
    with open_folder(tmp_path / "run", other) as folder:
        assert folder.changes == ("pick.tolerance: was 0.001, now 0.02",)
        folder.metrics.write_text('{"kind": "step", "step": 1}\n')
    with pytest.raises(FolderError, match=r"pick\.tolerance"), open_folder(folder.root, config):
        pass


def test_a_file_whose_content_changed_is_named(tmp_path):
    reward = tmp_path / "reward.py"
    reward.write_text("one")
    for content, changes in (("one", ()), ("two", (f"{reward}: its content",)), ("two", ())):
        reward.write_text(content)
        with open_folder(tmp_path / "run", CONFIG, inputs=[reward]) as folder:
            assert folder.changes == changes


def test_a_folder_can_be_checked_and_stays_as_it_is(tmp_path):
    assert check_folder(tmp_path / "run", CONFIG).changes == ()
    assert not (tmp_path / "run").exists()
    with open_folder(tmp_path / "run", CONFIG) as folder:
        saved(folder)
        with pytest.raises(FolderError, match="another process"):
            check_folder(folder.root, CONFIG)
    with pytest.raises(FolderError, match="seed: was 0, now 1"):
        check_folder(folder.root, {**CONFIG, "seed": 1})
    assert check_folder(folder.root, CONFIG, ("seed",)).root == folder.root


def test_other_settings_take_over_a_run_without_a_checkpoint(tmp_path):
    other = {**CONFIG, "seed": 1}
    with open_folder(tmp_path / "run", CONFIG) as folder:
        (folder.rollouts / "base-monitor.parquet").write_text("")
        (folder.checkpoints / "parameters" / "start").mkdir(parents=True)
        (folder.checkpoints / "states" / "0.orbax-checkpoint-tmp").mkdir(parents=True)
    with open_folder(tmp_path / "run", other) as folder:
        assert folder.changes == ("seed: was 0, now 1",)
        assert yaml.safe_load(folder.config.read_text()) == other
        folder.summary.write_text("{}")  # a finished run keeps its settings, checkpoints or not
    with pytest.raises(FolderError, match="seed: was 1, now 0"), open_folder(folder.root, CONFIG):
        pass


def test_a_config_yaml_of_another_program_is_never_taken_over(tmp_path):
    (tmp_path / "config.yaml").write_text("theirs: 1\n")
    with pytest.raises(FolderError, match="theirs: was 1"), open_folder(tmp_path, CONFIG):
        pass
    with pytest.raises(FolderError, match="theirs: was 1"), open_folder(tmp_path, CONFIG):
        pass
    (tmp_path / "config.yaml").write_text("a: [\n")
    with pytest.raises(FolderError, match="is no configuration"), open_folder(tmp_path, CONFIG):
        pass


def test_a_folder_of_something_else_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FolderError, match=r"no config\.yaml"), open_folder(tmp_path, CONFIG):
        pass
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_two_processes_cannot_share_a_folder(tmp_path):
    code = (
        "import sys\nfrom pruner_jax.store.folder import open_folder\n"
        f"with open_folder({str(tmp_path / 'run')!r}, {CONFIG!r}):\n"
        "    print('open', flush=True); sys.stdin.readline()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "open\n"
    with pytest.raises(FolderError, match=f"pid {other.pid}"):
        with open_folder(tmp_path / "run", CONFIG):
            pass
    other.kill()  # the system drops the lock of a killed process
    other.wait()
    with open_folder(tmp_path / "run", CONFIG):
        pass


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_atomically(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["summary.json"]


def test_another_commit_of_a_model_is_a_change(tmp_path):
    for commit, changes in (("aa", ()), ("aa", ()), ("bb", ("owner/name: its content",))):
        with open_folder(tmp_path / "run", CONFIG, commits={"owner/name": commit}) as folder:
            assert folder.changes == changes
    assert json.loads(folder.inputs.read_text()) == {"owner/name": "commit bb"}
