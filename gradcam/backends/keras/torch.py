"""Keras on its torch backend: an `nn.Module` with Keras's names, called in inference mode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gradcam._types import Inputs, Outputs
from gradcam.backends.errors import unknown_layer
from gradcam.backends.keras.layers import (
    affine_layers,
    call_arguments,
    channels_first,
    named_layers,
)
from gradcam.backends.torch.conventions import AffineLayer, Conventions
from gradcam.backends.torch.model import TorchModel

__all__ = ["adapt"]


def adapt(model: Any) -> TorchModel:
    """The model with Keras's conventions."""
    return TorchModel(model, channels_first=channels_first(model), conventions=_KERAS)


def _layer(model: Any, path: str) -> Any:
    layers = dict(named_layers(model))
    if path not in layers:
        raise unknown_layer(path, layers)
    return layers[path]


def _call(model: Any, inputs: Inputs) -> Outputs:
    args, kwargs = call_arguments(model, inputs)
    return model(*args, **kwargs)


def _affine(model: Any) -> Iterator[AffineLayer]:
    for path, layer in affine_layers(model):
        yield AffineLayer(path, layer, layer.call)


def _parameters(model: Any) -> Iterator[tuple[str, Any]]:
    listed = set()
    for path, layer in named_layers(model):
        if id(layer) not in listed:
            listed.add(id(layer))
            for variable in layer._trainable_variables:  # the layer's own, none of layers inside
                yield f"{path}/{variable.name}", variable.value


_KERAS = Conventions(
    layers=named_layers,
    layer=_layer,
    call=_call,
    trains=lambda _: False,
    affine=_affine,
    parameters=_parameters,
    has_float64=False,  # a Keras layer's precision is its policy's
)
