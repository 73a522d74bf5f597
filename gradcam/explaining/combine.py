"""A method on arrays of your own, without a model."""

from __future__ import annotations

from typing import Unpack

from gradcam import maps as map_math
from gradcam._arrays import array_namespace, widen
from gradcam._types import Array
from gradcam.backends import entry
from gradcam.layouts import Layout
from gradcam.methods import MethodLike, MethodParameters
from gradcam.methods.parameters import with_parameters

__all__ = ["combine"]


@entry
def combine(
    activations: Array,
    gradients: Array,
    method: MethodLike = "grad-cam",
    channel_axis: int = 1,
    *,
    relu: bool = True,
    **parameters: Unpack[MethodParameters],
) -> Array:
    """No framework: your own arrays of any library that speaks the array API, and any channel axis.

    activations: (N, ...) with the channels at `channel_axis`; all further axes are space.
    gradients: the same shape, or (N, K, ...) for K targets.
    method: one that needs activations and gradients alone; see `gradcam.METHODS`.
    relu: keep only evidence for the target.
    parameters: the method's own.
    Returns maps (N, *grid) or (N, K, *grid), raw, and ReLU'd unless `relu=False`.
    """
    xp = array_namespace(activations, gradients)
    axis = _checked_axis(activations, channel_axis)
    several = _checked_targets(activations, gradients)
    grid = [int(n) for i, n in enumerate(activations.shape) if i not in (0, axis)]
    layout = Layout("channels_first", tuple(grid))
    view = layout.view(xp.moveaxis(widen(activations), axis, 1))
    slopes = layout.view(xp.moveaxis(widen(gradients), axis + several, 1 + several))
    if several:
        view = xp.expand_dims(view, axis=1)
    spec, own = with_parameters(method, parameters, "gradcam.combine")
    if spec.needs == "activations":
        positions = spec.function(view, **dict(own))
        positions = xp.broadcast_to(positions, (*slopes.shape[:-2], positions.shape[-1]))
    elif spec.needs in ("gradients", "a linear head"):
        keywords = {} if spec.procedure else dict(own)
        positions = spec.function(view, slopes, **keywords)
    else:
        raise ValueError(
            f'`method` "{spec.name}" needs {spec.needs}, which arrays alone do not have; use '
            "explain"
        )
    maps = layout.maps(positions)
    return map_math.relu(maps) if relu else maps


def _checked_axis(activations: Array, channel_axis: int) -> int:
    """The channel axis counted from the front."""
    ndim = activations.ndim
    axis = channel_axis % ndim if -ndim <= channel_axis < ndim else 0
    if ndim < 3 or axis == 0:
        raise ValueError(
            f"`channel_axis` {channel_axis} must name an axis other than the samples' of "
            f"activations (N, ...) with space, but they have shape {tuple(activations.shape)}"
        )
    return axis


def _checked_targets(activations: Array, gradients: Array) -> bool:
    """Whether the gradients are of K targets."""
    several = bool(gradients.ndim == activations.ndim + 1)
    shape = tuple(gradients.shape)
    if several:
        shape = (shape[0], *shape[2:])
    if shape != tuple(activations.shape):
        raise ValueError(
            f"`gradients` must have the shape of `activations`, {tuple(activations.shape)}, or (N, "
            f"K, ...) for K targets, but have {tuple(gradients.shape)}"
        )
    return several
