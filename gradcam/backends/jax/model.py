"""JAX: the two verbs for any `run(tap, values, inputs)`, each part of one compiled program."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from gradcam import targets
from gradcam._arrays import SPREAD
from gradcam._types import Array, Inputs, Outputs
from gradcam.backends.jax.program import Run, Tap, bind, called, held, traced
from gradcam.inputs import arguments, first_array, with_first_array
from gradcam.model import INPUT, Capture, Layer, PooledAxes, Scorer

__all__ = ["Biases", "Function", "JaxModel", "SplitRun"]


# ---------------------------------------------------------------------------------------------- the two verbs


@dataclass(frozen=True, eq=False)
class JaxModel:
    """`model.Model` for anything that an adapter can run (the laws are in `gradcam.model`)."""

    run: Run
    values: Any
    channels_first: bool = False
    spread: bool = False
    """The inputs lie on several devices: what `vmap` would have to gather runs one after the other."""

    def layers(self, inputs: Inputs) -> list[Layer]:
        """Abstract: no array is computed."""
        return [layer for layer in self._all(inputs) if layer.kind != "attention"]

    def attentions(self, inputs: Inputs) -> list[Layer]:
        """The attention weights (N, heads, T, T) that can be had, in the order in which they run."""
        return [layer for layer in self._all(inputs) if layer.kind == "attention"]

    def _all(self, inputs: Inputs) -> list[Layer]:
        table = traced(self.run, self.values, held(inputs)).table
        return [Layer(path, found.shape, found.kind) for path, found in table.items()]

    def capture(
        self,
        inputs: Inputs,
        layers: Sequence[str],
        target: Callable[[Outputs], Array] | None,
        pooled: PooledAxes | None = None,
        at: Sequence[Array] | None = None,
        curvature: bool = False,
    ) -> Capture:
        inputs, values = held(inputs), self.values
        trace = traced(self.run, values, inputs)
        given = dict(zip(layers, at, strict=True)) if at is not None else {}
        inner = [path for path in layers if path != INPUT]
        for path in inner:
            trace.check(path)

        def run(lifts: dict[str, Array]) -> tuple[Outputs, dict[str, Array]]:
            found = {}

            def lift(path: str, value: Array) -> Array:
                found[path] = value = given.get(path, value)
                return value + lifts[path] if lifts else value

            fed = (
                with_first_array(inputs, lift(INPUT, first_array(inputs)))
                if INPUT in layers
                else inputs
            )
            return trace((values, fed), inner, lift), found

        if target is None:
            outputs, found = run({})
            return Capture(outputs, None, tuple(found[path] for path in layers), ())
        score = target

        def scored(lifts: dict[str, Array]) -> tuple[Array, tuple[Outputs, dict[str, Array]]]:
            outputs, found = run(lifts)
            return _checked(score(outputs), found[layers[0]]), (outputs, found)

        # the gradient with respect to a zero that is added there: nothing below it is differentiated
        # and like what it is added to, in how it lies on devices too
        lifts = jax.tree.map(jnp.zeros_like, jax.eval_shape(lambda: run({})[1]))
        scores, pullback, (outputs, found) = jax.vjp(scored, lifts, has_aux=True)
        gradients = _pulled(scores, pullback, self.spread)
        curvatures = []
        for path in layers if curvature else ():

            def slopes(lift: Array, path: str = path) -> Array:
                scores, pullback, _ = jax.vjp(scored, {**lifts, path: lift}, has_aux=True)
                return _pulled(scores, pullback, self.spread)[path]

            curvatures.append(jax.jvp(slopes, (lifts[path],), (found[path],))[1])
        return Capture(
            outputs,
            scores,
            tuple(found[path] for path in layers),
            tuple(gradients[path] for path in layers),
            tuple(curvatures),
        )

    def replay(
        self, inputs: Inputs, layers: Sequence[str], activations: Sequence[Array]
    ) -> Outputs:
        given = dict(zip(layers, activations, strict=True))
        if INPUT in given:
            inputs = with_first_array(inputs, given.pop(INPUT))
        if not given:
            return called(self.run, lambda path, value, *_: value, self.values, inputs)
        values, inputs = self.values, held(inputs)
        return traced(self.run, values, inputs)(
            (values, inputs), tuple(given), lambda path, _: given[path]
        )

    def biases(self, inputs: Inputs) -> list[tuple[str, Array]]:
        """What each layer adds that does not depend on its input, in the order in which they run."""
        try:
            found = _biases(self.run, self.values, held(inputs))
        except jax.errors.UnexpectedTracerError as error:
            raise ValueError(
                "the biases of layers inside jit, remat, vmap or scan cannot be had; call the layers outside of them"
            ) from error
        if not found:
            raise ValueError(
                "no biases were found: the layers of Flax, Equinox, Haiku and Keras modules are known, no others"
            )
        return found

    def scorer(self, inputs: Inputs, layer: str, target: Callable[[Outputs], Array]) -> Scorer:
        """What does not depend on the layer is computed once; only the rest runs for the variants."""
        indices, rest = targets.split(target)
        values, inputs = self.values, held(inputs)
        structure = _Structure(layer, self.run, self.channels_first, rest, _spread(inputs))
        ((axes, residuals),) = _residuals(structure, values, inputs).items()

        def score(variants: Array, structure: _Structure = structure) -> Array:
            return _variants(structure, values, inputs, indices, residuals, variants)

        if not axes:
            return Scorer(score)
        return Scorer(
            score, None, axes, functools.partial(score, structure=replace(structure, averaged=True))
        )

    def input_gradients(
        self, inputs: Inputs, target: Callable[[Outputs], Array], rule: str, smooth: str
    ) -> Capture:
        from gradcam.backends.jax import guided

        return guided.input_gradients(self, inputs, target, rule, smooth)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """One program for models of equal structure: weights, inputs and class indices are its arguments."""

        def run(inputs: Inputs, target: Any, *arrays: Any) -> Any:
            indices, rest = targets.split(target)
            inputs = held(inputs)
            structure = _Structure(function, self.run, self.channels_first, rest, _spread(inputs))
            return _run(structure, self.values, inputs, indices, arrays)

        return run

    @contextlib.contextmanager
    def float64(self, inputs: Inputs) -> Iterator[tuple[JaxModel, Inputs]]:
        """Weights and inputs in double precision, with it switched on in this thread for as long."""

        def wide(leaf: Any) -> Any:
            floating = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating)
            return leaf.astype(jnp.float64) if floating else leaf

        with jax.enable_x64(True):
            yield replace(self, values=jax.tree.map(wide, self.values)), jax.tree.map(wide, inputs)


class Biases:
    """A tap that leaves values as they are, to which an adapter adds the outputs at zero of layers that are affine."""

    def __init__(self) -> None:
        self.found: list[tuple[str, Array]] = []

    def __call__(self, path: str, value: Any, kind: str = "", is_leaf: Any = None) -> Any:
        return value

    def add(self, path: str, value: Array) -> None:
        calls = sum(known.split("#")[0] == path for known, _ in self.found)
        self.found.append((f"{path}#{calls}" if calls else path, value))


def _biases(run: Run, values: Any, inputs: Inputs) -> list[tuple[str, Array]]:
    paths: list[str] = []

    @jax.jit
    def found(values: Any, inputs: Inputs) -> list[Array]:
        tap = Biases()
        called(run, tap, values, inputs)
        paths.extend(path for path, _ in tap.found)
        return [value for _, value in tap.found]

    arrays = found(values, inputs)
    return list(zip(paths, arrays, strict=True))


@dataclass(frozen=True)
class _Structure:
    """All that a compiled program depends on but for arrays; `what` is the function, or the layer, that it runs."""

    what: Any
    run: Run
    channels_first: bool
    target: Any
    spread: bool = False
    averaged: bool = False
    """Variants are of the layer's mean over the axes of `_Halves.summed`."""


