"""Layers of a function that names none: values through which all information of the input flows.

Replacing such a value replaces all that the outputs know of the input, as with the output of a
layer. In

    c:f32[2,8,8,4] = conv x w
    d:f32[2,8,8,4] = tanh c
    e:f32[2,8,8,4] = mul d 2.0
    f:f32[2,8,8,4] = add d e                        # a residual connection
    g:f32[2,4] = reduce_sum[axes=(1, 2)] f

they are c, d and f. At e, d is still needed, so a part of the input's information goes past e; and
g is no image.

The equations are read in order, with the set of *live* values: those that depend on the input and
that a later equation, or the output, still needs. After an equation whose only result is the only
live value, everything flows through it.

A call (`jit`, `remat`) is entered if nothing else is live there, so that its operands are all that
it depends on, and if it holds a convolution or a matrix product. `jax.nn.relu` is a call too, and
its inner values are no layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import jax.extend.core as jex
import jax.numpy as jnp

from gradcam.backends.jax.walk import Address, Body, call_of, computes, variables

__all__ = ["bottlenecks"]


def bottlenecks(
    jaxpr: jex.Jaxpr, inputs: Sequence[jex.Var]
) -> Iterator[tuple[Address, jex.JaxprEqn]]:
    """The equations whose value has four or more axes and through which `inputs` flow, in order."""
    ending = _last_uses(jaxpr)
    used = set().union(*ending)
    live = used.intersection(inputs)
    dependent = set(live)
    for i, eqn in enumerate(jaxpr.eqns):
        live -= ending[i]
        if dependent.isdisjoint(variables(eqn.invars)):
            continue
        call = call_of(eqn)
        # with nothing else live, the call's arguments are all that its results depend on
        if call is not None and not live and computes(call.jaxpr):
            arguments = _dependent_arguments(call, eqn, dependent)
            for address, inner in bottlenecks(call.jaxpr, arguments):
                yield ((i, 0), *address), inner
        dependent.update(eqn.outvars)
        live |= used.intersection(eqn.outvars)
        if live == set(eqn.outvars) and _is_image(eqn):
            yield ((i, 0),), eqn


def _last_uses(jaxpr: jex.Jaxpr) -> list[set[jex.Var]]:
    """For each equation the variables that it uses last; at the end those of the outputs."""
    users = [variables(eqn.invars) for eqn in jaxpr.eqns]
    users.append(variables(jaxpr.outvars))
    last_use: dict[jex.Var, int] = {}
    for i, used in enumerate(users):
        last_use.update(dict.fromkeys(used, i))
    ending: list[set[jex.Var]] = [set() for _ in users]
    for var, i in last_use.items():
        ending[i].add(var)
    return ending


def _dependent_arguments(call: Body, eqn: jex.JaxprEqn, dependent: set[jex.Var]) -> list[jex.Var]:
    """The variables inside a call that stand for operands among `dependent`."""
    arguments = []
    for argument, operand in zip(call.jaxpr.invars, eqn.invars, strict=False):
        if not isinstance(operand, jex.Literal) and operand in dependent:
            arguments.append(argument)
    return arguments


def _is_image(eqn: jex.JaxprEqn) -> bool:
    """Whether it has one result, of floating point and with four or more axes."""
    if len(eqn.outvars) != 1:
        return False
    aval = eqn.outvars[0].aval
    return len(aval.shape) >= 4 and jnp.issubdtype(aval.dtype, jnp.floating)
