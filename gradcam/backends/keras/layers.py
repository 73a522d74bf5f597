"""The layers of a Keras model, whatever Keras runs on."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import keras  # type: ignore[import-untyped]

from gradcam._types import Inputs
from gradcam.inputs import arguments

__all__ = ["affine_layers", "call_arguments", "channels_first", "named_layers", "path_of"]

_AFFINE_NAMES = re.compile(
    r"(Depthwise|Separable)?Conv\dD(Transpose)?|Dense|EinsumDense|BatchNormalization"
)
_AFFINE = tuple(kind for name, kind in vars(keras.layers).items() if _AFFINE_NAMES.fullmatch(name))
"""Layers whose output at zero, in inference mode, is their bias, unless they have an activation."""


def named_layers(layer: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(path, layer) of all layers inside, outer before inner; a shared layer has several paths."""
    for child in layer._layers:
        if not isinstance(child, keras.layers.InputLayer):
            path = f"{prefix}{child.name}"
            yield path, child
            yield from named_layers(child, f"{path}/")


def path_of(model: Any, layer: Any) -> str:
    """The path of a layer that the user gave itself. Raises KeyError if it is not in the model."""
    for path, candidate in named_layers(model):
        if candidate is layer:
            return path
    raise KeyError(
        f"`layer`, a {type(layer).__name__}, is not a layer of this {type(model).__name__}; pass a "
        "path from gradcam.layers(model, inputs)"
    )


def channels_first(model: Any) -> bool:
    """Whether channels come first: by the first layer with a `data_format`, else by the setting."""
    data_format = keras.config.image_data_format()
    for _, layer in named_layers(model):
        if getattr(layer, "data_format", None):
            data_format = layer.data_format
            break
    return bool(data_format == "channels_first")


def call_arguments(model: Any, inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments that the model is called with, in inference mode.

    `training=False` is among them if the model's own `call` takes it. Keras passes it on to the
    layers inside.
    """
    args, kwargs = arguments(inputs)
    if _is_functional(model):  # whose inputs are all one argument
        if kwargs:
            args = (kwargs,)
        elif len(args) > 1:
            args = (list(args),)
        kwargs = {}
    if "training" in inspect.signature(model.call).parameters:
        kwargs = {"training": False, **kwargs}
    return args, kwargs


def _is_functional(model: Any) -> bool:
    return any(kind.__name__ == "Functional" for kind in type(model).__mro__)


def affine_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """(path, layer) of each layer whose output at zero is its bias, once.

    Raises ValueError if one of them has an activation of its own, which changes the bias.
    """
    listed = set()
    for path, layer in named_layers(model):
        if not isinstance(layer, _AFFINE):
            continue
        activation = getattr(layer, "activation", None)
        if activation not in (None, keras.activations.linear):
            raise ValueError(
                f'the bias of layer "{path}" cannot be had in front of its own activation '
                f'"{getattr(activation, "__name__", activation)}"; make that a layer after it'
            )
        if id(layer) not in listed:
            listed.add(id(layer))
            yield path, layer
