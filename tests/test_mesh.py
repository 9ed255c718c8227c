"""The mesh: its sizes, its tables, and eight devices that compute what one computes."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from pruner_jax.mesh import DECODE_RULES, LEARN_RULES, ROWS, constrain, make_mesh, shardings

EIGHT = [jax.devices()[0]] * 8  # enough for shapes; nothing is computed on them


def test_minus_one_takes_what_is_left():
    assert dict(make_mesh(-1, 2, 2, EIGHT).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(make_mesh(1, -1, 4, EIGHT).shape) == {"data": 1, "fsdp": 2, "tensor": 4}
    assert dict(make_mesh().shape) == {"data": len(jax.devices()), "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((-1, 3, 1), "fsdp = 3 does not divide the 8 devices that there are; allowed: 1, 2, 4, 8$"),
        ((-1, 8, 2), "fsdp = 8 does not divide the 4 devices that tensor = 2 leaves of 8; allowed"),
        ((3, 2, 4), "data = 3 .* 1 device that tensor = 4 and fsdp = 2 leaves of 8; allowed: 1$"),
        ((1, 1, 16), "tensor = 16 does not divide the 8 devices that there are"),
        ((2, 2, 1), "makes 4 devices, but there are 8; set one of the sizes to -1"),
        ((-1, -1, 1), "only one size may be -1"),
        ((-1, 0, 1), "fsdp = 0; allowed: a positive number"),
    ],
)
def test_sizes_that_do_not_fit(sizes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(*sizes, EIGHT)


@dataclasses.dataclass(frozen=True)
class _Device:
    """As much of a device of another host as the order of a mesh is made from."""

    id: int
    process_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"


def test_processes_have_rows_that_follow_on_each_other():
    """Whatever order the devices are given in; ``tensor`` stays inside a process."""
    devices = [_Device(i, i % 4) for i in range(16)]  # process 0 has 0, 4, 8, 12
    mesh = make_mesh(-1, 2, 2, devices)
    processes = np.vectorize(lambda device: device.process_index)(mesh.devices)
    assert processes.reshape(8, 2).tolist() == [[i // 2] * 2 for i in range(8)]
    assert [device.id for device in mesh.devices[0].flat] == [0, 4, 8, 12]
    with pytest.raises(ValueError, match=r"tensor = 8, but process 0 has 4 .*allowed: 1, 2, 4 \("):
        make_mesh(-1, 1, 8, devices)


def test_each_table_places_the_logical_axes():
    mesh = make_mesh(2, 2, 2, EIGHT)
    axes = {"up": ("layers", "mlp", "embed"), "norm": ("layers", "embed"), "x": ("rows", None)}
    learn = shardings(axes, mesh, LEARN_RULES)
    decode = shardings(axes, mesh, DECODE_RULES)
    assert learn["up"].spec == PartitionSpec(None, "tensor", "fsdp")
    assert learn["norm"].spec == PartitionSpec(None, "fsdp")
    assert decode["up"].spec == PartitionSpec(None, "tensor", None)
    assert learn["x"].spec == decode["x"].spec == PartitionSpec(("data", "fsdp"), None)


def test_an_axis_that_cannot_be_split_is_named():
    mesh = make_mesh(1, 2, 4, EIGHT)
    axes, shapes = {"k": ("layers", "kv_heads")}, {"k": np.zeros((3, 2))}
    with pytest.raises(ValueError, match=r"axis 'kv_heads' of size 2 .* 4 equal parts; .* tensor"):
        shardings(axes, mesh, LEARN_RULES, shapes)
    with pytest.raises(ValueError, match=r"'rows' of size 3 .* 2 equal parts; .* data x fsdp"):
        shardings({"x": ("rows",)}, mesh, LEARN_RULES, {"x": np.zeros(3)})


def test_without_a_mesh_activations_are_left_alone():
    x = np.ones((3, 2))
    assert constrain(x, ROWS) is x


def test_eight_devices_compute_what_one_computes():
    """Gradients and cached decode on several meshes, in a process of its own."""
    code = Path(__file__).parent / "policy" / "on_eight_devices.py"
    flags = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    flags["JAX_PLATFORMS"] = "cpu"
    done = subprocess.run([sys.executable, code], capture_output=True, text=True, env=flags)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "all meshes agree"
