"""The grid pointing game: does a map lie on its own photograph among several? It needs no annotation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np

from gradcam._arrays import to_numpy
from gradcam.metrics.result import Result

__all__ = ["collage", "collages", "grid_pointing_game"]


def collage(photographs: Sequence[np.ndarray], grid: tuple[int, int] = (1, 2)) -> np.ndarray:
    """Photographs (H, W, ...) of one size, in rows from the left: (rows H, columns W, ...)."""
    rows, columns = grid
    if len(photographs) != rows * columns:
        raise ValueError(
            f"a `grid` of {rows} x {columns} needs {rows * columns} photographs, but got {len(photographs)}"
        )
    if len({one.shape for one in photographs}) > 1:
        shapes = [one.shape for one in photographs]
        raise ValueError(
            f"`photographs` must be of one size, but have shapes {shapes}; crop them first"
        )
    return np.concatenate(
        [
            np.concatenate(photographs[row * columns : (row + 1) * columns], axis=1)
            for row in range(rows)
        ]
    )


def collages(
    photographs: Sequence[np.ndarray], grid: tuple[int, int] = (1, 2), *, mirrored: bool = False
) -> list[tuple[np.ndarray, tuple[int, ...]]]:
    """Every collage of different photographs in every order: (picture, the photograph in each cell).

    mirrored: also with each photograph turned about its vertical axis, so that no side of a photograph always faces
    the middle.
    """
    if len(photographs) < grid[0] * grid[1]:
        raise ValueError(
            f"a `grid` of {grid[0]} x {grid[1]} needs {grid[0] * grid[1]} different photographs, "
            f"but got {len(photographs)}"
        )
    found = []
    for order in permutations(range(len(photographs)), grid[0] * grid[1]):
        for turned in (False, True) if mirrored else (False,):
            chosen = [photographs[n][:, ::-1] if turned else photographs[n] for n in order]
            found.append((collage(chosen, grid), order))
    return found


def grid_pointing_game(maps: Any, cells: Any, grid: tuple[int, int] = (1, 2)) -> Result:
    r"""The share of a map's positive part that lies in the cell of its class.

    $\sum_{p \in \text{cell}} \max(0, L_p) / \sum_p \max(0, L_p)$, of the map (N, h, w) at its own resolution: where a
    border between cells runs through a position, each side has its share of it. Bohle et al. 2021, section 4,
    https://arxiv.org/abs/2104.00032; after Zhang et al. 2016, https://arxiv.org/abs/1608.00507.

    cells: (N,) or one int, the cell of each map's class, in rows from the left, from 0.

    In [0, 1]; higher is better, and 1 over the number of cells is chance. NaN where the map is nowhere positive.
    """
    heat = to_numpy(maps).astype(np.float64)
    if heat.ndim != 3:
        raise ValueError(f"`maps` must be (N, h, w), but have shape {heat.shape}")
    if not np.isfinite(heat).all():
        raise ValueError("`maps` are NaN or infinite somewhere; leave these samples out")
    heat = np.maximum(heat, 0)
    rows, columns = grid
    if rows < 1 or columns < 1:
        raise ValueError(f"`grid` must be (rows, columns), each at least 1, but is {grid}")
    cells = np.asarray(cells)
    if cells.shape not in ((), (len(heat),)) or cells.dtype.kind not in "iu":
        raise ValueError(
            f"`cells` must be ints, one or ({len(heat)},), but have shape {cells.shape} and dtype {cells.dtype}"
        )
    cells = np.broadcast_to(cells, (len(heat),))
    if (cells < 0).any() or (cells >= rows * columns).any():
        raise ValueError(
            f"`cells` must be 0 to {rows * columns - 1}, but are {np.unique(cells).tolist()}"
        )
    down, across = _shares(heat.shape[1], rows), _shares(heat.shape[2], columns)
    inside = np.einsum("rh,nhw,cw->nrc", down, heat, across).reshape(len(heat), -1)
    total = inside.sum(1)
    chosen = np.take_along_axis(inside, cells[:, None], axis=1)[:, 0]
    values = np.where(total == 0, np.nan, chosen / np.where(total == 0, 1, total))
    return Result("grid-pointing-game", values, "higher", {"grid": list(grid)})


def _shares(positions: int, cells: int) -> np.ndarray:
    """(cells, positions): how much of each position lies in each cell."""
    edges = np.arange(positions + 1) / positions
    starts, stops = np.arange(cells) / cells, (np.arange(cells) + 1) / cells
    low, high = np.maximum(edges[:-1], starts[:, None]), np.minimum(edges[1:], stops[:, None])
    return np.array(np.maximum(high - low, 0) * positions)
