"""Maps over three axes: the three slices through the peak, one across each axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradcam.pictures.bars import draw_bar, draw_words
from gradcam.pictures.colours import colours, tint
from gradcam.pictures.extras import required

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gradcam.pictures.panels import Cell, Look, Row

__all__ = ["figure", "grey", "peak"]


def peak(heat: np.ndarray) -> tuple[int, ...]:
    """The position of the largest magnitude."""
    flat = int(np.argmax(np.abs(heat)))
    return tuple(int(n) for n in np.unravel_index(flat, heat.shape))


def grey(volume: np.ndarray) -> np.ndarray:
    """A volume from its minimum to its maximum in [0, 1]; a flat one is 0."""
    low, high = float(volume.min()), float(volume.max())
    return (volume - low) / (high - low) if high > low else np.zeros_like(volume)


def figure(rows: Sequence[Row], look: Look) -> Figure:
    """A line for each map: slices across its last three axes through the peak.

    Of a map over four axes or more, leading ones are at the peak too.
    """
    lines = [(row, cell) for row in rows for cell in row.cells]
    extent = None
    if look.joint:
        extent = max(cell.shown.extent(_size(row)) for row, cell in lines)
    drawn: Figure = required("matplotlib.figure", "matplotlib").Figure(
        figsize=(3 * 2.7 + 0.8, 3.1 * len(lines) + 0.5), layout="constrained"
    )
    for (row, cell), panels in zip(
        lines, drawn.subplots(len(lines), 3, squeeze=False), strict=True
    ):
        _draw(drawn, row, cell, list(panels), look, extent)
    return drawn


def _size(row: Row) -> tuple[int, ...] | None:
    return None if row.photograph is None else tuple(row.photograph.shape)


def _draw(
    drawn: Figure, row: Row, cell: Cell, panels: list[Axes], look: Look, extent: float | None
) -> None:
    shown = cell.shown
    heat = shown.heat(_size(row), extent)
    own = shown.heat(_size(row))
    at = peak(own)
    heat, own = heat[at[:-3]], own[at[:-3]]
    volume = None
    if row.photograph is not None:
        volume = grey(row.photograph[at[:-3]])
    first = " · ".join(part for part in (row.name, cell.title.replace("\n", ", ")) if part)
    for axis, panel in enumerate(panels):
        index = at[-3:][axis]
        plane = np.take(heat, index, axis)
        if volume is None:
            panel.imshow(colours(plane, look.colormap, shown.signed))
        else:
            panel.imshow(np.take(volume, index, axis), cmap="gray", vmin=0, vmax=1)
            panel.imshow(tint(plane, colormap=look.colormap, signed=shown.signed))
        across, down = (n for n in (2, 1, 0) if n != axis)
        panel.axvline(at[-3:][across], color="white", linewidth=0.5, alpha=0.7)
        panel.axhline(at[-3:][down], color="white", linewidth=0.5, alpha=0.7)
        for share in look.contours:
            side = np.take(np.abs(own), index, axis)
            if side.min() < share < side.max():
                panel.contour(side, [share], colors="white", linewidths=1.0)
        panel.set_title(f"axis {axis}: slice {index + 1} of {own.shape[axis]}", fontsize=8)
        panel.set_xticks([])
        panel.set_yticks([])
    panels[0].set_ylabel(first, fontsize=9)
    if shown.fault:
        draw_words(panels[1], shown.fault)
        return
    draw_bar(drawn, panels, shown, extent or shown.extent(_size(row)), look)
