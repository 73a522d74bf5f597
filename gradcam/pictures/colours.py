"""The colour of a map's values."""

from __future__ import annotations

import numpy as np

from gradcam.pictures.extras import required

__all__ = ["COLORMAP", "colours"]

COLORMAP = "rainbow"
"""The colour map of overlays and figures where the user names none."""


def colours(heat: np.ndarray, colormap: str = COLORMAP) -> np.ndarray:
    """Values in [0, 1] as RGB in [0, 1], (...) -> (..., 3), by a colour map of matplotlib."""
    matplotlib = required("matplotlib", "matplotlib")
    if colormap not in matplotlib.colormaps:
        raise ValueError(
            f'`colormap` "{colormap}" is none of matplotlib\'s; try "rainbow", "viridis" or '
            '"inferno"'
        )
    rgba = np.asarray(matplotlib.colormaps[colormap](heat))
    return rgba[..., :3]
