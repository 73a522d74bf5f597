"""The one door: from what a user gives to what can be explained.

Everything that explains, verifies or takes a model apart comes through `prepare`. It unwraps a classifier, finds the
backend, the layer and its path, turns class names into indices and the target into a function of the outputs.

>>> prepared = prepare(model, images, layer=None, target="tabby")    # doctest: +SKIP
>>> prepared.layers, prepared.size                                   # doctest: +SKIP
(('layer4',), (224, 224))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gradcam import backends, layouts
from gradcam._types import Inputs, LayerLike, Outputs, Shape
from gradcam.classifier import Classifier
from gradcam.explaining.axes import layout_of
from gradcam.explaining.layer_choice import last_spatial_layer
from gradcam.inputs import first_array
from gradcam.layouts import Layout
from gradcam.model import Model, compiled, input_size
from gradcam.targets import ClassScore, Target, TargetLike, as_target

__all__ = ["Prepared", "prepare", "settle", "shown_target", "unwrap"]

NO_LAYER = ()
"""For methods that explain no layer: nothing is chosen."""


@dataclass(frozen=True)
class Prepared:
    """A model, its inputs, the layers and the target: ready to be explained.

    model: the backend's view of the user's model, with the weights that it has now.
    layers: the paths of the layers. size: the inputs' spatial size, None where they have none.
    target: a function of the outputs; classes that are only known from the outputs are still open, see `settle`.
    layout: what the user said of the layers' layout.
    """

    model: Model
    inputs: Inputs
    layers: tuple[str, ...]
    target: Callable[[Outputs], Any]
    size: Shape | None
    layout: layouts.Spec

    @property
    def layer(self) -> str:
        """The only layer."""
        if len(self.layers) != 1:
            raise TypeError(
                f"`layer` must be one layer, but is {list(self.layers)!r}; take them one by one"
            )
        return self.layers[0]

    def layout_of(self, path: str, sample: Sequence[int]) -> Layout:
        """Where the channels and positions are in samples of that shape of a layer."""
        return layout_of(self.model, path, sample, self.size, self.layout)

    def run(self, function: Callable[..., Any], *arrays: Any, target: Any = None) -> Any:
        """`function(model, inputs, target, *arrays)`, compiled where the backend compiles."""
        return compiled(self.model, function)(
            self.inputs, self.target if target is None else target, *arrays
        )


def prepare(
    model: Any,
    inputs: Inputs,
    layer: LayerLike = None,
    target: TargetLike = None,
    *,
    layout: layouts.Spec = None,
    allow_training: bool = False,
) -> Prepared:
    """What can be explained, from what the user gave: see `gradcam.Explainer` for what that may be.

    A layer of None is the classifier's own, or else the last layer that still has space; an empty tuple chooses none.
    """
    model, classifier = unwrap(model)
    if classifier is not None:
        target = classifier.indices(target)
        layer = classifier.layer if layer is None else layer
    samples = first_array(inputs).shape[0]
    if samples == 0:
        shape = tuple(first_array(inputs).shape)
        raise ValueError(f"the batch is empty: `inputs` have shape {shape}")
    adapted = backends.adapt(model, inputs, allow_training)
    if layer is None:
        paths: tuple[str, ...] = (last_spatial_layer(adapted, inputs, layout),)
    else:
        paths = layer_paths(model, layer)
    size = input_size(adapted, inputs)
    return Prepared(adapted, inputs, paths, as_target(target), size, layout)


def unwrap(model: Any) -> tuple[Any, Classifier | None]:
    """The user's model itself, and the classifier that it came in, if it did."""
    if isinstance(model, Classifier):
        return model.model, model
    return model, None


def layer_paths(model: Any, layer: LayerLike) -> tuple[str, ...]:
    """The paths of the layer or layers that the user named, by path or by module."""
    named = layer if isinstance(layer, (list, tuple)) else [layer]
    return tuple(backends.layer_path(model, one) for one in named)


def settle(target: Any, outputs: Outputs) -> Any:
    """The target with its classes known: checked against the outputs, and each sample's top class settled."""
    if not isinstance(target, Target):
        return target
    target.check(outputs)
    return target.resolve(outputs)


def shown_target(target: Any) -> Any:
    """The target as a result shows it: class indices where it is of classes, else what was passed."""
    return target.index if isinstance(target, ClassScore) else target
