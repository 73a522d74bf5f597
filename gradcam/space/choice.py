"""Which layer is explained where none is named.

It is the last layer, in the order in which they run, such that

1. everything that the input says passes through it: every way from the input to the scores leads
   through it;
2. the gradient of the target reaches its positions, of many more than one;
3. its positions answer to positions of the input, or its type leaves no doubt of them;

and then the last one before trailing pooling, as in the paper, whose maps are of the last
convolution. Behind a transformer's last attention only the class token counts, which 2 leaves out;
heads' inner values, one of two branches, and values that are returned but not used fail 1. Where no
layer behind the first quarter of the network passes 1, as with several branches down to the score,
it is the last that passes 2 and 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from gradcam import layouts
from gradcam._arrays import array_namespace, is_traced
from gradcam._types import Array, Inputs, Outputs, Shape
from gradcam.inputs import Focused, arrays_of, first_array
from gradcam.model import HasLayers, Layer, Model
from gradcam.space.axes import (
    LayerAxes,
    axes_by_evidence,
    evidence_of,
    guessed_axes,
    is_ambiguous,
    sure_axes,
)
from gradcam.space.evidence import Evidence
from gradcam.space.flow import Flow, flow_of, gradients_at

__all__ = ["GuessedLayerWarning", "LayerChoice", "choose_layer", "listed", "may_have_space"]

TOGETHER = 16
"""How many layers are looked at together, from the last one on."""

MAX_WINDOWS = 3
"""How often that is done at most. Each time costs some seven passes."""

MANY = 8
"""Of more positions than these, FEW must be reached at least."""

FEW = 2
"""One position alone, such as the last token of a text, is no map."""

_OTHER_WAYS = "what the input says reaches the scores by other ways too"


class GuessedLayerWarning(UserWarning):
    """Where no layer was named, and everything that the input says passes through none alone.

    A map of one layer then shows a part of what the model looks at. Name the layer with `layer`,
    or several, which are fused. To be silent,
    `warnings.simplefilter("ignore", gradcam.GuessedLayerWarning)`.
    """


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
    candidates = []
    for layer in every_layer:
        is_picture = tuple(layer.shape) == (samples, *(size or ()))  # a depth map: no channels
        if may_have_space(layer.shape, samples) and not is_picture:
            candidates.append(layer)
    if not candidates:  # one channel, or one row, may still have positions
        candidates = [
            layer
            for layer in every_layer
            if len(layer.shape) > 2 and math.prod(layer.shape[1:]) > 1
        ]
    if not candidates:
        raise ValueError(
            "no layer of the model has an output with space (more than one position); pass "
            "`layer`, and `layout` where its shape does not tell"
        )
    if len(candidates) == 1:
        return LayerChoice(candidates[0].path)
    candidates.reverse()
    flow = flow_of(model, inputs, [layer.path for layer in candidates], target)
    search = _Search(model, inputs, target, size, spec, candidates, flow)
    return search.first_that_all_passes() or search.last_that_is_reached()


def may_have_space(shape: Shape, samples: int) -> bool:
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
    candidates: Sequence[Layer]
    """The last layer first."""
    flow: Flow | None
    """Through which of them everything flows; None where that cannot be told."""
    refused: dict[str, str] = field(default_factory=dict)
    """Why a layer is not taken, by its path."""

    def first_that_all_passes(self) -> LayerChoice | None:
        """The last layer that passes all rules, unless it is in the first quarter of the network:
        one that comes so early is followed by branches that only meet in the scores.
        """
        flow = self.flow
        if flow is None:
            return None
        late_enough = self.candidates[: -(-3 * len(self.candidates) // 4)]
        layers = [layer for layer in late_enough if flow.may_pass(layer.path)]
        return self._first(layers, flow.passes, everything=True)

    def last_that_is_reached(self) -> LayerChoice:
        """The last layer that passes rules 2 and 3."""
        choice = self._first(self.candidates, lambda _: True, everything=self.flow is None)
        if choice is None:
            raise ValueError(
                "the score's gradient reaches no position of any layer that has some: the way "
                "may be cut (detach, argmax, rounding); choose another target, or name the layer "
                "with `layer`"
            )
        return choice

    def _first(
        self, layers: Sequence[Layer], passes: Callable[[str], bool], everything: bool
    ) -> LayerChoice | None:
        """The first of these layers that the score reaches and that passes.

        One whose axes would be a guess among several is taken only where no other is found.
        """
        guessed: LayerChoice | None = None
        for start in range(0, min(len(layers), TOGETHER * MAX_WINDOWS), TOGETHER):
            window = _Window(self, layers[start : start + TOGETHER])
            for n in window.reached():
                path = window.layers[n].path
                if not passes(path):
                    self.refused[path] = _OTHER_WAYS
                    continue
                n = window.before_pooling(n)
                axes = window.axes(n)
                choice = self._choice(window.layers[n].path, axes, everything)
                if axes is not None and (axes.how != "guess" or self._has_one_reading(n, window)):
                    return choice
                guessed = guessed or choice
        return guessed

    def _has_one_reading(self, n: int, window: _Window) -> bool:
        """Whether the layer's shape has one reading alone, and everything flows through it."""
        layer = window.layers[n]
        axes = window.axes(n)
        if axes is None or self.flow is None or not self.flow.passes(layer.path):
            return False
        return not is_ambiguous(axes, self.size, layer.shape)

    def _choice(self, path: str, axes: LayerAxes | None, everything: bool) -> LayerChoice:
        later = []
        for layer in self.candidates:
            if layer.path == path:
                break
            reason = self.refused.get(layer.path)
            if reason is None and self.flow is not None and not self.flow.may_pass(layer.path):
                reason = _OTHER_WAYS
            if reason is not None:
                later.append((layer.path, reason))
        return LayerChoice(path, axes, tuple(later), everything)


