"""An explanation as what is shown of it: each map with its words and numbers, and the figure."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gradcam._arrays import to_numpy
from gradcam._numbers import check_real, check_whole
from gradcam._types import Shape
from gradcam.explaining.naming import class_table
from gradcam.metrics.boxes import largest_box
from gradcam.metrics.subject import confidences
from gradcam.pictures import animation, overlay
from gradcam.pictures import figure as drawing
from gradcam.pictures.nifti import write_nifti
from gradcam.pictures.notebook import Showing
from gradcam.pictures.panels import Cell, Look, Row
from gradcam.pictures.shown import Shown
from gradcam.pictures.words import WordMap, word_map
from gradcam.space.axes import LayerAxes
from gradcam.targets.outputs import class_scores

__all__ = [
    "axes_in_words",
    "coloured",
    "compared",
    "film",
    "images",
    "nifti",
    "over_words",
    "overlays",
    "picture_size",
    "probabilities",
    "sample_names",
    "scores_of_classes",
    "showing",
    "shown",
]


def axes_in_words(axes: LayerAxes | tuple[LayerAxes, ...] | None) -> list[str]:
    """Of each layer, where its axes are and how that was told."""
    if axes is None:
        return []
    return [str(layer) for layer in (axes if isinstance(axes, tuple) else (axes,))]


def scores_of_classes(outputs: Any) -> np.ndarray | None:
    """A classifier's outputs (N, C); None where they are not there, or are no classifier's."""
    if outputs is None:
        return None
    try:
        return to_numpy(class_scores(outputs))
    except (TypeError, ValueError, LookupError, AttributeError):
        return None


def probabilities(outputs: Any, target: Any, shape: Shape) -> np.ndarray | None:
    """The softmax of a model's outputs at the classes explained, in the shape of the scores.

    Outputs that are probabilities already stay as they are. None where the target is no class, or
    the outputs are not those of a classifier.
    """
    if target is None or callable(target):
        return None
    table = scores_of_classes(outputs)
    if table is None:
        return None
    table = table.astype(np.float64)
    classes = class_table(target, shape)
    if table.shape[0] != shape[0] or table.shape[-1] < 2 or not np.isfinite(table).all():
        return None
    is_distribution = (table >= 0).all() and np.allclose(table.sum(-1), 1, atol=1e-3)
    if not is_distribution:
        table = confidences(table, "softmax")
    return np.take_along_axis(table, classes.astype(np.int64), axis=-1).reshape(shape)


def shown(
    maps: np.ndarray,
    scores: np.ndarray,
    names: Sequence[Sequence[str]],
    shares: np.ndarray | None,
    **origin: Any,
) -> list[list[Shown]]:
    """N lists of K maps, from the fields of an explanation.

    shares: the probabilities. origin: the method, layer, model and size of all of them.
    """
    grid = maps.shape[scores.ndim :]
    count = len(names)
    flat = maps.reshape(count, -1, *grid)
    points = scores.reshape(count, -1)
    parts = None if shares is None else shares.reshape(count, -1)
    rows = []
    for n, row in enumerate(names):
        cells = []
        for k, name in enumerate(row):
            share = None if parts is None else float(parts[n, k])
            cells.append(Shown(flat[n, k], name, float(points[n, k]), share, **origin))
        rows.append(cells)
    return rows


def coloured(table: Sequence[Sequence[Shown]]) -> list[list[Any]]:
    """N lists of K images in colour, without photographs."""
    return [[overlay.coloured(one.heat(), signed=one.signed) for one in row] for row in table]


def overlays(
    table: Sequence[Sequence[Shown]], photos: Any, alpha: float, colormap: str | None
) -> list[list[Any]]:
    """N lists of K images over the photographs, each of its photograph's size."""
    ndim = table[0][0].values.ndim
    if ndim != 2:
        raise ValueError(
            f"an overlay needs maps over two axes, but these have {ndim}; use .figure()"
        )
    rows = []
    for cells, picture in zip(table, overlay.photographs(photos, len(table)), strict=True):
        size = picture.shape[:2]
        row = []
        for one in cells:
            row.append(overlay.overlay(picture, one.heat(size), alpha, colormap, one.signed))
        rows.append(row)
    return rows


def images(photos: Any, count: int) -> list[Any]:
    """The photographs as N images."""
    return [overlay.image_of(photo) for photo in overlay.photographs(photos, count)]


def sample_names(photos: Any, count: int) -> list[str]:
    """What each sample is called: its photograph's file, or its number."""
    given = [photos] if isinstance(photos, (str, os.PathLike)) else photos
    if isinstance(given, (list, tuple)) and all(isinstance(p, (str, os.PathLike)) for p in given):
        return [Path(photo).name for photo in given]
    return [""] if count == 1 else [f"sample {n}" for n in range(count)]


