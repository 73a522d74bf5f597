"""Does a map lie on its object? Measures against boxes and masks.

Maps (N, h, w) are first resized to the photograph, linearly. Masks are (N, H, W) booleans. Boxes
are (x0, y0, x1, y1) in pixels, x1 and y1 exclusive, a list of them for each sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gradcam._arrays import to_numpy
from gradcam.maps import resize
from gradcam.metrics.boxes import boxes, iou, largest_boxes
from gradcam.metrics.checks import Boxes, check_boxes, check_maps, check_threshold
from gradcam.metrics.result import Result, mean
from gradcam.metrics.subject import relative_heat

__all__ = [
    "best_threshold",
    "box_contrast",
    "box_error",
    "energy",
    "localisation_error",
    "mask_iou",
    "max_box_accuracy",
    "pointing_game",
    "pointing_game_with_rejection",
]


# --------------------------------------------------------------------------------- where it points


def pointing_game(maps: Any, masks: Any, *, tolerance: float = 0) -> Result:
    """Whether the map's highest pixel lies on the object, or within `tolerance` pixels of it.

    Zhang et al. 2016, section 4.1, https://arxiv.org/abs/1608.00507, where the tolerance is 15.
    Where several pixels are the highest, the value is the share of them that hit: a flat map scores
    the object's share of the picture.

    0 or 1 for each sample, but for ties; higher is better. NaN where the mask is empty.
    """
    heat, inside = _checked(maps, masks)
    inside = _grown(inside, tolerance)
    highest = heat == heat.max((1, 2), keepdims=True)
    hits = (highest & inside).sum((1, 2)) / highest.sum((1, 2))
    values = np.where(inside.any((1, 2)), hits, np.nan)
    return Result("pointing-game", values, "higher", {"tolerance": tolerance})


def pointing_game_with_rejection(
    maps: Any, masks: Any, *, threshold: float, tolerance: float = 0
) -> Result:
    """The pointing game in which a map below `threshold` says that its class is absent.

    Selvaraju et al. 2017, section 4.3, https://arxiv.org/abs/1610.02391: each sample's top-5
    classes are explained, and a map whose maximum is below the threshold rejects its class.
    Rejecting is right where the class is absent, which is an empty mask here. Everywhere else the
    map must point at the object.

    maps: one for each pair of a sample and a class, unscaled: a scaled map has lost its amplitude.
    0 or 1 for each map, but for ties; higher is better.
    """
    unscaled = check_maps(maps)
    heat, inside = _checked(unscaled, masks)
    present = inside.any((1, 2))
    rejected = unscaled.max((1, 2)) < threshold
    hits = np.nan_to_num(pointing_game(heat, inside, tolerance=tolerance).values)
    values = np.where(rejected, ~present, np.where(present, hits, 0.0))
    settings = {"threshold": threshold, "tolerance": tolerance}
    return Result("pointing-game-with-rejection", values.astype(np.float64), "higher", settings)


def energy(maps: Any, masks: Any) -> Result:
    r"""The share of the map's positive part on the object: the energy-based pointing game.

    $\sum_{p \in \text{object}} \max(0, L_p) / \sum_p \max(0, L_p)$. Wang et al. 2020, Score-CAM,
    section 4.3, https://arxiv.org/abs/1910.01279

    In [0, 1]; higher is better. A uniform map scores the object's share of the picture. NaN where
    the map is nowhere positive, or the mask is empty.
    """
    heat, inside = _checked(maps, masks)
    heat = np.maximum(heat, 0)
    total = heat.sum((1, 2))
    defined = (total > 0) & inside.any((1, 2))
    share = (heat * inside).sum((1, 2)) / np.where(total > 0, total, 1)
    return Result("energy", np.where(defined, share, np.nan), "higher")


def box_contrast(maps: Any, masks: Any) -> Result:
    """The mean of the map's positive part on the object over its mean elsewhere.

    Selvaraju et al. 2017, section 8.1, https://arxiv.org/abs/1610.02391, where the object is a box
    (see `box_masks`).

    In [0, infinity); higher is better, and a uniform map scores 1. Infinite where the map is 0
    outside the object. NaN where the map is nowhere positive, or the object covers no pixel or all
    of them.
    """
    heat, inside = _checked(maps, masks)
    heat = np.maximum(heat, 0)
    area = inside.sum((1, 2))
    area_outside = inside[0].size - area
    defined = (area > 0) & (area_outside > 0) & (heat.max((1, 2)) > 0)
    mean_inside = (heat * inside).sum((1, 2)) / np.maximum(area, 1)
    mean_outside = (heat * ~inside).sum((1, 2)) / np.maximum(area_outside, 1)
    divisor = np.where(mean_outside > 0, mean_outside, 1)
    # Nothing outside and something inside is infinitely better, not undefined.
    contrast = np.where(mean_outside > 0, mean_inside / divisor, np.inf)
    return Result("box-contrast", np.where(defined, contrast, np.nan), "higher")


# ---------------------------------------------------------------------------------------- segments


def mask_iou(maps: Any, masks: Any, *, threshold: float = 0.15) -> Result:
    """The IoU of the object and the pixels of at least `threshold` of the map's maximum.

    For maps as the seeds of a segmentation, as in Selvaraju et al. 2017, section 4.2,
    https://arxiv.org/abs/1610.02391. The share of 15 % is that of their boxes; the section names
    none for segmentation.

    In [0, 1]; higher is better. NaN where the mask is empty; 0 where the map is nowhere positive.
    """
    check_threshold(threshold)
    heat, inside = _checked(maps, masks)
    segment = (heat >= threshold * heat.max((1, 2), keepdims=True)) & (heat > 0)
    intersection = (segment & inside).sum((1, 2))
    union = (segment | inside).sum((1, 2))
    values = np.where(inside.any((1, 2)), intersection / np.maximum(union, 1), np.nan)
    return Result("mask-iou", values, "higher", {"threshold": threshold})


# ------------------------------------------------------------------------------------------- boxes


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
    """ILSVRC's localisation error: none of the `top` classes is right, or its box is not.

    A sample is right where one of its `top` highest classes is its label, and the box of that
    class's map (see `boxes`) has an IoU of at least `overlap` with a true box. Selvaraju et al.
    2017, section 4.1, https://arxiv.org/abs/1610.02391.

    maps: (N, top, h, w), of each sample's highest classes, the highest first; (N, h, w) for one.
    labels: (N,) ints. outputs: (N, K), by which the classes are ordered. size: (H, W), of the
        photographs. 0 or 1 for each sample; lower is better. NaN where a sample has no true box.
    """
    array, labels, scores = _checked_top_maps(maps, labels, outputs, top)
    _check_counts(array, true_boxes=true_boxes, labels=labels, outputs=scores)
    _check_labels(labels, scores.shape[1])
    check_boxes(true_boxes)
    _check_overlaps((overlap,))
    classes = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    predicted = boxes(array.reshape(-1, *array.shape[2:]), size, threshold=threshold)
    best = _best_ious(predicted, [sample for sample in true_boxes for _ in range(top)])
    # One of the `top` classes must be the label, and its own map's box must fit.
    right = (classes == labels[:, None]) & (best.reshape(-1, top) >= overlap)
    annotated = np.array(list(map(len, true_boxes))) > 0
    values = np.where(annotated, 1.0 - right.any(1), np.nan)
    settings = {"threshold": threshold, "overlap": overlap}
    return Result(f"top-{top}-localisation-error", values, "lower", settings)


def box_error(
    maps: Any,
    true_boxes: Boxes,
    *,
    size: Sequence[int],
    threshold: float = 0.15,
    overlap: float = 0.5,
) -> Result:
    """The `localisation_error` of maps (N, h, w) whose class is right.

    0 or 1 for each sample; lower is better. NaN where a sample has no true box.
    """
    labels = np.zeros(len(true_boxes), dtype=int)
    outputs = np.zeros((len(true_boxes), 1))
    error = localisation_error(
        maps, true_boxes, labels, outputs, size=size, threshold=threshold, overlap=overlap
    )
    return Result("box-error", error.values, error.better, error.settings)


def max_box_accuracy(
    maps: Any,
    true_boxes: Boxes,
    *,
    size: Sequence[int],
    overlap: float | Sequence[float] = 0.5,
    thresholds: Sequence[float] = tuple(np.round(np.arange(1, 100) / 100, 2)),
) -> Result:
    """MaxBoxAcc: the share of right boxes at the threshold that is best for all samples.

    A box is right where its IoU with a true box is at least `overlap`. The mean over several
    overlaps, (0.3, 0.5, 0.7) in the paper, is that of MaxBoxAccV2, which accepts the box of any
    segment; here only the largest segment counts. Thresholds are shares of the maximum; the paper
    first shifts each map's minimum to 0. Choe et al. 2020, section 4.1,
    https://arxiv.org/abs/2001.07437.

    In [0, 1]; higher is better. `values` are (N, O T), right or not for each overlap and threshold,
    NaN where a sample has no true box. `value` is the maximum over thresholds of the mean over
    samples, so no sample has one of its own.
    """
    overlaps = tuple(np.atleast_1d(overlap).astype(np.float64).tolist())
    array = check_maps(maps)
    _check_counts(array, true_boxes=true_boxes)
    check_boxes(true_boxes)
    _check_overlaps(overlaps)
    if len(thresholds) == 0:
        raise ValueError(
            "`thresholds` is empty: pass at least one, a share of the maximum in (0, 1]"
        )
    for threshold in thresholds:
        check_threshold(threshold)
    heat = relative_heat(array, size)
    # From each sample's best IoU at each threshold to right or wrong at each overlap.
    best = [_best_ious(largest_boxes(heat, threshold), true_boxes) for threshold in thresholds]
    ious = np.stack(best, axis=1)[:, None]  # (N, 1, T)
    right = np.where(np.isnan(ious), np.nan, ious >= np.array(overlaps)[:, None])  # (N, O, T)
    settings = {
        "overlap": list(overlaps),
        "thresholds": np.asarray(thresholds, dtype=np.float64).tolist(),
    }
    values = right.reshape(len(array), -1)
    summary = best_threshold(len(overlaps))
    return Result("max-box-accuracy", values, "higher", settings, summary=summary)


def best_threshold(overlaps: int = 1) -> Callable[[np.ndarray], float]:
    """The summary of `max_box_accuracy`: from values (N, overlaps * T) to one number."""

    def summary(values: np.ndarray) -> float:
        values = values[~np.isnan(values).any(1)]  # samples that have a true box
        if not len(values):
            return float("nan")
        accuracy = values.reshape(len(values), overlaps, -1).mean(0)
        return mean(accuracy.max(-1))

    return summary


def _best_ious(predicted: np.ndarray, true_boxes: Boxes) -> np.ndarray:
    """(N,): each predicted box's highest IoU with a true box of its sample; NaN without one."""
    best = np.full(len(predicted), np.nan)
    for n, sample_boxes in enumerate(true_boxes):
        if len(sample_boxes):
            best[n] = max(iou(predicted[n], box) for box in sample_boxes)
    return best


