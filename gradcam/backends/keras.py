"""Keras 3 on its JAX and its torch backend: layers by their names, "block/conv", outputs in inference mode."""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import re
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras  # type: ignore[import-untyped]

from gradcam._types import Inputs, Outputs
from gradcam.inputs import arguments
from gradcam.model import Model, unknown_layer

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
        raise ValueError(
            "the Keras model has no weights yet; call it once, or model.build(shape), first"
        )
    if backend == "jax":
        return _jax(model)
    if backend == "torch":
        return _torch(model)
    raise TypeError(
        f'Keras runs on "{backend}" here; gradcam knows its backends "jax" and "torch" (KERAS_BACKEND)'
    )


def _channels_first(model: Any) -> bool:
    """What the first layer that says so says, else Keras's own setting."""
    said = (getattr(layer, "data_format", None) for _, layer in _named(model))
    return (
        next((found for found in said if found), keras.config.image_data_format())
        == "channels_first"
    )


def _arguments(model: Any, inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the model is called with, and `training=False` where its own call takes it; Keras tells the layers in it."""
    args, kwargs = arguments(inputs)
    if any(
        kind.__name__ == "Functional" for kind in type(model).__mro__
    ):  # all its inputs are one argument
        args, kwargs = ((kwargs or (args[0] if len(args) == 1 else list(args))),), {}
    mode = {"training": False} if "training" in inspect.signature(model.call).parameters else {}
    return args, {**mode, **kwargs}


def _affine(model: Any) -> dict[int, str]:
    """The layers whose output at zero is their bias, by identity; an error where one goes on to an activation."""
    found: dict[int, str] = {}
    for path, layer in _named(model):
        if isinstance(layer, AFFINE):
            activation = getattr(layer, "activation", None)
            if activation not in (None, keras.activations.linear):
                raise ValueError(
                    f'the bias of layer "{path}" cannot be had in front of its own activation '
                    f'"{getattr(activation, "__name__", activation)}"; make that a layer after it'
                )
            found.setdefault(id(layer), path)
    return found


_AFFINE = re.compile(
    r"(Depthwise|Separable)?Conv\dD(Transpose)?|Dense|EinsumDense|BatchNormalization"
)
AFFINE = tuple(kind for name, kind in vars(keras.layers).items() if _AFFINE.fullmatch(name))
"""Layers whose output at zero, in inference mode, is their bias, unless they have an activation."""


# ---------------------------------------------------------------------------------------------- on JAX

_PATCHING = threading.RLock()
_TRAINING = {"_compile_config", "_compiled_trainable_state", "_eval_epoch_iterator", "_jax_state"}
_TRAINING |= {"history", "optimizer", "stop_training"}
_NOT_STRUCTURE = (vars(keras.Model(name="gradcam")).keys() - {"_dtype_policy"}) | _TRAINING
"""Attributes that outputs do not depend on, Keras's own bookkeeping; one too few here is one compilation more."""


@dataclass(frozen=True, eq=False)
class _Run:
    """Runs `stateless_call` with every layer's `call` tapped on the instance, for as long as it is traced.

    Equal for one model, as long as no attribute of a layer, such as its activation, has been replaced.
    Other threads' calls of the model see the patch and pass through it; traces of one model wait for each other.
    """

    model: weakref.ref[Any]
    settings: str
    objects: tuple[Any, ...]

    @staticmethod
    def of(model: Any) -> _Run:
        """Weak references to what the layers hold, to be compared by identity; plain values by what they are."""
        settings: list[Any] = []
        objects = []
        with _PATCHING:  # no other thread's taps are seen
            attributes = [
                (path, dict(vars(layer))) for path, layer in (("", model), *_named(model))
            ]
        for path, one in attributes:
            settings.append(path)
            for name, value in one.items():
                if name in _NOT_STRUCTURE:
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
        from gradcam.backends.jax.model import Biases
        from gradcam.backends.jax.tapped import active

        model = self.model()
        assert model is not None
        args, kwargs = _arguments(model, inputs)
        with _PATCHING, contextlib.ExitStack() as stack:
            done: set[int] = set()
            affine = _affine(model) if isinstance(tap, Biases) else {}
            for path, layer in _named(model):
                if id(layer) not in done:
                    done.add(id(layer))
                    stack.callback(_restored(layer, vars(layer).get("call")))
                    object.__setattr__(layer, "call", _tapped(path, layer, id(layer) in affine))
            with active(tap):
                return model.stateless_call(*values, *args, **kwargs)[0]


def _tapped(path: str, layer: Any, is_affine: bool) -> Any:
    import jax.numpy as jnp

    from gradcam.backends.jax.model import Biases
    from gradcam.backends.jax.tapped import current

    call = layer.call

    @functools.wraps(call)
    def tapped(*args: Any, **kwargs: Any) -> Any:
        output, tap = call(*args, **kwargs), current()
        if isinstance(tap, Biases) and is_affine:
            tap.add(path, call(jnp.zeros_like(args[0]), *args[1:], **kwargs))
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
    from gradcam.backends.jax.model import JaxModel

    variables = model.trainable_variables, model.non_trainable_variables
    values = tuple([variable.value for variable in group] for group in variables)
    return JaxModel(_Run.of(model), values, _channels_first(model))


# ---------------------------------------------------------------------------------------------- on torch


def _torch(model: Any) -> Model:
    from gradcam.backends.torch.model import TorchModel
    from gradcam.backends.torch.states import Session, quiet

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
            args, kwargs = _arguments(self.module, inputs)
            return self.module(*args, **kwargs)

        def biases(self, inputs: Inputs) -> list[tuple[str, Any]]:
            found: list[tuple[str, Any]] = []
            affine = _affine(self.module)
            calls: dict[str, int] = {}
            with (
                quiet(),
                self._tapped((), lambda path, value: value),
                contextlib.ExitStack() as stack,
            ):
                session = Session.innermost()
                for path, layer in self._named():
                    if affine.get(id(layer)) != path:
                        continue

                    def add(layer: Any, args: Any, output: Any, path: str = path) -> None:
                        if Session.innermost() is session:
                            n = calls[path] = calls.get(path, -1) + 1
                            found.append(
                                (
                                    f"{path}#{n}" if n else path,
                                    layer.call(args[0].new_zeros(args[0].shape)),
                                )
                            )

                    stack.callback(layer.register_forward_hook(add).remove)
                self._forward(inputs)
            return found

        @contextlib.contextmanager
        def float64(self, inputs: Inputs) -> Iterator[tuple[Any, Inputs]]:
            """The model itself: a Keras layer's precision is its policy's."""
            yield self, inputs

    return KerasTorch(model)
