"""Which places of a layer the score reaches, asked without a gradient."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["reached"]

SLABS = 4
"""Places along each axis that are asked whether the score reaches them; of shorter ones, all."""


def reached(
    score: Callable[[np.ndarray], np.ndarray],
    array: np.ndarray,
    scores: np.ndarray,
    is_rounded: bool,
) -> np.ndarray:
    """1 where the score answers to the element, as far as places along each axis tell: of the
    gradient's shape.

    An element is reached where each of its axes' places is. The first and the last place of an axis
    are asked, and some between, which stand for those next to them. Where the head rounds to
    integers one place alone may move none: there all those between are asked at once.
    """
    rng = np.random.default_rng(0)
    flat = array.reshape(len(array), -1)
    size = np.sqrt(np.mean(np.square(flat, dtype=np.float64), axis=1))
    noise = rng.standard_normal(array.shape) * _like(np.where(size > 0, size, 1), array)
    sample = array.shape[1:]
    blocks = [_blocks(count, is_rounded) for count in sample]
    variants = []
    for axis, parts in enumerate(blocks):
        for asked, _ in parts:
            here = (slice(None),) * (axis + 1) + (asked,)
            variant = array.copy()
            variant[here] += noise[here].astype(array.dtype) * (4 if is_rounded else 1)
            variants.append(variant)
    change = np.abs(np.asarray(score(np.stack(variants)), np.float64) - scores)
    seen = iter(change > 8 * np.finfo(array.dtype).eps * np.maximum(np.abs(scores), 1e-30))
    reached = np.ones((*scores.shape, *(1,) * len(sample)), bool)
    for axis, (count, parts) in enumerate(zip(sample, blocks, strict=True)):
        along = np.zeros((*scores.shape, count), bool)
        for _, stands_for in parts:
            along[..., stands_for] = next(seen)[..., None]
        shape = [1] * len(sample)
        shape[axis] = count
        reached = reached & along.reshape(*scores.shape, *shape)
    return reached.astype(array.dtype)


def _blocks(count: int, is_rounded: bool) -> list[tuple[slice, slice]]:
    """The places along an axis that are asked, each with the places that it stands for."""
    if count < SLABS:
        return [(slice(n, n + 1), slice(n, n + 1)) for n in range(count)]
    first, last = slice(0, 1), slice(count - 1, count)
    inner = [slice(1, count - 1)]
    if is_rounded:
        return [(first, first), (inner[0], inner[0]), (last, last)]
    middle = count // 2
    inner = [slice(1, middle), slice(middle, count - 1)]
    blocks = [(first, first)]
    for block in inner:
        place = (block.start + block.stop) // 2
        blocks.append((slice(place, place + 1), block))
    return [*blocks, (last, last)]


def _like(values: np.ndarray, array: np.ndarray) -> np.ndarray:
    return values.reshape(-1, *(1,) * (array.ndim - 1))
