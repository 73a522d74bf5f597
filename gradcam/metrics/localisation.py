"""Does a map lie on its object? Measures against boxes and masks.

Maps (N, h, w) are resized to the photograph linearly first. Masks are (N, H, W) booleans; boxes are (x0, y0, x1, y1) in
pixels, x1 and y1 exclusive, a list of one or more for each sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradcam import maps as maps_
from gradcam._arrays import to_numpy
from gradcam.metrics.result import Result, mean
from gradcam.pictures.boxes import largest_box

__all__ = [
    "box_contrast",
    "box_masks",
    "boxes",
    "energy",
    "iou",
    "localisation_error",
    "mask_iou",
    "max_box_accuracy",
    "pointing_game",
    "pointing_game_with_rejection",
]

Box = Sequence[int]
Boxes = Sequence[Sequence[Box]]


# ------------------------------------------------------------------------------------------------ where it points


def pointing_game(maps: Any, masks: Any, *, tolerance: float = 0) -> Result:
    """Whether the map's highest pixel lies on the object, or within `tolerance` pixels of it.

    Zhang et al. 2016, section 4.1, https://arxiv.org/abs/1608.00507, where the tolerance is 15. Where several pixels
    are the highest it is the share of them that hit, so a flat map scores the object's share of the picture.

    0 or 1 for each sample, but for ties; higher is better. NaN where the mask is empty.
    """
    heat, inside = _given(maps, masks)
    inside = _grown(inside, tolerance)
    top = heat == heat.max((1, 2), keepdims=True)
    hits = (top & inside).sum((1, 2)) / top.sum((1, 2))
    return Result(
        "pointing-game",
        np.where(inside.any((1, 2)), hits, np.nan),
        "higher",
        {"tolerance": tolerance},
    )


def pointing_game_with_rejection(
    maps: Any, masks: Any, *, threshold: float, tolerance: float = 0
) -> Result:
    """The pointing game in which a map may say that its class is not there, by staying below `threshold`.

    Selvaraju et al. 2017, section 4.3, https://arxiv.org/abs/1610.02391: each sample's top-5 classes are explained,
    and a map whose maximum is under the threshold rejects its class. It is right to where the class is absent, which is
    an empty mask here; everywhere else it must point at the object.

    maps: one for each pair of a sample and a class, raw: a map that was scaled says nothing of its amplitude.
    0 or 1 for each map, but for ties; higher is better.
    """
    raw = _maps(maps)
    heat, inside = _given(raw, masks)
    present = inside.any((1, 2))
    rejected = raw.max((1, 2)) < threshold
    points = np.nan_to_num(pointing_game(heat, inside, tolerance=tolerance).values)
    values = np.where(rejected, ~present, np.where(present, points, 0.0))
    settings = {"threshold": threshold, "tolerance": tolerance}
    return Result("pointing-game-with-rejection", values.astype(np.float64), "higher", settings)


def energy(maps: Any, masks: Any) -> Result:
    r"""The share of the map's positive part that lies on the object: the energy-based pointing game.

    $\sum_{p \in \text{object}} \max(0, L_p) / \sum_p \max(0, L_p)$. Wang et al. 2020, Score-CAM, section 4.3,
    https://arxiv.org/abs/1910.01279

    In [0, 1]; higher is better. A uniform map scores the object's share of the picture. NaN where the map is nowhere
    positive, or the mask is empty.
    """
    heat, inside = _given(maps, masks)
    heat = np.maximum(heat, 0)
    total = heat.sum((1, 2))
    defined = (total > 0) & inside.any((1, 2))
    values = np.where(defined, (heat * inside).sum((1, 2)) / np.where(total > 0, total, 1), np.nan)
    return Result("energy", values, "higher")


def box_contrast(maps: Any, masks: Any) -> Result:
    """The map's mean on the object over its mean elsewhere: the positive parts.

    Selvaraju et al. 2017, section 8.1, https://arxiv.org/abs/1610.02391, where the object is a box (see `box_masks`).

    In [0, infinity); higher is better, and a uniform map scores 1. Infinite where nothing lies outside; NaN where the
    map is nowhere positive, or the object is nothing or all of the picture.
    """
    heat, inside = _given(maps, masks)
    heat, area = np.maximum(heat, 0), inside.sum((1, 2))
    rest = inside[0].size - area
    possible = (area > 0) & (rest > 0) & (heat.max((1, 2)) > 0)
    on = (heat * inside).sum((1, 2)) / np.maximum(area, 1)
    off = (heat * ~inside).sum((1, 2)) / np.maximum(rest, 1)
    values = np.where(off > 0, on / np.where(off > 0, off, 1), np.inf)
    return Result("box-contrast", np.where(possible, values, np.nan), "higher")


# ------------------------------------------------------------------------------------------------ segments


def mask_iou(maps: Any, masks: Any, *, threshold: float = 0.15) -> Result:
    """The overlap of the object with the pixels of at least `threshold` of the map's maximum: intersection over union.

    For maps as the seeds of a segmentation: Selvaraju et al. 2017, section 4.2, https://arxiv.org/abs/1610.02391.

    In [0, 1]; higher is better. NaN where the mask is empty; 0 where the map is nowhere positive.
    """
    _share(threshold)
    heat, inside = _given(maps, masks)
    segment = (heat >= threshold * heat.max((1, 2), keepdims=True)) & (heat > 0)
    both, either = (segment & inside).sum((1, 2)), (segment | inside).sum((1, 2))
    values = np.where(inside.any((1, 2)), both / np.maximum(either, 1), np.nan)
    return Result("mask-iou", values, "higher", {"threshold": threshold})


def boxes(maps: Any, size: Sequence[int], *, threshold: float = 0.15) -> np.ndarray:
    """The box round each map's largest connected segment of at least `threshold` of its maximum: (N, 4) ints.

    At `size` (H, W). All zeros where the map is nowhere positive, all of the picture where it is positive and flat.
    Selvaraju et al. 2017, section 4.1, https://arxiv.org/abs/1610.02391. Needs SciPy.
    """
    _share(threshold)
    return _found(_relative(_maps(maps), size), threshold)


def iou(a: Any, b: Any) -> float:
    """The intersection of two boxes over their union, in [0, 1]; 0 where either is empty."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0) * max(high, 0)
    areas = [max(one[2] - one[0], 0) * max(one[3] - one[1], 0) for one in (a, b)]
    return float(both / (sum(areas) - both)) if both else 0.0


