"""Boxes round a map's evidence, and how far two boxes agree.

A box is (x0, y0, x1, y1) in pixels, x1 and y1 exclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradcam._arrays import to_numpy
from gradcam.maps import resize

__all__ = [
    "Boxes",
    "box_masks",
    "boxes",
    "check_boxes",
    "check_maps",
    "check_threshold",
    "iou",
    "largest_box",
    "largest_boxes",
    "relative_heat",
]

Box = Sequence[int]
Boxes = Sequence[Sequence[Box]]
"""For each sample a list of boxes, which may be empty."""


def boxes(maps: Any, size: Sequence[int], *, threshold: float = 0.15) -> np.ndarray:
    """The box round the largest segment of each map at `threshold` of its maximum: (N, 4) ints.

    maps: (N, h, w), resized to `size` (H, W) first. threshold: a share of each map's maximum, in
        (0, 1].

    All zeros where the map is nowhere positive; the whole picture where it is positive and flat.
    Selvaraju et al. 2017, section 4.1, https://arxiv.org/abs/1610.02391. Needs SciPy.
    """
    check_threshold(threshold)
    return largest_boxes(relative_heat(check_maps(maps), size), threshold)


def largest_boxes(heat: np.ndarray, threshold: float) -> np.ndarray:
    """`largest_box` of each map (N, H, W) in [0, 1]: (N, 4) ints."""
    corners = [largest_box(sample, threshold) for sample in heat]
    return np.array(corners, dtype=np.int64).reshape(-1, 4)


def largest_box(heat: np.ndarray, threshold: float) -> np.ndarray:
    """The box round the largest connected segment of a map (*size) in [0, 1].

    A segment is made of cells that are at least `threshold` and touch along an axis, not
    diagonally. Of segments of the same size the first counts. The result is 2 ndim ints: the starts
    and then the exclusive stops, last axis first, so x0, y0, x1, y1 of an image. A map that is 0
    everywhere has no box: all zeros. Needs SciPy.
    """
    try:
        from scipy import ndimage
    except ImportError as error:
        raise ImportError('boxes need SciPy: pip install "gradcam[images]"') from error
    if not heat.any():
        return np.zeros(2 * heat.ndim, dtype=np.int64)
    labelled: Any = ndimage.label(heat >= threshold)
    segments, count = labelled
    # label 0 is the background
    cells = np.bincount(segments.ravel(), minlength=count + 1)[1:]
    slices = ndimage.find_objects(segments)[int(np.argmax(cells))]
    edges = np.array([[axis.start, axis.stop] for axis in reversed(slices)], dtype=np.int64)
    return edges.T.reshape(-1)


def relative_heat(maps: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Maps (N, h, w) at `size`, their positive parts over their maxima: (N, H, W) in [0, 1].

    A flat positive map is 1 everywhere, where `gradcam.maps.scale` would make it 0: its box is the
    whole picture.
    """
    if len(size) != 2:
        raise ValueError(f"`size` must be (H, W), but is {tuple(size)}")
    heat = np.maximum(np.asarray(resize(maps, tuple(size))), 0)
    highest = heat.max((1, 2), keepdims=True)
    return np.where(highest > 0, heat / np.where(highest > 0, highest, 1), 0)


def iou(a: Any, b: Any) -> float:
    """The intersection of two boxes over their union, in [0, 1]; 0 where either is empty."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    if not intersection:
        return 0.0
    return float(intersection / (_area(a) + _area(b) - intersection))


def _area(box: Any) -> Any:
    return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)


def box_masks(true_boxes: Boxes, size: Sequence[int]) -> np.ndarray:
    """(N, H, W): whether a pixel lies in one of its sample's boxes."""
    height, width = size
    check_boxes(true_boxes)
    masks = np.zeros((len(true_boxes), height, width), dtype=bool)
    for mask, sample_boxes in zip(masks, true_boxes, strict=True):
        for x0, y0, x1, y1 in sample_boxes:
            mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    return masks


def check_maps(maps: Any) -> np.ndarray:
    """Maps (N, h, w) as finite float64 NumPy arrays, or a ValueError."""
    array = np.asarray(to_numpy(maps), dtype=np.float64)
    if array.ndim != 3:
        raise ValueError(f"`maps` must be (N, h, w), but have shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("`maps` are NaN or infinite somewhere; leave these samples out")
    return array


def check_threshold(threshold: float) -> None:
    """Raise a ValueError where a threshold is no share of the maximum."""
    if not 0 < threshold <= 1:
        raise ValueError(f"`threshold` is a share of the maximum, in (0, 1], but is {threshold}")


def check_boxes(true_boxes: Boxes) -> None:
    """Raise a ValueError where an entry is no list of boxes."""
    for n, sample_boxes in enumerate(true_boxes):
        for box in sample_boxes:
            if np.ndim(box) != 1 or len(box) != 4:
                raise ValueError(
                    "`true_boxes` must be a list of (x0, y0, x1, y1) for each sample, but sample "
                    f"{n} has {sample_boxes}; one box is a list of one"
                )
            if box[2] < box[0] or box[3] < box[1]:
                raise ValueError(
                    f"`true_boxes` must be (x0, y0, x1, y1), but sample {n} has {tuple(box)}, "
                    "which ends before it starts; of (x, y, width, height) make "
                    "(x, y, x + width, y + height)"
                )
