"""Photographs of any kind that people have, as RGB."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MOST_PIXELS", "crop", "decoded", "endings", "read", "read_bytes"]

FORMATS = (
    "PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "HEIF", "MPO", "TGA",
)  # fmt: skip
"""Those that are read, as far as Pillow has them. It knows others that hand a file to a program."""

MOST_PIXELS = 64_000_000
"""Beyond, a picture may be meant to exhaust the memory: this many take about 0.7 GB."""


class _UnfitError(Exception):
    """What is wrong with a picture that could be decoded."""


def read(path: str | os.PathLike[str]) -> np.ndarray:
    """An image file as RGB uint8 (H, W, 3).

    EXIF rotation is applied. Grey, palette, CMYK and 16-bit images are converted. Transparency is
    laid on white. Raises FileNotFoundError or ValueError, in a line that names the file, where it
    is missing, empty, corrupt, of another format, not a number somewhere, or so large that it may
    be meant to exhaust the memory.
    """
    return decoded(path, _upright, "image")


def read_bytes(data: bytes, name: str) -> np.ndarray:
    """The bytes of an image file as `read` gives it; `name` is shown in errors."""
    if not data:
        raise ValueError(f"{name}: is empty")
    return _decoded(io.BytesIO(data), name, _upright, "image")


def decoded(
    path: str | os.PathLike[str], convert: Callable[[Image], Image | np.ndarray], what: str
) -> np.ndarray:
    """An image file as the array that `convert` makes of the Pillow image; errors as of `read`.

    what: what the file should be, for the errors.
    """
    path = Path(path)
    _check_file(path)
    return _decoded(path, str(path), convert, what)


def _decoded(
    file: Path | io.BytesIO, name: str, convert: Callable[[Image], Image | np.ndarray], what: str
) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    Image.init()
    formats = [kind for kind in FORMATS if kind in Image.OPEN]
    limit = min(MOST_PIXELS, Image.MAX_IMAGE_PIXELS or MOST_PIXELS)
    # Photographs are read in threads, where no warning may be caught: its filters are of all of
    # them. So Pillow's own warning of many pixels comes besides the error.
    try:
        with Image.open(file, formats=formats) as opened:
            if opened.width * opened.height > limit:
                raise _UnfitError(_too_large(limit))
            opened.load()
            return np.asarray(convert(opened))
    except _UnfitError as error:
        raise ValueError(f"{name}: {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name}: {_too_large(limit)}") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name}: is no {what} of a known kind") from error
    except PermissionError as error:
        raise ValueError(f"{name}: may not be read") from error
    except Exception as error:  # a decoder raises anything, of what it makes of broken bytes
        raise ValueError(f"{name}: is a corrupt {what} ({error})") from error


def endings() -> tuple[str, ...]:
    """The endings of the files that are read, in lower case, such as ".jpg"."""
    from PIL import Image

    Image.init()
    known = Image.registered_extensions()
    return tuple(sorted(ending for ending, kind in known.items() if kind in FORMATS))


def _too_large(limit: int) -> str:
    return f"has more than {limit // 10**6} million pixels; make it smaller first"


def _check_file(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; pass the image files in it")
    if not path.is_file():
        raise ValueError(f"{path}: is no file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: is empty")


def _upright(image: Image) -> Image | np.ndarray:
    from PIL import ImageOps

    return _rgb(ImageOps.exif_transpose(image))


def _rgb(image: Image) -> Image | np.ndarray:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _from_deep_grey(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        return _on_white(image)
    return image.convert("RGB")


def _from_deep_grey(image: Image) -> np.ndarray:
    """A grey image of more than 8 bits as RGB uint8: its full range is scaled, not clipped."""
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise _UnfitError("has pixels that are NaN or infinite; replace them first")
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


def crop(photograph: np.ndarray | Image, resize: int = 256, size: int = 224) -> np.ndarray:
    """The centre that an ImageNet network sees: (H, W, 3) uint8 -> (size, size, 3) uint8.

    The shorter side is first resized to `resize` pixels (bicubic). A Pillow image is turned
    upright; grey ones become RGB, and transparent ones lie on white.
    """
    from PIL import Image

    image = photograph if isinstance(photograph, Image.Image) else Image.fromarray(photograph)
    upright = _upright(image)
    image = upright if isinstance(upright, Image.Image) else Image.fromarray(upright)
    ratio = resize / min(image.size)
    width, height = (max(size, round(n * ratio)) for n in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left = (width - size) // 2
    top = (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))