# ------------------------------------------------------------------------------------------ checks


def _checked(maps: Any, masks: Any) -> tuple[np.ndarray, np.ndarray]:
    """Maps at the masks' size, (N, H, W), and the masks."""
    array = check_maps(maps)
    inside = np.asarray(masks)
    if inside.ndim != 3 or inside.dtype != bool:
        raise ValueError(
            f"`masks` must be booleans (N, H, W), but have shape {inside.shape} "
            f"and dtype {inside.dtype}"
        )
    _check_counts(array, masks=inside)
    return np.array(resize(array, inside.shape[1:])), inside


def _grown(masks: np.ndarray, tolerance: float) -> np.ndarray:
    """Masks (N, H, W) with all pixels within `tolerance` of them; an empty mask stays empty."""
    if tolerance < 0:
        raise ValueError(f"`tolerance` must not be negative, but is {tolerance}")
    if tolerance == 0:
        return masks
    try:
        from scipy.ndimage import distance_transform_edt
    except ImportError as error:
        raise ImportError('a `tolerance` needs SciPy: pip install "gradcam[images]"') from error
    grown = masks.copy()
    for n in np.flatnonzero(masks.any((1, 2))):
        distances: Any = distance_transform_edt(~masks[n])
        grown[n] = distances <= tolerance
    return grown


