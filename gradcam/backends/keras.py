"""Keras 3 on its JAX and its torch backend: layers by their names, "block/conv", outputs in inference mode."""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras  # type: ignore[import-untyped]

from gradcam._types import Inputs, Outputs
from gradcam.model import Model, arguments, unknown_layer

__all__ = ["adapt", "path_of"]


def _named(layer: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for child in layer._layers:
        if not isinstance(child, keras.layers.InputLayer):
            yield f"{path}{child.name}", child
            yield from _named(child, f"{path}{child.name}/")


def path_of(model: Any, layer: Any) -> str:
    """The path of a layer that is in the model."""
    for path, one in _named(model):
        if one is layer:
            return path
    raise KeyError(
        f"`layer`, a {type(layer).__name__}, is not a layer of this {type(model).__name__}; pass a path from "
        "gradcam.layers(model, inputs)"
    )


def adapt(model: Any, allow_training: bool = False) -> Model:
    """The backend's view of a Keras layer or model that has been built."""
    backend = keras.backend.backend()
    if not model.built:
        raise ValueError("the Keras model has no weights yet; call it once, or model.build(shape), first")
    if backend == "jax":
        return _jax(model)
    if backend == "torch":
        return _torch(model)
    raise TypeError(f'Keras runs on "{backend}" here; gradcam knows its backends "jax" and "torch" (KERAS_BACKEND)')


def _channels_first(model: Any) -> bool:
    """What the first layer that says so says, else Keras's own setting."""
    said = (getattr(layer, "data_format", None) for _, layer in _named(model))
    return next((found for found in said if found), keras.config.image_data_format()) == "channels_first"


def _inference(model: Any) -> dict[str, bool]:
    """`training=False`, where the model's own call takes it; the layers in it are told by Keras."""
    return {"training": False} if "training" in inspect.signature(model.call).parameters else {}


# ---------------------------------------------------------------------------------------------- on JAX

_PATCHING = threading.RLock()


@dataclass(frozen=True, eq=False)
class _Run:
    """Runs `stateless_call` with every layer's `call` tapped on the instance, for as long as it is traced.

    Other threads' calls of the model see the patch and pass through it; traces of one model wait for each other.
    """

    model: weakref.ref[Any]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Run) and self.model is other.model

    def __hash__(self) -> int:
        return id(self.model)

    def __call__(self, tap: Any, values: Any, inputs: Inputs) -> Outputs:
        from gradcam.backends.jax_tapped import active

        model = self.model()
        assert model is not None
        args, kwargs = arguments(inputs)
        with _PATCHING, contextlib.ExitStack() as stack:
            done: set[int] = set()
            for path, layer in _named(model):
                if id(layer) not in done:
                    done.add(id(layer))
                    stack.callback(_restored(layer, vars(layer).get("call")))
                    object.__setattr__(layer, "call", _tapped(path, layer))
            with active(tap):
                return model.stateless_call(*values, *args, **{**_inference(model), **kwargs})[0]


def _tapped(path: str, layer: Any) -> Any:
    from gradcam.backends.jax_tapped import current

    call = layer.call

    @functools.wraps(call)
    def tapped(*args: Any, **kwargs: Any) -> Any:
        output, tap = call(*args, **kwargs), current()
        return output if tap is None else tap(path, output, type(layer).__name__)

    return tapped


def _restored(layer: Any, own: Any) -> Any:
    def restore() -> None:
        if own is None:
            object.__delattr__(layer, "call")
        else:
            object.__setattr__(layer, "call", own)

    return restore


def _jax(model: Any) -> Model:
    from gradcam.backends.jax import JaxModel

    variables = model.trainable_variables, model.non_trainable_variables
    values = tuple([variable.value for variable in group] for group in variables)
    return JaxModel(_Run(weakref.ref(model)), values, _channels_first(model))


# ---------------------------------------------------------------------------------------------- on torch


def _torch(model: Any) -> Model:
    from gradcam.backends.torch import TorchModel

    class KerasTorch(TorchModel):
        """`TorchModel` whose layers have Keras's names, and whose mode is an argument of the call."""

        channels_first = _channels_first(model)

        def _named(self) -> Iterator[tuple[str, Any]]:
            return _named(self.module)

        def _submodule(self, path: str) -> Any:
            found = dict(_named(self.module))
            if path not in found:
                raise unknown_layer(path, found)
            return found[path]

        def _trains(self) -> bool:
            return False

        def _forward(self, inputs: Inputs) -> Outputs:
            args, kwargs = arguments(inputs)
            return self.module(*args, **{**_inference(self.module), **kwargs})

        @contextlib.contextmanager
        def float64(self, inputs: Inputs) -> Iterator[tuple[Any, Inputs]]:
            """The model itself: a Keras layer's precision is its policy's."""
            yield self, inputs

    return KerasTorch(model)
