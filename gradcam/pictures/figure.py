"""Maps as a matplotlib figure: rows of panels, each with its name and its own scale."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gradcam.pictures import curves, volumes
from gradcam.pictures.bars import draw_bar, draw_words
from gradcam.pictures.colours import CLASSES, colours, tint
from gradcam.pictures.extras import required
from gradcam.pictures.panels import Cell, Look, Row
from gradcam.pictures.shown import Shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_map", "figure", "png"]

WIDTH = 2.9
"""Inches of a panel, without its colour bar."""

LINES: tuple[Literal["solid", "dashed", "dotted", "dashdot"], ...] = (
    "solid",
    "dashed",
    "dotted",
    "dashdot",
)
"""Of several classes in one picture, so that they differ in grey too."""


def figure(rows: Sequence[Row], title: str = "", look: Look | None = None) -> Figure:
    """A matplotlib figure with a row of panels for each of `rows`, after its photograph.

    Maps over one axis are drawn as curves, over three as slices through their peak.
    """
    look = look or Look()
    ndim = rows[0].cells[0].shown.values.ndim
    if ndim == 1:
        drawn = curves.figure(rows, look)
    elif ndim == 2:
        drawn = _Grid(rows, look).drawn
    else:
        drawn = volumes.figure(rows, look)
    if title:
        drawn.suptitle(title, fontsize=10, wrap=True)
    note = _note(rows, look, ndim)
    if note:
        drawn.supxlabel(note, fontsize=7, color="0.3", wrap=True)
    return drawn


def _note(rows: Sequence[Row], look: Look, ndim: int) -> str:
    """In words, what the lines, boxes and bars of a figure are."""
    parts = []
    if ndim == 2:
        if look.contours:
            shares = ", ".join(f"{100 * share:.3g} %" for share in look.contours)
            parts.append(f"lines at {shares} of each map's maximum")
            if any(cell.shown.signed for row in rows for cell in row.cells):
                parts.append("dashed and blue: evidence against")
        if look.boxes is not None:
            parts.append(f"box at {100 * look.boxes:.3g} %")
        if look.mask is not None:
            parts.append(f"dark below {100 * look.mask:.3g} % of each map's maximum")
        elif look.together:
            parts.append("opacity: share of the maximum")
    if look.mask is None and not (look.together and ndim == 2):
        scale = "one scale for all maps" if look.joint else "each map's own scale"
        parts.append(f"values in the method's own unit, {scale}")
    return "; ".join(parts)


@dataclass
class _Grid:
    """The figure of maps over two axes, while it is drawn."""

    rows: Sequence[Row]
    look: Look
    drawn: Any = field(init=False)

    def __post_init__(self) -> None:
        rows, look = self.rows, self.look
        self.extent = None
        if look.joint:
            sizes = [(cell, _size(row, cell)) for row in rows for cell in row.cells]
            self.extent = max(cell.shown.extent(size) for cell, size in sizes)
        cells = 1 if look.together else max(len(row.cells) for row in rows)
        first = any(row.photograph is not None for row in rows)
        heights = [WIDTH * _aspect(row) + 0.75 for row in rows]
        if look.together:
            heights = [
                height + 0.4 * len(row.cells) for height, row in zip(heights, rows, strict=True)
            ]
        bars = 0.0 if look.together or look.mask is not None else 0.75
        self.drawn = required("matplotlib.figure", "matplotlib").Figure(
            figsize=(first * WIDTH + cells * (WIDTH + bars), sum(heights) + 0.5),
            layout="constrained",
        )
        grid = self.drawn.subplots(
            len(rows), first + cells, squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        for row, panels in zip(rows, grid, strict=True):
            for panel in panels:
                panel.set_axis_off()
            self._draw_row(row, list(panels), first)

    def _draw_row(self, row: Row, panels: list[Axes], has_photographs: bool) -> None:
        if has_photographs:
            panel = panels.pop(0)
            if row.photograph is not None:
                panel.imshow(row.photograph)
            if self.look.together:  # level with the other, which has its legend below
                panel.set_anchor("N")
            panel.set_title(row.name, fontsize=9)
        elif row.name:
            panels[0].text(
                -0.04,
                0.5,
                row.name,
                transform=panels[0].transAxes,
                rotation=90,
                ha="right",
                va="center",
                fontsize=9,
            )
        if self.look.together:
            self._draw_together(row, panels[0])
            return
        for cell, panel in zip(row.cells, panels, strict=False):
            draw_map(self.drawn, panel, cell, row.photograph, self.look, self.extent)

    def _draw_together(self, row: Row, panel: Axes) -> None:
        from matplotlib.colors import to_rgb
        from matplotlib.lines import Line2D

        size = _size(row, row.cells[0])
        panel.set_anchor("N")
        panel.imshow(np.ones((*size, 3)) if row.photograph is None else row.photograph)
        heats = [np.maximum(cell.shown.heat(size, self.extent), 0) for cell in row.cells]
        palette = [CLASSES[k % len(CLASSES)] for k in range(len(row.cells))]
        panel.imshow(_mixed(heats, [to_rgb(colour) for colour in palette]))
        entries = []
        for k, (cell, colour) in enumerate(zip(row.cells, palette, strict=True)):
            style = LINES[k % len(LINES)]
            label = cell.title
            if cell.shown.fault:
                label += f"\n({cell.shown.fault})"
            else:
                _draw_contours(panel, cell.shown.heat(size), self.look.contours, colour, style)
            if cell.box is not None:
                _draw_box(panel, cell.box, size, cell.shown, colour)
            entries.append(Line2D([], [], color=colour, linestyle=style, linewidth=3, label=label))
        panel.legend(
            handles=entries,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.01),
            fontsize=8,
            frameon=False,
            handlelength=3,
        )


def draw_map(
    drawn: Figure,
    panel: Axes,
    cell: Cell,
    photograph: np.ndarray | None = None,
    look: Look | None = None,
    extent: float | None = None,
) -> None:
    """One map over two axes in a panel of a figure, with its title and its bar.

    extent: the raw value that is brightest, where several maps share a scale.
    """
    shown, look = cell.shown, look or Look()
    size = _size(Row("", [cell], photograph), cell)
    panel.set_axis_off()
    panel.set_title(cell.title, fontsize=9)
    if shown.fault:
        _say(panel, photograph, size, shown.fault)
        return
    own = shown.heat(size)
    if look.mask is not None:
        _draw_mask(panel, photograph, own, look.mask)
    else:
        heat = shown.heat(size, extent)
        if photograph is None:
            panel.imshow(colours(heat, look.colormap, shown.signed))
        else:
            panel.imshow(photograph)
            panel.imshow(tint(heat, colormap=look.colormap, signed=shown.signed))
        high = extent if extent is not None else shown.extent(size)
        draw_bar(drawn, panel, shown, high, look)
    _draw_contours(panel, own, look.contours)
    if cell.box is not None:
        _draw_box(panel, cell.box, size, shown)


def _size(row: Row, cell: Cell) -> tuple[int, ...]:
    if row.photograph is not None:
        return tuple(int(n) for n in row.photograph.shape[:2])
    return tuple(cell.shown.size or cell.shown.values.shape)


def _aspect(row: Row) -> float:
    """Height over width of a row's panels, within what a page can show."""
    height, width = _size(row, row.cells[0])
    return min(max(height / width, 0.25), 3.0)


