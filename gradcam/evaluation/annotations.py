"""Where the object is in a photograph: masks from mask images, a COCO file, VOC files or a table of boxes."""

from __future__ import annotations

import csv
import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Annotation", "polygons_mask", "read_annotations", "seen_mask"]


@dataclass(frozen=True)
class Annotation:
    """Of one photograph: a mask, (H, W) booleans in its own pixels, or boxes (x0, y0, x1, y1), x1 and y1 exclusive;
    with both, the boxes are those of the objects in the mask. Pixels are those of the photograph as it is shown, turned
    upright where its file says so.
    """

    boxes: tuple[tuple[float, float, float, float], ...] = ()
    mask: np.ndarray | None = None

    def drawn(self, size: tuple[int, int]) -> np.ndarray:
        """(H, W): whether a pixel of the photograph is the object's, for the photograph's `size`."""
        if self.mask is not None:
            if self.mask.shape != size:
                raise ValueError(
                    f"the mask has {self.mask.shape} pixels, but the photograph {size}"
                )
            return self.mask
        height, width = size
        found = np.zeros(size, dtype=bool)
        for x0, y0, x1, y1 in self.boxes:
            left, top = max(int(np.floor(x0)), 0), max(int(np.floor(y0)), 0)
            right, bottom = min(int(np.ceil(x1)), width), min(int(np.ceil(y1)), height)
            if x1 < x0 or y1 < y0:
                raise ValueError(
                    f"the box {(x0, y0, x1, y1)} ends before it starts; it must be (x0, y0, x1, y1)"
                )
            if left >= right or top >= bottom:
                raise ValueError(
                    f"the box {(x0, y0, x1, y1)} lies outside of the photograph, {width} x {height}"
                )
            found[top:bottom, left:right] = True
        return found


def seen_mask(
    annotation: Annotation, photograph: np.ndarray, view: Callable[[np.ndarray], np.ndarray] | None
) -> np.ndarray:
    """The object in what the network sees: the mask goes the photograph's own way, and is its upper half there."""
    mask = annotation.drawn((photograph.shape[0], photograph.shape[1]))
    if view is None:
        return mask
    picture = np.repeat(np.where(mask, 255, 0).astype(np.uint8)[..., None], 3, axis=-1)
    return np.array(view(picture)[..., 0] > 127)


def read_annotations(source: str | Path, category: str | None = None) -> dict[str, Annotation]:
    """Annotations by file name without its ending.

    source: a COCO file (`.json`: boxes, or polygons where an annotation has them; crowds are left out), a table (`.csv`
        with the columns file, x0, y0, x1, y1), a folder of Pascal VOC files (`.xml`), or a folder of mask images, in
        which the object is what is neither black nor transparent, named as the photographs are.
    category: of COCO and VOC files, keep the objects of this name alone. None: all; an error where one photograph has
        objects of several categories, for a map is of one class.
    """
    path = Path(source)
    if path.is_dir():
        files = [
            file
            for file in sorted(path.iterdir())
            if file.is_file() and not file.name.startswith(".")
        ]
        if any(file.suffix.lower() == ".xml" for file in files):
            return _together(
                (_voc(file) for file in files if file.suffix.lower() == ".xml"), category
            )
        found = {}
        for file in files:
            if file.stem in found:
                raise ValueError(f"{file}: there is another mask of the name {file.stem}")
            found[file.stem] = Annotation(mask=_mask(file))
        return found
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder of annotations")
    if path.suffix.lower() == ".json":
        return _together(_coco(path), category)
    if path.suffix.lower() == ".csv":
        return _together(_table(path), None)
    raise ValueError(
        f"{path}: annotations must be a .json (COCO), a .csv, or a folder of .xml (VOC) or of masks"
    )


@dataclass(frozen=True)
class _Object:
    box: tuple[float, float, float, float]
    category: str | None = None
    mask: np.ndarray | None = None


def _together(
    photographs: Iterable[tuple[str, list[_Object]]], category: str | None
) -> dict[str, Annotation]:
    """The objects of each photograph (its file's name) as one annotation."""
    files: dict[str, str] = {}
    kept: dict[str, list[_Object]] = {}
    for name, objects in photographs:
        stem = Path(name).stem
        if files.setdefault(stem, name) != name:
            raise ValueError(
                f"{files[stem]} and {name} are both named {stem}; annotations are found by that name"
            )
        some = [one for one in objects if category is None or one.category == category]
        several = {one.category for one in some}
        if len(several) > 1:
            raise ValueError(
                f"{name} has objects of several categories, {', '.join(sorted(map(str, several)))}, but a map is "
                "of one class; choose one by `category`"
            )
        if some:
            kept.setdefault(stem, []).extend(some)
    found = {}
    for stem, objects in kept.items():
        boxes, mask = tuple(one.box for one in objects), None
        if any(one.mask is not None for one in objects):
            size = next(one.mask.shape for one in objects if one.mask is not None)
            masks = [
                Annotation((one.box,)).drawn(size) if one.mask is None else one.mask
                for one in objects
            ]
            mask = np.any(masks, axis=0)
        found[stem] = Annotation(boxes, mask)
    return found


