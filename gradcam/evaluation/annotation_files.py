"""Readers of annotation files: COCO, Pascal VOC, a table of boxes, mask images.

Each reads one file and gives, for each photograph in it, the photograph's file name and its
objects. Whatever is wrong with a file is a ValueError that begins with the file's path.
"""

from __future__ import annotations

import csv
import io
import json
import math
import reprlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradcam.pictures.images import MOST_PIXELS, decoded

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "AnnotatedObject",
    "Box",
    "polygons_mask",
    "read_coco",
    "read_mask",
    "read_table",
    "read_voc",
]

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in the photograph's pixels, x1 and y1 exclusive."""

COLUMNS = ("file", "x0", "y0", "x1", "y1")
GREY_MODES = ("P", "L", "1", "I", "F")
FARTHEST = 1e9
"""What no corner of a polygon is away from its photograph, in pixels."""

TRANSPARENT_MODES = ("RGBA", "LA", "PA")


@dataclass(frozen=True)
class AnnotatedObject:
    """One object in a photograph.

    box: x0, y0, x1, y1. category: its name. mask: (H, W) booleans, where the file has them.
    """

    box: Box
    category: str | None = None
    mask: np.ndarray | None = None


def _text(path: Path, encoding: str = "utf-8") -> str:
    try:
        return path.read_text(encoding=encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no text in UTF-8 ({error})") from error


def _box(values: Sequence[Any]) -> Box:
    """Four finite numbers, or a ValueError."""
    try:
        x0, y0, x1, y1 = (float(value) for value in values)
    except (TypeError, OverflowError) as error:
        raise ValueError(str(error)) from error
    if not all(math.isfinite(edge) for edge in (x0, y0, x1, y1)):
        raise ValueError(f"{values} are not all finite")
    return x0, y0, x1, y1


# ----------------------------------------------------------------------------------------- a table


def read_table(path: Path) -> Iterator[tuple[str, list[AnnotatedObject]]]:
    """A .csv file with the columns file, x0, y0, x1, y1: a box in each line."""
    lines = io.StringIO(_text(path, "utf-8-sig"), newline="")
    try:
        rows = list(csv.DictReader(lines, skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(f"{path}: is no table ({error})") from error
    if rows:
        missing = [name for name in COLUMNS if name not in rows[0]]
        if missing:
            raise ValueError(
                f"{path}: has no column {', '.join(missing)}; it needs {', '.join(COLUMNS)}"
            )
    for number, row in enumerate(rows, start=2):
        try:
            box = _box([row[name] for name in COLUMNS[1:]])
        except ValueError as error:
            raise ValueError(f"{path}: line {number} has no four numbers x0, y0, x1, y1") from error
        if not row["file"]:
            raise ValueError(f"{path}: line {number} names no file")
        yield row["file"], [AnnotatedObject(box)]


# -------------------------------------------------------------------------------------- Pascal VOC


def read_voc(path: Path) -> tuple[str, list[AnnotatedObject]]:
    """A Pascal VOC file (.xml): the objects of one photograph."""
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # or an unknown encoding
        raise ValueError(f"{path}: is no XML ({error})") from error
    objects = [_voc_object(path, element) for element in root.iterfind("object")]
    return root.findtext("filename") or path.name, objects


def _voc_object(path: Path, element: ElementTree.Element) -> AnnotatedObject:
    bounds = element.find("bndbox")
    if bounds is None:
        raise ValueError(f"{path}: an object has no bndbox")
    names = ("xmin", "ymin", "xmax", "ymax")
    try:
        x0, y0, x1, y1 = _box([bounds.findtext(name) for name in names])
    except ValueError as error:
        raise ValueError(
            f"{path}: the bndbox of an object has no four numbers {', '.join(names)}"
        ) from error
    # VOC counts pixels from 1, and both ends belong to the box.
    return AnnotatedObject((x0 - 1, y0 - 1, x1, y1), element.findtext("name"))


# -------------------------------------------------------------------------------------------- COCO


def read_coco(path: Path) -> list[tuple[str, list[AnnotatedObject]]]:
    """A COCO file (.json): boxes, or polygons where an annotation has them. Crowds are left out."""
    text = _text(path)
    try:
        contents = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no COCO file, because it is no JSON ({error})") from error
    try:
        return _coco_photographs(path, contents)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: is no COCO file: it needs `images` and `annotations` with the `image_id` of "
            f"one of them and a `bbox` ({type(error).__name__}: {error})"
        ) from error


def _coco_photographs(
    path: Path, contents: Mapping[str, Any]
) -> list[tuple[str, list[AnnotatedObject]]]:
    images = {image["id"]: image for image in contents["images"]}
    categories = {
        category["id"]: str(category["name"]) for category in contents.get("categories", ())
    }
    photographs: dict[Any, list[AnnotatedObject]] = {}
    for annotation in contents["annotations"]:
        if annotation.get("iscrowd"):
            continue
        image = images[annotation["image_id"]]
        category = annotation.get("category_id")
        if category is not None:
            category = categories.get(category, str(category))
        box, mask = _coco_shape(path, annotation, image)
        objects = photographs.setdefault(annotation["image_id"], [])
        objects.append(AnnotatedObject(box, category, mask))
    return [(str(images[key]["file_name"]), objects) for key, objects in photographs.items()]


def _coco_shape(
    path: Path, annotation: Mapping[str, Any], image: Mapping[str, Any]
) -> tuple[Box, np.ndarray | None]:
    """The box of an annotation, and its mask where it has polygons."""
    name = f"{path}: annotation {annotation.get('id')}"
    segments = annotation.get("segmentation")
    if isinstance(segments, Mapping):
        raise ValueError(
            f"{name} is a run-length code; make mask images of them, as pycocotools does"
        )
    bounds = annotation["bbox"]
    try:
        x, y, width, height = _box(bounds)
        box = _box((x, y, x + width, y + height))
    except ValueError as error:
        raise ValueError(
            f"{name} needs a `bbox` of four numbers x, y, width, height, but has {_shown(bounds)}"
        ) from error
    mask = None
    if segments:
        try:
            mask = polygons_mask(segments, _coco_size(image))
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(
                f"{name} needs polygons, each x, y, x, y, ... in pixels ({error})"
            ) from error
    return box, mask


def _coco_size(image: Mapping[str, Any]) -> tuple[int, int]:
    height, width = int(image["height"]), int(image["width"])
    if not (height > 0 and width > 0 and height * width <= MOST_PIXELS):
        raise ValueError(
            f"its image has {_shown(height)} x {_shown(width)} pixels, and may have 1 to "
            f"{MOST_PIXELS // 10**6} million"
        )
    return height, width


def _shown(value: Any) -> str:
    return reprlib.repr(value)


def polygons_mask(polygons: Any, size: tuple[int, int]) -> np.ndarray:
    """(H, W): whether a pixel's centre lies in a polygon, each x, y, x, y, ... in pixels."""
    mask = np.zeros(size, dtype=bool)
    for polygon in polygons:
        corners = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        if not (np.abs(corners) < FARTHEST).all():
            raise ValueError(f"the corners of a polygon are not all below {FARTHEST:.0e}")
        mask |= _polygon_mask(corners, size)
    return mask


def _polygon_mask(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """By the even-odd rule: a centre is inside if an odd number of edges lies to its right.

    So each edge turns over all centres to its left, in the rows that it crosses.
    """
    inside = np.zeros(size, dtype=bool)
    y = np.arange(size[0]) + 0.5
    x = np.arange(size[1]) + 0.5
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        crossed = np.flatnonzero((y0 <= y) != (y1 <= y))
        if len(crossed):
            crossing = x0 + (y[crossed] - y0) * (x1 - x0) / (y1 - y0)
            inside[crossed] ^= x < crossing[:, None]
    return inside


# ------------------------------------------------------------------------------------- mask images


def read_mask(path: Path) -> np.ndarray:
    """A mask image as (H, W) booleans: where it is neither black nor transparent.

    The values of palettes and of images with 16 bits are labels, not colours: 0 is "no object".
    """
    return decoded(path, _mask, "mask image")


def _mask(image: Image) -> np.ndarray:
    if image.mode in TRANSPARENT_MODES:
        colours = np.asarray(image.convert("RGBA"))
        return np.array((colours[..., :3].max(-1) > 0) & (colours[..., 3] > 0))
    threshold = 0
    if image.format == "JPEG":
        threshold = 127  # compression leaves black not quite black next to an edge
    if image.mode in GREY_MODES or image.mode.startswith("I;"):
        pixels = np.asarray(image)
    else:
        pixels = np.asarray(image.convert("RGB")).max(-1)
    return np.array(pixels > threshold)
