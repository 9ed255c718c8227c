"""Eight devices learn what one learns. Forced devices need a process of their own."""

import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent


@pytest.mark.parametrize(("name", "shape"), [("ppo", "8 1 1"), ("gspo", "2 2 2"), ("dpo", "1 8 1")])
def test_eight_devices_are_one(name, shape):
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, HERE / "eight_devices.py", name, *shape.split()],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