def _spread(inputs: Inputs) -> bool:
    """Whether the inputs lie on several devices."""
    array = first_array(inputs)
    return (
        not isinstance(array, jax.core.Tracer)
        and isinstance(array, jax.Array)
        and len(array.sharding.device_set) > 1
    )


@functools.partial(jax.jit, static_argnums=0)
def _run(
    structure: _Structure,
    values: Any,
    inputs: Inputs,
    indices: Sequence[Array],
    arrays: Sequence[Any],
) -> Any:
    model = JaxModel(structure.run, values, structure.channels_first, structure.spread)
    before = SPREAD.set(structure.spread)
    try:
        return structure.what(model, inputs, targets.join(indices, structure.target), *arrays)
    finally:
        SPREAD.reset(before)


def _pulled(scores: Array, pullback: Callable[[Array], Any], spread: bool = False) -> Any:
    """The gradients of scores (N,) as they lie, (N, ...), and of scores (N, K) as (N, K, ...)."""
    if scores.ndim == 1:
        return pullback(jnp.ones_like(scores))[0]
    each = jnp.eye(scores.shape[1], dtype=scores.dtype)[:, None] * jnp.ones_like(scores)
    if spread:
        return jax.tree.map(
            lambda gradient: jnp.moveaxis(gradient, 0, 1), jax.lax.map(pullback, each)[0]
        )
    return jax.vmap(pullback, out_axes=1)(each)[0]


