"""What happens to a map after its method: arrays (..., *grid) in, arrays (..., *size) out.

Everything here is written in the array API. It runs on NumPy arrays, on torch tensors on their own
device, and inside `jax.jit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from gradcam._arrays import array_namespace, constant, matmul
from gradcam._numbers import check_whole
from gradcam._types import Array, Shape

__all__ = ["Fusion", "Scaling", "fuse", "relu", "resize", "scale"]

Scaling = Literal["max", "minmax", "signed"]
Fusion = Literal["mean", "max", "product"]


def relu(maps: Array) -> Array:
    """The positive part; NaN stays NaN."""
    xp = array_namespace(maps)
    return xp.where(maps < 0, xp.zeros_like(maps), maps)


def _interpolation(n_in: int, n_out: int) -> np.ndarray:
    """Linear interpolation as a matrix (n_out, n_in): half-pixel centres, edges clamped.

    >>> _interpolation(2, 4)
    array([[1.  , 0.  ],
           [0.75, 0.25],
           [0.25, 0.75],
           [0.  , 1.  ]])
    """
    position = np.clip((np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5, 0, n_in - 1)
    left = np.minimum(np.floor(position).astype(int), max(n_in - 2, 0))
    weight = position - left
    matrix = np.zeros((n_out, n_in))
    rows = np.arange(n_out)
    matrix[rows, left] += 1 - weight
    matrix[rows, np.minimum(left + 1, n_in - 1)] += weight
    return matrix


def resize(maps: Array, size: Sequence[int]) -> Array:
    """Linear interpolation of the last `len(size)` axes: (..., *grid) -> (..., *size).

    It has half-pixel centres, clamped edges and no antialiasing, in any number of dimensions. That
    is what `torch.nn.functional.interpolate(align_corners=False)`, OpenCV's INTER_LINEAR and
    `jax.image.resize(antialias=False)` compute. Resizing to the same size is the identity.
    """
    xp = array_namespace(maps)
    first = maps.ndim - len(size)
    if first < 0:
        raise ValueError(
            f"`size` {tuple(size)} has more axes than `maps` of shape {tuple(maps.shape)}"
        )
    for length in size:
        check_whole("size", length)
    if min(size, default=1) < 1:
        raise ValueError(f"`size` must be positive in every axis, but is {tuple(size)}")
    for axis, n_out in enumerate(size, start=first):
        n_in = int(maps.shape[axis])
        if n_in == n_out:
            continue
        # A matrix product runs in every framework, and is differentiable in each.
        matrix = constant(_interpolation(n_in, int(n_out)).T, like=maps)
        maps = xp.moveaxis(matmul(xp.moveaxis(maps, axis, -1), matrix), -1, axis)
    return maps


def scale(maps: Array, ndim: int, how: Scaling = "max", joint: bool = False) -> Array:
    """Scale each map to [0, 1]; a flat map scales to 0.

    - `"max"`: the positive part over its maximum, so 0 stays "no evidence".
    - `"minmax"`: from the minimum to the maximum.
    - `"signed"`: over the largest magnitude, to [-1, 1], for maps without ReLU.

    A map is the last `ndim` axes. With `joint=True` all maps share one scale, so that they can be
    compared. Scaling twice is scaling once. Nothing is added to a denominator: a map of size 1e-12
    scales to the same result as one of size 1.
    """
    xp = array_namespace(maps)
    axes = tuple(range(maps.ndim - ndim, maps.ndim))
    if joint:
        axes = tuple(range(maps.ndim))
    low = xp.min(maps, axis=axes, keepdims=True)
    high = xp.max(maps, axis=axes, keepdims=True)
    # A flat positive map would be scaled to 1 by its maximum, so flatness is tested for itself.
    is_flat = low == high
    shift = xp.zeros_like(low)
    if how == "minmax":
        shift = low
        extent = high - low
    elif how == "max":
        maps = relu(maps)
        extent = relu(high)
    elif how == "signed":
        extent = xp.where(-low > high, -low, high)
    else:
        raise ValueError(f'`how` must be "max", "minmax" or "signed", but is {how!r}')
    is_blank = is_flat | (extent == 0)
    # As in `quotient`: dividing by 1 where the extent is 0 keeps NaN out of the derivative.
    scaled = (maps - shift) / xp.where(is_blank, xp.ones_like(extent), extent)
    return xp.where(is_blank, xp.zeros_like(maps), scaled)


def fuse(
    maps: Sequence[Array], ndim: int, how: Fusion = "mean", size: Sequence[int] | None = None
) -> Array:
    """One map from the maps of several layers, each first scaled by its maximum and resized.

    maps: one array (..., *grid) for each layer, each with its own grid of `ndim` axes.
    how: `"mean"`; `"max"` (Layer-CAM, Jiang et al. 2021); or `"product"` (RefineCAM, arXiv
        2605.14641), which is 0 where one layer's map is 0.
    size: that of the result; None takes the finest grid among the layers.
    """
    if not maps:
        raise ValueError("`maps` is empty: pass at least one map")
    xp = array_namespace(*maps)
    if size is None:
        size = _finest_grid(maps, ndim)
    stack = xp.stack([resize(scale(layer_maps, ndim), size) for layer_maps in maps])
    if how == "mean":
        return xp.mean(stack, axis=0)
    if how == "max":
        return xp.max(stack, axis=0)
    if how == "product":
        return xp.prod(stack, axis=0)
    raise ValueError(f'`how` must be "mean", "max" or "product", but is {how!r}')


def _finest_grid(maps: Sequence[Array], ndim: int) -> Shape:
    """In each axis the largest size that any of the maps has."""
    grids = np.array([layer_maps.shape[layer_maps.ndim - ndim :] for layer_maps in maps])
    return tuple(int(n) for n in grids.max(axis=0))
