"""Which layer is explained where none is named.

It is the last layer, in the order in which they run, such that

1. everything that the input says passes through it: with its output held, another input gives the
same outputs; 2. the gradient of the target reaches its positions;
3. its positions answer to positions of the input, or its type leaves no doubt of them;

and then the last one before trailing pooling, as in the paper, whose maps are of the last
convolution. Behind a transformer's last attention only the class token counts, which 2 leaves out;
heads' inner values, one of two branches, and values that are returned but not used fail 1. Where no
layer passes 1, as with several branches down to the score, it is the last that passes 2 and 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gradcam import backends, layouts
from gradcam._arrays import array_namespace
from gradcam._types import Array, Inputs, Outputs, Shape
from gradcam.classifier import Classifier
from gradcam.inputs import first_array
from gradcam.model import HasLayers, Layer, Model
from gradcam.space.axes import LayerAxes, axes_by_evidence, evidence_of, guessed_axes, sure_axes
from gradcam.space.evidence import Evidence
from gradcam.space.flow import Flow, gradients_at

__all__ = ["LayerChoice", "choose_layer", "layers", "listed"]

TOGETHER = 32
"""How many layers are looked at together, from the last one on."""

MAX_HELD = 12
"""How many of these are held in turn at most, to see whether everything passes through them."""


@dataclass(frozen=True)
class LayerChoice:
    """The layer that was taken, and why none of those behind it.

    axes: those of the layer; None where it is the only one, and nothing had to be asked.
    later: (path, reason) of layers that run after it, the last first.
    everything: whether everything that the input says passes through it.
    """

    layer: str
    axes: LayerAxes | None = None
    later: tuple[tuple[str, str], ...] = ()
    everything: bool = True

    def __str__(self) -> str:
        lines = [
            f'layer "{self.layer}", the last through which everything flows and which the score '
            "reaches"
        ]
        if not self.everything:
            lines = [
                f'layer "{self.layer}", the last that the score reaches; nothing passes through '
                "one layer alone"
            ]
        lines += [f'  not "{path}": {reason}' for path, reason in self.later[:8]]
        return "\n".join(lines)


def layers(model: Any, inputs: Inputs, *, allow_training: bool = False) -> list[Layer]:
    """The outputs of the model's layers in the order in which they run: records with `.path`,
    `.shape`, `.kind`.

    One forward pass in PyTorch, none in JAX, where shapes are found without computing.
    """
    if isinstance(model, Classifier):
        model = model.model
    return list(listed(backends.adapt(model, inputs, allow_training), inputs))


def listed(model: Model, inputs: Inputs) -> Sequence[Layer]:
    """The layers that the model lists, in the order in which they run."""
    if not isinstance(model, HasLayers):
        raise TypeError(
            f"{type(model).__name__} has no method `layers(inputs)`; name the layer with `layer`"
        )
    return model.layers(inputs)


def choose_layer(
    model: Model,
    inputs: Inputs,
    target: Callable[[Outputs], Array],
    size: Shape | None,
    spec: layouts.Spec = None,
) -> LayerChoice:
    """The layer to explain, by the three rules above."""
    every_layer = listed(model, inputs)
    samples = int(first_array(inputs).shape[0])
    candidates = [layer for layer in every_layer if _may_have_space(layer.shape, samples)]
    if not candidates:  # one channel, or one row, may still have positions
        candidates = [
            layer
            for layer in every_layer
            if len(layer.shape) > 2 and math.prod(layer.shape[1:]) > 1
        ]
    if not candidates:
        raise ValueError(
            "no layer of the model has an output with space (more than one position); pass "
            "`layer`, and `layout` "
            "where its shape does not tell"
        )
    if len(candidates) == 1:
        return LayerChoice(candidates[0].path)
    candidates.reverse()
    search = _Search(model, inputs, target, size, spec)
    for start in range(0, len(candidates), TOGETHER):
        window = candidates[start : start + TOGETHER]
        choice = search.through(window)
        if choice is not None:
            return choice
    return search.otherwise()


def _may_have_space(shape: Shape, samples: int) -> bool:
    """Whether a layer's array has axes for channels and for positions, both longer than 1."""
    if shape[:1] == (samples,):
        shape = shape[1:]
    return sum(n > 1 for n in shape) >= 2


