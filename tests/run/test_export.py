"""``export`` of a run's folder, made by hand: what is in its checkpoints comes out as a model."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from pruner_jax.config import ExportConfig, plain
from pruner_jax.objective.merge import Average
from pruner_jax.policy import handle
from pruner_jax.run.export import export_verb
from pruner_jax.store.checkpoints import Checkpoints


@pytest.fixture
def run(tmp_path, model, settings):
    """``run(*overrides)``: a run that began with ``model``, picked another, and has no export."""

    def make(*overrides):
        out = tmp_path / "run"
        out.mkdir()
        (out / "config.yaml").write_text(yaml.safe_dump(plain(settings(*overrides))))
        start = handle.load(model).params
        store = Checkpoints(out / "checkpoints")
        store.save_parameters("start", start)
        store.save_parameters("picked", jax.tree.map(lambda x: x * 1.5 + 0.01, start))
        marks = {name: {"parameters": name} for name in ("start", "picked")}
        state = {"start": marks["start"], "origin": marks["picked"]}
        meta = {"state": state, "parameters": ["start", "picked"]}
        store.save({"step": jnp.int32(0)}, meta)
        store.close()
        return out

    return make


def params_of(folder):
    return handle.load(folder).params


def test_the_latest_pick_or_a_named_checkpoint(run, model, tmp_path):
    out = run()
    assert export_verb(ExportConfig(run=str(out), to=str(tmp_path / "a")))["checkpoint"] == "picked"
    start = params_of(model)
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(x * 1.5 + 0.01, y),
        start,
        params_of(tmp_path / "a"),
    )
    export_verb(ExportConfig(run=str(out), to=str(tmp_path / "b"), checkpoint="start"))
    jax.tree.map(np.testing.assert_array_equal, start, params_of(tmp_path / "b"))
    with pytest.raises(ValueError, match=r"the run has \['picked', 'start'\]"):
        export_verb(ExportConfig(run=str(out), to=str(tmp_path / "c"), checkpoint="end"))


def test_the_methods_merge_is_applied_as_the_run_applies_it(run, model, tmp_path):
    out = run("--method.merge={kind: average, share: 0.25}")
    export_verb(ExportConfig(run=str(out), to=str(tmp_path / "merged")))
    start = params_of(model)
    picked = jax.tree.map(lambda x: x * 1.5 + 0.01, start)
    expected = jax.tree.map(Average(0.25), start, picked)
    jax.tree.map(np.testing.assert_array_equal, expected, params_of(tmp_path / "merged"))
    # What the run itself exports is, byte for byte, what the verb writes again.
    policy = dataclasses.replace(handle.load(model), params=expected)
    handle.save(policy, out / "export", dtype=policy.config.stored_dtype)
    (out / "summary.json").write_text("{}")
    export_verb(ExportConfig(run=str(out), to=str(tmp_path / "again")))
    for path in (out / "export").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
    export_verb(ExportConfig(run=str(out), to=str(tmp_path / "plain"), checkpoint="picked"))
    jax.tree.map(np.testing.assert_array_equal, picked, params_of(tmp_path / "plain"))


def test_a_relative_model_is_not_needed_where_the_run_has_its_export(
    run, model, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.snapshot_download", None)  # nothing may ask the hub
    out = run("--model=models/tiny")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"has no export/ yet, and its model 'models/tiny' is not"):
        export_verb(ExportConfig(run="run", to="a"))
    shutil.copytree(model, tmp_path / "models" / "tiny")
    export_verb(ExportConfig(run="run", to="a"))
    shutil.copytree(model, out / "export")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    export_verb(ExportConfig(run="../run", to="../b"))
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_a_folder_that_is_no_run_or_has_no_checkpoint(run, tmp_path):
    with pytest.raises(ValueError, match=r"no config\.yaml in it"):
        export_verb(ExportConfig(run=str(tmp_path), to=str(tmp_path / "a")))
    out = run()
    shutil.rmtree(out / "checkpoints")
    with pytest.raises(ValueError, match="holds no checkpoints"):
        export_verb(ExportConfig(run=str(out), to=str(tmp_path / "a")))
    assert not (out / "checkpoints").exists()
