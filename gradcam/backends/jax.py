"""The JAX engine: any `run(tap, values, inputs)`, traced once into a jaxpr in which every layer's output has a name.

`tap` binds an identity primitive that carries the layer's path. Reading the jaxpr then finds the layers wherever they
are, inside an inner `jit`, `remat`, `vmap` or `scan` too, and an interpreter evaluates it with some of them replaced.
Nothing global is changed, and everything here can be traced, so a whole explanation is one compiled program.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir

from gradcam import targets
from gradcam._types import Array, Inputs, Outputs
from gradcam.model import Capture, Layer, PooledAxes, arguments, unknown_layer

__all__ = ["Function", "JaxModel", "Run", "SplitRun", "Tap"]

Tap = Callable[..., Any]
"""`tap(path, value, kind)`: the value itself, every floating-point array in it under its name."""


class Run(Protocol):
    """How an adapter runs the user's model: a hashable value, equal for models of equal structure."""

    def __call__(self, tap: Tap, values: Any, inputs: Inputs) -> Outputs:
        """The model's outputs, with every layer's output passed through `tap(path, value, kind)`."""


# ---------------------------------------------------------------------------------------------- the named identity

layer_p = jex.Primitive("gradcam_layer")
layer_p.def_impl(lambda x, **_: x)
layer_p.def_abstract_eval(lambda x, **_: x)
ad.primitive_jvps[layer_p] = lambda primals, tangents, **params: (layer_p.bind(primals[0], **params), tangents[0])
batching.primitive_batchers[layer_p] = lambda args, dims, **params: (
    layer_p.bind(jnp.moveaxis(args[0], dims[0], 0), **params),  # under vmap: the batch first, as in any layer
    0,
)
mlir.register_lowering(layer_p, lambda ctx, x, **_: [x])


def _tap(path: str, value: Any, kind: str = "", is_leaf: Callable[[Any], bool] | None = None) -> Any:
    leaves, treedef = jax.tree_util.tree_flatten_with_path(value, is_leaf=is_leaf)
    return treedef.unflatten(
        [
            layer_p.bind(leaf, path=path + jax.tree_util.keystr(keys), kind=kind)
            if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating)
            else leaf
            for keys, leaf in leaves
        ]
    )


# ---------------------------------------------------------------------------------------------- reading the jaxpr

Address = tuple[tuple[int, int], ...]
"""Which equation, and in which of its runs, at each level of nesting."""


class _Found(NamedTuple):
    address: Address
    aval: Any
    kind: str


class _Body(NamedTuple):
    jaxpr: jex.Jaxpr
    consts: Sequence[Any]
    runs: int


def _name(eqn: jex.JaxprEqn) -> tuple[str, str] | None:
    if eqn.primitive is layer_p:
        return eqn.params["path"], eqn.params["kind"]
    if eqn.primitive.name == "name":  # jax.ad_checkpoint.checkpoint_name
        return eqn.params["name"], "checkpoint_name"
    return None


_CALLS = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2", "custom_jvp_call",
          "custom_vjp_call", "custom_vjp_call_jaxpr"}  # fmt: skip


def _body(eqn: jex.JaxprEqn) -> _Body | None:
    """What a call-like equation or a scan runs, and how often."""
    if eqn.primitive.name not in _CALLS and eqn.primitive.name != "scan":
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if (inner := eqn.params.get(key)) is not None:
            runs = eqn.params.get("length", 1)
            return _Body(inner.jaxpr, inner.consts, runs) if hasattr(inner, "consts") else _Body(inner, (), runs)
    return None


def _walk(jaxpr: jex.Jaxpr, at: Address = ()) -> Iterator[tuple[str, _Found]]:
    for i, eqn in enumerate(jaxpr.eqns):
        if (named := _name(eqn)) is not None:
            yield named[0], _Found((*at, (i, 0)), eqn.outvars[0].aval, named[1])
        elif (body := _body(eqn)) is not None:
            inside = list(_walk(body.jaxpr))
            for run in range(body.runs if inside else 0):
                for path, found in inside:
                    yield path, found._replace(address=(*at, (i, run), *found.address))


