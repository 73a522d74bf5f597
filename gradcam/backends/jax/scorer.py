"""Scores of many variants of a layer's activations; nothing below the layer runs again.

The program of the model, with the layer's output as an argument, is cut into two blocks of
equations:

    c = mul x w             below: does not depend on the layer's output `h`
    d = tanh c              below
    e = add h d             above: depends on `h`, and needs `d`
    f = reduce_sum e        above

`residuals` runs the block below once, and returns what crosses the cut, here [d]. `scores` runs the
block above for each variant of `h`. Methods that replace channels by their mean can do it on an
array many times smaller where the block above takes nothing but a mean of `h` (`_Cut.pooled`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from gradcam import targets
from gradcam._types import Array, Inputs, Outputs
from gradcam.backends.jax.compiled import Compiled
from gradcam.backends.jax.program import Run, run_untapped, traced
from gradcam.backends.jax.walk import Block, aval, bind, block_of, interpret, variables
from gradcam.inputs import with_first_array
from gradcam.model import INPUT, Scorer

__all__ = ["scores", "variant_scorer"]


@dataclass(frozen=True)
class _Head:
    """All but the arrays that the two compiled functions depend on."""

    layer: str
    run: Run
    target: Any
    sharded: bool


class _Scored(NamedTuple):
    """The same for `scores`.

    averaged: the variants are of the layer's mean, of size 1 over the axes of `_Cut.pooled`.
    """

    head: _Head
    averaged: bool


def variant_scorer(
    run: Run,
    values: Any,
    inputs: Inputs,
    layer: str,
    target: Callable[[Outputs], Array],
    sharded: bool,
) -> Scorer:
    """See `model.HasScorer`."""
    # class indices are arguments of the compiled functions: another class compiles nothing
    indices, rest = targets.split(target)
    head = _Head(layer, run, rest, sharded)
    ((axes, crossing),) = residuals(head, values, inputs).items()

    def score(variants: Array, averaged: bool = False) -> Array:
        return scores(_Scored(head, averaged), values, inputs, indices, crossing, variants)

    if not axes:
        return Scorer(score)
    return Scorer(score, axes, functools.partial(score, averaged=True))


# ------------------------------------------------------------------------------------------ the cut


class _Pooled(NamedTuple):
    """The one use of a layer's output, if that is a sum over axes other than the samples."""

    sum: jex.Var
    axes: tuple[int, ...]


class _Cut(NamedTuple):
    """A program in two blocks: what does not depend on a layer's output, and what does."""

    layer: jex.Var
    below: Block
    """From constants, weights and inputs to `crossing`."""
    above: Block
    """From the layer's output, `crossing`, constants, weights and inputs to the outputs."""
    constants: Sequence[Any]
    treedef: Any

    @property
    def pooled(self) -> _Pooled | None:
        users = [eqn for eqn in self.above.equations if self.layer in variables(eqn.invars)]
        if len(users) != 1 or self.layer in variables(self.above.outputs):
            return None
        (user,) = users
        # a sum over the samples, axis 0, would mix them
        if user.primitive.name != "reduce_sum" or 0 in user.params["axes"]:
            return None
        return _Pooled(user.outvars[0], tuple(sorted(user.params["axes"])))

    @property
    def above_pooled(self) -> Block:
        """The block above as a function of the layer's sum."""
        assert self.pooled is not None
        total = self.pooled.sum
        equations = [eqn for eqn in self.above.equations if total not in eqn.outvars]
        return Block((total, *self.above.inputs[1:]), equations, self.above.outputs)


def _cut(head: _Head, values: Any, inputs: Inputs) -> _Cut:
    # both compiled functions cut anew: a jaxpr can be neither argument nor result of one
    trace = traced(head.run, values, inputs)
    site = trace.site(head.layer)

    def with_output(output: Array, args: Any) -> Outputs:
        return trace(args, (head.layer,), lambda path, _: output)

    output = jax.ShapeDtypeStruct(site.shape, site.dtype)
    closed, shapes = jax.make_jaxpr(with_output, return_shape=True)(output, (values, inputs))
    layer, *arguments = closed.jaxpr.invars
    shared = (*closed.jaxpr.constvars, *arguments)
    lower, upper = _divided(block_of(closed.jaxpr), layer)
    crossing = _crossing(lower, upper, closed.jaxpr.outvars)
    return _Cut(
        layer,
        Block(shared, lower, crossing),
        Block((layer, *crossing, *shared), upper, closed.jaxpr.outvars),
        closed.consts,
        jax.tree.structure(shapes),
    )