def _mixed(heats: Sequence[np.ndarray], palette: Sequence[Sequence[float]]) -> np.ndarray:
    """Several maps as one RGBA layer: at each pixel their colours by their shares, in any order."""
    stack = np.stack(heats)
    total = stack.sum(0)
    shares = stack / np.where(total > 0, total, 1)
    rgb = np.einsum("khw,kc->hwc", shares, np.array(palette))
    return np.concatenate([rgb, 0.7 * stack.max(0)[..., None]], axis=-1)


def _say(panel: Axes, photograph: np.ndarray | None, size: Sequence[int], text: str) -> None:
    """A panel that says in words why it shows no map."""
    if photograph is not None:
        panel.imshow(0.4 * photograph + 0.6)
    else:
        panel.imshow(np.full((*size, 3), 0.93))
    draw_words(panel, text)


def _draw_mask(
    panel: Axes, photograph: np.ndarray | None, heat: np.ndarray, threshold: float
) -> None:
    seen = photograph if photograph is not None else np.ones((*heat.shape, 3))
    panel.imshow(np.where((heat >= threshold)[..., None], seen, 0.2 * seen))


def _draw_contours(
    panel: Axes,
    heat: np.ndarray,
    shares: Sequence[float],
    colour: str = "white",
    style: str = "solid",
) -> None:
    """Lines round the evidence; round that against the score dashed, so that grey tells too."""
    for share in shares:
        for sign, line in ((1, style), (-1, "dashed")):
            level = share * sign
            if heat.min() < level < heat.max():
                # The dark line below shows the light one on a light photograph.
                panel.contour(heat, [level], colors="black", linewidths=2.4, linestyles=line)
                panel.contour(heat, [level], colors=colour, linewidths=1.2, linestyles=line)


def _draw_box(
    panel: Axes,
    box: Sequence[int],
    size: Sequence[int],
    shown: Shown,
    colour: str = "white",
) -> None:
    """The corners are in pixels of the input, which the photograph may show at another size."""
    from matplotlib.patches import Rectangle

    of = shown.size or shown.values.shape
    across, down = size[1] / of[1], size[0] / of[0]
    x0, y0, x1, y1 = box
    for line, width in (("black", 3.0), (colour, 1.5)):
        panel.add_patch(
            Rectangle(
                (x0 * across - 0.5, y0 * down - 0.5),
                (x1 - x0) * across,
                (y1 - y0) * down,
                fill=False,
                edgecolor=line,
                linewidth=width,
            )
        )


def png(drawn: Figure, dpi: int = 100) -> bytes:
    """A figure as the bytes of a PNG file, with nothing cut off."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight", pad_inches=0.08)
    return buffer.getvalue()
