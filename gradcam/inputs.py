"""The inputs of a model: how they become arguments, and which array among them has space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
"""The path of the input itself, for a backend that can tap it: the array of `first_array`."""


def arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and the keyword arguments with which the model is called.

    A mapping holds keyword arguments and a tuple positional ones. Anything else is the only
    argument.
    """
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, tuple):
        return inputs, {}
    return (inputs,), {}


def first_array(inputs: Inputs) -> Array:
    """The array in the inputs that has space: the first with three or more axes.

    Where no array has three axes, it is the first array of all. Inputs without an array are a
    TypeError.
    """
    args, kwargs = arguments(inputs)
    values = (*args, *kwargs.values())
    arrays = [value for value in values if hasattr(value, "shape") and len(value.shape) > 0]
    for array in arrays:
        if len(array.shape) >= 3:
            return array
    if not arrays:
        raise TypeError(
            "`inputs` must be an array (N, ...), or a tuple or mapping of them, but is a "
            f"{type(inputs).__name__}"
        )
    return arrays[0]


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
    """The same inputs, with `array` in place of their `first_array`."""
    first = first_array(inputs)
    if isinstance(inputs, Mapping):
        replaced = dict(inputs)
        for key, value in inputs.items():
            if value is first:
                replaced[key] = array
        return replaced
    if isinstance(inputs, tuple):
        return tuple(array if value is first else value for value in inputs)
    return array


def noise(
    inputs: Inputs, channels_first: bool, deviation: float, random: np.random.Generator
) -> Array:
    """Gaussian noise for the input's `first_array`, `deviation` times each sample's range.

    Every sample gets the same draw, scaled by its own range. Every framework and channel order gets
    it too, because the draw is always made with channels first.
    """
    array = first_array(inputs)
    xp = array_namespace(array)
    axes = tuple(range(1, array.ndim))
    value_range = xp.max(array, axis=axes, keepdims=True) - xp.min(array, axis=axes, keepdims=True)
    layout = input_layout(array.shape, channels_first)
    sample = tuple(int(n) for n in array.shape[1:])
    if layout is not None and layout.kind == "channels_last":
        sample = (sample[-1], *sample[:-1])
    draw = random.standard_normal((1, *sample)) * deviation
    if layout is not None:
        draw = layout.arranged(draw)
    return value_range * constant(draw, like=array)


def rows(outputs: Outputs, start: int, count: int) -> Outputs:
    """Samples `start` to `start + count` of the outputs, in whatever collection they come.

    Several variants of a batch are run as one large batch. Its outputs are cut up again by this
    function, so that a target only ever sees a batch of the size that it was made for. Values
    without a batch axis stay as they are.
    """
    if isinstance(outputs, Mapping):
        return {key: rows(value, start, count) for key, value in outputs.items()}
    if isinstance(outputs, (tuple, list)):
        return _rows_of_sequence(outputs, start, count)
    if getattr(outputs, "ndim", 0) > 0:
        return outputs[start : start + count]
    return outputs


def _rows_of_sequence(outputs: Sequence[Any], start: int, count: int) -> Outputs:
    is_list = isinstance(outputs, list) and len(outputs) > 0
    if is_list and all(isinstance(row, Mapping) for row in outputs):
        # A detector's list has one dictionary for each sample, so the list is the batch axis.
        return outputs[start : start + count]
    parts = [rows(value, start, count) for value in outputs]
    if hasattr(outputs, "_fields"):
        # A named tuple takes its fields as separate arguments.
        return type(outputs)(*parts)
    return type(outputs)(parts)  # type: ignore[call-arg]
