"""The mesh: its sizes, its tables, and eight devices that compute what one computes."""

from __future__ import annotations

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
        ((-1, 3, 1), "fsdp = 3, tensor = 1 makes a multiple of 3 devices, but there are 8"),
        ((2, 2, 1), "makes 4 devices, but there are 8"),
        ((-1, -1, 1), "only one size may be -1"),
        ((-1, 0, 1), "fsdp = 0; allowed: a positive number"),
    ],
)
def test_sizes_that_do_not_fit(sizes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(*sizes, EIGHT)


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
