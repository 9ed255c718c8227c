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
from collections.abc import Iterable, Mapping, MutableMapping

import jax

from pruner_jax.learn.options import MeshOptions, PodOptions
from pruner_jax.pod.start import wanted
from pruner_jax.policy.hf import find_folder

# What the copies of a model's weights may take together, on disk; with gradients, optimiser and the
# sampler's own it is some six times as much memory.
SMALL = 256 << 20  # bytes
# Devices that are made unasked: each has rows of its own, and there are not endlessly many.
MOST = 8

# XLA ends a process in which a device has waited for another for 40 seconds, as on a machine that
# is busy or was asleep; here there is no other host that might be gone.
_PATIENCE = "--xla_cpu_collective_call_terminate_timeout_seconds=86400"


def use_processors(models: Iterable[str | None], mesh: MeshOptions, pod: PodOptions) -> None:
    """Give JAX's CPU platform as many devices as the mesh asks for; -1 stands for all processors.

    Must come before JAX looks at its devices. Other platforms take no notice.

    Args:
      models: all of the verb; one that is not in a folder, or a large one, and there is one device.
      mesh: as the settings have it.
      pod: the same; a process that is to look for others has one device, or as many as it was told.
    """
    if not wanted(pod, os.environ):
        named = [model for model in models if model is not None]
        make(devices(named, mesh, available()))


def make(count: int, environment: MutableMapping[str, str] = os.environ) -> None:
    """So many devices; unless the environment says how many there are (``JAX_NUM_CPU_DEVICES``, or
    ``--xla_force_host_platform_device_count`` in ``XLA_FLAGS``), the program has said it to JAX, or
    JAX runs already."""
    if count == 1 or _said(environment) or jax.config.jax_num_cpu_devices >= 0:
        return
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # JAX runs already: the caller's own program began before this one
        return
    environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {_PATIENCE}".strip()


def stay_with_one(environment: MutableMapping[str, str] = os.environ) -> None:
    """One device here and in processes that this one starts, unless the environment says more."""
    if not _said(environment):
        environment["JAX_NUM_CPU_DEVICES"] = "1"


def _said(environment: Mapping[str, str]) -> bool:
    flags = environment.get("XLA_FLAGS", "")
    return "JAX_NUM_CPU_DEVICES" in environment or "xla_force_host_platform_device_count" in flags


def devices(models: list[str], mesh: MeshOptions, processors: int) -> int:
    """How many devices there are to be, at most one for each processor."""
    sizes = list(dataclasses.asdict(mesh).values())
    named = math.prod(size for size in sizes if size != -1)
    if named > processors:
        return 1  # the mesh will say what is wrong
    if -1 not in sizes:
        return named
    bytes_of = [_weights(model) for model in models]
    most = min(processors, MOST, *(SMALL // max(size, 1) for size in bytes_of))
    return named * max(1, most // named)


def _weights(model: str) -> int:
    """Bytes of a model's files; of one that is not in a folder, more than any number."""
    if not pathlib.Path(model).is_dir():
        return SMALL + 1
    files = list(find_folder(model).glob("*.safetensors"))
    return sum(file.stat().st_size for file in files) if files else SMALL + 1


def available() -> int:
    """Processors that this process may use (a container's share of time is not looked at)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
