"""Noisy linear imputation: pixels taken away so that their absence is hard to see. Needs SciPy."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

__all__ = ["impute"]

NEIGHBOURS = tuple(
    (down, across, 1 / 6 if 0 in (down, across) else 1 / 12)
    for down in (-1, 0, 1)
    for across in (-1, 0, 1)
    if (down, across) != (0, 0)
)
"""(rows down, columns across, weight): those beside count twice those across a corner."""


def impute(image: np.ndarray, kept: np.ndarray, *, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    r"""An image whose missing pixels are each the weighted mean of their neighbours, plus noise.

    $x_i = \sum_j w_{ij} x_j / \sum_j w_{ij}$ over the 8 neighbours j that lie in the image, 1/6 for those beside and
    1/12 for those across a corner; known pixels are what they are. That is one symmetric sparse system for all
    channels, factored once. Rong et al. 2022, ROAD, section 4.2 and appendix, https://arxiv.org/abs/2202.00449.

    image: (H, W, ...) floats. kept: (H, W) booleans, True for a pixel that stays; one at least, else a ValueError.
    noise: standard deviation of the normal noise on missing pixels, in the image's own units.
    Returns a new array of the image's dtype.
    """
    if image.dtype.kind != "f":
        raise ValueError(
            f"`image` must be of floats, but has dtype {image.dtype}; pass image.astype(np.float32)"
        )
    if kept.dtype != bool or kept.shape != image.shape[:2]:
        raise ValueError(
            f"`kept` must be booleans {image.shape[:2]}, but has shape {kept.shape} and dtype {kept.dtype}"
        )
    if not kept.any():
        raise ValueError("`kept` keeps no pixel: there is nothing to impute from")
    try:
        from scipy.sparse import coo_matrix
        from scipy.sparse.linalg import splu
    except ImportError as error:
        raise ImportError('imputation needs SciPy: pip install "gradcam[images]"') from error
    found = image.copy()
    rows, columns = np.nonzero(~kept)
    count = len(rows)
    if count == 0:
        return found
    height, width = kept.shape
    nested = np.argsort(_dissection(height, width)[rows, columns])
    rows, columns = rows[nested], columns[nested]
    place = np.full(kept.shape, -1)
    place[rows, columns] = np.arange(count)
    flat = image.reshape(height, width, -1).astype(np.float64)
    total = np.zeros(count)
    known = np.zeros((count, flat.shape[-1]))
    entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for down, across, weight in NEIGHBOURS:
        r, c = rows + down, columns + across
        inside = np.flatnonzero((r >= 0) & (r < height) & (c >= 0) & (c < width))
        r, c = r[inside], c[inside]
        total[inside] += weight
        there = kept[r, c]
        known[inside[there]] += weight * flat[r[there], c[there]]
        other = place[r[~there], c[~there]]
        entries.append((inside[~there], other, np.full(len(other), -weight)))
    entries.append((np.arange(count), np.arange(count), total))
    i, j, values = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    matrix = coo_matrix((values, (i, j)), shape=(count, count)).tocsc()
    # symmetric and diagonally dominant: no pivoting, and the order stays what it is
    factored = splu(
        matrix, permc_spec="NATURAL", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    solved = factored.solve(known)
    if noise:
        solved = solved + noise * np.random.default_rng(seed).standard_normal(solved.shape)
    found[rows, columns] = solved.reshape(count, *image.shape[2:])
    return found


@lru_cache(maxsize=8)
def _dissection(height: int, width: int) -> np.ndarray:
    """(H, W): the order of nested dissection, in which a factor of what neighbours say of each other has few entries:
    either side of a line through the middle, each so ordered itself, and then the line.

    George 1973, https://doi.org/10.1137/0710032
    """
    order, count = np.empty((height, width), dtype=int), 0

    def put(top: int, bottom: int, left: int, right: int) -> None:
        nonlocal count
        size = (bottom - top) * (right - left)
        order[top:bottom, left:right] = np.arange(count, count + size).reshape(
            bottom - top, right - left
        )
        count += size

    def part(top: int, bottom: int, left: int, right: int) -> None:
        if bottom <= top or right <= left:
            return
        if max(bottom - top, right - left) <= 3:
            put(top, bottom, left, right)
        elif bottom - top >= right - left:
            middle = (top + bottom) // 2
            part(top, middle, left, right)
            part(middle + 1, bottom, left, right)
            put(middle, middle + 1, left, right)
        else:
            middle = (left + right) // 2
            part(top, bottom, left, middle)
            part(top, bottom, middle + 1, right)
            put(top, bottom, middle, middle + 1)

    part(0, height, 0, width)
    order.flags.writeable = False
    return order
