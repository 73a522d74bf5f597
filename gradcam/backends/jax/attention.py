"""Attention weights in a jaxpr: they have no name, and are found by how they are computed.

JAX writes a softmax out, as `exp(x) / sum(exp(x))`. Self-attention is a softmax whose last two axes
are equal:

    e:f32[N,heads,T,T] = exp d
    f:f32[N,heads,T] = reduce_sum[axes=(3,)] e
    g:f32[N,heads,T,1] = broadcast_in_dim f
    h:f32[N,heads,T,T] = div e g                    # these are attention weights
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.extend.core as jex
import jax.numpy as jnp

from gradcam._types import Array, Shape
from gradcam.backends.jax.walk import aval, variables

__all__ = ["ATTENTION", "edited", "heads_shape", "is_attention"]

ATTENTION = "<attention>"
"""The path of attention weights (N, heads, T, T); those of the second layer are "<attention>#1"."""

_SHAPE_ONLY = {"broadcast_in_dim", "reshape", "transpose"}


def is_attention(jaxpr: jex.Jaxpr, eqn: jex.JaxprEqn) -> bool:
    """Whether the result (..., T, T) of an equation is the softmax of self-attention."""
    if eqn.primitive.name != "div":
        return False
    shape = aval(eqn.outvars[0]).shape
    if len(shape) < 4 or not shape[-1] == shape[-2] > 1:
        return False
    exponentials, sums = eqn.invars
    numerator = _maker(jaxpr, exponentials, "exp")
    denominator = _maker(jaxpr, sums, "reduce_sum")
    if numerator is None or denominator is None:
        return False
    return denominator.invars[0] is numerator.outvars[0]


def _maker(jaxpr: jex.Jaxpr, atom: Any, primitive: str) -> jex.JaxprEqn | None:
    """The equation that computed a value, apart from its shape, if it is of this primitive."""
    for eqn in reversed(jaxpr.eqns):
        if atom not in variables(eqn.outvars):
            continue
        if eqn.primitive.name not in _SHAPE_ONLY:
            return eqn if eqn.primitive.name == primitive else None
        atom = eqn.invars[0]
    return None


# ---------------------------------------------------------------------------------- groups of heads


def heads_shape(shape: Sequence[int]) -> Shape:
    """(N, heads, T, T) for weights (*groups, N, heads, T, T); groups and heads become one axis.

    Flax makes weights with such groups.
    """
    groups = len(shape) - 4
    heads = math.prod(shape[:groups]) * shape[groups + 1]
    return (int(shape[groups]), int(heads), int(shape[-2]), int(shape[-1]))


def edited(edit: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """From an edit of weights (N, heads, T, T) that of weights (*groups, N, heads, T, T)."""

    def edit_grouped(weights: Array) -> Array:
        groups = weights.ndim - 4
        first = tuple(range(groups))
        behind_samples = tuple(range(1, groups + 1))
        # (*groups, N, heads, T, T) -> (N, *groups, heads, T, T) -> (N, groups * heads, T, T)
        samples_first = jnp.moveaxis(weights, first, behind_samples)
        result = edit(jnp.reshape(samples_first, heads_shape(weights.shape)))
        return jnp.moveaxis(jnp.reshape(result, samples_first.shape), behind_samples, first)

    return edit_grouped
