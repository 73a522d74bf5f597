"""flax.linen: a bound module, or a module and its variables, tapped by linen's own interceptors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gradcam._types import Inputs, Outputs
from gradcam.backends.jax.model import Biases, JaxModel
from gradcam.backends.jax.program import Tap
from gradcam.inputs import arguments

__all__ = ["Linen", "adapt"]

AFFINE = (nn.Conv, nn.ConvLocal, nn.ConvTranspose, nn.Dense, nn.DenseGeneral, nn.BatchNorm)
"""Layers whose output at zero is their bias."""


@dataclass(frozen=True, eq=False)
class Linen:
    """Runs `module.apply`; equal for modules of equal structure, so they share a compiled program."""

    module: nn.Module

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Linen) and self.module == other.module

    def __hash__(self) -> int:
        return hash(
            type(self.module)
        )  # a module with a list among its fields has no hash of its own

    def __call__(self, tap: Tap, values: Any, inputs: Inputs) -> Outputs:
        def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            output = call(*args, **kwargs)
            path, kind = "/".join(context.module.path), type(context.module).__name__
            if context.method_name == "setup" or not path:
                return output
            if isinstance(tap, Biases) and isinstance(context.module, AFFINE):
                alone = context.module.clone(parent=None, name=None)
                tap.add(
                    path,
                    alone.apply(
                        context.module.variables, jnp.zeros_like(args[0]), *args[1:], **kwargs
                    ),
                )
            method = "" if context.method_name == "__call__" else f".{context.method_name}"
            return tap(path + method, output, kind)

        args, kwargs = arguments(inputs)
        with nn.intercept_methods(intercept):
            return self.module.apply(values, *args, **kwargs)


def adapt(module: nn.Module, variables: Any = None) -> JaxModel:
    if variables is None:
        if module.scope is None:
            raise ValueError(
                "a flax.linen module holds no weights; pass a bound one, module.bind(variables), or the pair "
                "(module, variables)"
            )
        module, variables = module.unbind()
    return JaxModel(Linen(module), variables)