class _Halves(NamedTuple):
    """A flat program cut in two: what does not depend on a layer's output, and what does."""

    jaxpr: jex.Jaxpr
    consts: Sequence[Any]
    dependent: set[Any]
    crossing: list[Any]
    treedef: Any

    @property
    def summed(self) -> tuple[jex.Var | None, tuple[int, ...]]:
        """The sum of the layer's output, and its axes, if that is all that the head takes of it."""
        layer = self.jaxpr.invars[0]
        users = [eqn for eqn in self.jaxpr.eqns if any(var is layer for var in eqn.invars)]
        if (
            len(users) != 1
            or users[0].primitive.name != "reduce_sum"
            or layer in self.jaxpr.outvars
        ):
            return None, ()
        axes = tuple(sorted(users[0].params["axes"]))
        return (None, ()) if 0 in axes else (users[0].outvars[0], axes)


def _cut(structure: _Structure, values: Any, inputs: Inputs) -> _Halves:
    trace, layer = traced(structure.run, values, inputs), structure.what
    trace.check(layer)
    found = trace.table[layer]

    def replaced(value: Array, args: Any) -> Any:
        return trace(args, (layer,), lambda path, _: value)

    like = jax.ShapeDtypeStruct(found.shape, found.dtype)
    closed, shape = jax.make_jaxpr(replaced, return_shape=True)(like, (values, inputs))
    jaxpr = closed.jaxpr
    dependent, made = {jaxpr.invars[0]}, set()
    crossing = []
    for eqn in jaxpr.eqns:
        variables = [var for var in eqn.invars if not isinstance(var, jex.Literal)]
        if dependent.intersection(variables):
            dependent.update(eqn.outvars)
            crossing += [var for var in variables if var in made and var not in crossing]
        else:
            made.update(eqn.outvars)
    outputs = [var for var in jaxpr.outvars if not isinstance(var, jex.Literal)]
    crossing += [var for var in outputs if var in made and var not in crossing]
    return _Halves(jaxpr, closed.consts, dependent, crossing, jax.tree.structure(shape))


def _evaluate_half(halves: _Halves, env: dict[Any, Any], dependent: bool) -> Callable[[Any], Any]:
    def read(var: Any) -> Any:
        return var.val if isinstance(var, jex.Literal) else env[var]

    for eqn in halves.jaxpr.eqns:
        if halves.dependent.isdisjoint(eqn.outvars) != dependent and not env.keys() >= set(
            eqn.outvars
        ):
            env.update(zip(eqn.outvars, bind(eqn, [read(var) for var in eqn.invars]), strict=True))
    return read


