"""Equinox: modules of one sample, mapped over the batch, and tapped on a private copy while they are traced."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from gradcam._types import Inputs, Outputs
from gradcam.backends.jax.model import Biases, Function, JaxModel
from gradcam.backends.jax.program import Tap, held
from gradcam.backends.jax.tapped import active, current, tapped
from gradcam.inputs import arguments, first_array

__all__ = ["Equinox", "adapt", "path_of"]

AFFINE = (eqx.nn.Conv, eqx.nn.ConvTranspose, eqx.nn.Linear, eqx.nn.BatchNorm)
"""Layers whose output at zero, in inference mode, is their bias."""


def _is_module(value: Any) -> bool:
    return isinstance(value, eqx.Module) and not isinstance(value, eqx.nn.State)


def _is_state(value: Any) -> bool:
    return isinstance(value, eqx.nn.State)


def _children(module: eqx.Module) -> tuple[list[tuple[str, Any]], Any]:
    """What a module holds, by its name there: modules whole, everything else by its leaves."""
    found, treedef = jax.tree_util.tree_flatten_with_path(
        module, is_leaf=lambda v: _is_module(v) and v is not module
    )
    return [(jax.tree_util.keystr(keys), value) for keys, value in found], treedef


def _modules(module: eqx.Module, path: str = "") -> Iterator[tuple[str, eqx.Module]]:
    for name, value in _children(module)[0]:
        if _is_module(value):
            yield (path + name).lstrip("."), value
            yield from _modules(value, path + name)


def path_of(model: eqx.Module, layer: eqx.Module) -> str:
    """The path of a module that is in the model, such as "blocks[0].conv"."""
    for path, module in _modules(_unwrapped(model)):
        if module is layer:
            return path
    raise KeyError(
        f"`layer`, a {type(layer).__name__}, is not a module of this {type(model).__name__}; pass a path from "
        "gradcam.layers(model, inputs)"
    )


def _tappable(module: Any, path: str = "") -> Any:
    """A private copy whose modules are tapped, in inference mode."""
    children, treedef = _children(module)
    copy = treedef.unflatten(
        [_tappable(v, path + name) if _is_module(v) else v for name, v in children]
    )
    if path and callable(copy):
        object.__setattr__(copy, "__class__", _tapped(type(copy)))  # type: ignore[arg-type]  # a type is hashable
        object.__setattr__(copy, "_gradcam_path", path.lstrip("."))
    return copy


@functools.cache
def _tapped(layer: type) -> type:
    def output(self: Any, *args: Any, **kwargs: Any) -> Any:
        found, tap = layer.__call__(self, *args, **kwargs), current()  # type: ignore[operator]
        if isinstance(tap, Biases) and issubclass(layer, AFFINE):
            nothing = jnp.where(
                True, 0, args[0]
            )  # zeros that the user's own vmap batches like the input
            zero = layer.__call__(self, nothing, *args[1:], **kwargs)
            item, value = (
                ("[0]", zero[0]) if isinstance(zero, tuple) else ("", zero)
            )  # without the state
            tap.add(self._gradcam_path + item, value)
        return found if tap is None else tap(self._gradcam_path, found, layer.__name__, _is_state)

    path = eqx.field(
        static=True, default="", repr=False
    )  # so that the layer may be taken apart as a tree once more
    return tapped(layer, output, _gradcam_path=path, __annotations__={"_gradcam_path": str})


@dataclass(frozen=True)
class Equinox:
    """Maps the module over the samples; arrays of another length than the batch, and one key, are for all samples."""

    def __call__(self, tap: Tap, values: Any, inputs: Inputs) -> Outputs:
        model, state = values
        if state is None and _holds_state(model):
            raise ValueError(
                f"this {type(model).__name__} has state; pass the pair (module, state) that eqx.nn.make_with_state made"
            )
        model = _tappable(eqx.nn.inference_mode(model))
        samples = first_array(inputs).shape[0]

        def axis(value: Any) -> int | None:
            shape = getattr(value, "shape", ())
            is_old_key = (
                shape == (2,) and value.dtype == jnp.uint32
            )  # `jax.random.PRNGKey`, whatever the batch
            return 0 if len(shape) > 0 and shape[0] == samples and not is_old_key else None

        given = arguments(inputs)
        arrays, rest = eqx.partition(given, eqx.is_array)

        def one(arrays: Any) -> Any:
            args, kwargs = eqx.combine(arrays, rest)
            biases = Biases()  # one sample's, which leave the vmap as its outputs
            with active(biases if isinstance(tap, Biases) else tap):
                if state is None:
                    output = model(*args, **kwargs)
                else:
                    output = (
                        model(*args, state, **kwargs) if args else model(**kwargs, state=state)
                    )[0]
            paths[:] = [path for path, _ in biases.found]
            return output, [value for _, value in biases.found]

        paths: list[str] = []
        output, biases = jax.vmap(one, in_axes=(jax.tree.map(axis, given),), axis_name="batch")(
            arrays
        )
        if isinstance(tap, Biases):
            tap.found += zip(paths, biases, strict=True)
        return output


def _holds_state(model: eqx.Module) -> bool:
    def is_index(value: Any) -> bool:
        return isinstance(value, eqx.nn.StateIndex)

    return any(map(is_index, jax.tree.leaves(model, is_leaf=is_index)))


def _unwrapped(model: eqx.Module) -> eqx.Module:
    """The module inside `eqx.filter_jit` and `eqx.filter_vmap`."""
    while isinstance(inside := getattr(model, "__wrapped__", None), eqx.Module):
        model = inside
    return model


def adapt(model: eqx.Module, state: eqx.nn.State | None = None) -> JaxModel:
    """A module of one sample, or the pair (module, state) as `eqx.nn.make_with_state` makes it.

    What `eqx.filter_jit` makes of a function is a module too, but one of the whole batch, like the function.
    """
    model = _unwrapped(model)
    function = getattr(model, "__wrapped__", None)
    if state is None and function is not None:
        return Function.adapt(function)
    convolves = any(
        isinstance(layer, eqx.nn.Conv | eqx.nn.ConvTranspose) for _, layer in _modules(model)
    )
    return JaxModel(
        Equinox(), (held(model), state), channels_first=convolves
    )  # else vectors (T, C)