def _divided(block: Block, layer: jex.Var) -> tuple[list[jex.JaxprEqn], list[jex.JaxprEqn]]:
    """The equations that do not depend on a variable, and those that do."""
    independent: list[jex.JaxprEqn] = []
    dependent: list[jex.JaxprEqn] = []
    depending = {layer}
    for eqn in block.equations:
        if depending.isdisjoint(variables(eqn.invars)):
            independent.append(eqn)
        else:
            dependent.append(eqn)
            depending.update(eqn.outvars)
    return independent, dependent


def _crossing(
    lower: Sequence[jex.JaxprEqn], upper: Sequence[jex.JaxprEqn], outputs: Sequence[Any]
) -> list[jex.Var]:
    """The results of the lower equations that the upper ones, or the outputs, need."""
    results: set[jex.Var] = set()
    for eqn in lower:
        results.update(eqn.outvars)
    needed: list[jex.Var] = []
    for eqn in upper:
        needed += variables(eqn.invars)
    needed += variables(outputs)
    # a dictionary keeps each once, and their order
    return list(dict.fromkeys(filter(results.__contains__, needed)))


def _bound(i: int, eqn: jex.JaxprEqn, operands: Sequence[Any]) -> Sequence[Any]:
    return bind(eqn, operands)


# --------------------------------------------------------------------------- two compiled functions


@Compiled
def residuals(head: _Head, values: Any, inputs: Inputs) -> dict[tuple[int, ...], list[Array]]:
    """What the block above the layer needs of the block below, computed once.

    The one key of the dictionary is static: the axes over which the block above sums the layer's
    output, () if it does anything else with it.
    """
    if head.layer == INPUT:
        return {(): []}
    cut = _cut(head, values, inputs)
    operands = (*cut.constants, *jax.tree.leaves((values, inputs)))
    # equations of which nothing crosses are traced too, and dropped by the compiler
    crossing = interpret(cut.below, operands, _bound)
    if cut.pooled is None:
        return {(): crossing}
    return {cut.pooled.axes: crossing}


@Compiled
def scores(
    of: _Scored,
    values: Any,
    inputs: Inputs,
    indices: Sequence[Array],
    crossing: Sequence[Array],
    variants: Array,
) -> Array:
    """Scores (M, N) or (M, N, K) of variants (M, N, ...) of the layer's output, or of the input."""
    head, averaged = of
    target = targets.join(indices, head.target)

    def score_input(variant: Array) -> Array:
        return target(run_untapped(head.run, values, with_first_array(inputs, variant)))

    if head.layer == INPUT:
        return _each(score_input, variants, head.sharded)
    cut = _cut(head, values, inputs)
    # in the order of the block's inputs after the layer's output
    operands = (*crossing, *cut.constants, *jax.tree.leaves((values, inputs)))

    def score(block: Block, output: Array) -> Array:
        return target(
            jax.tree.unflatten(cut.treedef, interpret(block, (output, *operands), _bound))
        )

    if not averaged:
        return _each(functools.partial(score, cut.above), variants, head.sharded)
    assert cut.pooled is not None
    axes = cut.pooled.axes
    positions = math.prod(aval(cut.layer).shape[axis] for axis in axes)

    def score_mean(mean: Array) -> Array:
        # the block takes the sum, which is the mean times the number of positions
        return score(cut.above_pooled, jnp.squeeze(mean, axes) * positions)

    return _each(score_mean, variants, head.sharded)


def _each(function: Callable[[Array], Array], variants: Array, sharded: bool) -> Array:
    """The function of each variant: at once, or in a loop for a sharded batch."""
    if sharded:
        return jax.lax.map(function, variants)
    return jax.vmap(function)(variants)
