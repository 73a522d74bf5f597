"""The one door: from what a user gives to what can be explained.

Everything that explains, verifies or takes a model apart comes through `prepare`. It unwraps a
classifier, finds the backend, the layer and its path, turns class names into indices and the target
into a function of the outputs. What it returns answers where the axes of a layer are
(`gradcam.space`).

>>> prepared = prepare(model, images, layer=None, target="tabby")    # doctest: +SKIP
>>> prepared.layers, prepared.size                                   # doctest: +SKIP
(('layer4',), (224, 224))
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gradcam import backends, layouts
from gradcam._types import Inputs, LayerLike, Outputs, Shape
from gradcam._warnings import warn
from gradcam.classifier import Classifier
from gradcam.inputs import InputKey, first_array, focused
from gradcam.layouts import Layout
from gradcam.model import HasLayers, Model, compiled, input_size
from gradcam.space.axes import (
    ATTENTION,
    GuessedAxesWarning,
    LayerAxes,
    ask_axes,
    is_ambiguous,
    sure_axes,
)
from gradcam.space.choice import GuessedLayerWarning, LayerChoice, choose_layer
from gradcam.space.given import check_given
from gradcam.space.input_axes import input_in_doubt, input_layout, with_input
from gradcam.space.memory import AxesKey, Known, kind_of, known_of
from gradcam.targets import ClassScore, Target, TargetLike, as_target

__all__ = ["NO_LAYER", "Prepared", "layer_paths", "prepare", "settle", "shown_target", "unwrap"]

NO_LAYER = ()
"""For methods that explain no layer: nothing is chosen."""


@dataclass(frozen=True)
class Prepared:
    """A model, its inputs, the layers and the target: ready to be explained.

    model: the backend's view of the user's model, with the weights that it has now.
    layers: the paths of the layers. size: the inputs' spatial size, None where they have none.
    target: a function of the outputs; classes that are only known from the outputs are still open,
        see `settle`.
    layout: what the user said of the layers' layout.
    known: what was found out about the model before.
    choice: how the layer was chosen, where none was named.
    """

    model: Model
    inputs: Inputs
    layers: tuple[str, ...]
    target: Callable[[Outputs], Any]
    size: Shape | None
    layout: layouts.Spec
    known: Known
    choice: LayerChoice | None = None

    @property
    def layer(self) -> str:
        """The only layer."""
        if len(self.layers) != 1:
            raise TypeError(
                f"`layer` must be one layer, but is {list(self.layers)!r}; take them one by one"
            )
        return self.layers[0]

    def axes(self, path: str, shape: Sequence[int]) -> LayerAxes:
        """Where samples, channels and positions are in a layer's array of that shape; the network
        is asked if need be.

        A guess that could as well have been another comes with a `GuessedAxesWarning`.
        """
        known = self.known_axes(path)
        if known is not None:
            return known
        samples = int(first_array(self.inputs).shape[0])
        axes = sure_axes(self.model, path, shape, samples, self.size, self.layout)
        if axes is not None:
            return self.keep(path, axes)
        axes = self.keep(path, ask_axes(self.model, self.inputs, path, shape, self.size))
        if is_ambiguous(axes, self.size, shape):
            _warn_of_guess(axes)
        return axes

    def keep(self, path: str, axes: LayerAxes) -> LayerAxes:
        """Remember the layer's axes, for inputs of this kind, with the input that they are of.

        Raises ValueError where a layout that was given plainly cannot be.
        """
        if axes.how == "given" and not path.startswith(ATTENTION):
            check_given(axes, self.model, self.inputs)
        axes = with_input(axes, self.model, self.inputs)
        self.known.axes[self._key(path)] = axes
        return axes

    def known_axes(self, path: str) -> LayerAxes | None:
        """The layer's axes, where they were found before."""
        return self.known.axes.get(self._key(path))

    def _key(self, path: str) -> AxesKey:
        return AxesKey(path, self.layout, kind_of(self.inputs))

    def axes_of(self, path: str) -> LayerAxes:
        """The same of a layer whose array has not been seen yet: its shape is looked up first."""
        return self.known_axes(path) or self.axes(path, _shape(self.model, self.inputs, path))

    def at_input_of(self, path: str) -> Prepared:
        """The same with the input that the layer's positions are of as the one with space."""
        if not input_in_doubt(self.model, self.inputs):
            return self
        axes = self.axes_of(path)
        if axes.input is None:
            return self
        prepared = replace(self, inputs=focused(self.inputs, axes.input))
        prepared.known.axes[prepared._key(path)] = axes
        return prepared

    def input_layout(self, path: str) -> Layout | None:
        """Where channels and positions are in a sample of that input, as far as is known."""
        return input_layout(self.known_axes(path), self.model, self.inputs)

    def size_of(self, path: str) -> Shape | None:
        """The size of the input that the layer's positions are of, along them, as far as is known;
        None where it has no space.
        """
        axes = self.known_axes(path)
        return self.size if axes is None or axes.size is None else axes.size

    def layout_of(self, path: str, shape: Sequence[int]) -> Layout:
        """The layout of a layer whose array has that shape."""
        return self.axes(path, shape).layout

    def run(self, function: Callable[..., Any], *arrays: Any, target: Any = None) -> Any:
        """`function(model, inputs, target, *arrays)`, compiled where the backend compiles."""
        target = self.target if target is None else target
        return compiled(self.model, function)(self.inputs, target, *arrays)


