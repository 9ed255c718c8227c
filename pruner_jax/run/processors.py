"""On a CPU every processor is a device of JAX: rows are spread over them as over chips.

XLA also cuts single operations into parts for several processors, but those of a small model are
too short for that to pay, and most run on one of them. Devices each run a program of their own: an
update of a model with 0.85 M parameters took 1.87 s on two devices and 2.45 s on one (two cores;
``benchmarks/learn.py``). Every device holds the weights, so large models stay on one device, where
operations are long and cut well.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping

import jax

from pruner_jax.learn.options import MeshOptions

# Weights on disk, up to which every processor gets a copy of them (with gradients, optimiser and
# the sampler's copy it takes about six times as much memory).
SMALL = 64 << 20  # bytes


def use_processors(model: str, mesh: MeshOptions) -> None:
    """Give JAX's CPU platform as many devices as the mesh asks for; -1 stands for all processors.

    Must come before JAX looks at its devices. Other platforms take no notice.

    Args:
      model: of the verb; a folder with more than ``SMALL`` weights, or a name on the Hub, is large.
      mesh: as the settings have it.
    """
    make(devices(model, mesh, available()))


def make(count: int, environment: Mapping[str, str] = os.environ) -> None:
    """So many devices; unless the environment says how many there are (``JAX_NUM_CPU_DEVICES``, or
    ``--xla_force_host_platform_device_count`` in ``XLA_FLAGS``), or JAX runs already."""
    said = "xla_force_host_platform_device_count" in environment.get("XLA_FLAGS", "")
    if said or "JAX_NUM_CPU_DEVICES" in environment or count == 1:
        return
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # JAX runs already: the caller's own program began before this one
        return


def devices(model: str, mesh: MeshOptions, processors: int) -> int:
    """How many devices there are to be, at most one for each processor."""
    sizes = list(dataclasses.asdict(mesh).values())
    named = math.prod(size for size in sizes if size != -1)
    if named > processors:
        return 1  # the mesh will say what is wrong
    if -1 not in sizes:
        return named
    weights = [file.stat().st_size for file in pathlib.Path(model).glob("*.safetensors")]
    small = weights and sum(weights) <= SMALL
    return named * (processors // named if small else 1)


def available() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