def _table(jaxpr: jex.Jaxpr) -> dict[str, _Found]:
    """Every layer's output in the order in which they run; the second call of a layer is "path#1"."""
    calls: dict[str, int] = {}
    table = {}
    for path, found in _walk(jaxpr):
        n = calls[path] = calls.get(path, -1) + 1
        table[f"{path}#{n}" if n else path] = found
    return table


Edits = dict[Address, Callable[[Array], Array]]


def _evaluate(
    jaxpr: jex.Jaxpr, consts: Sequence[Any], args: Sequence[Any], edits: Edits, at: Address = ()
) -> list[Any]:
    """Evaluate with some layers' outputs edited; whatever holds none of them is bound as it is."""
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(var: Any) -> Any:
        return var.val if isinstance(var, jex.Literal) else env[var]

    inside = {address[len(at)][0] for address in edits if address[: len(at)] == at and len(address) > len(at)}
    for i, eqn in enumerate(jaxpr.eqns):
        values = [read(var) for var in eqn.invars]
        here = (*at, (i, 0))
        if i not in inside:
            results = _bind(eqn, values)
        elif here in edits:
            results = [edits[here](values[0])]
        elif eqn.primitive.name == "scan":
            results = _unroll(eqn, values, edits, at, i)
        else:
            body = _body(eqn)
            assert body is not None
            results = _evaluate(body.jaxpr, body.consts, values, edits, here)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _bind(eqn: jex.JaxprEqn, values: Sequence[Any]) -> list[Any]:
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)  # a tuple before JAX 0.10
    with getattr(eqn.ctx, "manager", contextlib.nullcontext()):
        results = eqn.primitive.bind(*functions, *values, **params)
    return results if eqn.primitive.multiple_results else [results]


def _unroll(eqn: jex.JaxprEqn, values: Sequence[Any], edits: Edits, at: Address, i: int) -> list[Any]:
    """A scan in which a wanted layer runs, step by step."""
    body = _body(eqn)
    assert body is not None
    fixed, carried = eqn.params["num_consts"], eqn.params["num_carry"]
    constants, carry, steps = values[:fixed], list(values[fixed : fixed + carried]), values[fixed + carried :]
    stacked: dict[int, list[Any]] = {}
    order = reversed(range(body.runs)) if eqn.params["reverse"] else range(body.runs)
    for run, step in enumerate(order):
        results = _evaluate(
            body.jaxpr, body.consts, [*constants, *carry, *(x[step] for x in steps)], edits, (*at, (i, run))
        )
        carry, stacked[step] = results[:carried], results[carried:]
    rows = [stacked[step] for step in range(body.runs)]
    return [*carry, *(jnp.stack(column) for column in zip(*rows, strict=True))]


# inner functions that were already traced without names are traced again under this context
_named = jax.make_user_context(None) if hasattr(jax, "make_user_context") else None


class _Trace(NamedTuple):
    jaxpr: jex.Jaxpr
    consts: Sequence[Any]
    table: dict[str, _Found]
    treedef: Any

    def __call__(self, args: Any, layers: Sequence[str], edit: Callable[[str, Array], Array]) -> Outputs:
        for path in layers:
            if path not in self.table:
                raise unknown_layer(path, self.table)
        edits: Edits = {self.table[path].address: functools.partial(edit, path) for path in layers}
        flat = _evaluate(self.jaxpr, self.consts, jax.tree.leaves(args), edits)
        return jax.tree.unflatten(self.treedef, flat)


def _trace(run: Run, values: Any, inputs: Inputs) -> _Trace:
    with _named("gradcam") if _named is not None else contextlib.nullcontext():
        closed, shape = jax.make_jaxpr(functools.partial(run, _tap), return_shape=True)(values, inputs)
    return _Trace(closed.jaxpr, closed.consts, _table(closed.jaxpr), jax.tree.structure(shape))


