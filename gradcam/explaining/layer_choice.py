"""Which layers there are, and which one is explained where none is named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gradcam import backends, layouts
from gradcam._arrays import array_namespace
from gradcam._types import Array, Inputs, Shape
from gradcam.classifier import Classifier
from gradcam.explaining.axes import layout_of
from gradcam.model import HasLayers, Layer, Model, channel_order, compiled, input_size
from gradcam.targets import as_target

__all__ = ["last_spatial_layer", "layers"]

TOGETHER = 16
"""How many layers are asked for their gradients in one backward pass."""


def layers(model: Any, inputs: Inputs, *, allow_training: bool = False) -> list[Layer]:
    """The outputs of the model's layers in the order in which they run: records with `.path`, `.shape`, `.kind`.

    One forward pass in PyTorch, none in JAX, where shapes are found without computing.
    """
    if isinstance(model, Classifier):
        model = model.model
    return list(_listed(backends.adapt(model, inputs, allow_training), inputs))


def _listed(model: Model, inputs: Inputs) -> Sequence[Layer]:
    if not isinstance(model, HasLayers):
        raise TypeError(
            f"{type(model).__name__} has no method `layers(inputs)`; name the layer with `layer`"
        )
    return model.layers(inputs)


def last_spatial_layer(model: Model, inputs: Inputs, layout: layouts.Spec = None) -> str:
    """The last layer whose output still has more than one position.

    Of a transformer's tokens, the last at which the gradient reaches any spatial token: behind the last attention
    only the class token counts.
    """
    size = input_size(model, inputs)
    token_layers: list[str] = []
    for layer in reversed(_listed(model, inputs)):
        spatial = _layout_or_none(model, layer, size, layout)
        if spatial is None or math.prod(spatial.grid) < 2:
            continue
        if spatial.prefix == 0:
            return _last_reached(model, inputs, token_layers) if token_layers else layer.path
        token_layers.append(layer.path)
    if token_layers:
        return _last_reached(model, inputs, token_layers)
    raise ValueError(
        "no layer of the model has an output with space (more than one position); pass `layer`, and `layout` where its "
        "shape does not tell"
    )


def _layout_or_none(
    model: Model, layer: Layer, size: Shape | None, spec: layouts.Spec
) -> layouts.Layout | None:
    try:
        return layouts.infer(layer.shape[1:], size, channel_order(model, layer.path), spec)
    except ValueError:  # tokens that tile the input in no way
        return None


@dataclass(frozen=True)
class _Reach:
    """Whether each layer's spatial tokens have any gradient."""

    layers: tuple[str, ...]
    size: Shape | None

    def __call__(self, model: Model, inputs: Inputs, target: Any) -> list[Array]:
        capture = model.capture(inputs, self.layers, target)
        reach = []
        for path, gradient in zip(self.layers, capture.gradients, strict=True):
            view = layout_of(model, path, gradient.shape[1:], self.size).view(gradient)
            reach.append(array_namespace(view).any(view != 0))
        return reach


def _last_reached(model: Model, inputs: Inputs, candidates: list[str]) -> str:
    """The first of the candidates, last layers first, whose spatial tokens reach the top class's score."""
    size = input_size(model, inputs)
    for start in range(0, len(candidates), TOGETHER):
        batch = candidates[start : start + TOGETHER]
        in_running_order = tuple(reversed(batch))
        reach = compiled(model, _Reach(in_running_order, size))(inputs, as_target(None))
        reached = dict(zip(in_running_order, reach, strict=True))
        for path in batch:
            if bool(reached[path]):
                return path
    return candidates[0]
