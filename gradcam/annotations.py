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
    """Of one photograph: a mask, (H, W) booleans in its own pixels, or boxes (x0, y0, x1, y1), x1 and y1 exclusive."""

    boxes: tuple[tuple[float, float, float, float], ...] = ()
    mask: np.ndarray | None = None

    def drawn(self, size: tuple[int, int]) -> np.ndarray:
        """(H, W): whether a pixel of the photograph is the object's, for the photograph's `size`."""
        if self.mask is not None:
            if self.mask.shape != size:
                raise ValueError(f"the mask has {self.mask.shape} pixels, but the photograph {size}")
            return self.mask
        height, width = size
        found = np.zeros(size, dtype=bool)
        for x0, y0, x1, y1 in self.boxes:
            left, top = max(int(np.floor(x0)), 0), max(int(np.floor(y0)), 0)
            right, bottom = min(int(np.ceil(x1)), width), min(int(np.ceil(y1)), height)
            if left >= right or top >= bottom:
                raise ValueError(f"the box {(x0, y0, x1, y1)} lies outside of the photograph, {width} x {height}")
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


def read_annotations(source: str | Path) -> dict[str, Annotation]:
    """Annotations by file name without its ending.

    source: a COCO file (`.json`: boxes, or polygons where an annotation has them), a table (`.csv` with the columns
    file, x0, y0, x1, y1), a folder of Pascal VOC files (`.xml`), or a folder of mask images, in which the object is
    what is not black, named as the photographs are.
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(path.iterdir())
        if any(file.suffix.lower() == ".xml" for file in files):
            return dict(_voc(file) for file in files if file.suffix.lower() == ".xml")
        return {file.stem: Annotation(mask=_mask(file)) for file in files if file.is_file()}
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder of annotations")
    kinds: dict[str, Callable[[Path], dict[str, Annotation]]] = {".json": _coco, ".csv": _table}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: annotations must be a .json (COCO), a .csv, or a folder of .xml (VOC) or of masks")
    return kind(path)


def _mask(path: Path) -> np.ndarray:
    from gradcam.images import read

    return np.array(read(path).max(-1) > 0)


def _boxed(rows: Iterable[tuple[str, tuple[float, float, float, float]]]) -> dict[str, Annotation]:
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    for name, box in rows:
        found.setdefault(Path(name).stem, []).append(box)
    return {name: Annotation(tuple(boxes)) for name, boxes in found.items()}


def _table(path: Path) -> dict[str, Annotation]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = ("file", "x0", "y0", "x1", "y1")
    if rows and (missing := [name for name in columns if name not in rows[0]]):
        raise ValueError(f"{path}: has no column {', '.join(missing)}; it needs {', '.join(columns)}")
    found = []
    for n, row in enumerate(rows):
        try:
            x0, y0, x1, y1 = (float(row[name]) for name in columns[1:])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: line {n + 2} has no four numbers x0, y0, x1, y1") from error
        found.append((row["file"], (x0, y0, x1, y1)))
    return _boxed(found)


def _voc(path: Path) -> tuple[str, Annotation]:
    try:
        root = ElementTree.parse(path).getroot()
        boxes = []
        for box in root.iterfind("object/bndbox"):
            x0, y0, x1, y1 = (float(box.findtext(name) or "nan") for name in ("xmin", "ymin", "xmax", "ymax"))
            boxes.append((x0 - 1, y0 - 1, x1, y1))  # VOC counts from 1, both ends belonging to the box
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}: is no XML ({error})") from error
    name = root.findtext("filename") or path.name
    return Path(name).stem, Annotation(tuple(boxes))


def _coco(path: Path) -> dict[str, Annotation]:
    try:
        whole: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        images = {one["id"]: one for one in whole["images"]}
        annotations = whole["annotations"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: is no COCO file: it needs `images` and `annotations` ({error})") from error
    boxes: dict[str, list[tuple[float, float, float, float]]] = {}
    masks: dict[str, np.ndarray] = {}
    for one in annotations:
        image = images[one["image_id"]]
        name = Path(image["file_name"]).stem
        polygons = one.get("segmentation")
        if isinstance(polygons, list) and polygons:
            drawn = polygons_mask(polygons, (int(image["height"]), int(image["width"])))
            masks[name] = masks[name] | drawn if name in masks else drawn
        else:
            x, y, width, height = one["bbox"]
            boxes.setdefault(name, []).append((x, y, x + width, y + height))
    found = {name: Annotation(tuple(some)) for name, some in boxes.items()}
    for name, mask in masks.items():
        both = mask | found[name].drawn(mask.shape) if name in found else mask
        found[name] = Annotation(mask=both)
    return found


def polygons_mask(polygons: Any, size: tuple[int, int]) -> np.ndarray:
    """(H, W): whether a pixel lies in one of the polygons, each x, y, x, y, ... in pixels."""
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (size[1], size[0]))
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        draw.polygon([(polygon[i], polygon[i + 1]) for i in range(0, len(polygon), 2)], fill=1)
    return np.array(canvas, dtype=bool)
