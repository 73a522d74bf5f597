"""Boxes round a map's evidence, and how far two boxes agree.

A box is (x0, y0, x1, y1) in pixels, x1 and y1 exclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradcam.metrics.checks import Boxes, check_boxes, check_maps, check_threshold
from gradcam.metrics.subject import relative_heat

__all__ = [
    "box_masks",
    "boxes",
    "iou",
    "largest_box",
    "largest_boxes",
    "largest_boxes_of",
]


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


def largest_boxes_of(heat: np.ndarray, ndim: int, threshold: float) -> np.ndarray:
    """`largest_box` of each map (..., *size) in [0, 1] over `ndim` axes: (..., 2 ndim) ints."""
    flat = heat.reshape(-1, *heat.shape[-ndim:])
    edges = np.stack([largest_box(values, threshold) for values in flat])
    return edges.reshape(*heat.shape[:-ndim], 2 * ndim)


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
    largest = 1  # label 0 is the background
    if count != 1:
        cells = np.bincount(segments.ravel(), minlength=count + 1)
        largest += int(np.argmax(cells[1:]))
    inside = segments == largest
    edges = []
    for axis in reversed(range(heat.ndim)):
        others = tuple(n for n in range(heat.ndim) if n != axis)
        along = np.flatnonzero(inside.any(others))
        edges.append((along[0], along[-1] + 1))
    return np.array(edges, dtype=np.int64).T.reshape(-1)


def iou(a: Any, b: Any) -> float:
    """The intersection of two boxes over their union, in [0, 1]; 0 where either is empty."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    if not intersection:
        return 0.0
    return float(intersection / (_area(a) + _area(b) - intersection))


def _area(box: Any) -> Any:
    return (box[2] - box[0]) * (box[3] - box[1])


def box_masks(true_boxes: Boxes, size: Sequence[int]) -> np.ndarray:
    """(N, H, W): whether a pixel lies in one of its sample's boxes."""
    height, width = size
    check_boxes(true_boxes)
    masks = np.zeros((len(true_boxes), height, width), dtype=bool)
    for mask, sample_boxes in zip(masks, true_boxes, strict=True):
        for x0, y0, x1, y1 in sample_boxes:
            mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    return masks
