"""Keras on its torch backend: an `nn.Module` with Keras's names, called in inference mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras  # type: ignore[import-untyped]
import torch

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
    """The outputs; what the model assigns to its variables is dropped, as on JAX.

    With `training=True` among the inputs, every pass draws the same, and the generators are left as
    they were.
    """
    args, kwargs = call_arguments(model, inputs)
    with contextlib.ExitStack() as stack:
        stack.enter_context(keras.StatelessScope())
        if kwargs.get("training"):
            devices = torch.cuda.device_count() if torch.cuda.is_initialized() else 0
            stack.enter_context(torch.random.fork_rng(range(devices)))
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
