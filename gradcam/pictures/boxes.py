"""The box round the strongest evidence in a map."""

from __future__ import annotations

import numpy as np

from gradcam.pictures.extras import required

__all__ = ["largest_box"]


def largest_box(heat: np.ndarray, threshold: float) -> np.ndarray:
    """The box round the largest connected segment of a map (*size) in [0, 1].

    A segment is made of cells that are at least `threshold` and touch along an axis, not
    diagonally. Of segments of the same size the first counts. The result is 2 ndim ints: the starts
    and then the (exclusive) stops, last axis first, so x0, y0, x1, y1 of an image. A map that is 0
    everywhere has no box: all zeros.
    """
    ndimage = required("scipy.ndimage", "SciPy")
    if not heat.any():
        return np.zeros(2 * heat.ndim, dtype=np.int64)
    segments, count = ndimage.label(heat >= threshold)
    # label 0 is the background
    cells = np.bincount(segments.ravel(), minlength=count + 1)[1:]
    slices = ndimage.find_objects(segments)[int(np.argmax(cells))]
    edges = np.array([[axis.start, axis.stop] for axis in reversed(slices)], dtype=np.int64)
    return edges.T.reshape(-1)
