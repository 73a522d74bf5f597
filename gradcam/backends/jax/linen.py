"""flax.linen: a bound module, or a module and its variables, tapped by linen's own interceptors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gradcam._types import Inputs, Outputs
from gradcam.backends.jax.biases import Biases
from gradcam.backends.jax.model import JaxModel
from gradcam.backends.jax.program import Tap
from gradcam.backends.jax.weights import NamedWeights, tree_weights
from gradcam.inputs import arguments

__all__ = ["adapt"]

AFFINE = (nn.Conv, nn.ConvLocal, nn.ConvTranspose, nn.Dense, nn.DenseGeneral, nn.BatchNorm)
"""Layers whose output at zero is their bias."""


@dataclass(frozen=True)
class Linen:
    """Runs `module.apply`; equal for equal modules, so that they share a compiled program."""

    module: nn.Module

    def __hash__(self) -> int:  # a module with a list among its fields has no hash of its own
        return hash(type(self.module))

    def __call__(self, tap: Tap, values: Any, inputs: Inputs) -> Outputs:
        def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            output = call(*args, **kwargs)
            module, method = context.module, context.method_name
            path = "/".join(module.path)
            if method == "setup" or not path:
                return output
            if isinstance(tap, Biases) and isinstance(module, AFFINE):
                alone = module.clone(parent=None, name=None)
                zeros = jnp.zeros_like(args[0])
                tap.add(path, alone.apply(module.variables, zeros, *args[1:], **kwargs))
            name = path if method == "__call__" else f"{path}.{method}"
            return tap(name, output, type(module).__name__)

        args, kwargs = arguments(inputs)
        with nn.intercept_methods(intercept):
            return self.module.apply(values, *args, **kwargs)


def adapt(module: nn.Module, variables: Any = None) -> JaxModel:
    """A bound module, or the pair of a module and its variables."""
    if variables is not None:
        pair = module, variables
        return JaxModel(Linen(module), variables, named_weights=lambda: tree_weights(pair))
    if module.scope is None:
        raise ValueError(
            "a flax.linen module holds no weights; pass a bound one, module.bind(variables), or "
            "the pair (module, variables)"
        )
    module, variables = module.unbind()

    def weights() -> NamedWeights:
        arrays, rebuild = tree_weights((module, variables))
        return NamedWeights(arrays, lambda new: module.bind(rebuild(new)[1]))

    return JaxModel(Linen(module), variables, named_weights=weights)