def _signals(photos: Any, count: int, ndim: int) -> list[np.ndarray] | None:
    """What each sample's maps are laid over: photographs, signals (L,) or (C, L), or volumes.

    Raises ValueError for another number of them, or of axes.
    """
    if photos is None:
        return None
    if ndim == 2:
        return overlay.photographs(photos, count)
    found = [to_numpy(item).astype(np.float64) for item in photos]
    if len(found) != count:
        raise ValueError(
            f"`photos` has {len(found)}, but the explanation has {count} samples; pass one for each"
        )
    for item in found:
        if not ndim <= item.ndim <= ndim + 1:
            raise ValueError(
                f"`photos` of maps over {ndim} axes must have as many, but one has the shape "
                f"{item.shape}"
            )
    return found


def _rows(table: Sequence[Sequence[Shown]], photos: Any, look: Look) -> list[Row]:
    """A row for each sample, a cell for each target."""
    over = _signals(photos, len(table), table[0][0].values.ndim)
    names = sample_names(photos, len(table))
    rows = []
    for n, cells in enumerate(table):
        row = [Cell(cell, cell.caption, _box(cell, look)) for cell in cells]
        rows.append(Row(names[n], row, None if over is None else over[n]))
    return rows


def showing(table: Sequence[Sequence[Shown]], photos: Any, look: Look | None = None) -> Showing:
    """The samples, to be drawn, or shown in a notebook."""
    look = look or Look()
    rows = _rows(table, photos, look)
    title = table[0][0].origin
    return Showing(rows, title, partial(drawing.figure, rows, title, look))


def compared(
    tables: Mapping[str, Sequence[Sequence[Shown]]], photos: Any, look: Look | None = None
) -> Showing:
    """A row for each sample and target, a column for each method."""
    look = look or Look()
    first = next(iter(tables.values()))
    over = _signals(photos, len(first), first[0][0].values.ndim)
    names = sample_names(photos, len(first))
    rows: list[Row] = []
    for n, cells in enumerate(first):
        for k, cell in enumerate(cells):
            row = []
            for method, table in tables.items():
                row.append(Cell(table[n][k], method, _box(table[n][k], look)))
            name = "\n".join(part for part in (names[n], cell.caption) if part)
            rows.append(Row(name, row, None if over is None else over[n]))
    where = {(cell.model, cell.layer) for table in tables.values() for cell in table[0]}
    title = "; ".join(f"{model} at {layer!r}" for model, layer in sorted(where))
    return Showing(rows, title, partial(drawing.figure, rows, title, look))


def _box(cell: Shown, look: Look) -> Sequence[int] | None:
    if look.boxes is None or cell.fault:
        return None
    return [int(n) for n in largest_box(np.maximum(cell.heat(), 0), look.boxes)]


def one_of(table: Sequence[Sequence[Shown]], sample: int, target: int) -> Shown:
    """The map of a sample and target; ValueError where there is none."""
    check_whole("sample", sample, 0)
    check_whole("target", target, 0)
    if sample >= len(table) or target >= len(table[0]):
        raise ValueError(
            f"there are {len(table)} samples of {len(table[0])} targets, but none of "
            f"`sample` {sample} and `target` {target}"
        )
    return table[sample][target]


def over_words(
    table: Sequence[Sequence[Shown]], tokens: Sequence[str], sample: int, target: int
) -> WordMap:
    """One map with its tokens."""
    return word_map(tokens, one_of(table, sample, target))


def film(
    table: Sequence[Sequence[Shown]],
    path: str | os.PathLike[str],
    photo: Any,
    sample: int,
    target: int,
    axis: int,
    per_second: float,
    colormap: str | None,
) -> Path:
    """One map as a film."""
    check_whole("axis", axis)
    check_real("per_second", per_second)
    over = None if photo is None else to_numpy(photo).astype(np.float64)
    return animation.film(
        one_of(table, sample, target), Path(path), over, axis, per_second, colormap
    )


def nifti(
    table: Sequence[Sequence[Shown]],
    path: str | os.PathLike[str],
    scan: Any,
    sample: int,
    target: int,
    axes: Sequence[int],
) -> Path:
    """One map as a NIfTI file."""
    return write_nifti(one_of(table, sample, target), Path(path), scan, axes)


def picture_size(
    size: Sequence[int], ndim: int, axes: LayerAxes | tuple[LayerAxes, ...] | None
) -> Shape:
    """The size that a user gave for pictures of maps over `ndim` axes: for each axis a number, or
    for each axis of a frame where the maps have frames.
    """
    layer = axes[0] if isinstance(axes, tuple) else axes
    allowed = {ndim} if layer is None else {ndim, len(layer.layout.grid)}
    if len(size) not in allowed:
        raise ValueError(
            f"`size` must have a number for each of the {ndim} axes of the maps, but is "
            f"{tuple(size)}"
        )
    for length in size:
        check_whole("size", length)
    return tuple(int(n) for n in size)
