"""Maps over three axes as a film: a slice, or a frame, after the other."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradcam.pictures.colours import colours
from gradcam.pictures.extras import required
from gradcam.pictures.overlay import blended, image_of
from gradcam.pictures.shown import Shown, number
from gradcam.pictures.volumes import grey

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["film", "frames"]

SHORTEST = 280
"""Pixels that the shorter side of a film has at least: smaller slices are enlarged."""


def film(
    shown: Shown,
    path: Path,
    over: np.ndarray | None = None,
    axis: int = 0,
    per_second: float = 8.0,
    colormap: str | None = None,
) -> Path:
    """Write the slices of a map along one of its axes as a GIF, or an MP4, by the ending.

    over: the volume (D, H, W), or the frames (T, H, W) or (T, H, W, 3) in [0, 1], below the map.
    """
    if path.suffix not in (".gif", ".mp4"):
        raise ValueError(f"`path` must end with .gif or .mp4, but is {str(path)!r}")
    if per_second <= 0:
        raise ValueError(f"`per_second` must be more than 0, but is {per_second}")
    pictures = frames(shown, over, axis, colormap)
    if path.suffix == ".gif":
        first, *rest = pictures
        first.save(
            path, save_all=True, append_images=rest, duration=round(1000 / per_second), loop=0
        )
        return path
    _write_mp4(pictures, path, per_second)
    return path


def _write_mp4(pictures: list[Image], path: Path, per_second: float) -> None:
    """By ffmpeg, which is given the frames as bytes."""
    width, height = pictures[0].size
    command = [_ffmpeg(), "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height}", "-r", str(per_second), "-i", "-"]
    command += ["-pix_fmt", "yuv420p", "-movflags", "+faststart", str(path)]
    data = b"".join(picture.tobytes() for picture in pictures)
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    if done.returncode:
        raise OSError(f"{path}: ffmpeg could not write it: {done.stderr.decode().strip()}")


def _ffmpeg() -> str:
    found = shutil.which("ffmpeg")
    if found is None:
        try:
            found = str(importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe())
        except ImportError as error:
            raise ImportError(
                'an MP4 needs ffmpeg: pip install "gradcam[video]", or write a .gif'
            ) from error
    return found


def frames(
    shown: Shown, over: np.ndarray | None = None, axis: int = 0, colormap: str | None = None
) -> list[Image]:
    """The pictures of a film, each with what it shows in words below it."""
    if shown.values.ndim != 3:
        raise ValueError(
            f"a film needs a map over three axes, but this has {shown.values.ndim}; use .figure()"
        )
    if not -3 <= axis < 3:
        raise ValueError(f"`axis` must be one of the map's three, but is {axis}")
    below = None
    if over is not None:
        below = over if over.ndim == 4 else grey(over)[..., None].repeat(3, -1)
    heat = shown.heat(None if below is None else below.shape[:3])
    heat = np.moveaxis(heat, axis, 0)
    if below is not None:
        below = np.moveaxis(below, axis % 3, 0)
    found = []
    for n, plane in enumerate(heat):
        if below is None:
            rgb = colours(plane, colormap, shown.signed)
        else:
            rgb = blended(below[n], plane, colormap=colormap, signed=shown.signed)
        found.append(_with_words(rgb, _words(shown, n, len(heat))))
    return found


def _words(shown: Shown, n: int, count: int) -> list[str]:
    scale = shown.fault or f"brightest: {number(shown.extent())}"
    return [
        shown.caption.replace("\n", ", "),
        shown.origin,
        f"{scale}; {n + 1} of {count}",
    ]


def _with_words(rgb: np.ndarray, lines: list[str]) -> Image:
    pillow: Any = required("PIL.Image", "Pillow")
    font = required("PIL.ImageFont", "Pillow").load_default(13)
    image: Any = image_of(rgb)
    times = max(1, -(-SHORTEST // min(image.size)))
    image = image.resize((image.width * times, image.height * times), pillow.Resampling.NEAREST)
    widest = max(round(font.getlength(line)) for line in lines)
    # Even numbers, which films need.
    width = -(-max(image.width, widest + 12) // 16) * 16
    height = -(-(image.height + 18 * len(lines) + 8) // 16) * 16
    whole = pillow.new("RGB", (width, height), "white")
    whole.paste(image, ((width - image.width) // 2, 0))
    draw = required("PIL.ImageDraw", "Pillow").Draw(whole)
    for k, line in enumerate(lines):
        draw.text((6, image.height + 4 + 18 * k), line, fill="black", font=font)
    return whole  # type: ignore[no-any-return]
