"""Targets that have a place in the picture: a region of a segmentation, a detected box."""

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
    check_range,
    check_shapes,
    columns,
    each,
    gathered,
    indices,
    integers,
    logits,
    numbers,
)
from gradcam.targets.values import Target

__all__ = ["Detection", "Region"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Region(Target):
    r"""A class's scores over a region of a segmentation: $\sum_p m_p y_{cp}$, or divided by $\sum_p m_p$, their mean.

    Seg-Grad-CAM: Vinogradova et al. 2020, https://arxiv.org/abs/2002.11434, which takes the sum over the pixels of the
    region, and one pixel or all of them as the extreme cases.

    index: the class, an int, (N,), (1, K) or (N, K). mask: the region, bool or weights, of the outputs' own size (H, W)
    for all samples, (N, H, W), one for each, or (1, K, H, W) or (N, K, H, W); None is all of it. The mean over an empty
    region is 0, and so is its map. channel_axis: where the outputs have their classes, 1 in (N, C, H, W), -1 in
    (N, H, W, C); any number of axes is space.
    """

    index: Any
    mask: Any = None
    reduce: Literal["mean", "sum"] = "mean"
    channel_axis: int = 1

    def __post_init__(self) -> None:
        if self.reduce not in ("mean", "sum"):
            raise ValueError(f'`reduce` must be "mean" or "sum", but is {self.reduce!r}')
        object.__setattr__(self, "index", integers(self.index, "index"))
        if self.mask is not None:
            object.__setattr__(self, "mask", numbers(self.mask, "mask"))

    def __call__(self, outputs: Outputs) -> Array:
        self.check(outputs)
        scores = self._channels_last(outputs)
        xp, grid = array_namespace(scores), _axes(scores)
        positions = math.prod(scores.shape[1:-1])
        flat = xp.reshape(scores, (scores.shape[0], positions, scores.shape[-1]))
        chosen = gathered(flat, indices(self.index, flat)[:, None, :])  # (N, P, K)
        if self.mask is None:
            pooled = (xp.sum if self.reduce == "sum" else xp.mean)(chosen, axis=1)
            return columns(pooled, (self.index, ()))
        mask = each(self.mask, grid, chosen)
        mask = xp.matrix_transpose(xp.reshape(mask, (*mask.shape[:2], positions)))  # (N, P, K)
        pooled = xp.sum(mask * chosen, axis=1)
        pooled = pooled if self.reduce == "sum" else quotient(pooled, xp.sum(mask, axis=1))
        return columns(pooled, (self.index, ()), (self.mask, grid))

    def check(self, outputs: Outputs) -> None:
        scores = self._channels_last(outputs)
        samples, *size, classes = (int(n) for n in scores.shape)
        values: dict[str, tuple[Array, tuple[str, ...]]] = {"index": (self.index, ())}
        if self.mask is not None:
            grid = _axes(scores)
            values["mask"] = (self.mask, grid)
            if tuple(self.mask.shape[-len(grid) :]) != tuple(size):
                raise ValueError(
                    f"`mask` of shape {tuple(self.mask.shape)} does not fit outputs whose space is {tuple(size)}; "
                    "resize it to that, or pass another `channel_axis`"
                )
        check_shapes(samples, **values)
        check_range(self.index, classes, "index", "class")

    def _channels_last(self, outputs: Outputs) -> Array:
        scores = logits(outputs)
        axis = self.channel_axis + scores.ndim if self.channel_axis < 0 else self.channel_axis
        if scores.ndim < 3 or not 1 <= axis < scores.ndim:
            raise ValueError(
                f"a region needs outputs with samples, classes and space, such as (N, C, H, W), and the classes at "
                f"`channel_axis` {self.channel_axis}, but the model returned {tuple(scores.shape)}"
            )
        return array_namespace(scores).moveaxis(widen(scores), axis, -1)


def _axes(scores: Array) -> tuple[str, ...]:
    """The space of scores (N, *grid, C), as a message shows it."""
    return tuple(str(int(n)) for n in scores.shape[1:-1])


class _Found(NamedTuple):
    """Detections of n images: boxes (n, D, 4), scores (n, D) and, where the model tells, labels (n, D)."""

    boxes: Array
    scores: Array
    labels: Array | None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Detection(Target):
    r"""A detected box: how surely, and how exactly, the detector finds something of the label where the box is.

    $\sum_d (s_d + \mathrm{IoU}(b_d, b))$ over the detections d, of score s, of the label, whose intersection over union
    with the box b is above the threshold. As in pytorch-grad-cam's target for Faster R-CNN
    (https://github.com/jacobgil/pytorch-grad-cam), which takes the best detection alone; behind non-maximum
    suppression there is seldom another. Where nothing agrees the score is 0 and its map blank; a batch in which
    nothing at all was detected is a ValueError. IoU has a kink where a detected box is exactly the wanted one.

    box: x0, y0, x1, y1, (4,) for all images, (N, 4), one for each, or (1, K, 4) or (N, K, 4). label: any (None), an
    int, (N,), (1, K) or (N, K). threshold: in [0, 1).
    Outputs: as torchvision's detectors return them, a list of a mapping per image with "boxes" (D, 4), "scores" (D,)
    and "labels" (D,), D of any size, 0 too; or padded, one mapping or tuple (boxes, scores, labels) of arrays (N, D, 4)
    and (N, D). Labels may be missing where none is asked for.
    """

    box: Any
    label: Any = None
    threshold: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", numbers(self.box, "box", ("4",)))
        if self.label is not None:
            object.__setattr__(self, "label", integers(self.label, "label"))
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
        found = _detections(outputs)
        first = found[0].boxes
        xp, samples = array_namespace(first), sum(int(one.boxes.shape[0]) for one in found)
        box = each(self.box, ("4",), first)
        box = xp.broadcast_to(box, (samples, *box.shape[1:]))
        label = None
        if self.label is not None:
            label = indices(self.label, first)
            label = xp.broadcast_to(label, (samples, label.shape[1]))
        scores, start = [], 0
        for one in found:
            images = slice(start, start + int(one.boxes.shape[0]))
            scores.append(
                self._agreement(
                    one, box[images, ...], None if label is None else label[images, ...]
                )
            )
            start = images.stop
        total = scores[0] if len(scores) == 1 else xp.concat(scores, axis=0)
        return columns(
            total, (self.box, ("4",)), *(() if self.label is None else ((self.label, ()),))
        )

    def _agreement(self, found: _Found, box: Array, label: Array | None) -> Array:
        """(n, K) of the detections in n images with boxes (n, K, 4)."""
        xp = array_namespace(found.boxes)
        one, other = box[:, :, None, :], found.boxes[:, None, :, :]
        sides = xp.minimum(one[..., 2:], other[..., 2:]) - xp.maximum(one[..., :2], other[..., :2])
        sides = xp.where(sides > 0, sides, xp.zeros_like(sides))
        shared = sides[..., 0] * sides[..., 1]
        overlap = quotient(shared, _area(one) + _area(other) - shared)  # (n, K, D)
        counted = overlap > self.threshold
        if label is not None:
            assert found.labels is not None
            counted = counted & (found.labels[:, None, :] == label[:, :, None])
        worth = found.scores[:, None, :] + overlap
        return xp.sum(xp.where(counted, worth, xp.zeros_like(worth)), axis=-1)

    def resolve(self, outputs: Outputs) -> Target:
        # not in the call: with some channels or pixels taken away, a detector may well find nothing
        if not any(int(one.boxes.shape[1]) for one in _detections(outputs)):
            raise ValueError(
                "the model detected nothing in any image of the batch, so there is no box to explain; lower the "
                "threshold at which it keeps a detection, or leave these images out"
            )
        return self

    def check(self, outputs: Outputs) -> None:
        found = _detections(outputs)
        values: dict[str, tuple[Array, tuple[str, ...]]] = {"box": (self.box, ("4",))}
        if self.label is not None:
            values["label"] = (self.label, ())
            if any(one.labels is None for one in found):
                raise ValueError(
                    '`label` is asked for, but the detections have no "labels"; pass label=None'
                )
        check_shapes(sum(int(one.boxes.shape[0]) for one in found), **values)


def _area(boxes: Array) -> Array:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _detections(outputs: Outputs) -> list[_Found]:
    """The detections of all images together, or, where each image has its own, of one after the other."""
    if (
        isinstance(outputs, (list, tuple))
        and len(outputs) > 0
        and all(isinstance(one, Mapping) for one in outputs)
    ):
        return [
            _Found(*(None if part is None else part[None, ...] for part in _parts(one)))
            for one in outputs
        ]
    found = _Found(*_parts(outputs))
    if found.boxes.ndim != 3:
        raise _undetected(f"boxes of shape {tuple(found.boxes.shape)}")
    return [found]


def _parts(outputs: Outputs) -> tuple[Array, Array, Array | None]:
    if isinstance(outputs, Mapping) and "boxes" in outputs and "scores" in outputs:
        parts = (outputs["boxes"], outputs["scores"], outputs.get("labels"))
    elif (
        isinstance(outputs, tuple)
        and len(outputs) in (2, 3)
        and all(map(is_array_api_obj, outputs))
    ):
        parts = (*outputs, None)[:3]
    else:
        keys = f" with keys {list(outputs)}" if isinstance(outputs, Mapping) else ""
        raise _undetected(f"a {type(outputs).__name__}{keys}")
    boxes, scores, labels = parts
    if boxes.shape[-1] != 4 or tuple(boxes.shape[:-1]) != tuple(scores.shape):
        raise _undetected(
            f"boxes of shape {tuple(boxes.shape)} with scores of shape {tuple(scores.shape)}"
        )
    return widen(boxes), widen(scores), labels


def _undetected(what: str) -> TypeError:
    return TypeError(
        'a detection needs outputs as torchvision\'s, a list of {"boxes": (D, 4), "scores": (D,), "labels": (D,)}, or '
        f"a mapping or tuple of arrays (N, D, 4), (N, D) and (N, D), but the model returned {what}; pass `target` as a "
        "function of the outputs that returns scores of shape (N,)"
    )
