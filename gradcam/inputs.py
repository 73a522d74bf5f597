"""What a model is called with, and the one array in it that has space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gradcam._arrays import array_namespace, constant
from gradcam._types import Array, Inputs, Outputs
from gradcam.layouts import input_layout

__all__ = [
    "INPUT",
    "arguments",
    "arrays_of",
    "first_array",
    "noise",
    "rows",
    "with_array",
    "with_first_array",
]

INPUT = "<input>"
"""The path of the input itself, where a backend can tap it: the array of `first_array`."""


def arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments: of an array, a tuple of arrays or a mapping of them."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, tuple):
        return inputs, {}
    return (inputs,), {}


def first_array(inputs: Inputs) -> Array:
    """The array in the inputs that has space: the first with three or more axes, else the first of all."""
    args, kwargs = arguments(inputs)
    values = (*args, *kwargs.values())
    arrays = [value for value in values if hasattr(value, "shape") and len(value.shape) > 0]
    if not arrays:
        raise TypeError(
            f"`inputs` must be an array (N, ...), or a tuple or mapping of them, but is a {type(inputs).__name__}"
        )
    return next((array for array in arrays if len(array.shape) >= 3), arrays[0])


def arrays_of(inputs: Inputs) -> dict[int | str, Array]:
    """Every array that the model is called with, by its position or its keyword."""
    args, kwargs = arguments(inputs)
    named: dict[int | str, Any] = dict(enumerate(args))
    named.update(kwargs)
    return {key: value for key, value in named.items() if len(getattr(value, "shape", ())) > 0}


def with_array(inputs: Inputs, key: int | str, array: Array) -> Inputs:
    """The same inputs with another array at that position or keyword."""
    if isinstance(inputs, Mapping):
        return {**inputs, key: array}
    if isinstance(inputs, tuple):
        return tuple(array if n == key else value for n, value in enumerate(inputs))
    return array


def with_first_array(inputs: Inputs, array: Array) -> Inputs:
    """The same inputs with another array in the place of `first_array`."""
    first = first_array(inputs)
    if isinstance(inputs, Mapping):
        return {key: array if value is first else value for key, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(array if value is first else value for value in inputs)
    return array


def noise(
    inputs: Inputs, channels_first: bool, deviation: float, random: np.random.Generator
) -> Array:
    """Gaussian noise for the input's `first_array`, `deviation` times each sample's range.

    Every sample gets the same draw, scaled by its own range; so does every framework and channel
    order, because the draw is always made channels first.
    """
    array = first_array(inputs)
    xp = array_namespace(array)
    axes = tuple(range(1, array.ndim))
    value_range = xp.max(array, axis=axes, keepdims=True) - xp.min(array, axis=axes, keepdims=True)
    layout = input_layout(array.shape, channels_first)
    sample = tuple(int(n) for n in array.shape[1:])
    if layout is not None and layout.kind == "channels_last":
        sample = (sample[-1], *sample[:-1])
    drawn = random.standard_normal((1, *sample)) * deviation
    if layout is not None:
        drawn = layout.arranged(drawn)
    return value_range * constant(drawn, like=array)


def rows(outputs: Outputs, start: int, count: int) -> Outputs:
    """Samples `start` to `start + count` of the outputs, whatever collection they come in.

    A target is then always called with a batch of the size that it was made for.
    """
    if isinstance(outputs, Mapping):
        return {key: rows(value, start, count) for key, value in outputs.items()}
    if isinstance(outputs, list) and outputs and all(isinstance(row, Mapping) for row in outputs):
        return outputs[start : start + count]  # a detector's: one dictionary for each sample
    if isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        return type(outputs)(*(rows(value, start, count) for value in outputs))
    if isinstance(outputs, (tuple, list)):
        return type(outputs)(rows(value, start, count) for value in outputs)
    return outputs[start : start + count] if getattr(outputs, "ndim", 0) > 0 else outputs
