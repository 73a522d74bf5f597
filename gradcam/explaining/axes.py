"""Where the axes of a layer are, as one public question."""

from __future__ import annotations

from typing import Any

from gradcam import layouts
from gradcam._types import Inputs, LayerLike
from gradcam.explaining.prepare import prepare
from gradcam.model import HasLayers, Model
from gradcam.space.axes import LayerAxes
from gradcam.targets import TargetLike

__all__ = ["axes"]


def axes(
    model: Any,
    inputs: Inputs,
    layer: LayerLike = None,
    target: TargetLike = None,
    *,
    layout: layouts.Spec = None,
    allow_training: bool = False,
) -> LayerAxes:
    """Where the samples, channels and positions of a layer's output are, and how that was told.

    >>> print(gradcam.axes(vit, images, "blocks.10"))     # doctest: +SKIP
    "blocks.10": N (1 + 14 x 14) C (evidence, agreement 0.93)

    model, inputs, layer, target, layout: as in `gradcam.Explainer`. With no layer named it is the
        one that would be explained for the target.

    What a layer's type does not say for sure is asked of the network, once for each kind of input:
    about six passes of a batch of two. `how` is "guess" where even that does not tell.
    """
    prepared = prepare(model, inputs, layer, target, layout=layout, allow_training=allow_training)
    path = prepared.layer
    known = prepared.known_axes(path)
    return known or prepared.axes(path, _shape(prepared.model, inputs, path))


def _shape(model: Model, inputs: Inputs, path: str) -> tuple[int, ...]:
    """The shape of the layer's array: as it is listed, or else as one pass shows."""
    if isinstance(model, HasLayers):
        for layer in model.layers(inputs):
            if layer.path == path:
                return layer.shape
    activations = model.capture(inputs, (path,), None).activations[0]
    return tuple(int(n) for n in activations.shape)
