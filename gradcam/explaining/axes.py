"""What the library knows of a model before it explains: its layers, and their axes."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

from gradcam import layouts
from gradcam._types import Inputs, LayerLike
from gradcam.backends import entry
from gradcam.explaining.prepare import NO_LAYER, prepare
from gradcam.inputs import InputKey, first_array
from gradcam.model import Layer
from gradcam.space.axes import LayerAxes
from gradcam.space.choice import GuessedLayerWarning, listed, may_have_space
from gradcam.targets import TargetLike

__all__ = ["axes", "layers"]


@entry
def axes(
    model: Any,
    inputs: Inputs,
    layer: LayerLike = None,
    target: TargetLike = None,
    *,
    layout: layouts.Spec = None,
    input_key: InputKey | None = None,
    allow_training: bool = False,
) -> LayerAxes:
    """Where the samples, channels and positions of a layer's output are, and how that was told.

    >>> print(gradcam.axes(vit, images, "blocks.10"))     # doctest: +SKIP
    "blocks.10": N (1 + 14 x 14) C (evidence, agreement 0.93)

    model, inputs, layer, target, layout, input_key: as in `gradcam.Explainer`. With no layer named
        it is the one that would be explained for the target.

    What a layer's type does not say for sure is asked of the network, once for each kind of input:
    about six passes of a batch of two. `how` is "guess" where even that does not tell.
    """
    prepared = prepare(
        model,
        inputs,
        layer,
        target,
        layout=layout,
        input_key=input_key,
        allow_training=allow_training,
    )
    return prepared.axes_of(prepared.layer)


@entry
def layers(
    model: Any,
    inputs: Inputs,
    target: TargetLike = None,
    *,
    layout: layouts.Spec = None,
    input_key: InputKey | None = None,
    allow_training: bool = False,
) -> list[Layer]:
    """The outputs of the model's layers in the order in which they run.

    Records with `.path`, `.shape`, `.kind`; with `.has_space` where the output has channels and
    positions, and with `.chosen` at the layer that `gradcam.explain` takes where none is named.

    model, inputs, target, layout, input_key: as in `gradcam.Explainer`. One forward pass in PyTorch
    and none in JAX lists them; finding the layer takes some more, once for each kind of input.
    """
    options: Any = {
        "layout": layout,
        "input_key": input_key,
        "allow_training": allow_training,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GuessedLayerWarning)
        try:
            prepared = prepare(model, inputs, None, target, **options)
        except ValueError:  # none can be taken: no layer has space, or the score reaches none
            prepared = prepare(model, inputs, NO_LAYER, target, **options)
    samples = int(first_array(prepared.inputs).shape[0])
    return [
        replace(
            layer,
            has_space=may_have_space(layer.shape, samples),
            chosen=layer.path in prepared.layers,
        )
        for layer in listed(prepared.model, prepared.inputs)
    ]