def _mask(path: Path) -> np.ndarray:
    """Where a mask image is neither black nor transparent; labels of 16 bits and palettes are numbers, not colours."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            lossy = image.format == "JPEG"  # whose black is not quite black next to an edge
            if image.mode in ("RGBA", "LA", "PA"):
                pixels = np.asarray(image.convert("RGBA"))
                return np.array((pixels[..., :3].max(-1) > 0) & (pixels[..., 3] > 0))
            plain = (
                image
                if image.mode in ("P", "L", "1", "I", "F") or image.mode.startswith("I;")
                else image.convert("RGB")
            )
            pixels = np.asarray(plain)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: is no mask image; leave in the folder only those") from error
    pixels = pixels.max(-1) if pixels.ndim == 3 else pixels
    return np.array(pixels > (127 if lossy else 0))


def _table(path: Path) -> Iterable[tuple[str, list[_Object]]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    columns = ("file", "x0", "y0", "x1", "y1")
    if rows and (missing := [name for name in columns if name not in rows[0]]):
        raise ValueError(
            f"{path}: has no column {', '.join(missing)}; it needs {', '.join(columns)}"
        )
    for n, row in enumerate(rows):
        try:
            x0, y0, x1, y1 = (float(row[name]) for name in columns[1:])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: line {n + 2} has no four numbers x0, y0, x1, y1") from error
        yield row["file"], [_Object((x0, y0, x1, y1))]


def _voc(path: Path) -> tuple[str, list[_Object]]:
    try:
        root = ElementTree.parse(path).getroot()
        objects = []
        for one in root.iterfind("object"):
            box = one.find("bndbox")
            if box is None:
                raise ValueError(f"{path}: an object has no bndbox")
            x0, y0, x1, y1 = (
                float(box.findtext(name) or "nan") for name in ("xmin", "ymin", "xmax", "ymax")
            )
            # VOC counts from 1, both ends belonging to the box
            objects.append(_Object((x0 - 1, y0 - 1, x1, y1), one.findtext("name")))
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: is no XML ({error})") from error
    return root.findtext("filename") or path.name, objects


def _coco(path: Path) -> Iterable[tuple[str, list[_Object]]]:
    try:
        whole: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        images = {one["id"]: one for one in whole["images"]}
        names = {one["id"]: str(one["name"]) for one in whole.get("categories", ())}
        found: dict[Any, list[_Object]] = {}
        for one in whole["annotations"]:
            if one.get("iscrowd"):
                continue
            image, segments = images[one["image_id"]], one.get("segmentation")
            if isinstance(segments, Mapping):
                raise ValueError(
                    f"{path}: annotation {one.get('id')} is a run-length code; make mask images "
                    "of them, as pycocotools does"
                )
            x, y, width, height = one["bbox"]
            mask = (
                polygons_mask(segments, (int(image["height"]), int(image["width"])))
                if segments
                else None
            )
            label = one.get("category_id")
            made = _Object(
                (x, y, x + width, y + height),
                None if label is None else names.get(label, str(label)),
                mask,
            )
            found.setdefault(one["image_id"], []).append(made)
        return [(str(images[key]["file_name"]), objects) for key, objects in found.items()]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: is no COCO file: it needs `images` and `annotations` with the `image_id` of one of them and a "
            f"`bbox` ({type(error).__name__}: {error})"
        ) from error


def polygons_mask(polygons: Any, size: tuple[int, int]) -> np.ndarray:
    """(H, W): whether a pixel's centre lies in one of the polygons, each x, y, x, y, ... in pixels."""
    found = np.zeros(size, dtype=bool)
    down, across = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    for polygon in polygons:
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        inside = np.zeros(size, dtype=bool)
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            rows = np.flatnonzero((y0 <= down) != (y1 <= down))  # that the edge crosses
            crossing = x0 + (down[rows] - y0) * (x1 - x0) / (y1 - y0) if len(rows) else np.zeros(0)
            inside[rows] ^= across < crossing[:, None]
        found |= inside
    return found
