"""How the modules of a library are named and called: `PYTORCH` here, Keras's in `backends.keras`.

A Keras layer on Keras's torch backend is an `nn.Module` too. But its path is "block/conv" and not
made of attributes' names, and training is an argument of its call and not a flag.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from gradcam._types import Inputs, Outputs
from gradcam.backends.errors import unknown_layer
from gradcam.backends.torch import wrappers
from gradcam.backends.torch.taps import module_paths
from gradcam.inputs import arguments, first_array

__all__ = ["PYTORCH", "AffineLayer", "Conventions"]


@dataclass(frozen=True)
class AffineLayer:
    """A layer whose output at an input of zeros is its bias.

    function: its forward pass without hooks.
    """

    path: str
    module: torch.nn.Module
    function: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Conventions:
    """What `TorchModel` asks about a module.

    layers: (path, module) of every layer that can be tapped.
    layer: the module of a path. It raises `unknown_layer` if there is none.
    call: the outputs for inputs as `gradcam.inputs` describes them.
    trains: whether any part is in training mode.
    affine: the layers that have biases.
    parameters: (path, array) of the trained arrays, not copied; the path begins with the layer's.
    has_float64: whether the module computes in double precision once its parameters are converted.
    """

    layers: Callable[[torch.nn.Module], Iterator[tuple[str, torch.nn.Module]]]
    layer: Callable[[torch.nn.Module, str], torch.nn.Module]
    call: Callable[[torch.nn.Module, Inputs], Outputs]
    trains: Callable[[torch.nn.Module], bool]
    affine: Callable[[torch.nn.Module], Iterator[AffineLayer]]
    parameters: Callable[[torch.nn.Module], Iterator[tuple[str, torch.Tensor]]]
    has_float64: bool

    def name_in(self, model: torch.nn.Module, path: str) -> str:
        """The module's name in an output's path; where there is none, the shortest it may be."""
        name = path
        for name in module_paths(path):
            with contextlib.suppress(KeyError):
                self.layer(model, name)
                break
        return name


_AFFINE = (
    torch.nn.modules.conv._ConvNd,
    torch.nn.Linear,
    torch.nn.modules.batchnorm._BatchNorm,
)
"""Layers whose output at zero, in evaluation mode, is their bias."""


def _layers(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    for path, module in wrappers.named(model):
        if path:
            yield path, module


def _layer(model: torch.nn.Module, path: str) -> torch.nn.Module:
    module = wrappers.submodule(model, path)
    if module is None:
        raise unknown_layer(path, (name for name, _ in wrappers.named(model, all_names=True)))
    return module


def _call(model: torch.nn.Module, inputs: Inputs) -> Outputs:
    args, kwargs = arguments(inputs)
    try:
        return model(*args, **kwargs)
    except TypeError as error:
        array = first_array(inputs)
        if isinstance(array, torch.Tensor):
            raise
        raise TypeError(
            f"the model takes tensors, but `inputs` is of type {type(array).__module__}."
            f"{type(array).__name__}; pass torch.as_tensor(inputs), on the model's device ({error})"
        ) from error


def _trains(model: torch.nn.Module) -> bool:
    # `model.modules()` would take longer than many a layer
    waiting: list[torch.nn.Module | None] = [model]
    for module in waiting:  # the list grows on the way
        if module is None:
            continue
        if module.training and not wrappers.is_wrapper(module):
            if wrappers.is_exported(module):
                continue
            return True
        if module._modules:
            waiting += module._modules.values()
    return False


def _affine(model: torch.nn.Module) -> Iterator[AffineLayer]:
    for path, module in _layers(model):
        if isinstance(module, _AFFINE):
            yield AffineLayer(path, module, module.forward)


def _parameters(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for path, parameter in model.named_parameters():
        yield wrappers.without_wrappers(path), parameter


PYTORCH = Conventions(_layers, _layer, _call, _trains, _affine, _parameters, has_float64=True)
