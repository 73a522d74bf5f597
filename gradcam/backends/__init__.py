"""Which backend serves a model: found from the model's type, through modules that are already
imported.

A model of a framework can only exist where that framework was imported, so nothing is imported here
before that.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from gradcam._types import Array, Inputs, Outputs
from gradcam.backends.frameworks import MemoryMeter, default_array, devices, memory_meter, versions
from gradcam.inputs import first_array
from gradcam.model import Model

__all__ = [
    "MemoryMeter",
    "Split",
    "adapt",
    "default_array",
    "devices",
    "layer_path",
    "memory_meter",
    "versions",
]


class Split:
    """A model made of two functions: `features`, whose result is explained, and `head`, which
    scores it.

    Over torch tensors or JAX arrays the gradient comes from their autograd. Over NumPy arrays
    `head` may be a black
    box: its gradient comes from finite differences, 2 C evaluations of the head for Grad-CAM on C
        channels, made in
    batches of `chunk`.

    >>> import numpy as np, gradcam
    >>> def features(x): return x                             # (N, 2, 3, 3)
    >>> def head(a): return a.mean(axis=(2, 3)) @ np.eye(2)   # (N, 2)
    >>> gradcam.explain(gradcam.Split(features, head), np.ones((1, 2, 3, 3)), target=0).maps.shape
    (1, 3, 3)
    """

    def __init__(
        self,
        features: Callable[..., Array],
        head: Callable[[Array], Outputs],
        *,
        layer: str = "features",
        channels_first: bool | None = None,
        chunk: int = 256,
    ) -> None:
        self.features, self.head, self.layer = features, head, layer
        self.channels_first, self.chunk = channels_first, chunk

    def __repr__(self) -> str:
        names = (getattr(f, "__name__", type(f).__name__) for f in (self.features, self.head))
        return f"Split({', '.join(names)})"


def _is(value: object, module: str, name: str) -> bool:
    """Whether `value` is an instance of `module.name`, without importing it."""
    loaded = sys.modules.get(module)
    kind = getattr(loaded, name, None)
    return kind is not None and isinstance(value, kind)


def adapt(model: Any, inputs: Inputs, allow_training: bool = False) -> Model:
    """The backend's view of the user's model, its weights as they are now."""
    if isinstance(model, Split):
        return _adapt_split(model, inputs)
    if _is(model, "keras", "Layer"):  # which on its torch backend is a torch module too
        from gradcam.backends import keras

        return keras.adapt(model)
    if _is(model, "torch.nn", "Module"):
        from gradcam.backends.torch import TorchModel

        return TorchModel(model, allow_training)
    if _is(model, "flax.nnx", "Module"):
        from gradcam.backends.jax import nnx

        return nnx.adapt(model)
    transformed = [_is(model, "haiku", kind) for kind in ("Transformed", "TransformedWithState")]
    parts = model if isinstance(model, tuple) and model and not any(transformed) else (model,)
    if len(parts) <= 2 and _is(parts[0], "flax.linen", "Module"):
        from gradcam.backends.jax import linen

        return linen.adapt(*parts)
    if len(parts) <= 2 and _is(parts[0], "equinox", "Module"):
        from gradcam.backends.jax import equinox

        return equinox.adapt(*parts)
    if _is(parts[0], "haiku", "Transformed") or _is(parts[0], "haiku", "TransformedWithState"):
        from gradcam.backends.jax import haiku

        return haiku.adapt(*parts)
    if isinstance(model, Model):
        return model
    if callable(model) and _is(first_array(inputs), "jax", "Array"):
        from gradcam.backends.jax import Function

        return Function.adapt(model)
    raise TypeError(
        f"`model` of type {type(model).__module__}.{type(model).__qualname__} is served by no "
        "backend; pass a "
        "torch.nn.Module, a flax.nnx.Module, a bound flax.linen module, the pair (linen module, "
        "variables), an "
        "equinox.Module or the pair (module, state), a Haiku pair (transformed, params), a Keras "
        "model, a function of "
        "JAX arrays, gradcam.Split(features, head), or an object with the methods `capture` and "
        "`replay`"
    )


def _adapt_split(split: Split, inputs: Inputs) -> Model:
    array = first_array(inputs)
    if _is(array, "torch", "Tensor"):
        from gradcam.backends.torch import SplitModule, TorchModel

        return TorchModel(SplitModule(split.features, split.head, split.layer))
    if _is(array, "jax", "Array"):
        from gradcam.backends.jax import JaxModel, SplitRun

        return JaxModel(
            SplitRun(split.features, split.head, split.layer), (), bool(split.channels_first)
        )
    from gradcam.backends.numpy import NumpyModel

    first = split.channels_first is None or split.channels_first
    return NumpyModel(split.features, split.head, split.layer, first, split.chunk)


def layer_path(model: Any, layer: Any) -> str:
    """A layer as the user names it, a path or the module itself, as its path."""
    if isinstance(layer, str):
        return layer
    if _is(model, "keras", "Layer") and _is(layer, "keras", "Layer"):
        from gradcam.backends import keras

        return keras.path_of(model, layer)
    if _is(model, "torch.nn", "Module") and _is(layer, "torch.nn", "Module"):
        from gradcam.backends import torch as backend

        return backend.path_of(model, layer)
    if _is(model, "flax.nnx", "Module") and _is(layer, "flax.nnx", "Module"):
        from gradcam.backends.jax import nnx

        return nnx.path_of(model, layer)
    first = model[0] if isinstance(model, tuple) and model else model
    if _is(first, "equinox", "Module") and _is(layer, "equinox", "Module"):
        from gradcam.backends.jax import equinox

        return equinox.path_of(first, layer)
    raise TypeError(
        f"`layer` must be a path, a module of the model, a list of them, or None, but is {layer!r}"
    )
