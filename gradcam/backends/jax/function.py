"""Plain functions of JAX arrays, and `gradcam.Split` of two of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gradcam._functions import keyed
from gradcam._types import Array, Inputs, Outputs
from gradcam.backends.jax.model import JaxModel
from gradcam.backends.jax.program import Tap
from gradcam.backends.jax.statics import hide_static
from gradcam.backends.jax.weights import tree_weights
from gradcam.inputs import arguments

__all__ = ["Function", "SplitRun"]


@dataclass(frozen=True)
class Function:
    """A plain function. Its layers are the values named by `jax.ad_checkpoint.checkpoint_name`.

    If there are none, they are the values of four or more axes through which everything from the
    input flows.
    """

    function: Callable[..., Outputs]
    nameless = True

    def __call__(self, tap: Tap, values: Any, inputs: Inputs) -> Outputs:
        args, kwargs = arguments(inputs)
        bound_args, bound_kwargs = values
        return self.function(*bound_args, *args, **bound_kwargs, **kwargs)

    @staticmethod
    def adapt(function: Callable[..., Outputs], channels_first: bool = False) -> JaxModel:
        """Values bound by `functools.partial` are weights: arguments of the compiled program."""
        weights = functools.partial(tree_weights, function)
        values: Any = ((), {})
        run = function
        if isinstance(function, functools.partial):
            run = function.func
            values = hide_static((function.args, function.keywords))
        return JaxModel(Function(keyed(run)), values, channels_first, named_weights=weights)


@dataclass(frozen=True)
class SplitRun:
    """The two functions of a `gradcam.Split`."""

    features: Callable[..., Array]
    head: Callable[[Array], Outputs]
    layer: str

    def __call__(self, tap: Tap, values: Any, inputs: Inputs) -> Outputs:
        args, kwargs = arguments(inputs)
        return self.head(tap(self.layer, self.features(*args, **kwargs), "function"))
