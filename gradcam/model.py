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

import numpy as np

from gradcam import layouts
from gradcam._arrays import array_namespace, constant
from gradcam._types import Array, Inputs, Outputs, Shape
from gradcam.layouts import Habit, input_layout

__all__ = [
    "INPUT",
    "Capture",
    "Layer",
    "Model",
    "PooledAxes",
    "Scorer",
    "arguments",
    "compiled",
    "first_array",
    "habit",
    "input_first",
    "input_size",
    "merged_scores",
    "noise",
    "nothing_guided",
    "rows",
    "scorer",
    "unknown_layer",
    "with_first_array",
]

INPUT = "<input>"
"""The path of the input itself, where a backend can tap it: the array of `first_array`."""

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
    (N, ...) and (N, ...), or (N, K, ...) for scores (N, K). `curvatures`, where asked for, hold the product of the
    scores' Hessian in a layer's activations with these activations, in the gradients' shapes.
    """

    outputs: Outputs
    scores: Array
    activations: tuple[Array, ...]
    gradients: tuple[Array, ...]
    curvatures: tuple[Array, ...] = ()


@runtime_checkable
class Model(Protocol):
    """A model tapped at its layers.

    Optional, and used where they are there: `layers(inputs) -> list[Layer]`; `compile(function)`, which makes a
    faster `(inputs, target, *arrays) -> result` of `function(model, inputs, target, *arrays) -> result`;
    `float64(inputs)`, a context manager that gives the model and its inputs in double precision; `scorer(inputs,
    layer, target)`, see the function of that name; `input_gradients(inputs, target, rule, smooth) -> Capture`, guided
    backpropagation to the input, `first_array` of the inputs, which stands in for the one layer of a capture (see
    `gradcam.guided`); `channels_first`, the framework's habit (True unless told), and `channels_first_at(path)`, what a
    layer's type says of it, or of the input itself for the path INPUT (None where it says nothing).
    """

    def capture(
        self,
        inputs: Inputs,
        layers: Sequence[str],
        target: Callable[[Outputs], Array] | None,
        pooled: PooledAxes | None = None,
        at: Sequence[Array] | None = None,
        curvature: bool = False,
    ) -> Capture:
        """One forward pass, and the gradients of each sample's score from the first of the layers up.

        With no target the activations alone: `scores` is None, `gradients` is empty.

        Below that layer no graph is kept and nothing is differentiated; no weight gradient is ever computed.
        With `pooled`, gradients may come already averaged over those axes, as size 1, where that is cheaper.
        `at` are activations to put in place of the layers' own before the gradients are taken; `curvature` asks for
        `curvatures`. Both, and the path INPUT, are asked for by some methods alone; a model need not know them.
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