def _checked_top_maps(
    maps: Any, labels: Any, outputs: Any, top: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps (N, top, h, w), labels (N,) and outputs (N, K) as NumPy arrays."""
    if top < 1:
        raise ValueError(f"`top` must be at least 1, but is {top}")
    array = to_numpy(maps)
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4 or array.shape[1] != top:
        raise ValueError(
            f"`maps` must be (N, {top}, h, w), one for each of the `top` classes, "
            f"but are {array.shape}"
        )
    scores = to_numpy(outputs)
    if scores.ndim != 2 or scores.shape[1] < top:
        raise ValueError(
            f"`outputs` must be (N, K) with at least {top} classes, for `top`, "
            f"but have {scores.shape}"
        )
    return array, np.asarray(labels), scores


def _check_labels(labels: np.ndarray, classes: int) -> None:
    if ((labels < 0) | (labels >= classes)).any():
        raise ValueError(
            f"`labels` must be classes 0 to {classes - 1}, but are {np.unique(labels).tolist()}"
        )


def _check_counts(array: np.ndarray, **others: Any) -> None:
    for name, entries in others.items():
        if len(entries) != len(array):
            raise ValueError(
                f"`{name}` must have one entry for each of the {len(array)} maps, "
                f"but have {len(entries)}"
            )


def _check_overlaps(overlaps: Sequence[float]) -> None:
    shares = np.array(overlaps)
    if not overlaps or not ((shares > 0) & (shares <= 1)).all():
        raise ValueError(f"`overlap` is an IoU, or several, in (0, 1], but is {overlaps}")
