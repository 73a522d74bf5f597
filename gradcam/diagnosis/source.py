"""What an explanation keeps to be diagnosed: how its model can be run again."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gradcam._types import Array, Inputs, Outputs, Shape
from gradcam.layouts import Layout
from gradcam.methods import MethodSpec
from gradcam.model import Model

__all__ = ["Source", "held"]


@dataclass(frozen=True)
class Source:
    """How an explanation's model can be run again, with the weights that it has then.

    model, inputs: what was explained, or ReferenceError where it is gone.
    adapt: (model, inputs) -> its backend. target: settled, no top class is left open.
    layout_of: (path, sample's shape, model) -> Layout.
    maps: (backend, inputs, target, layers, relu) -> maps by the same method.
    earlier: (backend, inputs) -> the last layer whose spatial tokens reach the output.
    """

    model: Callable[[], Any]
    inputs: Callable[[], Inputs]
    adapt: Callable[[Any, Inputs], Model]
    target: Callable[[Outputs], Array]
    layers: tuple[str, ...]
    entry: MethodSpec
    layout_of: Callable[[str, Shape, Model], Layout]
    maps: Callable[[Model, Inputs, Any, tuple[str, ...], bool], Array]
    earlier: Callable[[Model, Inputs], str]

    @property
    def scored(self) -> bool:
        """Whether the method looks at the score at all."""
        return self.entry.uses_scores

    @property
    def differentiated(self) -> bool:
        """Whether it looks at the score's gradient at the layer."""
        return self.entry.uses_gradients

    @property
    def of_layer(self) -> bool:
        """Whether it explains a layer, rather than all attention weights or all biases."""
        return self.entry.uses_layer


def held(value: Any, keep: bool) -> Callable[[], Any]:
    """`value`, kept; or for as long as someone else keeps it, after which asking for it is a ReferenceError.

    An explanation is small, and many are collected; inputs, and models, are neither.
    """
    if keep:
        return lambda: value
    if isinstance(value, Mapping):
        items = {key: held(one, keep) for key, one in value.items()}
        return lambda: {key: one() for key, one in items.items()}
    if type(value) is tuple:
        parts = [held(one, keep) for one in value]
        return lambda: tuple(one() for one in parts)
    try:
        found = weakref.ref(value)
    except TypeError:  # a number, a string, None
        return lambda: value

    def alive() -> Any:
        if (one := found()) is None:
            raise ReferenceError("what was explained is gone")
        return one

    return alive
