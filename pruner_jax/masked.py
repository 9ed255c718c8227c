"""Sums, means and quantiles under a mask: the only place that divides by a count.

Every function takes ``x`` and a boolean ``mask`` that broadcasts against it, on numpy and on JAX
arrays alike (each array brings its own namespace, so this file does not import JAX). What an empty
subset gives is always said by the caller: ``empty=`` has no default where it could surprise.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or jax.Array
Axis = int | tuple[int, ...] | None


def _namespace(x: Array) -> Any:
    return x.__array_namespace__() if hasattr(x, "__array_namespace__") else np


def count(mask: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """How many elements the mask selects, as float32 (so that it can be divided by)."""
    xp = _namespace(mask)
    return xp.sum(mask, axis=axis, keepdims=keepdims).astype(xp.float32)


def sum(x: Array, mask: Array, axis: Axis = None, keepdims: bool = False) -> Array:
    """Sum of the selected elements; what is not selected may be NaN or infinite."""
    xp = _namespace(x)
    return xp.sum(xp.where(mask, x, 0), axis=axis, keepdims=keepdims)


def ratio(numerator: Array, denominator: Array, empty: float) -> Array:
    """``numerator / denominator`` where the denominator is positive, else ``empty``."""
    xp = _namespace(numerator)
    safe = xp.where(denominator > 0, denominator, 1)
    return xp.where(denominator > 0, numerator / safe, empty)


def mean(
    x: Array, mask: Array, axis: Axis = None, *, empty: float, keepdims: bool = False
) -> Array:
    """Mean of the selected elements."""
    xp = _namespace(x)
    mask = xp.broadcast_to(mask, x.shape)
    return ratio(sum(x, mask, axis, keepdims), count(mask, axis, keepdims), empty)


def std(
    x: Array, mask: Array, axis: Axis = None, *, ddof: int, empty: float, keepdims: bool = False
) -> Array:
    """Standard deviation with ``ddof`` (1: unbiased variance, as in GRPO; 0: population).

    ``empty`` is the value of a subset of ``ddof`` elements or fewer.
    """
    xp = _namespace(x)
    mask = xp.broadcast_to(mask, x.shape)
    n = count(mask, axis, keepdims)
    centred = xp.where(mask, x - mean(x, mask, axis, empty=0.0, keepdims=True), 0)
    variance = ratio(sum(centred**2, mask, axis, keepdims), n - ddof, 0.0)
    return xp.where(n > ddof, xp.sqrt(variance), empty)


def min(x: Array, mask: Array, axis: Axis = None, *, empty: float, keepdims: bool = False) -> Array:
    """Least selected element."""
    xp = _namespace(x)
    mask = xp.broadcast_to(mask, x.shape)
    least = xp.min(xp.where(mask, x, xp.inf), axis=axis, keepdims=keepdims)
    return xp.where(xp.any(mask, axis=axis, keepdims=keepdims), least, empty)


def max(x: Array, mask: Array, axis: Axis = None, *, empty: float, keepdims: bool = False) -> Array:
    """Greatest selected element."""
    return -min(-x, mask, axis, empty=-empty, keepdims=keepdims)


def quantile(
    x: Array,
    mask: Array,
    q: float,
    axis: int | None = None,
    *,
    empty: float,
    keepdims: bool = False,
) -> Array:
    """The q-th quantile (0..1) of the selected elements, with linear interpolation as in numpy."""
    xp = _namespace(x)
    mask = xp.broadcast_to(mask, x.shape)
    if axis is None:
        x, mask, axis = xp.reshape(x, (-1,)), xp.reshape(mask, (-1,)), 0
    ordered = xp.sort(xp.where(mask, x, xp.inf), axis=axis)
    n = xp.sum(mask, axis=axis, keepdims=True)
    place = q * xp.where(n > 0, n - 1, 0)
    below = xp.floor(place).astype(xp.int32)
    above = xp.ceil(place).astype(xp.int32)
    low = xp.take_along_axis(ordered, below, axis=axis)
    high = xp.take_along_axis(ordered, above, axis=axis)
    gap = xp.where(above > below, high, 0) - xp.where(above > below, low, 0)  # never inf - inf
    value = xp.where(n > 0, low + (place - below) * gap, empty)
    return value if keepdims else xp.squeeze(value, axis=axis)
