"""Haiku: a transformed function with its parameters, tapped by Haiku's own interceptors."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import haiku as hk
import jax.numpy as jnp

from gradcam._types import Inputs, Outputs
from gradcam.backends.jax.biases import Biases
from gradcam.backends.jax.model import JaxModel
from gradcam.backends.jax.program import Tap
from gradcam.backends.jax.weights import tree_weights
from gradcam.inputs import arguments

__all__ = ["adapt"]

AFFINE = (hk.ConvND, hk.ConvNDTranspose, hk.Linear, hk.BatchNorm)
"""Layers whose output at zero, in inference mode, is their bias."""


@dataclass(frozen=True)
class Haiku:
    """Runs `apply`; equal for the same function, so new parameters share a compiled program."""

    apply: Callable[..., Any]
    has_state: bool
    has_rng: bool

    def __call__(self, tap: Tap, values: Any, inputs: Inputs) -> Outputs:
        def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            output, module = call(*args, **kwargs), context.module
            if context.method_name != "__call__":
                return output
            if isinstance(tap, Biases) and isinstance(module, AFFINE):
                tap.add(module.module_name, call(jnp.zeros_like(args[0]), *args[1:], **kwargs))
            return tap(module.module_name, output, type(module).__name__)

        args, kwargs = arguments(inputs)
        if self.has_rng:
            args = (kwargs.pop("rng", None), *args)
        with hk.intercept_methods(intercept):
            output = self.apply(*values, *args, **kwargs)
        return output[0] if self.has_state else output


def adapt(transformed: Any, *values: Any) -> JaxModel:
    """(transformed, params), or (transformed, params, state) if it has state."""
    has_state = isinstance(transformed, hk.TransformedWithState)
    if len(values) != 1 + has_state:
        expected = "(transformed, params, state)" if has_state else "(transformed, params)"
        raise ValueError(f"a Haiku {type(transformed).__name__} holds no weights; pass {expected}")
    has_rng = "rng" in inspect.signature(transformed.apply).parameters
    run = Haiku(transformed.apply, has_state, has_rng)
    return JaxModel(run, values, named_weights=lambda: tree_weights((transformed, *values)))