class _Window:
    """Some layers that follow each other, the last first, and what was asked of them so far."""

    def __init__(self, search: _Search, layers: Sequence[Layer]) -> None:
        self.search = search
        self.layers = layers

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

    @cached_property
    def _of_other_inputs(self) -> frozenset[int]:
        """The layers that do not answer to the one of several inputs that the user named."""
        inputs = self.search.inputs
        if not isinstance(inputs, Focused) or len(arrays_of(inputs)) == 1:
            return frozenset()
        paths = [layer.path for layer in self.layers]
        evidence = evidence_of(self.search.model, inputs, paths, patterns=False)
        if evidence is None:
            return frozenset()
        return frozenset(n for n, path in enumerate(paths) if not evidence.layers[path].answers)

    # ------------------------------------------------------------------------ rule 2: the gradient

    def reached(self) -> Iterator[int]:
        """The layers of whose positions the score's gradient reaches any."""
        for n, layer in enumerate(self.layers):
            axes = self.axes(n)
            if axes is None:
                continue
            if n in self._of_other_inputs:
                self.search.refused[layer.path] = "it does not answer to the input that was named"
                continue
            if self._is_reached(n, axes):
                yield n
            else:
                self.search.refused[layer.path] = (
                    "the score's gradient reaches none of its positions, or only one"
                )

    def _is_reached(self, n: int, axes: LayerAxes) -> bool:
        gradients, targets_axis = self._gradients
        gradient = gradients[n]
        if gradient is None:  # the model cannot say
            return True
        view = axes.layout.view(axes.layout.samples.arrange(gradient, lead=targets_axis))
        xp = array_namespace(view)
        positions = int(view.shape[-1])
        reached = xp.sum(xp.astype(xp.any(view != 0, axis=-2), xp.int32), axis=-1)
        if is_traced(reached):
            raise ValueError(
                "which layer the score reaches cannot be found inside jit, grad or vmap; name it "
                "with `layer`, or explain once outside of it"
            )
        return int(xp.max(reached)) >= (FEW if positions > MANY else 1)

    @cached_property
    def _gradients(self) -> tuple[list[Array | None], int]:
        search = self.search
        paths = [layer.path for layer in self.layers]
        return gradients_at(search.model, search.inputs, paths, search.target)

    # ------------------------------------------------------------------------------------- pooling

    def before_pooling(self, n: int) -> int:
        """The layer in front of trailing pooling, where the chosen layer's output is that of a
        pooling.
        """
        flow = self.search.flow
        if flow is None:
            return n
        output = self.layers[n].path
        pooled = any(
            "Pool" in layer.kind and flow.same_value(layer.path, output)
            for layer in self.layers[n : n + 3]
        )
        earlier = n + 1
        while pooled and earlier < len(self.layers):
            axes = self.axes(earlier)
            pools = "Pool" in self.layers[earlier].kind
            if not pools and axes is not None and self._is_reached(earlier, axes):
                return earlier if flow.passes(self.layers[earlier].path) else n
            earlier += 1
        return n
