"""Photographs of any kind that people have, as RGB."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["crop", "read"]


def read(path: str | os.PathLike[str]) -> np.ndarray:
    """An image file as RGB uint8 (H, W, 3).

    EXIF rotation is applied. Grey, palette, CMYK and 16-bit images are converted. Transparency is
    laid on white. Raises FileNotFoundError or ValueError, in a line that names the file, where it
    is missing, empty, corrupt, or so large that it may be meant to exhaust the memory.
    """
    from PIL import Image, UnidentifiedImageError

    path = Path(path)
    _check_file(path)
    try:
        return _decoded(path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise ValueError(
            f"{path}: has more than {limit} million pixels; make it smaller first"
        ) from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: is no image of a known kind") from error
    except PermissionError as error:
        raise ValueError(f"{path}: may not be read") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: is corrupt ({error})") from error


def _check_file(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; pass the image files in it")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: is empty")


def _decoded(path: Path) -> np.ndarray:
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        # Pillow only warns up to twice its limit of pixels: refuse at the limit itself
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path) as opened:
            opened.load()
            return np.asarray(_rgb(ImageOps.exif_transpose(opened)))


def _rgb(image: Image) -> Image | np.ndarray:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _from_deep_grey(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return _on_white(image)
    return image.convert("RGB")


def _from_deep_grey(image: Image) -> np.ndarray:
    """A grey image of more than 8 bits as RGB uint8: its full range is scaled, not clipped."""
    values = np.asarray(image, dtype=np.float64)
    largest = values.max(initial=0)
    full = max(255.0, largest)
    if image.mode != "F" and largest > 255:
        full = 65535.0  # integers: 16 bits
    grey = np.round(np.clip(values / full, 0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _on_white(image: Image) -> Image:
    from PIL import Image

    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def crop(photograph: np.ndarray, resize: int = 256, size: int = 224) -> np.ndarray:
    """The centre that an ImageNet network sees: (H, W, 3) uint8 -> (size, size, 3) uint8.

    The shorter side is first resized to `resize` pixels (bicubic).
    """
    from PIL import Image

    image = Image.fromarray(photograph)
    ratio = resize / min(image.size)
    width, height = (max(size, round(n * ratio)) for n in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left = (width - size) // 2
    top = (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))
