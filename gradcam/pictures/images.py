"""Photographs of any kind that people have, as RGB."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np

__all__ = ["crop", "read"]


def read(path: str | os.PathLike[str]) -> np.ndarray:
    """An image file as RGB uint8 (H, W, 3): EXIF rotation applied, grey, palette, CMYK and 16 bits converted,
    transparency laid on white.

    Raises FileNotFoundError or ValueError, in a line that names the file, where it is missing, empty, corrupt,
    or so large that it may be meant to exhaust the memory.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; pass the image files in it")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                opened.load()
                image = ImageOps.exif_transpose(opened)
                return np.asarray(_rgb(image))
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


def _rgb(image: object) -> object:
    from PIL import Image

    assert isinstance(image, Image.Image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float64)
        high = (
            65535.0
            if image.mode != "F" and values.max(initial=0) > 255
            else max(255.0, values.max(initial=0))
        )
        return np.repeat(
            np.round(np.clip(values / high, 0, 1) * 255).astype(np.uint8)[..., None], 3, axis=-1
        )
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def crop(photograph: np.ndarray, resize: int = 256, size: int = 224) -> np.ndarray:
    """The centre that an ImageNet network sees: the shorter side resized to `resize` (bicubic), then `size` squared."""
    from PIL import Image

    image = Image.fromarray(photograph)
    ratio = resize / min(image.size)
    wide, high = (max(size, round(n * ratio)) for n in image.size)
    image = image.resize((wide, high), Image.Resampling.BICUBIC)
    left, top = (wide - size) // 2, (high - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))
