"""Noisy linear imputation: pixels are removed so that their absence is hard to see. Needs SciPy.

Each missing pixel is a weighted mean of its neighbours, of which some are missing too. So the
missing pixels solve a system of linear equations. Of a row of four pixels, 8 and 2 known at the
ends, the two between solve

    a = (8 + b) / 2,  b = (a + 2) / 2:  a = 6, b = 4.

The matrix is sparse and symmetric. Factored in the order of `_dissection` it stays sparse, and one
factor serves all channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

__all__ = ["impute"]

BESIDE = 1 / 6
ACROSS_A_CORNER = 1 / 12
NEIGHBOURS = (
    (-1, -1, ACROSS_A_CORNER),
    (-1, 0, BESIDE),
    (-1, 1, ACROSS_A_CORNER),
    (0, -1, BESIDE),
    (0, 1, BESIDE),
    (1, -1, ACROSS_A_CORNER),
    (1, 0, BESIDE),
    (1, 1, ACROSS_A_CORNER),
)
"""(rows down, columns across, weight): those beside a pixel count twice those across a corner."""


def impute(image: np.ndarray, kept: np.ndarray, *, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    r"""An image whose missing pixels are each the weighted mean of their neighbours, plus noise.

    $x_i = \sum_j w_{ij} x_j / \sum_j w_{ij}$ over the 8 neighbours j that lie in the image, 1/6 for
    those beside and 1/12 for those across a corner. Known pixels stay as they are. Rong et al.
    2022, ROAD, section 4.2 and appendix, https://arxiv.org/abs/2202.00449.

    image: (H, W, ...) floats.
    kept: (H, W) booleans, True for a pixel that stays; a ValueError where there is none.
    noise: standard deviation of the normal noise on missing pixels, in the image's own units, drawn
        from `seed`. Returns a new array of the image's shape and dtype.
    """
    _check(image, kept)
    _require_scipy()
    imputed = image.copy()
    if kept.all():
        return imputed
    missing = _missing_pixels(kept)
    colours = image.reshape(*kept.shape, -1).astype(np.float64)
    matrix, known = _equations(missing, colours, kept)
    values = _solve(matrix, known)
    if noise:
        values = values + noise * np.random.default_rng(seed).standard_normal(values.shape)
    imputed[missing.rows, missing.columns] = values.reshape(missing.count, *image.shape[2:])
    return imputed


def _check(image: np.ndarray, kept: np.ndarray) -> None:
    if image.dtype.kind != "f":
        raise ValueError(
            f"`image` must be of floats, but has dtype {image.dtype}; pass image.astype(np.float32)"
        )
    if kept.dtype != bool or kept.shape != image.shape[:2]:
        raise ValueError(
            f"`kept` must be booleans {image.shape[:2]}, but has shape {kept.shape} "
            f"and dtype {kept.dtype}"
        )
    if not kept.any():
        raise ValueError("`kept` keeps no pixel: there is nothing to impute from")


def _require_scipy() -> None:
    try:
        import scipy.sparse.linalg  # noqa: F401
    except ImportError as error:
        raise ImportError('imputation needs SciPy: pip install "gradcam[images]"') from error


@dataclass(frozen=True)
class _Missing:
    """The missing pixels, in the order of the equations.

    rows, columns: (P,), where they are. number: (H, W), the number of each one's equation, -1 for
        known pixels.
    """

    rows: np.ndarray
    columns: np.ndarray
    number: np.ndarray

    @property
    def count(self) -> int:
        return len(self.rows)


def _missing_pixels(kept: np.ndarray) -> _Missing:
    rows, columns = np.nonzero(~kept)
    order = np.argsort(_dissection(*kept.shape)[rows, columns])
    rows = rows[order]
    columns = columns[order]
    number = np.full(kept.shape, -1)
    number[rows, columns] = np.arange(len(rows))
    return _Missing(rows, columns, number)


def _equations(missing: _Missing, colours: np.ndarray, kept: np.ndarray) -> tuple[Any, np.ndarray]:
    """The matrix (P, P) and the right-hand side (P, C).

    Of each missing pixel: its total weight times x, less its missing neighbours, are its known
    neighbours, each times their weights.
    """
    from scipy.sparse import coo_matrix

    height, width = kept.shape
    total = np.zeros(missing.count)
    known = np.zeros((missing.count, colours.shape[-1]))
    equations, unknowns, weights = [], [], []
    # One direction at a time, for all missing pixels: each adds a diagonal of the matrix.
    for down, across, weight in NEIGHBOURS:
        rows = missing.rows + down
        columns = missing.columns + across
        inside = np.flatnonzero((rows >= 0) & (rows < height) & (columns >= 0) & (columns < width))
        rows = rows[inside]
        columns = columns[inside]
        total[inside] += weight
        is_known = kept[rows, columns]
        # A known neighbour goes to the right-hand side, a missing one into the matrix.
        known[inside[is_known]] += weight * colours[rows[is_known], columns[is_known]]
        neighbours = missing.number[rows[~is_known], columns[~is_known]]
        equations.append(inside[~is_known])
        unknowns.append(neighbours)
        weights.append(np.full(len(neighbours), -weight))
    diagonal = np.arange(missing.count)
    entries = np.concatenate([*weights, total])
    indices = np.concatenate([*equations, diagonal]), np.concatenate([*unknowns, diagonal])
    return coo_matrix((entries, indices), shape=(missing.count, missing.count)).tocsc(), known


def _solve(matrix: Any, known: np.ndarray) -> np.ndarray:
    from scipy.sparse.linalg import splu

    # Symmetric and diagonally dominant: it needs no pivoting, and the order of the pixels may stay.
    factored = splu(
        matrix, permc_spec="NATURAL", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    return np.asarray(factored.solve(known))


@lru_cache(maxsize=8)
def _dissection(height: int, width: int) -> np.ndarray:
    """(H, W): each pixel's position in nested dissection, an order that keeps factors sparse.

    A line through the middle separates two halves, which have no weights between them. Either half
    comes first, itself ordered in this way, and the line last. George 1973,
    https://doi.org/10.1137/0710032
    """
    order = np.empty((height, width), dtype=int)
    start = 0
    for top, bottom, left, right in _blocks(0, height, 0, width):
        size = (bottom - top) * (right - left)
        block = np.arange(start, start + size).reshape(bottom - top, right - left)
        order[top:bottom, left:right] = block
        start += size
    order.flags.writeable = False  # it is kept for the next image of this size
    return order


def _blocks(top: int, bottom: int, left: int, right: int) -> Iterator[tuple[int, int, int, int]]:
    """The nested dissection of a block: blocks (top, bottom, left, right) in order."""
    height = bottom - top
    width = right - left
    if height <= 0 or width <= 0:
        return
    if max(height, width) <= 3:
        yield top, bottom, left, right
    elif height >= width:
        middle = (top + bottom) // 2
        yield from _blocks(top, middle, left, right)
        yield from _blocks(middle + 1, bottom, left, right)
        yield middle, middle + 1, left, right
    else:
        middle = (left + right) // 2
        yield from _blocks(top, bottom, left, middle)
        yield from _blocks(top, bottom, middle + 1, right)
        yield top, bottom, middle, middle + 1
