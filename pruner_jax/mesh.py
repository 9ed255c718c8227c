"""The device mesh and the two tables that say how logical axes lie on it.

Axes of the mesh: ``data`` (whole replicas), ``fsdp`` (rows of the batch; weights split, gathered
when used) and ``tensor`` (heads, MLP and vocabulary split). A table lists (logical axis, mesh
axis); what it does not split is whole on every device. Logical axes of weights: vocab, embed,
heads, kv_heads, head, mlp, layers; of activations: rows. Needs nothing of the package.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # the mesh axes that rows of a batch are spread over

Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]

_TENSOR = (("vocab", "tensor"), ("heads", "tensor"), ("kv_heads", "tensor"), ("mlp", "tensor"))
_WHOLE = (("head", None), ("layers", None))

# The learner splits every matrix over fsdp as well, and with it its gradient and optimiser state.
LEARN_RULES: Rules = (("rows", ROWS), ("embed", "fsdp"), *_TENSOR, *_WHOLE)
# The sampler keeps whole weights on every replica: a decode loop without collectives when tensor
# is 1.
DECODE_RULES: Rules = (("rows", ROWS), ("embed", None), *_TENSOR, *_WHOLE)


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh over ``devices`` (default: all); one of the sizes may be -1, for what is left.

    Devices come process by process and ``tensor`` is innermost, so that a process has the rows of a
    batch that follow on each other, and devices that share a replica lie on one host.

    Raises:
      ValueError: a size that is no size or does not divide, too many or too few devices, or a
        ``tensor`` that reaches over several hosts; with what is allowed.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    said = ", ".join(f"{name} = {size}" for name, size in sizes.items())
    for name, size in sizes.items():
        if size != -1 and size < 1:
            raise ValueError(
                f"mesh: {name} = {size}; allowed: a positive number, or -1 for the rest"
            )
    open_axes = [name for name, size in sizes.items() if size == -1]
    if len(open_axes) > 1:
        raise ValueError(f"mesh: {said}; only one size may be -1")
    left = _left(sizes, len(devices))
    for name in open_axes:
        sizes[name], left = left, 1
    if left > 1:
        raise ValueError(
            f"mesh: {said} makes {len(devices) // left} devices, but there are {len(devices)}; "
            "set one of the sizes to -1, for what is left"
        )
    devices.sort(key=lambda device: device.process_index)
    _check_hosts(devices, sizes["tensor"])
    grid = np.asarray(devices).reshape(tuple(sizes.values()))
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _left(sizes: Mapping[str, int], count: int) -> int:
    """How many devices each place of the mesh would have, were there none but the given sizes."""
    left, taken = count, ""
    for name, size in reversed(sizes.items()):  # what lies innermost first
        if size == -1:
            continue
        if left % size:
            allowed = ", ".join(str(n) for n in range(1, left + 1) if left % n == 0)
            raise ValueError(
                f"mesh: {name} = {size} does not divide the {left} device{'s' * (left > 1)} "
                f"{f'that {taken} leaves of {count}' if taken else 'that there are'}; allowed: "
                f"{allowed}"
            )
        left //= size
        taken += f"{' and ' if taken else ''}{name} = {size}" if size > 1 else ""
    return left


def _check_hosts(devices: Sequence[jax.Device], tensor: int) -> None:
    """No ``tensor`` devices that follow on each other belong to several processes."""
    for process, count in collections.Counter(device.process_index for device in devices).items():
        if count % tensor:
            allowed = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
            raise ValueError(
                f"mesh: tensor = {tensor}, but process {process} has {count} devices, and devices "
                f"that share a replica must belong to one process; allowed: {allowed} (start one "
                "process for each host; split over hosts with fsdp)"
            )


def local_mesh(mesh: Mesh) -> Mesh:
    """The devices of this process on a mesh of their own, all rows on the axis ``data``; the mesh
    itself where there is no other process."""
    own = mesh.local_devices
    if len(own) == mesh.size:
        return mesh
    rows = mesh.devices.reshape(-1, mesh.shape["tensor"])
    mine = [row for row in rows if row[0].process_index == own[0].process_index]
    return Mesh(np.asarray(mine)[:, None], AXES, axis_types=mesh.axis_types)


def on_this_process(x: jax.Array) -> jax.Array:
    """An array of which every process has the whole, on the devices of this one alone."""
    if x.is_fully_addressable:
        return x
    place = NamedSharding(local_mesh(x.sharding.mesh), x.sharding.spec)
    own = [shard.data for shard in x.addressable_shards]
    return jax.make_array_from_single_device_arrays(x.shape, place, own)


def shardings(axes_tree: Any, mesh: Mesh, rules: Rules, shapes: Any = None) -> Any:
    """The NamedSharding of every leaf of logical axes (tuples of names or None).

    With ``shapes``, a like tree of things that have a shape, an axis that its part of the mesh
    does not divide is an error that names it.
    """

    def one(axes: tuple[str | None, ...], leaf: Any = None) -> NamedSharding:
        spec = nn.logical_to_mesh_axes(axes, rules)
        for axis, place, size in zip(axes, spec, leaf.shape if leaf is not None else ()):
            parts = math.prod(mesh.shape[name] for name in _names(place))
            if size % parts:
                raise ValueError(
                    f"mesh: the axis {axis!r} of size {size} cannot be split into {parts} equal "
                    f"parts; the size of {' x '.join(_names(place))} must divide it"
                )
        return NamedSharding(mesh, spec)

    trees = (axes_tree,) if shapes is None else (axes_tree, shapes)
    return jax.tree.map(one, *trees, is_leaf=lambda x: isinstance(x, tuple))


def _names(place: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if place is None else (place,) if isinstance(place, str) else place


def constrain(x: jax.Array, *places: str | tuple[str, ...] | None) -> jax.Array:
    """Says over which mesh axes each leading axis of ``x`` is spread; the others are whole.

    A no-op outside ``jax.set_mesh``. Inside ``shard_map`` only those mesh axes count that it leaves
    to the compiler. Without it the compiler may follow the split of a weight where it should follow
    the split of the batch.
    """
    left = left_to_the_compiler()
    if math.prod(left.values()) == 1:
        return x
    spec = (tuple(name for name in _names(place) if name in left) or None for place in places)
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def left_to_the_compiler() -> dict[str, int]:
    """The axes of the mesh in context that no ``shard_map`` has taken, and their sizes."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types)
    return {name: mesh.shape[name] for name, kind in kinds if kind == AxisType.Auto}
