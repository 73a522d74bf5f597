"""flax.nnx: any module, split into structure and state, and tapped on a private copy while it is traced."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import nnx

from gradcam._types import Inputs, Outputs
from gradcam.backends.jax import Biases, JaxModel, Tap
from gradcam.model import arguments

__all__ = ["Nnx", "adapt", "path_of"]

AFFINE = (nnx.Conv, nnx.ConvTranspose, nnx.Linear, nnx.LinearGeneral, nnx.BatchNorm)
"""Layers whose output at zero is their bias."""


def _paths(module: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    for path, node in nnx.iter_graph(module):
        if isinstance(node, nnx.Module) and path:
            yield "/".join(str(part) for part in path), node


def path_of(model: nnx.Module, layer: nnx.Module) -> str:
    """The path of a module that is in the model."""
    for path, module in _paths(model):
        if module is layer:
            return path
    raise KeyError(
        f"`layer`, a {type(layer).__name__}, is not a module of this {type(model).__name__}; pass a path from "
        "gradcam.layers(model, inputs)"
    )


@dataclass(frozen=True)
class Nnx:
    """Merges a private copy of the module and runs it in evaluation mode."""

    graphdef: Any

    def __call__(self, tap: Tap, values: Any, inputs: Inputs) -> Outputs:
        module = nnx.merge(self.graphdef, values)
        module.eval()
        for path, layer in list(_paths(module)):
            if callable(layer):
                layer._gradcam_path = path
                object.__setattr__(layer, "__class__", _tapped(type(layer)))
        args, kwargs = arguments(inputs)
        with _active(tap):
            return module(*args, **kwargs)


def adapt(module: nnx.Module) -> JaxModel:
    graphdef, state = nnx.split(module)
    return JaxModel(Nnx(graphdef), state)


_current: contextvars.ContextVar[Tap | None] = contextvars.ContextVar("gradcam_tap", default=None)


@contextlib.contextmanager
def _active(tap: Tap) -> Iterator[None]:
    token = _current.set(tap)
    try:
        yield
    finally:
        _current.reset(token)


@functools.cache
def _tapped(layer: type) -> type:
    """A subclass whose calls are tapped; its instances are private copies, never the user's."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        output, tap = layer.__call__(self, *args, **kwargs), _current.get()  # type: ignore[operator]
        if isinstance(tap, Biases) and issubclass(layer, AFFINE):
            tap.add(self._gradcam_path, layer.__call__(self, jnp.zeros_like(args[0]), *args[1:], **kwargs))
        return output if tap is None else tap(self._gradcam_path, output, layer.__name__)

    namespace = {
        "__call__": functools.wraps(layer.__call__)(call),  # type: ignore[operator]
        "__module__": layer.__module__,
        "__qualname__": layer.__qualname__,
        "__doc__": layer.__doc__,
    }
    return type(layer)(layer.__name__, (layer,), namespace)
