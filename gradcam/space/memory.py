"""What was found out about a model's axes and layers, kept for as long as the model lives.

A network is asked once for each kind of input. `gradcam.explain` makes a new explainer at each
call, so the answers are kept here and not there.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gradcam._types import Inputs
from gradcam.inputs import Focused, arrays_of, packed
from gradcam.layouts import Spec
from gradcam.space.axes import LayerAxes
from gradcam.space.choice import LayerChoice

__all__ = ["AxesKey", "Known", "forget", "kind_of", "known_of"]


class AxesKey(NamedTuple):
    """A layer, what the user said of its layout, and the kind of inputs."""

    path: str
    layout: Spec
    kind: Hashable


@dataclass
class Known:
    """Answers about one model, by the kind of input and by the layer, or by the target."""

    axes: dict[AxesKey, LayerAxes] = field(default_factory=dict)
    choices: dict[Hashable, LayerChoice] = field(default_factory=dict)


_MODELS: dict[int, tuple[weakref.ref[Any], Known]] = {}


def known_of(model: Any) -> Known:
    """What is known of the user's model; forgotten with it. Of a pair of module and weights, the
    module's.
    """
    if isinstance(model, tuple) and model:
        model = model[0]
    if isinstance(model, tuple) and model:  # Haiku's pair of functions
        model = model[-1]
    entry = _MODELS.get(id(model))
    if entry is not None and entry[0]() is model:
        return entry[1]
    known = Known()
    key = id(model)
    try:
        reference = weakref.ref(model, lambda _: _MODELS.pop(key, None))
    except TypeError:  # what cannot be referred to weakly is asked again at each call
        return known
    _MODELS[key] = (reference, known)
    return known


def forget(model: Any) -> None:
    """Ask the model anew at the next call, as after a surgery that moved its axes."""
    known = known_of(model)
    known.axes.clear()
    known.choices.clear()


def kind_of(inputs: Inputs) -> Hashable:
    """Shapes without the samples' axis, and types: inputs of one kind take the same way through a
    model.
    """
    shapes = tuple(
        (key, tuple(int(n) for n in array.shape[1:]), str(array.dtype))
        for key, array in arrays_of(inputs).items()
    )
    return inputs.key if isinstance(inputs, Focused) else None, packed(inputs), shapes