def _shape(model: Model, inputs: Inputs, path: str) -> tuple[int, ...]:
    """The shape of the layer's array: as it is listed, or else as one pass shows."""
    if isinstance(model, HasLayers):
        for layer in model.layers(inputs):
            if layer.path == path:
                return layer.shape
    activations = model.capture(inputs, (path,), None).activations[0]
    return tuple(int(n) for n in activations.shape)


def _warn_of_guess(axes: LayerAxes) -> None:
    warn(
        f'where the positions of layer "{axes.layer}" are could not be told and was guessed from '
        f"its shape: {axes.layout}; say it with `layout`, or choose another layer",
        GuessedAxesWarning,
    )


def _warn_of_part(choice: LayerChoice) -> None:
    warn(
        f'no one layer carries all that the input says; layer "{choice.layer}" was taken, the '
        "last that the score reaches, and its map shows a part of what the model looks at; name a "
        "layer, or several, with `layer`",
        GuessedLayerWarning,
    )


def prepare(
    model: Any,
    inputs: Inputs,
    layer: LayerLike = None,
    target: TargetLike = None,
    *,
    layout: layouts.Spec = None,
    input_key: InputKey | None = None,
    allow_training: bool = False,
    known: Known | None = None,
) -> Prepared:
    """What can be explained, from what the user gave: see `gradcam.Explainer` for what that may be.

    A layer of None is the classifier's own, or else the one that `gradcam.space.choice` takes; an
    empty tuple is none.
    """
    model, classifier = unwrap(model)
    if classifier is not None:
        target = classifier.indices(target)
        layer = classifier.layer if layer is None else layer
    if input_key is not None:
        inputs = focused(inputs, input_key)
    samples = first_array(inputs).shape[0]
    if samples == 0:
        shape = tuple(first_array(inputs).shape)
        raise ValueError(f"the batch is empty: `inputs` have shape {shape}")
    adapted = backends.adapt(model, inputs, allow_training)
    score = as_target(target)
    size = input_size(adapted, inputs)
    if known is None:
        known = known_of(model)
    if layer is not None:
        paths = layer_paths(model, layer)
        return Prepared(adapted, inputs, paths, score, size, layout, known)
    key = (kind_of(inputs), layout, _kind_of_target(score))
    choice = known.choices.get(key)
    if choice is None:
        choice = known.choices[key] = choose_layer(adapted, inputs, score, size, layout)
    prepared = Prepared(adapted, inputs, (choice.layer,), score, size, layout, known, choice)
    is_known = prepared.known_axes(choice.layer) is not None
    # A guess is made again where it is used, which warns.
    if choice.axes is not None and choice.axes.how != "guess" and not is_known:
        prepared.keep(choice.layer, choice.axes)
    if not choice.everything:
        _warn_of_part(choice)
    return prepared


def _kind_of_target(target: Any) -> Hashable:
    """Targets of one kind reach the same layers: classes among each other, a function of your own
    by itself.
    """
    if isinstance(target, Target):
        return type(target).__qualname__
    return getattr(target, "__qualname__", ""), id(target)


def unwrap(model: Any) -> tuple[Any, Classifier | None]:
    """The user's model itself, and the classifier that it came in, if it did."""
    if isinstance(model, Classifier):
        return backends.opened(model.model), model
    return backends.opened(model), None


def layer_paths(model: Any, layer: LayerLike) -> tuple[str, ...]:
    """The paths of the layer or layers that the user named, by path or by module."""
    named = layer if isinstance(layer, (list, tuple)) else [layer]
    return tuple(backends.layer_path(model, one) for one in named)


def settle(target: Any, outputs: Outputs) -> Any:
    """The target with its classes known: checked against the outputs, and each sample's top class
    settled.
    """
    if not isinstance(target, Target):
        return target
    target.check(outputs)
    return target.resolve(outputs)


def shown_target(target: Any) -> Any:
    """The target as a result shows it: class indices where it is of classes, else what was
    passed.
    """
    return target.index if isinstance(target, ClassScore) else target