def localisation_error(
    maps: Any,
    true_boxes: Boxes,
    labels: Any,
    outputs: Any,
    *,
    size: Sequence[int],
    top: int = 1,
    threshold: float = 0.15,
    overlap: float = 0.5,
) -> Result:
    """ILSVRC's localisation error: no one of the `top` classes is right, or its box is not.

    A sample is right where one of its highest classes is its label, and the box of that class's map (see `boxes`) has
    an IoU of at least `overlap` with a true box. Selvaraju et al. 2017, section 4.1, https://arxiv.org/abs/1610.02391.

    maps: (N, top, h, w), of each sample's highest classes, the highest first; (N, h, w) for one.
    labels: (N,) ints; outputs: (N, K), by which the classes are ordered.
    0 or 1 for each sample; lower is better. NaN where a sample has no true box.
    """
    if top < 1:
        raise ValueError(f"`top` must be at least 1, but is {top}")
    array, scores, labels = to_numpy(maps), to_numpy(outputs), np.asarray(labels)
    array = array[:, None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[1] != top:
        raise ValueError(
            f"`maps` must be (N, {top}, h, w), one for each of the `top` classes, but are {array.shape}"
        )
    if scores.ndim != 2 or scores.shape[1] < top:
        raise ValueError(
            f"`outputs` must be (N, K) with at least {top} classes, for `top`, but have {scores.shape}"
        )
    _same_count(array, true_boxes=true_boxes, labels=labels, outputs=scores)
    if ((labels < 0) | (labels >= scores.shape[1])).any():
        raise ValueError(
            f"`labels` must be classes 0 to {scores.shape[1] - 1}, but are {np.unique(labels).tolist()}"
        )
    _check_boxes(true_boxes)
    _check_overlaps((overlap,))
    classes = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    values = np.array([1.0 if len(some) else np.nan for some in true_boxes])
    for n, found in enumerate(
        boxes(array.reshape(-1, *array.shape[2:]), size, threshold=threshold).reshape(-1, top, 4)
    ):
        for chosen, box in zip(classes[n], found, strict=True):
            if chosen == labels[n] and any(iou(box, true) >= overlap for true in true_boxes[n]):
                values[n] = 0
    return Result(
        f"top-{top}-localisation-error",
        values,
        "lower",
        {"threshold": threshold, "overlap": overlap},
    )


def max_box_accuracy(
    maps: Any,
    true_boxes: Boxes,
    *,
    size: Sequence[int],
    overlap: float | Sequence[float] = 0.5,
    thresholds: Sequence[float] = tuple(np.round(np.arange(1, 100) / 100, 2)),
) -> Result:
    """MaxBoxAcc: the best share of boxes that are right, over all thresholds: what a map is worth if its threshold is
    chosen well.

    A box is right where its IoU with a true box is at least `overlap`; the mean over several overlaps, (0.3, 0.5, 0.7)
    in the paper, is that of MaxBoxAccV2, which takes any segment's box: here too it is the largest's. Thresholds are
    shares of the maximum; the paper first shifts each map's minimum to 0. Choe et al. 2020, section 4.1,
    https://arxiv.org/abs/2001.07437.

    In [0, 1]; higher is better. `values` are (N, O T), right or not for each overlap and threshold, NaN where a sample
    has no true box; `value` is the maximum over thresholds of the mean over samples, so it belongs to all of them
    together.
    """
    overlaps = tuple(float(one) for one in np.atleast_1d(overlap))
    array = _maps(maps)
    _same_count(array, true_boxes=true_boxes)
    _check_boxes(true_boxes)
    _check_overlaps(overlaps)
    if len(thresholds) == 0:
        raise ValueError(
            "`thresholds` is empty: pass at least one, a share of the maximum in (0, 1]"
        )
    scaled = _relative(array, size)
    best = np.full((len(array), len(thresholds)), np.nan)
    for t, threshold in enumerate(thresholds):
        _share(threshold)
        for n, box in enumerate(_found(scaled, threshold)):
            best[n, t] = max((iou(box, true) for true in true_boxes[n]), default=np.nan)
    right = np.stack([np.where(np.isnan(best), np.nan, best >= one) for one in overlaps], axis=1)

    settings = {"overlap": list(overlaps), "thresholds": [float(one) for one in thresholds]}
    return Result(
        "max-box-accuracy",
        right.reshape(len(array), -1),
        "higher",
        settings,
        summary=best_threshold(len(overlaps)),
    )


def best_threshold(overlaps: int = 1) -> Callable[[np.ndarray], float]:
    """What sums up the values of `max_box_accuracy`: (N, overlaps * T) -> the best threshold's share of right boxes."""

    def summary(values: np.ndarray) -> float:
        values = values[~np.isnan(values).any(1)]
        return (
            mean(values.reshape(len(values), overlaps, -1).mean(0).max(-1))
            if len(values)
            else float("nan")
        )

    return summary


# ------------------------------------------------------------------------------------------------ their parts


def box_masks(true_boxes: Boxes, size: Sequence[int]) -> np.ndarray:
    """(N, H, W): whether a pixel lies in one of its sample's boxes."""
    height, width = size
    _check_boxes(true_boxes)
    found = np.zeros((len(true_boxes), height, width), dtype=bool)
    for mask, some in zip(found, true_boxes, strict=True):
        for x0, y0, x1, y1 in some:
            mask[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    return found


def _maps(maps: Any) -> np.ndarray:
    array = np.asarray(to_numpy(maps), dtype=np.float64)
    if array.ndim != 3:
        raise ValueError(f"`maps` must be (N, h, w), but have shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("`maps` are NaN or infinite somewhere; leave these samples out")
    return array


def _given(maps: Any, masks: Any) -> tuple[np.ndarray, np.ndarray]:
    """Maps at the masks' size, and the masks as booleans."""
    array, inside = _maps(maps), np.asarray(masks)
    if inside.ndim != 3 or inside.dtype != bool:
        raise ValueError(
            f"`masks` must be booleans (N, H, W), but have shape {inside.shape} and dtype {inside.dtype}"
        )
    _same_count(array, masks=inside)
    return np.array(maps_.resize(array, inside.shape[1:])), inside


def _relative(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Maps at `size`, as shares of their maxima: a flat one is 1, and not 0 as of `gradcam.maps.scale`."""
    if len(size) != 2:
        raise ValueError(f"`size` must be (H, W), but is {tuple(size)}")
    heat = np.maximum(np.asarray(maps_.resize(array, tuple(size))), 0)
    top = heat.max((1, 2), keepdims=True)
    return np.where(top > 0, heat / np.where(top > 0, top, 1), 0)


def _found(scaled: np.ndarray, threshold: float) -> np.ndarray:
    return np.array([largest_box(one, threshold) for one in scaled], dtype=np.int64).reshape(-1, 4)


def _grown(masks: np.ndarray, tolerance: float) -> np.ndarray:
    """Masks with all pixels that are within `tolerance` of them."""
    if tolerance < 0:
        raise ValueError(f"`tolerance` must not be negative, but is {tolerance}")
    if tolerance == 0:
        return masks
    try:
        from scipy.ndimage import distance_transform_edt
    except ImportError as error:
        raise ImportError('a `tolerance` needs SciPy: pip install "gradcam[images]"') from error
    near = [distance_transform_edt(~mask) <= tolerance if mask.any() else mask for mask in masks]
    return np.stack(near)


def _same_count(array: np.ndarray, **others: Any) -> None:
    for name, other in others.items():
        if len(other) != len(array):
            raise ValueError(
                f"`{name}` must have one entry for each of the {len(array)} maps, but have {len(other)}"
            )


def _check_boxes(true_boxes: Boxes) -> None:
    for n, some in enumerate(true_boxes):
        for box in some:
            if np.ndim(box) != 1 or len(box) != 4:
                raise ValueError(
                    f"`true_boxes` must be a list of (x0, y0, x1, y1) for each sample, but sample {n} has {some}; "
                    "one box is a list of one"
                )
            if box[2] < box[0] or box[3] < box[1]:
                raise ValueError(
                    f"`true_boxes` must be (x0, y0, x1, y1), but sample {n} has {tuple(box)}, which ends before it "
                    "starts; of (x, y, width, height) make (x, y, x + width, y + height)"
                )


def _check_overlaps(overlaps: Sequence[float]) -> None:
    if not overlaps or not all(0 < one <= 1 for one in overlaps):
        raise ValueError(f"`overlap` is an IoU, or several, in (0, 1], but is {overlaps}")


def _share(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise ValueError(f"`threshold` is a share of the maximum, in (0, 1], but is {threshold}")