@functools.partial(jax.jit, static_argnums=0)
def _residuals(
    structure: _Structure, values: Any, inputs: Inputs
) -> dict[tuple[int, ...], list[Array]]:
    """What the head needs of the rest of the network. The key is static: the axes that it takes a mean over."""
    if structure.what == INPUT:
        return {(): []}
    halves = _cut(structure, values, inputs)
    leaves = jax.tree.leaves((values, inputs))
    env = dict(
        zip(
            (*halves.jaxpr.constvars, *halves.jaxpr.invars[1:]),
            (*halves.consts, *leaves),
            strict=True,
        )
    )
    read = _evaluate_half(halves, env, dependent=False)
    return {halves.summed[1]: [read(var) for var in halves.crossing]}


@functools.partial(jax.jit, static_argnums=0)
def _variants(
    structure: _Structure,
    values: Any,
    inputs: Inputs,
    indices: Sequence[Array],
    residuals: Sequence[Array],
    variants: Array,
) -> Array:
    """Scores (M, N) or (M, N, K) of variants (M, N, ...) of the layer's output, or of the input."""
    target = targets.join(indices, structure.target)

    def each(function: Callable[[Array], Array], variants: Array) -> Array:
        return jax.lax.map(function, variants) if structure.spread else jax.vmap(function)(variants)

    if structure.what == INPUT:
        run = functools.partial(called, structure.run, lambda path, value, *_: value, values)
        return each(lambda one: target(run(with_first_array(inputs, one))), variants)
    halves = _cut(structure, values, inputs)
    leaves = jax.tree.leaves((values, inputs))
    known = dict(
        zip(
            (*halves.jaxpr.constvars, *halves.jaxpr.invars[1:]),
            (*halves.consts, *leaves),
            strict=True,
        )
    )
    known.update(zip(halves.crossing, residuals, strict=True))
    place, axes = halves.summed if structure.averaged else (halves.jaxpr.invars[0], ())
    positions = math.prod(halves.jaxpr.invars[0].aval.shape[axis] for axis in axes)

    def scored(one: Array) -> Array:
        one = jnp.squeeze(one, axes) * positions if structure.averaged else one
        read = _evaluate_half(halves, {**known, place: one}, dependent=True)
        return target(
            jax.tree.unflatten(halves.treedef, [read(var) for var in halves.jaxpr.outvars])
        )

    return each(scored, variants)


def _checked(scores: Any, activations: Array) -> Array:
    samples = activations.shape[0]
    if not isinstance(scores, jax.Array) or scores.ndim not in (1, 2) or scores.shape[0] != samples:
        shape = tuple(scores.shape) if isinstance(scores, jax.Array) else type(scores).__name__
        raise ValueError(
            f"`target` must return scores of shape (N,) or (N, K) for N = {samples} samples, but returned {shape}"
        )
    return scores


# ---------------------------------------------------------------------------------------------- plain functions


@dataclass(frozen=True)
class Function:
    """A plain function, whose layers are the values it names by `jax.ad_checkpoint.checkpoint_name`.

    Where it names none: the values of four or more dimensions through which everything from the input flows.
    """

    function: Callable[..., Outputs]
    nameless = True

    def __call__(self, tap: Tap, values: Any, inputs: Inputs) -> Outputs:
        args, kwargs = arguments(inputs)
        bound_args, bound_kwargs = values
        return self.function(*bound_args, *args, **bound_kwargs, **kwargs)

    @staticmethod
    def adapt(function: Callable[..., Outputs], channels_first: bool = False) -> JaxModel:
        """What a `functools.partial` holds are weights, and so arguments of the compiled program."""
        if isinstance(function, functools.partial):
            return JaxModel(
                Function(function.func), held((function.args, function.keywords)), channels_first
            )
        return JaxModel(Function(function), ((), {}), channels_first)


@dataclass(frozen=True)
class SplitRun:
    """`gradcam.Split` of two JAX functions."""

    features: Callable[..., Array]
    head: Callable[[Array], Outputs]
    layer: str

    def __call__(self, tap: Tap, values: Any, inputs: Inputs) -> Outputs:
        args, kwargs = arguments(inputs)
        return self.head(tap(self.layer, self.features(*args, **kwargs), "function"))