def with_first_array(inputs: Inputs, array: Array) -> Inputs:
    """The same inputs with another array in the place of `first_array`."""
    first = first_array(inputs)
    if isinstance(inputs, Mapping):
        return {key: array if value is first else value for key, value in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(array if value is first else value for value in inputs)
    return array


def habit(model: Model, path: str) -> Habit:
    """Where the channels of a layer are, as far as the model can tell without running."""
    told = getattr(model, "channels_first_at", None)
    found = told(path) if told is not None else None
    return Habit(getattr(model, "channels_first", True)) if found is None else Habit(found, True)


def input_first(model: Model, inputs: Inputs) -> bool:
    """Whether the input's channels are in front: of sequences (N, ., .) the first layer's type tells."""
    if len(first_array(inputs).shape) == 3:
        return habit(model, INPUT).channels_first
    return bool(getattr(model, "channels_first", True))


def input_size(model: Model, inputs: Inputs) -> Shape | None:
    """The spatial size of the input, see `layouts.input_size`."""
    return layouts.input_size(first_array(inputs).shape, input_first(model, inputs))


def noise(inputs: Inputs, channels_first: bool, deviation: float, random: np.random.Generator) -> Array:
    """Gaussian noise for the input: the same for each sample but for its range, and in every framework and layout."""
    array = first_array(inputs)
    xp = array_namespace(array)
    axes = tuple(range(1, array.ndim))
    spread = xp.max(array, axis=axes, keepdims=True) - xp.min(array, axis=axes, keepdims=True)
    layout = input_layout(array.shape, channels_first)
    sample = tuple(int(n) for n in array.shape[1:])
    if layout is not None and layout.kind == "channels_last":
        sample = (sample[-1], *sample[:-1])
    drawn = random.standard_normal((1, *sample)) * deviation
    return spread * constant(drawn if layout is None else layout.arranged(drawn), like=array)


def rows(outputs: Outputs, start: int, count: int) -> Outputs:
    """These samples of the outputs, so that a target always sees a batch of the size that it was made for."""
    if isinstance(outputs, Mapping):
        return {key: rows(value, start, count) for key, value in outputs.items()}
    if isinstance(outputs, list) and outputs and all(isinstance(one, Mapping) for one in outputs):
        return outputs[start : start + count]  # a detector's: one dictionary for each sample
    if isinstance(outputs, tuple) and hasattr(outputs, "_fields"):
        return type(outputs)(*(rows(value, start, count) for value in outputs))
    if isinstance(outputs, (tuple, list)):
        return type(outputs)(rows(value, start, count) for value in outputs)
    return outputs[start : start + count] if getattr(outputs, "ndim", 0) > 0 else outputs


def merged_scores(run: Callable[[Array], Outputs], target: Callable[[Outputs], Array], variants: Array) -> Array:
    """Scores of variants (M, N, ...) of a batch, run as one batch of M N: (M, N) or (M, N, K)."""
    xp = array_namespace(variants)
    count, samples = (int(n) for n in variants.shape[:2])
    outputs = run(xp.reshape(variants, (count * samples, *variants.shape[2:])))
    return xp.stack([target(rows(outputs, m * samples, samples)) for m in range(count)])


@dataclass(frozen=True)
class Scorer:
    """The score as a plain function of arrays: variants (M, N, ...) of a layer's activations -> (M, N) or (M, N, K).

    value: what to make variants of, where it had better lie in memory in another order than it does.
    axes: those of the activations (N, ...) of which the head takes the mean, where it takes nothing else of them.
    averaged: then the same for variants of that mean, of size 1 over these axes: as many times smaller.
    """

    run: Callable[[Array], Array]
    value: Array | None = None
    axes: tuple[int, ...] = ()
    averaged: Callable[[Array], Array] | None = None

    def __call__(self, variants: Array) -> Array:
        return self.run(variants)


def scorer(model: Model, inputs: Inputs, layer: str, target: Callable[[Outputs], Array]) -> Scorer:
    """A `Scorer` of a layer, or of the input itself for the path INPUT.

    Nothing below the layer runs again where the backend can see to it.
    """
    own = getattr(model, "scorer", None)
    if own is not None:
        made = own(inputs, layer, target)
        return made if isinstance(made, Scorer) else Scorer(made)

    def score(variants: Array) -> Array:
        if layer == INPUT:
            outputs = [model.replay(with_first_array(inputs, one), (), ()) for one in variants]
        else:
            outputs = [model.replay(inputs, (layer,), (one,)) for one in variants]
        return array_namespace(variants).stack([target(one) for one in outputs])

    return Scorer(score)


def unknown_layer(path: object, known: Iterable[str]) -> KeyError:
    """The error for a layer that is not there, with the nearest names."""
    near = difflib.get_close_matches(str(path), list(known), n=3)
    hint = "; did you mean " + " or ".join(f'"{name}"' for name in near) + "?" if near else ";"
    return _LayerError(f'layer "{path}" is not in the model{hint} gradcam.layers(model, inputs) lists them all')


def nothing_guided(rule: str, smooth: Sequence[str]) -> ValueError:
    """The error where no ReLU was on the way from the score to the input; `smooth` names what was there instead."""
    names = sorted(set(smooth))
    hint = (
        f'the model has {" and ".join(names)} there: pass smooth="guided" to have their derivative guided as well'
        if names
        else "guided backpropagation is made for models with ReLUs"
    )
    return ValueError(
        f'no ReLU was found between the input and the score, so that rule="{rule}" would be the plain gradient; {hint}'
    )


class _LayerError(KeyError):
    def __str__(self) -> str:  # KeyError would show the message's repr
        return str(self.args[0])
