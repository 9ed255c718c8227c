"""The device mesh and the two tables that say how logical axes lie on it.

Axes of the mesh: ``data`` (whole replicas), ``fsdp`` (rows of the batch; weights split, gathered
when used) and ``tensor`` (heads, MLP and vocabulary split). A table lists (logical axis, mesh
axis); what it does not split is whole on every device. Logical axes of weights: vocab, embed,
heads, kv_heads, head, mlp, layers; of activations: rows. Needs nothing of the package.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    """A mesh over ``devices`` (default: all); one of the sizes may be -1, for what is left."""
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
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if len(devices) % fixed or (not open_axes and fixed != len(devices)):
        raise ValueError(
            f"mesh: {said} makes {'a multiple of ' if open_axes else ''}{fixed} devices, but "
            f"there are {len(devices)}; change one of the sizes (-1 takes what is left)"
        )
    for name in open_axes:
        sizes[name] = len(devices) // fixed
    grid = np.asarray(devices).reshape(tuple(sizes.values()))
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


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

    A no-op outside ``jax.set_mesh`` and inside ``shard_map``. Without it the compiler may follow
    the split of a weight where it should follow the split of the batch.
    """
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*places)) if is_spread() else x


def is_spread() -> bool:
    """Whether the compiler spreads what is traced here over a mesh: with one in context, outside
    ``shard_map``."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and all(kind == AxisType.Auto for kind in mesh.axis_types)
