"""TPU chips and slices by name, and the devices of a slice that nobody needs to have.

``CHIPS`` holds what a plan reckons with: published peak rates of a chip, the memory that its
compiler gives to a program, and the layouts that can be had. ``devices`` makes devices to compile
for, with the package ``libtpu`` and without a TPU. Needs JAX only for that.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
from collections.abc import Mapping
from typing import Any

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip. Rates are those of a JAX device, which is a chip or a part of it."""

    name: str  # a topology's name begins with it
    flops: float  # bfloat16, a second
    memory: int  # bytes for a program, as the compiler says where one does not fit
    bandwidth: float  # bytes a second, of that memory
    links: float  # bytes a second, of all links to other chips together, both ways
    layouts: tuple[str, ...]  # from the smallest to the largest
    source: str  # of the published figures
    devices: int = 1  # of a chip
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the topology

    def slices(self) -> tuple[str, ...]:
        """The names of its slices."""
        return tuple(f"{self.name}:{layout}" for layout in self.layouts)


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8")
_PAGES = "https://docs.cloud.google.com/tpu/docs/"

# Published: peak compute, bandwidth of HBM, bidirectional bandwidth between chips. The memory is
# what the compiler of libtpu 0.0.52 has for a program, as it says where one does not fit (the rest
# of the published 16, 32, 95, 32 and 192 GiB of a chip is its own); tests/pod/test_plan.py asks.
CHIPS = (
    Chip("v5e", 197e12, int(15.75 * GIB), 819e9, 400e9, _FLAT, _PAGES + "v5e"),
    Chip("v6e", 918e12, int(31.24 * GIB), 1638e9, 800e9, _FLAT, _PAGES + "v6e"),
    Chip("v5p", 459e12, int(95.73 * GIB), 2765e9, 1200e9, _CUBES, _PAGES + "v5p"),
    # Its two cores are one device, as on the machines that are rented out. Links: arXiv 2304.01433.
    Chip(
        "v4",
        275e12,
        int(30.75 * GIB),
        1200e9,
        600e9,
        _CUBES,
        _PAGES + "v4",
        options={"chip_config_name": "megacore"},
    ),
    # Two devices on a chip, each with half of what is published of it.
    Chip(
        "tpu7x", 2307e12 / 2, int(94.74 * GIB), 7380e9 / 2, 1200e9 / 2, _CUBES, _PAGES + "tpu7x", 2
    ),
)


def find(topology: str) -> Chip:
    """The chip of a slice such as ``v5e:4x4``.

    Raises:
      ValueError: there is no such slice; with those that there are.
    """
    name, _, layout = topology.partition(":")
    chip = next((chip for chip in CHIPS if chip.name == name), None)
    if chip is not None and layout in chip.layouts:
        return chip
    said = f"topology is {topology!r}" if topology else "topology is missing (--topology=v5e:4x4)"
    if meant := _of_cloud(topology):
        said += f"; you mean {meant}"
    known = CHIPS if chip is None else (chip,)
    raise ValueError(f"{said}; allowed: {'; '.join(', '.join(c.slices()) for c in known)}")


def _of_cloud(name: str) -> str | None:
    """The slice that Google Cloud calls by an accelerator type, such as v5litepod-16; of v4 and v5p
    that counts cores, two of a chip."""
    kind, _, count = name.partition("-")
    kind = {"v5litepod": "v5e"}.get(kind, kind)
    cores = 2 if kind in ("v4", "v5p") else 1
    slices = [s for chip in CHIPS if chip.name == kind for s in chip.slices()]
    return next((s for s in slices if str(size(s) * cores) == count), None)


def size(topology: str) -> int:
    """How many chips a slice has."""
    return math.prod(int(side) for side in topology.partition(":")[2].split("x"))


def devices(topology: str) -> list[Any]:
    """The devices of a slice, to compile for and not to compute on.

    Raises:
      ValueError: there is no such slice, or the package ``libtpu`` is missing.
    """
    chip = find(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            "to compile for a TPU that is not there needs the package libtpu; install "
            "'pruner-jax[plan]'"
        )
    _calm_libtpu()
    from jax.experimental import topologies

    made = topologies.get_topology_desc(
        topology_name=topology, platform="tpu", **dict(chip.options)
    ).devices
    if len(made) != size(topology) * chip.devices:
        raise ValueError(
            f"topology {topology!r} has {len(made)} devices in this version of libtpu; a plan "
            f"reckons with {size(topology) * chip.devices}"
        )
    return list(made)


def _calm_libtpu() -> None:
    """Without these it asks the network what machine it is on, complains that it is none, and
    shuts out every other process that has it loaded. A machine with a TPU has said it all."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