# ---------------------------------------------------------------------------------------------- the two verbs


@dataclass(frozen=True, eq=False)
class JaxModel:
    """`model.Model` for anything that an adapter can run (the laws are in `gradcam.model`)."""

    run: Run
    values: Any
    channels_first: bool = False

    def layers(self, inputs: Inputs) -> list[Layer]:
        """Abstract: no array is computed."""
        table = _trace(self.run, self.values, inputs).table
        return [Layer(path, tuple(found.aval.shape), found.kind) for path, found in table.items()]

    def capture(
        self,
        inputs: Inputs,
        layers: Sequence[str],
        target: Callable[[Outputs], Array],
        pooled: PooledAxes | None = None,
    ) -> Capture:
        trace = _trace(self.run, self.values, inputs)
        for path in layers:
            if path not in trace.table:
                raise unknown_layer(path, trace.table)

        def scored(lifts: dict[str, Array]) -> tuple[Array, tuple[Outputs, dict[str, Array]]]:
            found = {}

            def lift(path: str, value: Array) -> Array:
                found[path] = value
                return value + lifts[path]

            outputs = trace((self.values, inputs), layers, lift)
            return _checked(target(outputs), found[layers[0]]), (outputs, found)

        # the gradient with respect to a zero that is added there: nothing below it is differentiated
        lifts = {path: _zeros(trace.table[path].aval) for path in layers}
        scores, pullback, (outputs, found) = jax.vjp(scored, lifts, has_aux=True)
        if scores.ndim == 1:
            (gradients,) = pullback(jnp.ones_like(scores))
        else:
            each = jnp.eye(scores.shape[1], dtype=scores.dtype)[:, None] * jnp.ones_like(scores)
            (gradients,) = jax.vmap(pullback, out_axes=1)(each)
        return Capture(outputs, scores, tuple(found[path] for path in layers), tuple(gradients[p] for p in layers))

    def replay(self, inputs: Inputs, layers: Sequence[str], activations: Sequence[Array]) -> Outputs:
        given = dict(zip(layers, activations, strict=True))
        if not given:
            return self.run(lambda path, value, *_: value, self.values, inputs)
        return _trace(self.run, self.values, inputs)((self.values, inputs), layers, lambda path, _: given[path])

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """One program for models of equal structure: weights, inputs and class indices are its arguments."""

        def run(inputs: Inputs, target: Any, *arrays: Any) -> Any:
            indices, rest = targets.split(target)
            structure = _Structure(function, self.run, self.channels_first, rest)
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


@dataclass(frozen=True)
class _Structure:
    """All that a compiled explanation depends on but for arrays."""

    function: Callable[..., Any]
    run: Run
    channels_first: bool
    target: Any


@functools.partial(jax.jit, static_argnums=0)
def _run(structure: _Structure, values: Any, inputs: Inputs, indices: Sequence[Array], arrays: Sequence[Any]) -> Any:
    model = JaxModel(structure.run, values, structure.channels_first)
    return structure.function(model, inputs, targets.join(indices, structure.target), *arrays)


def _zeros(aval: Any) -> Array:
    return jnp.zeros(aval.shape, aval.dtype)


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
    """A plain function, whose layers are the values it names by `jax.ad_checkpoint.checkpoint_name`."""

    function: Callable[..., Outputs]

    def __call__(self, tap: Tap, values: Any, inputs: Inputs) -> Outputs:
        args, kwargs = arguments(inputs)
        bound_args, bound_kwargs = values
        return self.function(*bound_args, *args, **bound_kwargs, **kwargs)

    @staticmethod
    def adapt(function: Callable[..., Outputs], channels_first: bool = False) -> JaxModel:
        """What a `functools.partial` holds are weights, and so arguments of the compiled program."""
        if isinstance(function, functools.partial):
            return JaxModel(Function(function.func), (function.args, function.keywords), channels_first)
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
