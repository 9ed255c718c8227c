"""Eight devices learn what one learns. Forced devices need a process of their own."""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent


def test_eight_devices_are_one():
    """On three meshes (data; fsdp; data, fsdp and tensor), with three losses."""
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, HERE / "eight_devices.py"],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
