"""Weights on their way from the learner to the sampler, on eight forced devices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_weights_are_cast_before_they_are_gathered():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("cast_first.py")],
        env=os.environ | flags,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "cast first"
