"""What an explanation keeps so that it can be diagnosed: how its model is run again."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gradcam._types import Array, Inputs, Outputs, Shape
from gradcam.layouts import Layout
from gradcam.methods import MethodSpec
from gradcam.model import Model

__all__ = ["Source", "reference"]


@dataclass(frozen=True)
class Source:
    """How an explanation's model is run again, with the weights that it has at that time.

    model, inputs: return the user's own model and inputs. ReferenceError where they are gone.
    adapt: (model, inputs) -> the model's backend.
    target: outputs -> scores. Top classes are already resolved to indices.
    layers: paths of the explained layers.
    entry: the method's specification.
    layout_of: (path, shape of a sample, backend) -> the layer's layout.
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


def reference(value: Any, strong: bool) -> Callable[[], Any]:
    """A function that returns `value`, which it keeps alive only if `strong`.

    Otherwise it raises ReferenceError once nothing else keeps the value alive. An explanation is
    small and many are collected, so it should not keep a model or a batch of images alive.
    """
    if strong:
        return lambda: value
    # A tuple or mapping of arrays is often a temporary, while the arrays in it live on.
    if isinstance(value, Mapping):
        items = {key: reference(item, strong) for key, item in value.items()}
        return lambda: {key: item() for key, item in items.items()}
    if type(value) is tuple:
        parts = [reference(part, strong) for part in value]
        return lambda: tuple(part() for part in parts)
    try:
        return _alive(weakref.ref(value))
    except TypeError:  # numbers, strings and None have no weak references
        return lambda: value


def _alive(weak: weakref.ref[Any]) -> Callable[[], Any]:
    def value() -> Any:
        target = weak()
        if target is None:
            raise ReferenceError("the explained model or inputs no longer exist")
        return target

    return value
