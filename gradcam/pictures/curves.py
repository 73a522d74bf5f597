"""Maps over one axis: the signal as a curve, the map in colour behind it and as a curve below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gradcam.pictures.colours import ON_PAPER, tint
from gradcam.pictures.extras import required

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gradcam.pictures.panels import Cell, Look, Row

__all__ = ["figure"]


def figure(rows: Sequence[Row], look: Look) -> Figure:
    """A column for each map: the signal, where there is one, over the map as a curve."""
    columns = max(len(row.cells) for row in rows)
    has_signals = any(row.photograph is not None for row in rows)
    ratios = [2.0, 1.0] if has_signals else [1.0]
    drawn: Figure = required("matplotlib.figure", "matplotlib").Figure(
        figsize=(5.6 * columns, (3.6 if has_signals else 2.0) * len(rows) + 0.4),
        layout="constrained",
    )
    lines = len(ratios)
    panels = drawn.subplots(
        lines * len(rows), columns, squeeze=False, gridspec_kw={"height_ratios": ratios * len(rows)}
    )
    extent = None
    if look.joint:
        extent = max(cell.shown.extent(_size(row)) for row in rows for cell in row.cells)
    for n, row in enumerate(rows):
        for k in range(columns):
            place = panels[lines * n : lines * (n + 1), k]
            if k >= len(row.cells):
                for panel in place:
                    panel.set_axis_off()
            else:
                _draw(list(place), row, row.cells[k], look, extent)
    return drawn


def _size(row: Row) -> tuple[int, ...] | None:
    if row.photograph is None:
        return None
    return (int(row.photograph.shape[-1]),)


def _draw(panels: list[Axes], row: Row, cell: Cell, look: Look, extent: float | None) -> None:
    shown = cell.shown
    raw = shown.raw(_size(row))
    heat = shown.heat(_size(row), extent)
    at = np.arange(len(raw))
    title = " · ".join(part for part in (row.name, cell.title.replace("\n", ", ")) if part)
    panels[0].set_title(title, fontsize=9)
    behind: dict[str, Any] = {"aspect": "auto", "extent": (-0.5, len(raw) - 0.5, 0, 1)}
    if row.photograph is not None:
        signal = panels[0]
        paper = look.colormap or (None if shown.signed else ON_PAPER)
        coloured = tint(heat[None], 1.0, paper, shown.signed)
        signal.imshow(coloured, transform=signal.get_xaxis_transform(), zorder=0, **behind)
        for channel in np.atleast_2d(row.photograph):
            signal.plot(at, channel, color="black", linewidth=0.9)
        signal.set_ylabel("signal", fontsize=8)
        signal.tick_params(labelsize=7, labelbottom=False)
        signal.set_xlim(-0.5, len(raw) - 0.5)
    below = panels[-1]
    below.fill_between(at, raw, step="mid", color="#c2410c", alpha=0.75, linewidth=0)
    below.axhline(0, color="black", linewidth=0.6)
    high = extent or shown.extent(_size(row)) or 1.0
    below.set_ylim(-1.05 * high if shown.signed else 0, 1.05 * high)
    below.set_xlim(-0.5, len(raw) - 0.5)
    below.set_ylabel("evidence", fontsize=8)
    below.set_xlabel("position", fontsize=8)
    below.tick_params(labelsize=7)
    if shown.fault:
        below.text(0.5, 0.5, shown.fault, transform=below.transAxes, ha="center", va="center")
