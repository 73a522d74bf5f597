"""Where the object is in a photograph: masks and boxes, read and drawn as the network sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gradcam.evaluation.annotation_files import (
    AnnotatedObject,
    Box,
    read_coco,
    read_mask,
    read_table,
    read_voc,
)

__all__ = ["Annotation", "View", "annotation_of", "check_names", "read_annotations", "seen_mask"]

View = Callable[[np.ndarray], np.ndarray]
"""From a photograph, RGB uint8 (H, W, 3), to the part that the network sees."""


@dataclass(frozen=True)
class Annotation:
    """The objects of one photograph, in its own pixels.

    boxes: (x0, y0, x1, y1), x1 and y1 exclusive.
    mask: (H, W) booleans. With both, the boxes are those of the objects in the mask.

    The photograph is meant as it is shown: turned upright, where its file says that it must be.
    """

    boxes: tuple[Box, ...] = ()
    mask: np.ndarray | None = None

    def drawn(self, size: tuple[int, int]) -> np.ndarray:
        """(H, W): whether a pixel is an object's, for a photograph of that `size`."""
        if self.mask is not None:
            if self.mask.shape != size:
                raise ValueError(
                    f"the mask has {self.mask.shape} pixels, but the photograph {size}"
                )
            return self.mask
        mask = np.zeros(size, dtype=bool)
        for box in self.boxes:
            mask[_pixels(box, size)] = True
        return mask


def _pixels(box: Box, size: tuple[int, int]) -> tuple[slice, slice]:
    """The rows and columns of the pixels that a box touches; an error where there are none."""
    x0, y0, x1, y1 = box
    if x1 < x0 or y1 < y0:
        raise ValueError(f"the box {box} ends before it starts; it must be (x0, y0, x1, y1)")
    height, width = size
    rows = slice(max(int(np.floor(y0)), 0), min(int(np.ceil(y1)), height))
    columns = slice(max(int(np.floor(x0)), 0), min(int(np.ceil(x1)), width))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        raise ValueError(f"the box {box} lies outside of the photograph, {width} x {height}")
    return rows, columns


def seen_mask(annotation: Annotation, photograph: np.ndarray, view: View | None) -> np.ndarray:
    """The objects in what the network sees: (H', W') booleans.

    The mask goes through `view` as a black and white photograph does, which may blur its edge. A
    pixel counts as the object's where it is nearer to white.
    """
    mask = annotation.drawn((photograph.shape[0], photograph.shape[1]))
    if view is None:
        return mask
    white = np.where(mask, 255, 0).astype(np.uint8)
    seen = view(np.repeat(white[..., None], 3, axis=-1))
    return np.array(seen[..., 0] > 127)


def annotation_of(annotations: Mapping[str, Annotation], name: str) -> Annotation | None:
    """The annotation of a photograph, by its file's name with or without ending; or None."""
    for key in (name, Path(name).name, Path(name).stem):
        if key in annotations:
            return annotations[key]
    return None


def check_names(annotations: Mapping[str, Annotation], photographs: Sequence[str]) -> None:
    """Raise a ValueError where no photograph has an annotation: then the names do not agree."""
    if not any(annotation_of(annotations, name) is not None for name in photographs):
        annotated = ", ".join(list(annotations)[:3]) or "nothing"
        raise ValueError(
            f"no photograph has annotations: they are of {annotated}, ..., and the "
            f"photographs are {', '.join(photographs[:3])}, ..."
        )


# -------------------------------------------------------------------------------------- from files


def read_annotations(source: str | Path, category: str | None = None) -> dict[str, Annotation]:
    """Annotations by the photographs' file names without their endings.

    source: a COCO file (`.json`: boxes, or polygons where an annotation has them; crowds are left
        out), a table (`.csv` with the columns file, x0, y0, x1, y1), a folder of Pascal VOC files
        (`.xml`), or a folder of mask images, named as the photographs are, in which the object is
        what is neither black nor transparent.
    category: keep only the objects with this name, of COCO and VOC files. None keeps all, and is an
        error where a photograph has objects of several categories, since a map is of one class.

    A file that cannot be read, or is no such file, is a ValueError that names it.
    """
    path = Path(source)
    if path.is_dir():
        return _read_folder(path, category)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder of annotations")
    if path.suffix.lower() == ".json":
        return _grouped(read_coco(path), category)
    if path.suffix.lower() == ".csv":
        return _grouped(read_table(path), None)
    raise ValueError(
        f"{path}: annotations must be a .json (COCO), a .csv, or a folder of .xml (VOC) or of masks"
    )


def _read_folder(folder: Path, category: str | None) -> dict[str, Annotation]:
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.name[:1] != "."]
    voc = [file for file in files if file.suffix.lower() == ".xml"]
    if voc:
        return _grouped(map(read_voc, voc), category)
    annotations: dict[str, Annotation] = {}
    for file in files:
        if file.stem in annotations:
            raise ValueError(f"{file}: there is another mask of the name {file.stem}")
        annotations[file.stem] = Annotation(mask=read_mask(file))
    return annotations


def _grouped(
    photographs: Iterable[tuple[str, list[AnnotatedObject]]], category: str | None
) -> dict[str, Annotation]:
    """One annotation for each photograph, by its file's name without the ending."""
    files: dict[str, str] = {}
    objects: dict[str, list[AnnotatedObject]] = {}
    for name, annotated in photographs:
        stem = Path(name).stem
        if files.setdefault(stem, name) != name:
            raise ValueError(
                f"{files[stem]} and {name} are both named {stem}; "
                "annotations are found by that name"
            )
        chosen = _of_category(name, annotated, category)
        if chosen:
            objects.setdefault(stem, []).extend(chosen)
    return {stem: _joined(chosen) for stem, chosen in objects.items()}


def _of_category(
    name: str, annotated: list[AnnotatedObject], category: str | None
) -> list[AnnotatedObject]:
    if category is not None:
        return [item for item in annotated if item.category == category]
    categories = {item.category for item in annotated}
    if len(categories) > 1:
        raise ValueError(
            f"{name} has objects of several categories, {', '.join(sorted(map(str, categories)))}, "
            "but a map is of one class; choose one by `category`"
        )
    return annotated


def _joined(objects: list[AnnotatedObject]) -> Annotation:
    """One annotation of a photograph's objects: boxes are drawn into a mask that others have."""
    boxes = []
    masks = []
    only_boxes = []
    for item in objects:
        boxes.append(item.box)
        if item.mask is None:
            only_boxes.append(item.box)
        else:
            masks.append(item.mask)
    if not masks:
        return Annotation(tuple(boxes))
    masks.append(Annotation(tuple(only_boxes)).drawn(masks[0].shape))
    return Annotation(tuple(boxes), np.any(masks, axis=0))
