"""Checks of what users give to measures: maps, boxes and thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradcam._arrays import to_numpy

__all__ = ["Boxes", "check_boxes", "check_maps", "check_threshold"]

Box = Sequence[int]
Boxes = Sequence[Sequence[Box]]
"""For each sample a list of boxes, which may be empty."""


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
