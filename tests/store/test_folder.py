import os
import subprocess
import sys

import pytest

from pruner_jax.store.folder import FolderError, open_folder, write_atomically

CONFIG = {"out": "a", "seed": 0, "learn": {"lr": 1e-4, "clip": [0.2, 0.28]}}


def test_a_folder_is_continued_by_the_same_settings(tmp_path):
    with open_folder(tmp_path / "run", CONFIG) as folder:
        assert folder.config.exists()
    with open_folder(tmp_path / "run", {**CONFIG, "out": "elsewhere"}):
        pass


def test_other_settings_are_refused_by_name(tmp_path):
    with open_folder(tmp_path / "run", CONFIG):
        pass
    other = {"out": "a", "seed": 1, "learn": {"lr": 2e-4, "clip": [0.2, 0.28]}}
    with pytest.raises(
        FolderError, match=r"learn.lr: was 0.0001, now 0.0002\n  seed: was 0, now 1"
    ):
        with open_folder(tmp_path / "run", other):
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
