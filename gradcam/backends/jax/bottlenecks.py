"""Values of a program through which everything that the outputs know of the input flows.

Where a function names no layers, such values are its layers. Among named layers, one of them is
explained. In

    c:f32[2,8,8,4] = conv x w
    d:f32[2,8,8,4] = tanh c
    e:f32[2,8,8,4] = mul d 2.0
    f:f32[2,8,8,4] = add d e                        # a residual connection
    g:f32[2,4] = reduce_sum[axes=(1, 2)] f

they are c, d, f and g. At e, d is still needed, so a part of the input's information goes past e.

The equations are read in order, with the set of *live* values: those that depend on the input and
that a later equation, or the output, still needs. After an equation whose only result is the only
live value, everything flows through it.

A call (`jit`, `remat`) is entered if nothing else is live there, so that its operands are all that
it depends on. `images` enters only calls that hold a convolution or a matrix product: `jax.nn.relu`
is a call too, and its inner values are no layers. A scan is entered likewise, in each of its steps,
where nothing but its carry depends on the input.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax.extend.core as jex
import jax.numpy as jnp

from gradcam.backends.jax.walk import (
    Address,
    Body,
    aval,
    body_of,
    call_of,
    computes,
    split_scan,
    variables,
)

__all__ = ["bottlenecks", "images"]


def images(jaxpr: jex.Jaxpr, inputs: Sequence[jex.Var]) -> Iterator[tuple[Address, jex.JaxprEqn]]:
    """The equations that may be layers: bottlenecks whose value has four or more axes."""
    for address, eqn in bottlenecks(jaxpr, inputs, jaxpr.outvars, computes, scans=False):
        if _is_image(eqn):
            yield address, eqn


def bottlenecks(
    jaxpr: jex.Jaxpr,
    inputs: Sequence[jex.Var],
    outputs: Sequence[Any],
    enters: Callable[[jex.Jaxpr], bool],
    scans: bool = True,
) -> Iterator[tuple[Address, jex.JaxprEqn]]:
    """The equations through whose one result everything flows from `inputs` to `outputs`, in order.

    enters: which calls are looked into. scans: whether scans are.
    """
    ending = _last_uses(jaxpr, outputs)
    used = set().union(*ending)
    live = used.intersection(inputs)
    dependent = set(live)
    for i, eqn in enumerate(jaxpr.eqns):
        live -= ending[i]
        if dependent.isdisjoint(variables(eqn.invars)):
            continue
        call = call_of(eqn)
        # with nothing else live, the call's arguments are all that its results depend on
        if call is not None and not live and enters(call.jaxpr):
            arguments = _dependent_arguments(call, eqn, dependent)
            results = _used_results(call, eqn, used)
            for address, inner in bottlenecks(call.jaxpr, arguments, results, enters, scans):
                yield ((i, 0), *address), inner
        if scans and eqn.primitive.name == "scan" and not live:
            for run, address, inner in _in_steps(eqn, dependent, used, enters):
                yield ((i, run), *address), inner
        dependent.update(eqn.outvars)
        live |= used.intersection(eqn.outvars)
        if len(eqn.outvars) == 1 and live == set(eqn.outvars):
            yield ((i, 0),), eqn


def _in_steps(
    eqn: jex.JaxprEqn,
    dependent: set[jex.Var],
    used: set[jex.Var],
    enters: Callable[[jex.Jaxpr], bool],
) -> Iterator[tuple[int, Address, jex.JaxprEqn]]:
    """The bottlenecks in each step of a scan: (step, address, equation).

    None where the input comes in beside the carry, or leaves beside it, stacked over the steps.
    """
    body = body_of(eqn)
    assert body is not None
    constants, started, columns = split_scan(eqn, eqn.invars)
    if not dependent.isdisjoint(variables([*constants, *columns])):
        return
    _, arguments, _ = split_scan(eqn, body.jaxpr.invars)
    results = body.jaxpr.outvars[: len(arguments)]
    carried = [not dependent.isdisjoint(variables([value])) for value in started]
    while True:
        inside = _dependents(body.jaxpr, itertools.compress(arguments, carried))
        returned = [not inside.isdisjoint(variables([value])) for value in results]
        again = list(map(operator.or_, carried, returned))
        if again == carried:
            break
        carried = again
    stacked = zip(eqn.outvars[len(results) :], body.jaxpr.outvars[len(results) :], strict=True)
    if any(outer in used and not inside.isdisjoint(variables([inner])) for outer, inner in stacked):
        return
    starts = list(itertools.compress(arguments, carried))
    ends = list(itertools.compress(results, carried))
    found = list(bottlenecks(body.jaxpr, starts, ends, enters))
    for run in range(body.runs):
        for address, inner_eqn in found:
            yield run, address, inner_eqn


def _dependents(jaxpr: jex.Jaxpr, starts: Iterable[jex.Var]) -> set[jex.Var]:
    """The variables that depend on any of these, themselves included."""
    dependents = set(starts)
    for eqn in jaxpr.eqns:
        if not dependents.isdisjoint(variables(eqn.invars)):
            dependents.update(eqn.outvars)
    return dependents


def _last_uses(jaxpr: jex.Jaxpr, outputs: Sequence[Any]) -> list[set[jex.Var]]:
    """For each equation the variables that it uses last; at the end those of the outputs.

    Equations of which no output needs anything use nothing.
    """
    needed = set(variables(outputs))
    ending: list[set[jex.Var]] = [set(needed)]
    for eqn in reversed(jaxpr.eqns):
        last: set[jex.Var] = set()
        if not needed.isdisjoint(eqn.outvars):
            last = set(variables(eqn.invars)) - needed
            needed |= last
        ending.append(last)
    ending.reverse()
    return ending


def _dependent_arguments(call: Body, eqn: jex.JaxprEqn, dependent: set[jex.Var]) -> list[jex.Var]:
    """The variables inside a call that stand for operands among `dependent`."""
    arguments = []
    for argument, operand in zip(call.jaxpr.invars, eqn.invars, strict=False):
        if not isinstance(operand, jex.Literal) and operand in dependent:
            arguments.append(argument)
    return arguments


def _used_results(call: Body, eqn: jex.JaxprEqn, used: set[jex.Var]) -> list[Any]:
    """The results inside a call that stand for those of its results that are used later."""
    results = []
    for inner, outer in zip(call.jaxpr.outvars, eqn.outvars, strict=True):
        if outer in used:
            results.append(inner)
    return results


def _is_image(eqn: jex.JaxprEqn) -> bool:
    """Whether its result is of floating point and has four or more axes."""
    result = aval(eqn.outvars[0])
    return len(result.shape) >= 4 and jnp.issubdtype(result.dtype, jnp.floating)