@dataclass
class _Search:
    """One search, window by window. Each question is asked once for all layers of a window."""

    model: Model
    inputs: Inputs
    target: Callable[[Outputs], Array]
    size: Shape | None
    spec: layouts.Spec
    refused: dict[str, str] = field(default_factory=dict)
    """Why a layer is not taken, by its path, in the order in which they were asked."""
    second_best: LayerAxes | None = None

    def through(self, layers: Sequence[Layer]) -> LayerChoice | None:
        """The first of these layers, last layers first, that passes all rules."""
        window = _Window(self, layers)
        # Layers whose positions nothing tells come second: their axes would be a guess.
        for guesses in (False, True):
            for n, layer in enumerate(layers):
                axes = window.axes(n)
                if axes is None or (axes.how == "guess") != guesses:
                    continue
                if not window.reached(n, axes):
                    self.refused[layer.path] = "the score's gradient reaches none of its positions"
                    continue
                if self.second_best is None:
                    self.second_best = axes
                if not window.passes_through(n):
                    self.refused[layer.path] = (
                        "not everything that the input says passes through it"
                    )
                    continue
                n = window.before_pooling(n)
                return LayerChoice(layers[n].path, window.axes(n), tuple(self.refused.items()))
        return None

    def otherwise(self) -> LayerChoice:
        """Where nothing passes through one layer alone: the last layer whose positions the score
        reaches.
        """
        if self.second_best is None:
            raise ValueError(
                "the score's gradient reaches no position of any layer that has some: the way "
                "may be cut (detach, "
                "argmax, rounding); choose another target, or name the layer with `layer`"
            )
        return LayerChoice(
            self.second_best.layer, self.second_best, tuple(self.refused.items()), False
        )


class _Window:
    """Some layers that follow each other, the last first, and what was asked of them so far."""

    def __init__(self, search: _Search, layers: Sequence[Layer]) -> None:
        self.search = search
        self.layers = layers
        self.held = 0

    # -------------------------------------------------------------------------------- rule 3: axes

    def axes(self, n: int) -> LayerAxes | None:
        """The layer's axes: by type and shape, by evidence, or guessed; None where it has no
        space.
        """
        known = self._sure[n]
        return self._asked[n] if known is None else known

    @cached_property
    def _sure(self) -> list[LayerAxes | None]:
        search = self.search
        samples = int(first_array(search.inputs).shape[0])
        sure: list[LayerAxes | None] = []
        for layer in self.layers:
            try:
                axes = sure_axes(
                    search.model, layer.path, layer.shape, samples, search.size, search.spec
                )
            except ValueError:  # it has no space, or the layout that was given does not fit
                axes = None
            sure.append(axes if axes is None or math.prod(axes.layout.grid) > 1 else None)
        return sure

    @cached_property
    def _asked(self) -> dict[int, LayerAxes | None]:
        """The axes of all layers that are in doubt, from one round of evidence."""
        search = self.search
        doubtful = [n for n, axes in enumerate(self._sure) if axes is None]
        paths = [self.layers[n].path for n in doubtful]
        evidence = evidence_of(search.model, search.inputs, paths)
        return {n: self._told(self.layers[n], evidence) for n in doubtful}

    def _told(self, layer: Layer, evidence: Evidence | None) -> LayerAxes | None:
        search = self.search
        axes = None
        if evidence is not None:
            axes = axes_by_evidence(search.model, search.inputs, layer.path, evidence)
        if axes is None:
            try:
                axes = guessed_axes(
                    search.model, search.inputs, layer.path, layer.shape, search.size, evidence
                )
            except ValueError:  # no reading of its shape has space
                return None
        return axes if math.prod(axes.layout.grid) > 1 else None

    # -------------------------------------------------------------------------------- rule 2: the
    # gradient

    def reached(self, n: int, axes: LayerAxes) -> bool:
        """Whether the score's gradient reaches any of the layer's positions."""
        gradients, targets_axis = self._gradients
        gradient = gradients[n]
        if gradient is None:  # the model cannot say
            return True
        view = axes.layout.view(axes.layout.samples.arrange(gradient, lead=targets_axis))
        return bool(array_namespace(view).any(view != 0))

    @cached_property
    def _gradients(self) -> tuple[list[Array | None], int]:
        search = self.search
        paths = [layer.path for layer in self.layers]
        return gradients_at(search.model, search.inputs, paths, search.target)

    # -------------------------------------------------------------------------------- rule 1:
    # everything

    def passes_through(self, n: int) -> bool:
        """Whether everything that the input says passes through the layer; False after too many
        were held.
        """
        if self._flow is None:  # the model cannot be asked
            return True
        self.held += 1
        return self.held <= MAX_HELD and self._flow.passes_through(self.layers[n].path)

    @cached_property
    def _flow(self) -> Flow | None:
        search = self.search
        paths = [layer.path for layer in self.layers]
        return Flow.of(search.model, search.inputs, paths, search.target)

    def before_pooling(self, n: int) -> int:
        """The layer in front of trailing pooling, where the chosen layer's output is that of a
        pooling.
        """
        if self._flow is None:
            return n
        output = self.layers[n].path
        pooled = any(
            "Pool" in layer.kind and self._flow.same_output(layer.path, output)
            for layer in self.layers[n : n + 3]
        )
        earlier = n + 1
        while pooled and earlier < len(self.layers):
            axes = self.axes(earlier)
            if "Pool" not in self.layers[earlier].kind and axes is not None:
                return earlier if self._flow.passes_through(self.layers[earlier].path) else n
            earlier += 1
        return n
