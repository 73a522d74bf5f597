"""A JAX program in double precision, whatever dtypes the model asks for.

Converted weights alone are not enough: a Flax module of dtype=float32 converts them back, and some
then meet arrays that were not. So the program is traced as the user runs it, and each equation of
it is bound anew, with float64 in place of every floating-point dtype:

    c:f32[2] = convert_element_type[new_dtype=float32] b      c:f64[2] = ...[new_dtype=float64] b
    d:f32[2] = mul c 2.0:f32[]                                d:f64[2] = mul c 2.0:f64[]

Rules of derivatives that the user gave, by `custom_jvp` and `custom_vjp`, are dropped: the values
are the model's, its gradients need not be.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from gradcam._types import Inputs, Outputs
from gradcam.backends.jax.program import Run, Tap
from gradcam.backends.jax.walk import Body, aval, bind, block_of, call_of, interpret

__all__ = ["InDouble"]

_INLINED = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
_OPAQUE = {
    "bitcast_convert_type",
    "ffi_call",
    "custom_call",
    "io_callback",
    "pure_callback",
    "debug_callback",
}
"""Primitives that depend on the digits of their operands, or that are not JAX's own."""


@dataclass(frozen=True)
class InDouble:
    """Runs the same model in float64. Its weights and inputs may be of any floating-point dtype.

    To be called while `jax.enable_x64` is on.
    """

    run: Run

    @property
    def nameless(self) -> bool:
        return bool(getattr(self.run, "nameless", False))

    def __call__(self, tap: Tap, values: Any, inputs: Inputs) -> Outputs:
        given = values, inputs
        leaves, treedef = jax.tree.flatten(given)
        arrays = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "dtype")]

        def run(*some: Any) -> Outputs:
            filled = list(leaves)
            for i, array in zip(arrays, some, strict=True):
                filled[i] = array
            return self.run(tap, *jax.tree.unflatten(treedef, filled))

        shapes = [_single(leaves[i]) for i in arrays]
        with jax.enable_x64(False):  # as the user runs it: integers and new arrays have 32 bits
            closed, outputs = jax.make_jaxpr(run, return_shape=True)(*shapes)
        wide = [_wide(leaves[i]) for i in arrays]
        results = _evaluate(Body(closed.jaxpr, closed.consts), wide)
        return jax.tree.unflatten(jax.tree.structure(outputs), results)


def _is_floating(value: Any) -> bool:
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating)


def _single(array: Any) -> jax.ShapeDtypeStruct:
    """The array's shape and dtype, or float32 where it has been widened."""
    dtype = jnp.float32 if array.dtype == jnp.float64 else array.dtype
    return jax.ShapeDtypeStruct(array.shape, dtype)


def _wide(value: Any) -> Any:
    return jnp.asarray(value, jnp.float64) if _is_floating(value) else value


def _wide_literal(value: Any) -> Any:
    """Of an equation's operand, whose dtype is a number's own in Python."""
    return np.float64(value) if isinstance(value, float) or _is_floating(value) else value


def _evaluate(body: Body, args: Sequence[Any]) -> list[Any]:
    consts = map(_wide, body.consts)
    return interpret(block_of(body.jaxpr), (*consts, *args), _rule, _wide_literal)


def _rule(_: int, eqn: jex.JaxprEqn, operands: list[Any]) -> list[Any]:
    """The results of an equation, in float64."""
    name = eqn.primitive.name
    if name in _INLINED:
        body = call_of(eqn)
        assert body is not None
        return _evaluate(body, operands)
    if name in _OPAQUE:
        own = [
            jnp.asarray(value, aval(atom).dtype) if _is_floating(value) else value
            for atom, value in zip(eqn.invars, operands, strict=True)
        ]
        return list(map(_wide, bind(eqn, own)))
    if name == "reduce_precision":
        return operands
    params = {key: _wide_parameter(value) for key, value in eqn.params.items()}
    return bind(eqn.replace(params=params), operands)


def _wide_parameter(value: Any) -> Any:
    """A dtype or a jaxpr among the parameters of an equation, in float64."""
    if type(value) is tuple:
        return tuple(map(_wide_parameter, value))
    if isinstance(value, np.dtype) and jnp.issubdtype(value, jnp.floating):
        return np.dtype(np.float64)
    if isinstance(value, jex.ClosedJaxpr):
        return _wide_jaxpr(value.jaxpr, value.consts)
    if isinstance(value, jex.Jaxpr):
        return _wide_jaxpr(value, ()).jaxpr
    return value


def _wide_jaxpr(jaxpr: jex.Jaxpr, consts: Sequence[Any]) -> Any:
    run: Callable[..., Any] = functools.partial(_on_arguments, Body(jaxpr, consts))
    return jax.make_jaxpr(run)(*[_wide_shape(variable) for variable in jaxpr.invars])


def _on_arguments(body: Body, *args: Any) -> list[Any]:
    return _evaluate(body, args)


def _wide_shape(variable: Any) -> jax.ShapeDtypeStruct:
    shape = aval(variable)
    dtype = jnp.float64 if jnp.issubdtype(shape.dtype, jnp.floating) else shape.dtype
    return jax.ShapeDtypeStruct(shape.shape, dtype)
