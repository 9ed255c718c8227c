"""On a CPU every processor is a device, where the model is small and nothing else is said."""

import os
import subprocess
import sys

import pytest

from pruner_jax.learn.options import MeshOptions
from pruner_jax.run import processors

SAYS = "import sys, jax; from pruner_jax.run import processors; "
SAYS += "processors.make(int(sys.argv[1])); print(jax.device_count())"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    return str(tmp_path)


@pytest.mark.parametrize(
    "mesh, count",
    [
        ({}, 8),
        ({"data": 1}, 1),
        ({"data": 2, "fsdp": 2}, 4),
        ({"tensor": 2}, 8),
        ({"tensor": 3}, 6),  # as many whole replicas as there are processors for
        ({"data": 16}, 1),  # more than there are: the mesh itself says so
    ],
)
def test_as_many_as_the_mesh_asks_for(folder, mesh, count):
    assert processors.devices([folder], MeshOptions(**mesh), 8) == count


def test_a_large_model_has_one(folder, monkeypatch):
    assert processors.devices([folder], MeshOptions(), 64) == processors.MOST
    assert processors.devices([folder, "Qwen/Qwen2.5-0.5B"], MeshOptions(), 8) == 1
    monkeypatch.setattr(processors, "SMALL", 3000)  # three copies of 1,000 bytes
    assert processors.devices([folder], MeshOptions(), 8) == 3
    monkeypatch.setattr(processors, "SMALL", 999)
    assert processors.devices([folder], MeshOptions(), 8) == 1


@pytest.mark.parametrize(
    "environment, count",
    [
        ({"XLA_FLAGS": ""}, 3),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}, 2),
        ({"XLA_FLAGS": "", "JAX_NUM_CPU_DEVICES": "4"}, 4),
    ],
)
def test_the_environment_goes_first(environment, count):
    env = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    command = [sys.executable, "-c", SAYS, "3"]
    assert subprocess.check_output(command, env=env, text=True).strip() == str(count)


def test_where_jax_runs_already_nothing_changes():
    import jax

    before = jax.device_count()
    processors.make(before + 1, {})
    assert jax.device_count() == before
