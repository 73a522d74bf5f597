"""Targets that have a position in the image: a region of a segmentation, a detected box."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from array_api_compat import is_array_api_obj

from gradcam._arrays import array_namespace, quotient, widen
from gradcam._types import Array, Outputs
from gradcam.targets.outputs import (
    as_integers,
    as_numbers,
    check_range,
    check_shapes,
    expand,
    expand_indices,
    gather,
    logits,
    squeeze,
)
from gradcam.targets.values import Target

__all__ = ["Detection", "Region"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Region(Target):
    r"""A class's mean or total score over a region of a segmentation.

    $\sum_p m_p y_{cp} / \sum_p m_p$ with the mask m; with `reduce="sum"` the numerator alone.
    Seg-Grad-CAM: Vinogradova et al. 2020, https://arxiv.org/abs/2002.11434, which takes the sum
    over the pixels of the region, with one pixel and all pixels as the extreme cases.

    index: the class, an int, (N,), (1, K) or (N, K).
    mask: the region, as bools or weights, of the outputs' own size: (H, W) for all samples,
        (N, H, W), one for each, or (1, K, H, W) or (N, K, H, W). None is the whole image. The mean
        over an empty region is 0, and its map is blank.
    channel_axis: the axis of the outputs that has the classes: 1 in (N, C, H, W), -1 in
        (N, H, W, C). There may be any number of spatial axes.
    """

    index: Any
    mask: Any = None
    reduce: Literal["mean", "sum"] = "mean"
    channel_axis: int = 1

    def __post_init__(self) -> None:
        if self.reduce not in ("mean", "sum"):
            raise ValueError(f'`reduce` must be "mean" or "sum", but is {self.reduce!r}')
        object.__setattr__(self, "index", as_integers(self.index, "index"))
        if self.mask is not None:
            object.__setattr__(self, "mask", as_numbers(self.mask, "mask"))

    def __call__(self, outputs: Outputs) -> Array:
        self.check(outputs)
        scores = self._channels_last(outputs)
        xp = array_namespace(scores)
        grid = _grid_text(scores)
        positions = math.prod(scores.shape[1:-1])
        flat = xp.reshape(scores, (scores.shape[0], positions, scores.shape[-1]))
        chosen = gather(flat, expand_indices(self.index, flat)[:, None, :])  # (N, P, K)
        if self.mask is None:
            pool = xp.mean
            if self.reduce == "sum":
                pool = xp.sum
            return squeeze(pool(chosen, axis=1), (self.index, ()))
        mask = expand(self.mask, grid, chosen)
        mask = xp.matrix_transpose(xp.reshape(mask, (*mask.shape[:2], positions)))  # (N, P, K)
        pooled = xp.sum(mask * chosen, axis=1)
        if self.reduce == "mean":
            pooled = quotient(pooled, xp.sum(mask, axis=1))
        return squeeze(pooled, (self.index, ()), (self.mask, grid))

    def check(self, outputs: Outputs) -> None:
        scores = self._channels_last(outputs)
        samples, *size, classes = (int(n) for n in scores.shape)
        values: dict[str, tuple[Array, tuple[str, ...]]] = {"index": (self.index, ())}
        if self.mask is not None:
            values["mask"] = (self.mask, _grid_text(scores))
            if tuple(self.mask.shape[-len(size) :]) != tuple(size):
                raise ValueError(
                    f"`mask` of shape {tuple(self.mask.shape)} does not fit outputs whose space is "
                    f"{tuple(size)}; resize it to that, or pass another `channel_axis`"
                )
        check_shapes(samples, **values)
        check_range(self.index, classes, "index", "class")

    def _channels_last(self, outputs: Outputs) -> Array:
        """The scores as (N, *grid, C), in float32 at least."""
        scores = logits(outputs)
        axis = self.channel_axis
        if axis < 0:
            axis += scores.ndim
        if scores.ndim < 3 or not 1 <= axis < scores.ndim:
            raise ValueError(
                "a region needs outputs with samples, classes and space, such as (N, C, H, W), and "
                f"the classes at `channel_axis` {self.channel_axis}, but the model returned "
                f"{tuple(scores.shape)}"
            )
        return array_namespace(scores).moveaxis(widen(scores), axis, -1)


def _grid_text(scores: Array) -> tuple[str, ...]:
    """The axes of a mask for scores (N, *grid, C), as `check_shapes` shows them: their sizes."""
    return tuple(str(int(n)) for n in scores.shape[1:-1])


class _Detections(NamedTuple):
    """The detections in n images: boxes (n, D, 4), scores (n, D) and, if known, labels (n, D)."""

    boxes: Array
    scores: Array
    labels: Array | None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Detection(Target):
    r"""A detected box: how confident the detector is in it, and how exactly it finds the box.

    $\sum_d (s_d + \mathrm{IoU}(b_d, b))$ over those detections d, with score s, that have the label
    and whose intersection over union with the box b is above the threshold. This follows
    pytorch-grad-cam's target for Faster R-CNN (https://github.com/jacobgil/pytorch-grad-cam), which
    takes the best detection alone; after non-maximum suppression there is seldom another. Where no
    detection agrees, the score is 0 and the map blank. A batch without any detection is a
    ValueError. IoU has a kink where a detected box equals the box b.

    box: x0, y0, x1, y1, as (4,) for all images, (N, 4), one for each, or (1, K, 4) or (N, K, 4).
    label: None for any label, an int, (N,), (1, K) or (N, K).
    threshold: in [0, 1).

    The outputs are those of torchvision's detectors: a list with a mapping for each image, with
    "boxes" (D, 4), "scores" (D,) and "labels" (D,), where D may be 0. Or they are padded: one
    mapping or tuple (boxes, scores, labels) of arrays (N, D, 4), (N, D) and (N, D). Labels may be
    missing if `label` is None.
    """

    box: Any
    label: Any = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", as_numbers(self.box, "box", ("4",)))
        if self.label is not None:
            object.__setattr__(self, "label", as_integers(self.label, "label"))
        if not 0 <= self.threshold < 1:
            raise ValueError(
                f"`threshold` is an intersection over union, in [0, 1), but is {self.threshold}"
            )
        if self.box.shape[-1] != 4:
            raise ValueError(f"`box` must be x0, y0, x1, y1, but has shape {tuple(self.box.shape)}")
        if isinstance(self.box, np.ndarray) and not (self.box[..., 2:] > self.box[..., :2]).all():
            raise ValueError(
                f"`box` must be x0, y0, x1, y1 with x1 > x0 and y1 > y0, but is {self.box.tolist()}"
            )

    def __call__(self, outputs: Outputs) -> Array:
        self.check(outputs)
        parts = _detections(outputs)
        xp = array_namespace(parts[0].boxes)
        samples = _image_count(parts)
        box = expand(self.box, ("4",), parts[0].boxes)
        box = xp.broadcast_to(box, (samples, *box.shape[1:]))
        label = None
        if self.label is not None:
            label = expand_indices(self.label, parts[0].boxes)
            label = xp.broadcast_to(label, (samples, label.shape[1]))
        # Images have different numbers of detections, so they are scored in the parts they come in.
        scores = []
        start = 0
        for detections in parts:
            images = slice(start, start + int(detections.boxes.shape[0]))
            part_label = None
            if label is not None:
                part_label = label[images, ...]
            scores.append(self._agreement(detections, box[images, ...], part_label))
            start = images.stop
        total = scores[0]
        if len(scores) > 1:
            total = xp.concat(scores, axis=0)
        return squeeze(total, *self._values().values())

    def _values(self) -> dict[str, tuple[Array, tuple[str, ...]]]:
        """The arrays with the axes of their items, for `check_shapes` and `squeeze`."""
        values: dict[str, tuple[Array, tuple[str, ...]]] = {"box": (self.box, ("4",))}
        if self.label is not None:
            values["label"] = (self.label, ())
        return values

    def _agreement(self, detections: _Detections, box: Array, label: Array | None) -> Array:
        """The scores (n, K) of the detections in n images, for boxes (n, K, 4)."""
        xp = array_namespace(detections.boxes)
        # Axes (n, K, D, 4): every box against every detection.
        overlap = _intersection_over_union(box[:, :, None, :], detections.boxes[:, None, :, :])
        counts = overlap > self.threshold
        if label is not None:
            assert detections.labels is not None
            counts = counts & (detections.labels[:, None, :] == label[:, :, None])
        agreement = detections.scores[:, None, :] + overlap
        return xp.sum(xp.where(counts, agreement, xp.zeros_like(agreement)), axis=-1)

    def resolve(self, outputs: Outputs) -> Target:
        # This is not checked in the call: with channels or pixels removed, a detector may well find
        # nothing, and the score is then 0.
        if max(int(part.boxes.shape[1]) for part in _detections(outputs)) == 0:
            raise ValueError(
                "the model detected nothing in any image of the batch, so there is no box to "
                "explain; lower the threshold at which it keeps a detection, or leave these images "
                "out"
            )
        return self

    def check(self, outputs: Outputs) -> None:
        parts = _detections(outputs)
        if self.label is not None and any(part.labels is None for part in parts):
            raise ValueError(
                '`label` is asked for, but the detections have no "labels"; pass label=None'
            )
        check_shapes(_image_count(parts), **self._values())


def _intersection_over_union(boxes: Array, others: Array) -> Array:
    """IoU of boxes (..., 4) that broadcast against each other -> (...)."""
    xp = array_namespace(boxes)
    low = xp.maximum(boxes[..., :2], others[..., :2])
    sides = xp.minimum(boxes[..., 2:], others[..., 2:]) - low
    sides = xp.where(sides > 0, sides, xp.zeros_like(sides))
    shared = sides[..., 0] * sides[..., 1]
    return quotient(shared, _area(boxes) + _area(others) - shared)


def _area(boxes: Array) -> Array:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _image_count(parts: list[_Detections]) -> int:
    return sum(int(part.boxes.shape[0]) for part in parts)


def _detections(outputs: Outputs) -> list[_Detections]:
    """The detections: one entry for all images if they are padded, else one for each image."""
    is_list = isinstance(outputs, (list, tuple)) and len(outputs) > 0
    if is_list and all(isinstance(image, Mapping) for image in outputs):
        return [_of_one_image(image) for image in outputs]
    detections = _read(outputs)
    if detections.boxes.ndim != 3:
        raise _not_detections(f"boxes of shape {tuple(detections.boxes.shape)}")
    return [detections]


def _of_one_image(output: Mapping[str, Array]) -> _Detections:
    """Arrays (D, 4) and (D,) with a batch axis of 1 in front."""
    boxes, scores, labels = _read(output)
    if labels is not None:
        labels = labels[None, ...]
    return _Detections(boxes[None, ...], scores[None, ...], labels)


def _read(outputs: Outputs) -> _Detections:
    """Boxes, scores and labels from a mapping or a tuple; anything else is a TypeError."""
    labels = None
    if isinstance(outputs, Mapping) and "boxes" in outputs and "scores" in outputs:
        boxes = outputs["boxes"]
        scores = outputs["scores"]
        labels = outputs.get("labels")
    elif _is_tuple_of_arrays(outputs):
        boxes, scores, *labels_or_none = outputs
        if labels_or_none:
            labels = labels_or_none[0]
    else:
        keys = ""
        if isinstance(outputs, Mapping):
            keys = f" with keys {list(outputs)}"
        raise _not_detections(f"a {type(outputs).__name__}{keys}")
    if boxes.shape[-1] != 4 or tuple(boxes.shape[:-1]) != tuple(scores.shape):
        raise _not_detections(
            f"boxes of shape {tuple(boxes.shape)} with scores of shape {tuple(scores.shape)}"
        )
    return _Detections(widen(boxes), widen(scores), labels)


def _is_tuple_of_arrays(outputs: Outputs) -> bool:
    is_tuple = isinstance(outputs, tuple) and len(outputs) in (2, 3)
    return is_tuple and all(map(is_array_api_obj, outputs))


def _not_detections(description: str) -> TypeError:
    return TypeError(
        'a detection needs outputs as torchvision\'s, a list of {"boxes": (D, 4), "scores": (D,), '
        '"labels": (D,)}, or a mapping or tuple of arrays (N, D, 4), (N, D) and (N, D), but the '
        f"model returned {description}; pass `target` as a function of the outputs that returns "
        "scores of shape (N,)"
    )
