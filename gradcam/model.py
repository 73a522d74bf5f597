"""The seam between this library and the frameworks: a model that can be tapped, and its laws.

A backend is an object with the two verbs `capture` and `replay`. Your own object, with nothing
more, can be passed wherever a model can. The laws, which one test suite holds for every backend:

- Replaying the captured activations gives the captured outputs.
- One sample's result does not depend on the others in its batch.
- Finite differences of `replay`, along any direction, agree with the gradients.
- Nothing that the caller owns has changed afterwards, also when something raised.

What a backend can do besides is one small protocol for each power, below. A backend offers a power
by having its methods; the rest of the library asks `isinstance(model, HasLayers)` and never for a
framework.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gradcam import layouts
from gradcam._arrays import array_namespace
from gradcam._types import Array, Inputs, Outputs, Shape
from gradcam.inputs import INPUT, first_array, packed, rows, with_first_array
from gradcam.layouts import ChannelOrder

__all__ = [
    "INPUT",
    "Capture",
    "Compiles",
    "HasAttention",
    "HasBiases",
    "HasChannelOrder",
    "HasFloat64",
    "HasFlow",
    "HasInputGradients",
    "HasLayers",
    "HasReach",
    "HasScorer",
    "HasState",
    "HasTraining",
    "HasWeights",
    "Layer",
    "MakesArrays",
    "Model",
    "PooledAxes",
    "RunsBare",
    "Scorer",
    "channel_order",
    "compiled",
    "input_channels_first",
    "input_size",
    "merged_scores",
    "scorer",
]

PooledAxes = Callable[[Shape], tuple[int, ...]]
"""From a layer's sample shape to its axes, from the end, whose mean gradient is enough."""


@dataclass(frozen=True)
class Layer:
    """One output of one layer, in the order in which they run.

    `path` is the layer's name as the framework spells it; "path#1" is the layer's second call,
    "path[0]" the first item of what it returns. `shape` is that of its output, samples first;
    `kind` the layer's type.

    `gradcam.layers` marks them: `has_space` where the shape has axes for channels and for
    positions, so that it can be explained, and `chosen` where none is named and this one is taken.
    """

    path: str
    shape: Shape
    kind: str
    has_space: bool = False
    chosen: bool = False


@dataclass(frozen=True)
class Capture:
    """What one forward pass, and one backward pass from the score to the layers, found.

    `activations` and `gradients` hold one array for each layer asked for, as the layer lays it out:
    (N, ...) and (N, ...), or (N, K, ...) for scores (N, K). `curvatures`, where asked for, hold the
    product of the scores' Hessian in a layer's activations with these activations, in the
    gradients' shapes.
    """

    outputs: Outputs
    scores: Array
    activations: tuple[Array, ...]
    gradients: tuple[Array, ...]
    curvatures: tuple[Array, ...] = ()


@runtime_checkable
class Model(Protocol):
    """A model tapped at its layers: the two verbs that everything else is made of."""

    def capture(
        self,
        inputs: Inputs,
        layers: Sequence[str],
        target: Callable[[Outputs], Array] | None,
        pooled: PooledAxes | None = None,
        at: Sequence[Array] | None = None,
        curvature: bool = False,
    ) -> Capture:
        """One forward pass, and the gradients of each sample's score from the first of the layers
        up.

        With no target the activations alone: `scores` is None, `gradients` is empty.

        Below that layer no graph is kept and nothing is differentiated; no weight gradient is ever
        computed. With `pooled`, gradients may come already averaged over those axes, as size 1,
        where that is cheaper. `at` are activations to put in place of the layers' own before the
        gradients are taken; `curvature` asks for `curvatures`. Both, and the path INPUT, are asked
        for by some methods alone; a model need not know them.
        Law: finite differences of `replay` along any direction agree with the gradients.
        """
        ...

    def replay(
        self, inputs: Inputs, layers: Sequence[str], activations: Sequence[Array]
    ) -> Outputs:
        """The outputs when the layers' activations are replaced. With no layers: a forward pass.

        Law: with the captured activations these are the captured outputs.
        """
        ...


