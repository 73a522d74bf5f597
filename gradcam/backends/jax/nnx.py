"""flax.nnx: any module, tapped on a private copy that is made of its structure and state."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flax import nnx

from gradcam._types import Array, Inputs, Outputs
from gradcam.backends.jax.model import JaxModel
from gradcam.backends.jax.nnx_structure import Structure, split
from gradcam.backends.jax.program import Tap
from gradcam.backends.jax.tapped import active, path_among, tapped
from gradcam.backends.jax.weights import NamedWeights
from gradcam.inputs import arguments

__all__ = ["adapt", "path_of"]

AFFINE = (nnx.Conv, nnx.ConvTranspose, nnx.Linear, nnx.LinearGeneral, nnx.BatchNorm)
"""Layers whose output at zero is their bias."""


@dataclass(frozen=True)
class Nnx:
    """Runs a private copy in evaluation mode; equal for modules of equal structure."""

    structure: Structure

    def __call__(self, tap: Tap, values: Any, inputs: Inputs) -> Outputs:
        module = self.structure.merged(values)
        module.eval()
        for path, layer in list(_modules(module)):
            if callable(layer):
                object.__setattr__(layer, "_gradcam_path", path)
                object.__setattr__(layer, "__class__", _tapped(type(layer)))
        args, kwargs = arguments(inputs)
        with active(tap):
            return module(*args, **kwargs)


def adapt(module: nnx.Module) -> JaxModel:
    """The module with its weights as they are now."""
    structure, leaves = split(module)
    weights = functools.partial(_named_weights, module)
    return JaxModel(Nnx(structure), leaves, named_weights=weights)


def path_of(model: nnx.Module, layer: nnx.Module) -> str:
    """The path of a module that is in the model, such as "blocks/0/conv"."""
    return path_among(_modules(model), model, layer)


def _modules(module: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    for path, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Module) and path:
            yield "/".join(map(str, path)), node


@functools.cache
def _tapped(layer: type) -> type:
    return tapped(layer, AFFINE)


def _named_weights(module: nnx.Module) -> NamedWeights:
    parameters = dict(nnx.to_flat_state(nnx.state(module, nnx.Param)))
    names = {path: "/".join(map(str, path)) for path in parameters}

    def rebuild(new: Mapping[str, Array]) -> nnx.Module:
        def replaced(path: tuple[Any, ...], variable: Any) -> Any:
            return variable.replace(new.get(names[path], variable.get_value()))

        twin = nnx.clone(module)
        nnx.update(twin, nnx.map_state(replaced, nnx.state(twin, nnx.Param)))
        return twin

    arrays = {names[path]: variable.get_value() for path, variable in parameters.items()}
    return NamedWeights(arrays, rebuild)
