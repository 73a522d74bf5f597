"""Equinox: modules of one sample, mapped over the batch and tapped on a private copy."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax

from gradcam._types import Inputs, Outputs
from gradcam.backends.jax.function import Function
from gradcam.backends.jax.model import JaxModel
from gradcam.backends.jax.program import Tap
from gradcam.backends.jax.samples import per_sample
from gradcam.backends.jax.statics import hide_static
from gradcam.backends.jax.tapped import modules_of, path_among, tapped, tapped_copy
from gradcam.backends.jax.weights import tree_weights

__all__ = ["adapt", "path_of"]

AFFINE = (eqx.nn.Conv, eqx.nn.ConvTranspose, eqx.nn.Linear, eqx.nn.BatchNorm)
"""Layers whose output at zero, in inference mode, is their bias."""


@dataclass(frozen=True)
class Equinox:
    """Runs a private copy of the module in inference mode, on one sample at a time."""

    def __call__(self, tap: Tap, values: Any, inputs: Inputs) -> Outputs:
        module, state = values
        if state is None and _contains(module, eqx.nn.StateIndex):
            raise ValueError(
                f"this {type(module).__name__} has state; pass the pair (module, state) that "
                "eqx.nn.make_with_state made"
            )
        copy = tapped_copy(eqx.nn.inference_mode(module), _is_module, _tapped)

        def run(*args: Any, **kwargs: Any) -> Outputs:
            if state is None:
                return copy(*args, **kwargs)
            # the state follows the positional arguments; with keywords alone it is one of them
            if not args:
                return copy(**kwargs, state=state)[0]
            return copy(*args, state, **kwargs)[0]

        return per_sample(run, inputs, tap)


def adapt(model: eqx.Module, state: eqx.nn.State | None = None) -> JaxModel:
    """A module of one sample, or the pair (module, state) as `eqx.nn.make_with_state` makes it.

    `eqx.filter_jit` of a function is a module too, but one of the whole batch, like the function.
    """
    module = _unwrapped(model)
    function = getattr(module, "__wrapped__", None)
    if state is None and function is not None:
        return Function.adapt(function)
    user_model = model if state is None else (model, state)
    return JaxModel(
        Equinox(),
        (hide_static(module), state),
        channels_first=_contains(module, eqx.nn.Conv | eqx.nn.ConvTranspose),  # else (T, C)
        named_weights=lambda: tree_weights(user_model),
    )


def path_of(model: eqx.Module, layer: eqx.Module) -> str:
    """The path of a module that is in the model, such as "blocks[0].conv"."""
    return path_among(modules_of(_unwrapped(model), _is_module), model, layer)


def _is_module(value: Any) -> bool:
    return isinstance(value, eqx.Module) and not isinstance(value, eqx.nn.State)


def _contains(module: eqx.Module, kind: Any) -> bool:
    leaves = jax.tree.leaves(module, is_leaf=lambda value: isinstance(value, kind))
    return any(isinstance(leaf, kind) for leaf in leaves)


def _unwrapped(model: eqx.Module) -> eqx.Module:
    """The module inside `eqx.filter_jit` and `eqx.filter_vmap`."""
    while isinstance(inside := getattr(model, "__wrapped__", None), eqx.Module):
        model = inside
    return model


@functools.cache
def _tapped(layer: type) -> type:
    def is_state(value: Any) -> bool:
        return isinstance(value, eqx.nn.State)

    # a static field, so that the copy can be flattened as a tree once more
    path = eqx.field(static=True, default="", repr=False)
    annotations = {"_gradcam_path": str}
    return tapped(layer, AFFINE, is_state, _gradcam_path=path, __annotations__=annotations)