# ---------------------------------------------------------------------------------- optional powers


@runtime_checkable
class HasLayers(Protocol):
    """Its layers can be listed. Without this, `layer` must be named."""

    def layers(self, inputs: Inputs) -> Sequence[Layer]:
        """Every output that can be tapped, in the order in which they run.

        Law: each path can be captured, and has the shape that is listed.
        """
        ...


@runtime_checkable
class HasReach(Protocol):
    """It can say which of many layers the score reaches."""

    def reach(
        self, inputs: Inputs, layers: Sequence[str], target: Callable[[Outputs], Array]
    ) -> tuple[Array, Sequence[Array]]:
        """Scores, and their gradient at each layer: that of `capture`, but zeros where the score
        does not depend on a layer, in place of an error.
        """
        ...


@runtime_checkable
class HasFlow(Protocol):
    """It can say through which layers everything flows."""

    def flow(
        self, inputs: Inputs, score: Callable[[Outputs], Array]
    ) -> Mapping[str, Hashable] | None:
        """The layers through which every differentiable way from the inputs to the scores leads,
        in the order in which they run, each with a name of its value.

        Layers that give the same value, as a container and the last layer in it do, share its name.
        None where no way can be followed, as from token ids in PyTorch.
        """
        ...


@runtime_checkable
class Compiles(Protocol):
    """Functions of the model can be compiled."""

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """From `function(model, inputs, target, *arrays)` a faster `(inputs, target, *arrays)`.

        Law: it returns what `function` returns.
        """
        ...


@runtime_checkable
class HasFloat64(Protocol):
    """It can be run in double precision, for finite differences."""

    def float64(self, inputs: Inputs) -> AbstractContextManager[tuple[Any, Inputs]]:
        """A copy and its inputs, while the context lasts; as they are if it allows no copy."""
        ...

    def in_double(self, inputs: Inputs) -> AbstractContextManager[tuple[Any, Inputs]]:
        """With each operation in float64; for replays, as the user's derivatives may be lost."""
        ...


@runtime_checkable
class HasScorer(Protocol):
    """Scores of many variants are cheaper than as many replays."""

    def scorer(self, inputs: Inputs, layer: str, target: Callable[[Outputs], Array]) -> Scorer:
        """See `scorer`. Law: the scores are those of `replay`, one variant at a time."""
        ...


@runtime_checkable
class HasInputGradients(Protocol):
    """Its ReLUs can be given another derivative: guided backpropagation."""

    def input_gradients(
        self, inputs: Inputs, target: Callable[[Outputs], Array], rule: str, smooth: str
    ) -> Capture:
        """The gradient at the input by that rule, `first_array` standing in for the one layer of a
        capture.

        `rule` and `smooth` are those of `gradcam.guided_backprop`.
        """
        ...


@runtime_checkable
class HasBiases(Protocol):
    """Its layers' biases are known, which full-grad needs."""

    def biases(self, inputs: Inputs) -> Sequence[tuple[str, Array]]:
        """(path, output at an input of zeros) of every affine layer, in the order they run in."""
        ...


@runtime_checkable
class HasAttention(Protocol):
    """Its attention weights can be tapped."""

    def attentions(self, inputs: Inputs) -> Sequence[Layer]:
        """The attention weights (N, heads, T, T), in the order they run in. Law: as of `layers`."""
        ...


@runtime_checkable
class HasChannelOrder(Protocol):
    """It says where its layers' channels are."""

    @property
    def channels_first(self) -> bool:
        """What the framework's layers do unless they say otherwise."""
        ...

    def channel_order_at(self, path: str) -> ChannelOrder | None:
        """What the type of this layer says, or of the input for the path INPUT; None where it says
        nothing.

        It is sure where the layer's own type has its output so, and a hint where only layers inside
        it, or around it, do.
        """
        ...


@runtime_checkable
class HasTraining(Protocol):
    """It has a training mode, in which samples may depend on each other."""

    @property
    def trains(self) -> bool:
        """Whether it is in training mode and was not allowed to be."""
        ...


