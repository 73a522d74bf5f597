"""Which input a layer's positions are of, and where they run in it.

Type and shape of a layer tell where its own positions are, not which of several inputs they are of,
nor whether an image of 13 bands has them in front or behind. Evidence tells both: then nothing is
left to do here.
"""

from __future__ import annotations

from dataclasses import replace

from gradcam import layouts
from gradcam._types import Inputs, Shape
from gradcam._warnings import warn
from gradcam.inputs import Focused, InputKey, arrays_of, first_array, first_key, focused
from gradcam.layouts import Layout
from gradcam.model import Model, input_channels_first
from gradcam.space.axes import (
    GuessedAxesWarning,
    LayerAxes,
    evidence_of,
    named_input,
    sure_space,
)

__all__ = ["OtherInputError", "input_in_doubt", "input_layout", "with_input"]


class OtherInputError(ValueError):
    """The layer does not answer to the input that was named."""


def input_in_doubt(model: Model, inputs: Inputs) -> bool:
    """Whether types and shapes leave open which input a map is of, or where its positions are."""
    return _several(inputs) or sure_space(model, inputs, first_key(inputs)) is None


def _several(inputs: Inputs) -> bool:
    """Whether several inputs have three or more axes, so that a map could be of any of them."""
    return len([array for array in arrays_of(inputs).values() if array.ndim >= 3]) > 1


def with_input(axes: LayerAxes, model: Model, inputs: Inputs) -> LayerAxes:
    """The same axes, with the input that the positions are of and where they run in it.

    Where several inputs have space the network is asked which of them the layer answers to. Raises
    OtherInputError where it does not answer to the one that is named.
    """
    if axes.input_axes is not None or axes.size is not None:
        return axes
    key = first_key(inputs)
    is_named = isinstance(inputs, Focused) and len(arrays_of(inputs)) > 1
    if is_named or _several(inputs):
        key = _answering_key(model, inputs, axes.layer)
    shape = tuple(int(n) for n in arrays_of(inputs)[key].shape)
    space = _space_that_fits(axes.layout.grid, shape, _likely_space(model, inputs, key))
    if space is None:
        return replace(axes, input=named_input(inputs, key))
    size = tuple(shape[axis] for axis in space)
    return replace(axes, input=named_input(inputs, key), input_axes=space, size=size)


def _answering_key(model: Model, inputs: Inputs, path: str) -> InputKey:
    """The input that the layer answers to."""
    evidence = evidence_of(model, inputs, (path,), patterns=False)
    if evidence is None:
        key = first_key(inputs)
        if not isinstance(inputs, Focused):
            warn(
                f'which of the inputs layer "{path}" answers to could not be told, and {key!r} was '
                "taken; say it with `input_key`",
                GuessedAxesWarning,
            )
        return key
    if isinstance(inputs, Focused) and not evidence.layers[path].answers:
        raise OtherInputError(
            f'layer "{path}" does not answer to the input {inputs.key!r} that `input_key` names; '
            "name another layer or another input"
        )
    return evidence.input_key


def _likely_space(model: Model, inputs: Inputs, key: InputKey) -> Shape:
    """The axes of an input that its positions run along, as far as its shape and the model tell."""
    shape = arrays_of(inputs)[key].shape
    if len(shape) == 2:
        return (1,)
    channels_first = input_channels_first(model, focused(inputs, key))
    layout = layouts.input_layout(shape, channels_first)
    assert layout is not None
    return tuple(len(shape) + axis for axis in layout.spatial_axes)


def _space_that_fits(grid: Shape, shape: Shape, likely: Shape) -> Shape | None:
    """The likely axes, unless the grid fits the other channel order and not theirs; None where the
    grid has another number of axes.
    """
    if len(grid) != len(likely):
        return None
    if len(shape) < 4:
        return likely
    first = tuple(range(2, len(shape)))
    last = tuple(range(1, len(shape) - 1))
    other = last if likely == first else first
    likely_fits = layouts.fits(grid, tuple(shape[axis] for axis in likely))
    other_fits = layouts.fits(grid, tuple(shape[axis] for axis in other))
    return other if other_fits and not likely_fits else likely


def input_layout(axes: LayerAxes | None, model: Model, inputs: Inputs) -> Layout | None:
    """Where channels and positions are in one sample of the input with space: as the layer's axes
    tell, or, without them, its shape; None where it has no channels, or none at either end.
    """
    shape = tuple(int(n) for n in first_array(inputs).shape)
    likely = layouts.input_layout(shape, input_channels_first(model, inputs))
    if axes is None or axes.input_axes is None or likely is None:
        return likely
    grid = tuple(shape[axis] for axis in axes.input_axes)
    for layout in (Layout("channels_first", grid), Layout("channels_last", grid)):
        if tuple(len(shape) + axis for axis in layout.spatial_axes) == axes.input_axes:
            return layout
    return None
