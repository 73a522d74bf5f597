"""The bar beside a map: its colours, with the raw values that they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gradcam.pictures.colours import colormap_for
from gradcam.pictures.shown import Shown, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gradcam.pictures.panels import Look

__all__ = ["draw_bar"]


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
