"""The colours of a map's values."""

from __future__ import annotations

import numpy as np

from gradcam.pictures.extras import required

__all__ = ["ALPHA", "CLASSES", "COLORMAP", "ON_PAPER", "SIGNED", "colormap_for", "colours", "tint"]

COLORMAP = "inferno"
"""Of maps from 0 up: as bright as the evidence is strong, to every eye and in grey."""

ON_PAPER = "Oranges"
"""Of maps on white paper, behind a curve or words: white where there is no evidence."""

SIGNED = "RdBu_r"
"""Of maps with evidence for and against: red and blue away from white at 0."""

ALPHA = 0.7
"""The opacity of the strongest evidence over a photograph."""

CLASSES = ("#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#f0e442", "#0072b2")
"""Colours of classes in one picture, which colour-blind people can tell apart (Okabe and Ito)."""


def colormap_for(colormap: str | None, signed: bool) -> str:
    """The colour map that the user named, or else the one for these values."""
    if colormap is not None:
        return colormap
    return SIGNED if signed else COLORMAP


def colours(heat: np.ndarray, colormap: str | None = None, signed: bool = False) -> np.ndarray:
    """Values as RGB in [0, 1], (...) -> (..., 3), by a colour map of matplotlib.

    heat: in [0, 1]; with `signed` in [-1, 1].
    """
    matplotlib = required("matplotlib", "matplotlib")
    name = colormap_for(colormap, signed)
    if name not in matplotlib.colormaps:
        raise ValueError(
            f'`colormap` "{name}" is none of matplotlib\'s; try "inferno", "viridis" or "rainbow"'
        )
    if signed:
        heat = (heat + 1) / 2
    rgba = np.asarray(matplotlib.colormaps[name](heat))
    return rgba[..., :3]


def tint(
    heat: np.ndarray, alpha: float = ALPHA, colormap: str | None = None, signed: bool = False
) -> np.ndarray:
    """Values as RGBA in [0, 1], (...) -> (..., 4), to lie over a photograph.

    The opacity is `alpha` times the square root of the magnitude: where it is 0 the photograph is
    unchanged, and the root keeps faint evidence visible.
    """
    opacity = alpha * np.sqrt(np.abs(heat))
    return np.concatenate([colours(heat, colormap, signed), opacity[..., None]], axis=-1)
