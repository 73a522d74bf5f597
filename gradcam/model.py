"""The seam between this library and the frameworks: a model that can be tapped, its two verbs and their laws.

A backend is an object with the two verbs `capture` and `replay`; your own, with nothing more, can be passed wherever
a model can. The laws, which one test suite holds for every backend:

- Replaying the captured activations gives the captured outputs.
- One sample's result does not depend on the others in its batch.
- Finite differences of `replay`, along any direction, agree with the gradients.
- Nothing that the caller owns has changed afterwards, also when something raised.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

from gradcam._types import Array, Inputs, Outputs, Shape

__all__ = ["Capture", "Layer", "Model", "PooledAxes", "arguments", "compiled", "first_array", "unknown_layer"]

PooledAxes = Callable[[Shape], tuple[int, ...]]
"""From the shape of a layer's sample to its axes, from the end, over which only the gradient's mean will be used."""


@dataclass(frozen=True)
class Layer:
    """One output of one layer, in the order in which they run.

    `path` is the layer's name as the framework spells it; "path#1" is the layer's second call, "path[0]" the first
    item of what it returns. `shape` is that of its output, samples first; `kind` the layer's type.
    """

    path: str
    shape: Shape
    kind: str


@dataclass(frozen=True)
class Capture:
    """What one forward pass, and one backward pass from the score to the layers, found.

    `activations` and `gradients` hold one array for each layer asked for, as the layer lays it out:
    (N, ...) and (N, ...), or (N, K, ...) for scores (N, K).
    """

    outputs: Outputs
    scores: Array
    activations: tuple[Array, ...]
    gradients: tuple[Array, ...]


@runtime_checkable
class Model(Protocol):
    """A model tapped at its layers.

    Optional, and used where they are there: `layers(inputs) -> list[Layer]`; `compile(function)`, which makes a
    faster `(inputs, target, *arrays) -> result` of `function(model, inputs, target, *arrays) -> result`;
    `float64(inputs)`, a context manager that gives the model and its inputs in double precision; `channels_first`,
    the framework's habit (True unless told).
    """

    def capture(
        self,
        inputs: Inputs,
        layers: Sequence[str],
        target: Callable[[Outputs], Array],
        pooled: PooledAxes | None = None,
    ) -> Capture:
        """One forward pass, and the gradients of each sample's score from the first of the layers up.

        Below that layer no graph is kept and nothing is differentiated; no weight gradient is ever computed.
        With `pooled`, gradients may come already averaged over those axes, as size 1, where that is cheaper.
        Law: finite differences of `replay` along any direction agree with the gradients.
        """

    def replay(self, inputs: Inputs, layers: Sequence[str], activations: Sequence[Array]) -> Outputs:
        """The outputs when the layers' activations are replaced. With no layers: a forward pass.

        Law: with the captured activations these are the captured outputs.
        """


def compiled(model: Model, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(model, ...)` as `(...)`, compiled where the backend compiles."""
    compile_ = getattr(model, "compile", None)
    return compile_(function) if compile_ is not None else partial(function, model)


def arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the model is called with: an array, a tuple of positional or a mapping of keyword arguments."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, tuple):
        return inputs, {}
    return (inputs,), {}


def first_array(inputs: Inputs) -> Array:
    """The array in the inputs that has space: the first with three or more axes, else the first of all."""
    args, kwargs = arguments(inputs)
    arrays = [value for value in (*args, *kwargs.values()) if hasattr(value, "shape") and len(value.shape) > 0]
    if not arrays:
        raise TypeError(
            f"`inputs` must be an array (N, ...), or a tuple or mapping of them, but is a {type(inputs).__name__}"
        )
    return next((array for array in arrays if len(array.shape) >= 3), arrays[0])


def unknown_layer(path: object, known: Iterable[str]) -> KeyError:
    """The error for a layer that is not there, with the nearest names."""
    near = difflib.get_close_matches(str(path), list(known), n=3)
    hint = "; did you mean " + " or ".join(f'"{name}"' for name in near) + "?" if near else ";"
    return _LayerError(f'layer "{path}" is not in the model{hint} gradcam.layers(model, inputs) lists them all')


class _LayerError(KeyError):
    def __str__(self) -> str:  # KeyError would show the message's repr
        return str(self.args[0])
