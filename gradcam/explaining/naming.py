"""What each map of an explanation is called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gradcam._arrays import to_numpy
from gradcam._types import Shape
from gradcam.targets import Target

__all__ = ["class_name", "class_table", "layer_name", "map_names"]

MAX_NAME = 40
"""A target's text is its name up to so many characters; beyond, its type's name is."""


def map_names(target: Any, labels: Sequence[str] | None, shape: Shape) -> list[list[str]]:
    """N lists of K names for scores of `shape` (N,), where K is 1, or (N, K).

    Of class indices the labels, or "class 3" without labels. Of a function its name, followed by
    the column where K is not 1. Of None, or a function without a name, "score".
    """
    if target is None or callable(target):
        return _function_names(_name(target), shape)
    return [[class_name(index, labels) for index in row] for row in class_table(target, shape)]


def class_name(index: int, labels: Sequence[str] | None) -> str:
    """A class's label, or "class 3" without labels."""
    return f"class {index}" if labels is None else labels[int(index)]


def layer_name(layer: str | tuple[str, ...]) -> str:
    """A layer's path, or those of several that were fused, in one text."""
    return layer if isinstance(layer, str) else " + ".join(layer)


def class_table(index: Any, shape: Shape) -> np.ndarray:
    """Class indices (), (N,), (1, K) or (N, K) as (N, K), for scores of `shape`.

    Raises ValueError where they do not fit.
    """
    array = to_numpy(index)
    if array.ndim < 2:
        array = array.reshape(-1, 1)
    return np.broadcast_to(array, (shape[0], _columns(shape)))


def _function_names(name: str, shape: Shape) -> list[list[str]]:
    columns = _columns(shape)
    if columns == 1:
        return [[name] for _ in range(shape[0])]
    return [[f"{name} {k}" for k in range(columns)] for _ in range(shape[0])]


def _columns(shape: Shape) -> int:
    return shape[1] if len(shape) == 2 else 1


def _name(target: Any) -> str:
    name: str = getattr(target, "__name__", "score")
    if isinstance(target, Target):
        name = repr(target)
        if len(name) > MAX_NAME:
            name = type(target).__name__
    if name.startswith("<"):  # <lambda>
        return "score"
    return name
