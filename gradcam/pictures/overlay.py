"""Maps as images: in colour by themselves, or over the photograph that they explain."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from gradcam.pictures.colours import ALPHA, colours, tint
from gradcam.pictures.extras import required
from gradcam.pictures.images import read

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["blended", "coloured", "image_of", "overlay", "photographs"]


def coloured(heat: np.ndarray, colormap: str | None = None, signed: bool = False) -> Image:
    """A map (H, W) in [0, 1] in colour, without a photograph; with `signed` in [-1, 1]."""
    return image_of(colours(heat, colormap, signed))


def overlay(
    photograph: np.ndarray,
    heat: np.ndarray,
    alpha: float = ALPHA,
    colormap: str | None = None,
    signed: bool = False,
) -> Image:
    """A photograph (H, W, 3) in [0, 1] under a map (H, W) in [0, 1], or with `signed` in [-1, 1].

    The opacity is that of `colours.tint`: where the heat is 0 the photograph is unchanged.
    """
    return image_of(blended(photograph, heat, alpha, colormap, signed))


def blended(
    photograph: np.ndarray,
    heat: np.ndarray,
    alpha: float = ALPHA,
    colormap: str | None = None,
    signed: bool = False,
) -> np.ndarray:
    """The same as RGB in [0, 1], (H, W, 3)."""
    layer = tint(heat, alpha, colormap, signed)
    opacity = layer[..., 3:]
    return np.asarray((1 - opacity) * photograph + opacity * layer[..., :3])


def image_of(rgb: np.ndarray) -> Image:
    """RGB in [0, 1], (H, W, 3), as an image."""
    pillow = required("PIL.Image", "Pillow")
    image: Image = pillow.fromarray(np.round(rgb * 255).astype(np.uint8))
    return image


def photographs(photos: Any, count: int) -> list[np.ndarray]:
    """One photograph, or a sequence of `count`, as arrays (H, W, 3) in [0, 1].

    A photograph is a file name, a PIL image, or an array (H, W, 3), (H, W, 4) or (H, W), of uint8
    or of floats in [0, 1]. Raises ValueError for another number of photographs, another shape, or
    values out of range.
    """
    sequence = [photos] if _is_one_photograph(photos) else list(photos)
    if len(sequence) != count:
        raise ValueError(
            f"`photos` has {len(sequence)}, but the explanation has {count} samples; pass one for "
            "each"
        )
    return [_photograph(photo) for photo in sequence]


def _is_one_photograph(photos: Any) -> bool:
    if isinstance(photos, (list, tuple)):
        return False
    if isinstance(photos, (str, os.PathLike)) or _is_pillow(photos):
        return True
    # an array with four axes is a batch; what has no axes is some other iterable
    return getattr(photos, "ndim", 4) < 4


def _is_pillow(photo: Any) -> bool:
    return hasattr(photo, "convert")


def _photograph(photo: Any) -> np.ndarray:
    if isinstance(photo, (str, os.PathLike)):
        photo = read(photo)
    elif _is_pillow(photo):
        photo = photo.convert("RGB")
    array = np.asarray(photo)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=-1)
    if array.ndim != 3 or array.shape[-1] not in (3, 4):
        raise ValueError(
            f"a photograph must have the shape (H, W, 3) or (H, W), but has {array.shape}"
        )
    return _unit_range(array)[..., :3]


def _unit_range(array: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1]: uint8 over 255, floats as they are."""
    if array.dtype == np.uint8:
        return array / 255.0
    if array.dtype.kind != "f" or array.min() < 0 or array.max() > 1:
        raise ValueError(
            f"a photograph must be uint8, or floats in [0, 1], but is {array.dtype} from "
            f"{array.min():.3g} to {array.max():.3g}; pass the photograph itself, not the model's "
            "normalised input"
        )
    return array.astype(np.float64)
