"""A figure of maps: a row of panels for each sample, a column for each target."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gradcam.maps import resize, scale
from gradcam.pictures.colours import COLORMAP
from gradcam.pictures.extras import required
from gradcam.pictures.overlay import overlay

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["figure", "png"]


def figure(
    heatmaps: np.ndarray,
    titles: Sequence[Sequence[str]],
    photographs: Sequence[np.ndarray] | None = None,
    colormap: str = COLORMAP,
) -> Figure:
    """A matplotlib figure with N rows of K panels, after the photograph where there is one.

    heatmaps: (N, K, *size) in [0, 1]. A map over one axis is drawn as a curve. Of a map over three
        or more, the plane with the most heat is shown.
    titles: N lists of K.
    photographs: N arrays (H, W, 3) in [0, 1]; maps over two axes are laid over them.
    """
    samples, targets = heatmaps.shape[:2]
    columns = targets
    if photographs is not None:
        columns += 1
    drawn: Figure = required("matplotlib.figure", "matplotlib").Figure(
        figsize=(3.2 * columns, 3.5 * samples), layout="constrained"
    )
    for n, row in enumerate(drawn.subplots(samples, columns, squeeze=False)):
        for panel in row:
            panel.set_axis_off()
        photograph = None
        if photographs is not None:
            photograph = photographs[n]
            row[0].imshow(photograph)
        for panel, heat, title in zip(row[-targets:], heatmaps[n], titles[n], strict=True):
            _draw_map(panel, heat, photograph, colormap)
            panel.set_title(title, fontsize=9)
    return drawn


def _draw_map(panel: Axes, heat: np.ndarray, photograph: np.ndarray | None, colormap: str) -> None:
    if heat.ndim == 1:
        _draw_curve(panel, heat)
        return
    plane = _hottest_plane(heat)
    if photograph is None:
        panel.imshow(plane, cmap=colormap, vmin=0, vmax=1)
        return
    # resizing lowers the maximum: scale again
    resized = scale(resize(plane, photograph.shape[:2]), 2)
    panel.imshow(overlay(photograph, resized, colormap=colormap))


def _draw_curve(panel: Axes, heat: np.ndarray) -> None:
    panel.set_axis_on()
    panel.fill_between(np.arange(len(heat)), heat, step="mid", color="tab:red", alpha=0.6)
    panel.set_ylim(0, 1)


def _hottest_plane(heat: np.ndarray) -> np.ndarray:
    """(..., H, W) -> (H, W): along each leading axis, the slice with the most heat."""
    while heat.ndim > 2:
        totals = heat.reshape(len(heat), -1).sum(axis=1)
        heat = heat[int(np.argmax(totals))]
    return heat


def png(drawn: Figure, dpi: int = 100) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
