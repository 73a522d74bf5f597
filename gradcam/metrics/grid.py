"""The grid pointing game: does a map lie on its own photograph among several?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np

from gradcam.metrics.checks import check_maps
from gradcam.metrics.result import Result

__all__ = ["collage", "collages", "grid_pointing_game"]


def collage(photographs: Sequence[np.ndarray], grid: tuple[int, int] = (1, 2)) -> np.ndarray:
    """Photographs (H, W, ...) of one size, in rows from the left: (rows H, columns W, ...)."""
    rows, columns = grid
    if len(photographs) != rows * columns:
        raise ValueError(
            f"a `grid` of {rows} x {columns} needs {rows * columns} photographs, "
            f"but got {len(photographs)}"
        )
    shapes = [photograph.shape for photograph in photographs]
    if len(set(shapes)) > 1:
        raise ValueError(
            f"`photographs` must be of one size, but have shapes {shapes}; crop them first"
        )
    lines = []
    for start in range(0, len(photographs), columns):
        lines.append(np.concatenate(photographs[start : start + columns], axis=1))
    return np.concatenate(lines)


def collages(
    photographs: Sequence[np.ndarray], grid: tuple[int, int] = (1, 2), *, mirrored: bool = False
) -> list[tuple[np.ndarray, tuple[int, ...]]]:
    """Every collage of different photographs in every order: (picture, photograph of each cell).

    mirrored: also with each photograph mirrored left to right, so that no side of a photograph
        always faces the middle.
    """
    rows, columns = grid
    if len(photographs) < rows * columns:
        raise ValueError(
            f"a `grid` of {rows} x {columns} needs {rows * columns} different photographs, "
            f"but got {len(photographs)}"
        )
    pictures = []
    for order in permutations(range(len(photographs)), rows * columns):
        chosen = [photographs[n] for n in order]
        pictures.append((collage(chosen, grid), order))
        if mirrored:
            chosen = [photograph[:, ::-1] for photograph in chosen]
            pictures.append((collage(chosen, grid), order))
    return pictures


def grid_pointing_game(maps: Any, cells: Any, grid: tuple[int, int] = (1, 2)) -> Result:
    r"""The share of a map's positive part that lies in the cell of its class.

    $\sum_{p \in \text{cell}} \max(0, L_p) / \sum_p \max(0, L_p)$, of the map (N, h, w) at its own
    resolution. Where a border between cells runs through a position, each side gets its share of
    it. Bohle et al. 2021, section 4, https://arxiv.org/abs/2104.00032; after Zhang et al. 2016,
    https://arxiv.org/abs/1608.00507.

    cells: (N,) or one int, the cell of each map's class, in rows from the left, from 0.

    In [0, 1]; higher is better, and 1 over the number of cells is chance. NaN where the map is
    nowhere positive.
    """
    heat = np.maximum(check_maps(maps), 0)
    rows, columns = grid
    if rows < 1 or columns < 1:
        raise ValueError(f"`grid` must be (rows, columns), each at least 1, but is {grid}")
    numbers = _checked_cells(cells, len(heat), rows * columns)
    row_shares = _shares(heat.shape[1], rows)
    column_shares = _shares(heat.shape[2], columns)
    sums = np.einsum("rh,nhw,cw->nrc", row_shares, heat, column_shares).reshape(len(heat), -1)
    total = sums.sum(1)
    own = np.take_along_axis(sums, numbers[:, None], axis=1)[:, 0]
    values = np.where(total == 0, np.nan, own / np.where(total == 0, 1, total))
    return Result("grid-pointing-game", values, "higher", {"grid": list(grid)})


def _checked_cells(cells: Any, samples: int, count: int) -> np.ndarray:
    """(N,) ints, each the number of a cell."""
    numbers = np.asarray(cells)
    if numbers.shape not in ((), (samples,)) or numbers.dtype.kind not in "iu":
        raise ValueError(
            f"`cells` must be ints, one or ({samples},), but have shape {numbers.shape} "
            f"and dtype {numbers.dtype}"
        )
    if (numbers < 0).any() or (numbers >= count).any():
        raise ValueError(f"`cells` must be 0 to {count - 1}, but are {np.unique(numbers).tolist()}")
    return np.broadcast_to(numbers, (samples,))


def _shares(positions: int, cells: int) -> np.ndarray:
    """(cells, positions): how much of each position lies in each cell."""
    starts = np.arange(positions) / positions
    stops = (np.arange(positions) + 1) / positions
    cell_starts = (np.arange(cells) / cells)[:, None]
    cell_stops = ((np.arange(cells) + 1) / cells)[:, None]
    lengths = np.minimum(stops, cell_stops) - np.maximum(starts, cell_starts)
    return np.array(np.maximum(lengths, 0) * positions)
