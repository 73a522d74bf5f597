"""The inputs of a model: how they become arguments, and which array among them has space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from gradcam._arrays import array_namespace, constant, to_numpy
from gradcam._types import Array, Inputs, Outputs
from gradcam.layouts import Layout

__all__ = [
    "INPUT",
    "Focused",
    "InputKey",
    "Packed",
    "arguments",
    "arrays_of",
    "check_floating",
    "first_array",
    "first_key",
    "focused",
    "noise",
    "packed",
    "rows",
    "with_array",
    "with_first_array",
]

INPUT = "<input>"
"""The path of the input itself, for a backend that can tap it: the array of `first_array`."""

InputKey: TypeAlias = int | str
"""Which of several inputs: its position or its keyword."""


@dataclass(frozen=True, eq=False)
class Focused:
    """Inputs of which one is named as the one with space: `first_array` gives it.

    The model is called as with the inputs alone. Both frameworks take it for a tree of arrays.
    """

    inputs: Inputs
    key: InputKey


def focused(inputs: Inputs, key: InputKey) -> Focused:
    """The inputs with the array at that position or keyword as the one with space."""
    if isinstance(inputs, Focused):
        inputs = inputs.inputs
    keys = list(arrays_of(inputs))
    if key not in keys:
        raise ValueError(
            f"`input_key` must be the position or the keyword of one of the inputs, "
            f"{', '.join(map(repr, keys))}, but is {key!r}"
        )
    return Focused(inputs, key)


def arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and the keyword arguments with which the model is called.

    A mapping holds keyword arguments and a tuple positional ones. Anything else is the only
    argument.
    """
    if isinstance(inputs, Focused):
        inputs = inputs.inputs
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, tuple):
        return inputs, {}
    return (inputs,), {}


def first_array(inputs: Inputs) -> Array:
    """The array in the inputs that has space: see `first_key`."""
    return arrays_of(inputs)[first_key(inputs)]


def first_key(inputs: Inputs) -> InputKey:
    """Which of the inputs has space: the one that is named, or the first with three or more axes.

    Where no array has three axes, it is the first array of all. Inputs without an array are a
    TypeError.
    """
    if isinstance(inputs, Focused):
        return inputs.key
    arrays = arrays_of(inputs)
    if not arrays:
        raise TypeError(
            "`inputs` must be an array (N, ...), or a tuple or mapping of them, but is a "
            f"{type(inputs).__name__}"
        )
    with_space = [key for key, array in arrays.items() if len(array.shape) >= 3]
    return (with_space or list(arrays))[0]


def arrays_of(inputs: Inputs) -> dict[InputKey, Array]:
    """Every array that the model is called with, by its position or its keyword."""
    args, kwargs = arguments(inputs)
    named: dict[InputKey, Any] = dict(enumerate(args))
    named.update(kwargs)
    return {key: value for key, value in named.items() if len(getattr(value, "shape", ())) > 0}


def with_array(inputs: Inputs, key: InputKey, array: Array) -> Inputs:
    """The same inputs with another array at that position or keyword."""
    if isinstance(inputs, Focused):
        return replace(inputs, inputs=with_array(inputs.inputs, key, array))
    if isinstance(inputs, Mapping):
        return {**inputs, key: array}
    if isinstance(inputs, tuple):
        return tuple(array if n == key else value for n, value in enumerate(inputs))
    return array


def with_first_array(inputs: Inputs, array: Array) -> Inputs:
    """The same inputs, with `array` in place of their `first_array`."""
    return with_array(inputs, first_key(inputs), array)


def check_floating(inputs: Inputs, what: str) -> None:
    """Raise a TypeError where the array with space has integers, and `what` needs real numbers."""
    array = first_array(inputs)
    if not array_namespace(array).isdtype(array.dtype, "real floating"):
        raise TypeError(
            f"{what}, but `inputs` are of dtype {array.dtype}; pass floating-point inputs: "
            "images as floats, and for token ids their embeddings, to the part of the model "
            "behind the embedding"
        )


@dataclass(frozen=True)
class Packed:
    """Pictures of which an input (N P, D) has all patches in one list, as that of Qwen-VL.

    key: that input. grid: how many patches a picture has along each axis, (h, w) or (t, h, w);
    their product is P. merge: patches follow each other in squares of merge x merge, which the
    model may make into one token.
    """

    key: InputKey
    grid: tuple[int, ...]
    merge: int

    @property
    def squares(self) -> tuple[int, ...]:
        """How many squares a picture has along each axis."""
        *frames, height, width = self.grid
        return (*frames, height // self.merge, width // self.merge)

    def images(self, array: Array) -> Array:
        """The input (N P, D) as pictures of squares (N, *squares, merge^2 D)."""
        shape = (-1, *self.squares, self.merge**2 * int(array.shape[-1]))
        return array_namespace(array).reshape(array, shape)


def packed(inputs: Inputs) -> Packed | None:
    """The input that has the patches of one picture for each sample, if there is one.

    Another input (N, 2) or (N, 3) must say how many there are, the same for each sample: integers
    whose product is P, such as `image_grid_thw`.
    """
    arrays = arrays_of(inputs)
    samples = int(first_array(inputs).shape[0])
    lists = {key: array for key, array in arrays.items() if _may_be_list(array, samples)}
    if not lists:  # nothing is read of the inputs of ordinary models
        return None
    for array in arrays.values():
        shape = tuple(array.shape)
        if len(shape) != 2 or shape[0] != samples or shape[1] not in (2, 3):
            continue
        grid = _same_for_all(array)
        if grid is None:
            continue
        for key, patches in lists.items():
            if int(patches.shape[0]) == samples * math.prod(grid):
                grid = grid[1:] if len(grid) == 3 and grid[0] == 1 else grid
                sizes = [m for m in (2, 3, 4) if not any(n % m for n in grid[-2:])]
                return Packed(key, grid, sizes[0] if sizes else 1)
    return None


def _may_be_list(array: Array, samples: int) -> bool:
    """Whether it has several rows for each sample, as a list of patches has."""
    rows = int(array.shape[0])
    return array.ndim == 2 and rows > samples > 0 and rows % samples == 0


def _same_for_all(array: Array) -> tuple[int, ...] | None:
    """The rows of an array of integers, where all are the same and of more than one patch."""
    if not array_namespace(array).isdtype(array.dtype, "integral"):
        return None
    try:
        numbers = to_numpy(array)
    except TypeError:  # a tracer: only the running program knows its numbers
        return None
    if (numbers != numbers[0]).any() or numbers[0].min() < 1 or numbers[0].prod() < 2:
        return None
    return tuple(int(n) for n in numbers[0])


def noise(
    array: Array, layout: Layout | None, deviation: float, random: np.random.Generator
) -> Array:
    """Gaussian noise for an input (N, ...), `deviation` times each sample's range.

    layout: that of the input's samples, where they have channels and space. Every sample gets the
    same draw, scaled by its own range. Every framework and channel order gets it too, because the
    draw is always made with channels first.
    """
    xp = array_namespace(array)
    axes = tuple(range(1, array.ndim))
    value_range = xp.max(array, axis=axes, keepdims=True) - xp.min(array, axis=axes, keepdims=True)
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
