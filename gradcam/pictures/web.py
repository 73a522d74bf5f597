"""Maps as images inside a page: the photograph, and over it the map as a layer of its own.

The layer's opacity is the square root of the map. So one style sheet, without another image, makes
it fainter (`opacity`) or leaves out what is weak: a filter of the alpha channel, as what is below
a share t of the maximum has an alpha below the root of t.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradcam.pictures.colours import ALPHA, tint
from gradcam.pictures.extras import required
from gradcam.pictures.shown import Shown

__all__ = ["LONGEST", "OPACITY", "Layer", "data_uri", "layer", "shrunk"]

LONGEST = 224
"""Pixels of the longer side of an image in a page."""

OPACITY = ALPHA
"""Of a layer, where the page has no other."""


@dataclass(frozen=True)
class Layer:
    """A map as an image to lie over its photograph.

    uri: a data URI with an alpha channel; empty where there is nothing to see. height, width: in
    pixels. high: the raw value where the layer is strongest. signed: whether there is evidence
    against, which is blue. fault: why there is nothing to see.
    """

    uri: str
    height: int
    width: int
    high: float
    signed: bool
    fault: str


def shrunk(photograph: np.ndarray, longest: int = LONGEST) -> np.ndarray:
    """A photograph (H, W, 3) in [0, 1] as uint8, its longer side at most `longest` pixels."""
    image = required("PIL.Image", "Pillow")
    whole = image.fromarray(np.round(photograph * 255).astype(np.uint8))
    whole.thumbnail((longest, longest), image.Resampling.LANCZOS)
    return np.asarray(whole)


def layer(
    shown: Shown,
    size: Sequence[int] | None = None,
    extent: float | None = None,
    colormap: str | None = None,
    longest: int = LONGEST,
) -> Layer:
    """A map over two axes at `size` (H, W), that of its photograph, or else at the input's.

    extent: the raw value that is strongest, where several maps share a scale.
    """
    height, width = size or shown.size or shown.values.shape
    ratio = min(1.0, longest / max(height, width))
    height, width = max(1, round(height * ratio)), max(1, round(width * ratio))
    if shown.fault:
        return Layer("", height, width, 0.0, shown.signed, shown.fault)
    heat = shown.heat((height, width), extent)
    high = extent if extent is not None else shown.extent((height, width))
    rgba = tint(heat, 1.0, colormap, shown.signed)
    uri = data_uri(np.round(rgba * 255).astype(np.uint8), quality=60)
    return Layer(uri, height, width, high, shown.signed, "")


def data_uri(pixels: np.ndarray, quality: int = 80) -> str:
    """An image, uint8 (H, W, 3) or (H, W, 4), as a data URI of WebP."""
    buffer = io.BytesIO()
    required("PIL.Image", "Pillow").fromarray(pixels).save(
        buffer, "WEBP", quality=quality, method=2
    )
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
