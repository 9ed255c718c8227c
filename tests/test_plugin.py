"""Files of users as modules, each with the helpers of its own folder."""

import sys

import pytest

from pruner_jax import plugin


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders with files of the same names."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(plugin, "_folders", [])
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text("import its_helper\nNAME = its_helper.NAME\n")
        (tmp_path / name / "its_helper.py").write_text(f"NAME = {name!r}\n")
    yield tmp_path
    sys.modules.pop("its_helper", None)


def test_each_file_finds_the_helper_beside_it(folders):
    modules = [plugin.load(folders / n / "mine.py", "method") for n in ("one", "two", "one")]
    assert [module.NAME for module in modules] == ["one", "two", "one"]
    assert modules[0].__name__ == modules[2].__name__ != modules[1].__name__


def test_a_file_is_run_anew_and_what_is_installed_comes_first(folders):
    (folders / "one" / "json.py").write_text("raise RuntimeError")
    file = folders / "one" / "other.py"
    for value in (1, 2):
        file.write_text(f"import json\nvalue = {value}{' ' * value}\n")
        module = plugin.load(file, "scorer")
        assert module.value == value
