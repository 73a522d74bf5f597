"""Keras on its JAX backend: `stateless_call` with taps on every layer while JAX traces it.

A traced program is kept for later calls, so JAX must be able to tell whether the model is still the
one that was traced. For example, let `run = _Run.of(model)`:

    model.set_weights(weights)                                     _Run.of(model) == run
    model.get_layer("dense").activation = keras.activations.tanh   _Run.of(model) != run

The weights are arguments of the program, so new values need no new one. Another attribute changes
the function, and the next call compiles anew.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import keras  # type: ignore[import-untyped]

from gradcam._types import Inputs, Outputs
from gradcam.backends.jax.model import Biases, JaxModel
from gradcam.backends.jax.tapped import active, current
from gradcam.backends.keras.layers import (
    affine_layers,
    call_arguments,
    channels_first,
    named_layers,
)

__all__ = ["adapt"]

_PATCHING = threading.RLock()
_TRAINING = {
    "_compile_config",
    "_compiled_trainable_state",
    "_eval_epoch_iterator",
    "_jax_state",
    "_metrics_variable_shardings",
    "_non_trainable_variable_shardings",
    "_optimizer_variable_shardings",
    "_trainable_variable_shardings",
    "history",
    "optimizer",
    "stop_training",
}
_BOOKKEEPING = (vars(keras.Model(name="gradcam")).keys() - {"_dtype_policy"}) | _TRAINING
"""Attributes that outputs do not depend on. If one is missing here, its change costs a compile."""


def adapt(model: Any) -> JaxModel:
    """The model as a function of its variables, which JAX compiles."""
    values = []
    for variables in (model.trainable_variables, model.non_trainable_variables):
        values.append([variable.value for variable in variables])
    return JaxModel(_Run.of(model), tuple(values), channels_first(model))


@dataclass(frozen=True, eq=False)
class _Run:
    """Runs `stateless_call` while every layer's `call` is replaced on the instance by a tapped one.

    Two of one model are equal as long as no attribute of a layer, such as its activation, has been
    replaced. Other threads that call the model meanwhile meet the replaced `call`, which has no tap
    there and passes values through. Traces of Keras models wait for each other.

    settings: the attributes that are plain values, compared by value.
    objects: weak references to the other attributes, compared by identity.
    """

    model: weakref.ref[Any] = field(repr=False)  # Keras numbers its layers
    settings: str = field(repr=False)
    objects: tuple[Any, ...] = field(repr=False)

    @staticmethod
    def of(model: Any) -> _Run:
        settings: list[Any] = []
        objects: list[Any] = []
        for path, attributes in _attributes(model):
            settings.append(path)
            for name, value in attributes.items():
                if name in _BOOKKEEPING:
                    continue
                if isinstance(value, (str, int, float, tuple, type(None))):
                    settings += name, value
                elif not isinstance(value, (list, dict, set)):
                    with contextlib.suppress(TypeError):  # not everything can be referred to weakly
                        objects.append(weakref.ref(value))
        return _Run(weakref.ref(model), repr(settings), tuple(objects))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, _Run)
            and self.model is other.model
            and self.settings == other.settings
            and len(self.objects) == len(other.objects)
            and all(map(operator.is_, self.objects, other.objects))
        )

    def __hash__(self) -> int:
        return hash((id(self.model), self.settings))

    def __call__(self, tap: Any, values: Any, inputs: Inputs) -> Outputs:
        model = self.model()
        assert model is not None
        args, kwargs = call_arguments(model, inputs)
        affine: set[int] = set()
        if isinstance(tap, Biases):
            affine = {id(layer) for _, layer in affine_layers(model)}
        own: dict[int, tuple[Any, Any]] = {}
        with _PATCHING:
            try:
                try:
                    for path, layer in named_layers(model):
                        if id(layer) not in own:
                            own[id(layer)] = layer, vars(layer).get("call")
                            patch = _tapped(path, layer, id(layer) in affine)
                            object.__setattr__(layer, "call", patch)
                    with active(tap):
                        return model.stateless_call(*values, *args, **kwargs)[0]
                finally:
                    _restore(own.values())
            finally:
                _restore(own.values())  # for an interrupt may have struck the first time


def _attributes(model: Any) -> list[tuple[str, dict[str, Any]]]:
    """(path, attributes) of the model and its layers."""
    attributes = []
    with _PATCHING:  # so that no other thread's taps are among them
        for path, layer in (("", model), *named_layers(model)):
            attributes.append((path, dict(vars(layer))))
    return attributes


def _tapped(path: str, layer: Any, is_affine: bool) -> Callable[..., Any]:
    """The layer's `call`, whose output goes through the current tap."""
    call = layer.call

    @functools.wraps(call)
    def tapped(*args: Any, **kwargs: Any) -> Any:
        output = call(*args, **kwargs)
        tap = current()
        if isinstance(tap, Biases) and is_affine:
            tap.add(path, call(jnp.zeros_like(args[0]), *args[1:], **kwargs))
        return output if tap is None else tap(path, output, type(layer).__name__)

    return tapped


def _restore(own: Iterable[tuple[Any, Any]]) -> None:
    """Give each instance its own `call` back, or remove it if it had none. Twice is as once."""
    for layer, call in own:
        if call is not None:
            object.__setattr__(layer, "call", call)
        elif "call" in vars(layer):
            object.__delattr__(layer, "call")
