"""Beside a map the bar of its colours, with their raw values; in its place, why there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gradcam.pictures.colours import colormap_for
from gradcam.pictures.shown import Shown, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from gradcam.pictures.panels import Look

__all__ = ["draw_bar", "draw_words"]


def draw_bar(drawn: Figure, panels: Any, shown: Shown, high: float, look: Look) -> None:
    """Beside one panel or several; `high` is the raw value that is strongest."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    low = -high if shown.signed else 0.0
    scale = ScalarMappable(Normalize(low, high), colormap_for(look.colormap, shown.signed))
    bar = drawn.colorbar(scale, ax=panels, shrink=0.8, pad=0.02, aspect=18)
    ticks = np.linspace(low, high, 5 if shown.signed else 3)
    bar.set_ticks(list(ticks), labels=[number(float(tick)) for tick in ticks])
    bar.ax.tick_params(labelsize=7)


def draw_words(panel: Axes, text: str) -> None:
    """In the middle of a panel, why it shows no map."""
    panel.text(
        0.5,
        0.5,
        text.replace(": ", ":\n"),
        transform=panel.transAxes,
        ha="center",
        va="center",
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "0.5"},
    )