@runtime_checkable
class HasWeights(Protocol):
    """Its weights are known by name, for checks that randomise or hash them."""

    def weights(self) -> Mapping[str, Array]:
        """The trained arrays, without running statistics, by names that begin with their layer's
        path.
        """
        ...

    def with_weights(self, weights: Mapping[str, Array]) -> Any:
        """A copy of the user's own model with these weights replaced. Law: the model itself stays
        as it is.
        """
        ...


@runtime_checkable
class HasState(Protocol):
    """It says all that its outputs depend on, so that no other model is taken for it."""

    def state(self) -> tuple[str, Mapping[str, Array]]:
        """A text of its settings, and its arrays by name. Law: another process finds the same."""
        ...


@runtime_checkable
class RunsBare(Protocol):
    """It can be run as a user who wants the outputs alone would run it, for fair prices."""

    def forward(self, inputs: Inputs) -> Outputs:
        """A forward pass without taps: under inference mode in PyTorch, compiled in JAX."""
        ...


@runtime_checkable
class MakesArrays(Protocol):
    """It says which arrays it takes."""

    def array(self, values: np.ndarray) -> Array:
        """NumPy values as an array of the framework, on the model's device."""
        ...


def compiled(model: Model, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(model, ...)` as `(...)`, compiled where the backend compiles."""
    if isinstance(model, Compiles):
        return model.compile(function)
    return partial(function, model)


def channel_order(model: Model, path: str) -> ChannelOrder:
    """Where the channels of a layer are, as far as the model can tell without running."""
    told = model.channel_order_at(path) if isinstance(model, HasChannelOrder) else None
    return ChannelOrder(getattr(model, "channels_first", True)) if told is None else told


def input_channels_first(model: Model, inputs: Inputs) -> bool:
    """Whether the input's channels come first; of sequences (N, ., .) the first layer tells."""
    if len(first_array(inputs).shape) == 3:
        return channel_order(model, INPUT).channels_first
    return bool(getattr(model, "channels_first", True))


def input_size(model: Model, inputs: Inputs) -> Shape | None:
    """The spatial size of the input, see `layouts.input_size`; of packed pictures in patches."""
    pictures = packed(inputs)
    if pictures is not None:
        return pictures.grid
    return layouts.input_size(first_array(inputs).shape, input_channels_first(model, inputs))


# ----------------------------------------------------------------------------------- many variants


@dataclass(frozen=True)
class Scorer:
    """The score as a plain function of arrays: variants (M, N, ...) of a layer's activations -> (M,
    N) or (M, N, K).

    axes: those of the activations (N, ...) of which the head takes the mean, where it takes nothing
        else of them.
    averaged: then the same for variants of that mean, of size 1 over these axes: as many times
        smaller.
    """

    run: Callable[[Array], Array]
    axes: tuple[int, ...] = ()
    averaged: Callable[[Array], Array] | None = None

    def __call__(self, variants: Array) -> Array:
        return self.run(variants)


def scorer(model: Model, inputs: Inputs, layer: str, target: Callable[[Outputs], Array]) -> Scorer:
    """A `Scorer` of a layer, or of the input itself for the path INPUT.

    Nothing below the layer runs again where the backend can see to it.
    """
    if isinstance(model, HasScorer):
        own = model.scorer(inputs, layer, target)
        return own if isinstance(own, Scorer) else Scorer(own)

    def replay(variant: Array) -> Outputs:
        if layer == INPUT:
            return model.replay(with_first_array(inputs, variant), (), ())
        return model.replay(inputs, (layer,), (variant,))

    def score(variants: Array) -> Array:
        return array_namespace(variants).stack([target(replay(variant)) for variant in variants])

    return Scorer(score)


def merged_scores(
    run: Callable[[Array], Outputs], target: Callable[[Outputs], Array], variants: Array
) -> Array:
    """Scores of variants (M, N, ...) of a batch, run as one batch of M N: (M, N) or (M, N, K)."""
    xp = array_namespace(variants)
    count, samples = (int(n) for n in variants.shape[:2])
    outputs = run(xp.reshape(variants, (count * samples, *variants.shape[2:])))
    return xp.stack([target(rows(outputs, m * samples, samples)) for m in range(count)])
