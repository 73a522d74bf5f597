"""A model as a JAX program: traced once into a jaxpr in which every layer's output has a name, read, and evaluated.

`tap` binds an identity primitive that carries the layer's path. Reading the jaxpr then finds the layers wherever they
are, inside an inner `jit`, `remat`, `vmap` or `scan` too, and an interpreter evaluates it with some of them replaced.
Nothing global is changed, and everything here can be traced.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir

from gradcam._types import Array, Inputs, Outputs, Shape
from gradcam.model import unknown_layer

__all__ = ["Body", "Run", "Tap", "Trace", "bind", "body_of", "called", "held", "loosed", "traced"]

Tap = Callable[..., Any]
"""`tap(path, value, kind)`: the value itself, every floating-point array in it under its name."""


class Run(Protocol):
    """How an adapter runs the user's model: a hashable value, equal for models of equal structure.

    One with an attribute `nameless` that is true has no layers of its own: where the user names none either, they are
    the values through which everything flows.
    """

    def __call__(self, tap: Tap, values: Any, inputs: Inputs) -> Outputs:
        """The model's outputs, with every layer's output passed through `tap(path, value, kind)`."""


# ---------------------------------------------------------------------------------------------- what is no array


@jax.tree_util.register_pytree_node_class
class _Static:
    """A leaf that is no array, such as `train=False`: part of a program's structure, never traced."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def tree_flatten(self) -> tuple[tuple[()], _Static]:
        return (), self

    @classmethod
    def tree_unflatten(cls, aux: _Static, _: Any) -> _Static:
        return aux

    def __eq__(self, other: object) -> bool:  # True is not 1: a program may tell them apart
        return (
            isinstance(other, _Static)
            and type(self.value) is type(other.value)
            and self.value == other.value
        )

    def __hash__(self) -> int:
        return hash((type(self.value), self.value))


def held(tree: Any) -> Any:
    """Inputs or weights with all that is no array taken out of JAX's sight."""

    def hold(leaf: Any) -> Any:
        if isinstance(leaf, _Static) or hasattr(leaf, "dtype"):
            return leaf
        try:
            hash(leaf)
        except TypeError:
            raise TypeError(
                f"the model is called with a {type(leaf).__name__}, which is neither an array nor hashable, so no "
                "compiled program can be told by it; bind it beforehand, say in a class with its own __hash__"
            ) from None
        return _Static(leaf)

    return jax.tree.map(hold, tree, is_leaf=_is_static)


def loosed(tree: Any) -> Any:
    """The way back from `held`: what the user's model sees."""
    return jax.tree.map(
        lambda leaf: leaf.value if isinstance(leaf, _Static) else leaf, tree, is_leaf=_is_static
    )


def _is_static(leaf: Any) -> bool:
    return isinstance(leaf, _Static)


def called(run: Run, tap: Tap, values: Any, inputs: Inputs) -> Outputs:
    return run(tap, loosed(values), loosed(inputs))


# ---------------------------------------------------------------------------------------------- the named identity

layer_p = jex.Primitive("gradcam_layer")
layer_p.def_impl(lambda x, **_: x)
layer_p.def_abstract_eval(lambda x, **_: x)
ad.primitive_jvps[layer_p] = lambda primals, tangents, **params: (
    layer_p.bind(primals[0], **params),
    tangents[0],
)
batching.primitive_batchers[layer_p] = lambda args, dims, **params: (
    layer_p.bind(
        jnp.moveaxis(args[0], dims[0], 0), **params
    ),  # under vmap: the batch first, as in any layer
    0,
)
mlir.register_lowering(layer_p, lambda ctx, x, **_: [x])


def _tap(
    path: str, value: Any, kind: str = "", is_leaf: Callable[[Any], bool] | None = None
) -> Any:
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


ATTENTION = "<attention>"
"""The path of attention weights (N, heads, T, T); those of the second layer are "<attention>#1"."""


class _Found(NamedTuple):
    address: Address
    shape: Shape
    dtype: Any
    kind: str


_AUTOMATIC = "everything flows through it"
"""The kind of values that have no name of their own, of plain functions."""


class Body(NamedTuple):
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


def body_of(eqn: jex.JaxprEqn) -> Body | None:
    """What a call-like equation or a scan runs, and how often."""
    if eqn.primitive.name not in _CALLS and eqn.primitive.name != "scan":
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if (inner := eqn.params.get(key)) is not None:
            runs = eqn.params.get("length", 1)
            return (
                Body(inner.jaxpr, inner.consts, runs)
                if hasattr(inner, "consts")
                else Body(inner, (), runs)
            )
    return None


def _walk(jaxpr: jex.Jaxpr, at: Address = ()) -> Iterator[tuple[str, _Found]]:
    attention = _attention(jaxpr)
    for i, eqn in enumerate(jaxpr.eqns):
        if (named := _name(eqn)) is not None:
            aval = eqn.outvars[0].aval
            yield named[0], _Found((*at, (i, 0)), tuple(aval.shape), aval.dtype, named[1])
        elif i in attention:
            aval = eqn.outvars[0].aval
            yield (
                ATTENTION,
                _Found((*at, (i, 0)), _heads_shape(aval.shape), aval.dtype, "attention"),
            )
        elif (body := body_of(eqn)) is not None:
            inside = list(_walk(body.jaxpr))
            for run in range(body.runs if inside else 0):
                for path, found in inside:
                    yield path, found._replace(address=(*at, (i, run), *found.address))


def _attention(jaxpr: jex.Jaxpr) -> set[int]:
    """The equations that are the softmax of self-attention: exp(x) / sum(exp(x)), of shape (..., T, T).

    JAX writes it out, so this is how `jax.nn.softmax`, and all that is made of it, looks.
    """
    made: dict[Any, jex.JaxprEqn] = {var: eqn for eqn in jaxpr.eqns for var in eqn.outvars}
    found = set()
    for i, eqn in enumerate(jaxpr.eqns):
        shape = eqn.outvars[0].aval.shape if eqn.outvars else ()
        if eqn.primitive.name != "div" or len(shape) < 4 or not shape[-1] == shape[-2] > 1:
            continue
        above, below = (
            made.get(var) if not isinstance(var, jex.Literal) else None for var in eqn.invars
        )
        while below is not None and below.primitive.name in (
            "broadcast_in_dim",
            "reshape",
            "transpose",
        ):
            below = made.get(below.invars[0])
        if above is None or below is None or above.primitive.name != "exp":
            continue
        if below.primitive.name == "reduce_sum" and below.invars[0] is above.outvars[0]:
            found.add(i)
    return found


def _heads(weights: Array) -> Array:
    """Attention of groups of heads, (G, N, heads, T, T) as Flax makes it, with the samples first."""
    return (
        weights
        if weights.ndim == 4
        else jnp.moveaxis(weights, tuple(range(weights.ndim - 4)), _groups(weights.ndim))
    )


def _groups(ndim: int) -> tuple[int, ...]:
    return tuple(range(1, ndim - 3))


def _heads_shape(shape: Sequence[int]) -> Shape:
    """(N, heads, T, T): groups and heads as one axis."""
    lead = len(shape) - 4
    heads = math.prod(shape[:lead]) * shape[lead + 1]
    return (int(shape[lead]), int(heads), int(shape[-2]), int(shape[-1]))


def _unheads(weights: Array, shape: Sequence[int]) -> Array:
    """The way back from (N, heads, T, T)."""
    lead = len(shape) - 4
    grouped = jnp.reshape(weights, (shape[lead], *shape[:lead], *shape[lead + 1 :]))
    return grouped if lead == 0 else jnp.moveaxis(grouped, _groups(len(shape)), tuple(range(lead)))


def _table(jaxpr: jex.Jaxpr, given: Sequence[Any] = ()) -> dict[str, _Found]:
    """Every layer's output in the order in which they run; the second call of a layer is "path#1".

    Where no layer has a name, what everything that depends on `given` flows through.
    """
    calls: dict[str, int] = {}
    table = {}
    found_ = list(_walk(jaxpr))
    if all(found.kind == "attention" for _, found in found_):
        found_ += _bottlenecks(jaxpr, given)
    for path, found in found_:
        n = calls[path] = calls.get(path, -1) + 1
        table[f"{path}#{n}" if n else path] = found
    return table


def _hidden(jaxpr: jex.Jaxpr, within: str = "") -> Iterator[tuple[str, str]]:
    """Layers where no tap reaches, and what they are inside of."""
    for eqn in jaxpr.eqns:
        if within and (named := _name(eqn)) is not None:
            yield named[0], within
        opened = eqn.primitive.name if body_of(eqn) is None else within
        for parameter in eqn.params.values():
            for inner in parameter if isinstance(parameter, (tuple, list)) else (parameter,):
                inner = getattr(inner, "jaxpr", inner)
                if isinstance(inner, jex.Jaxpr):
                    yield from _hidden(inner, within or opened)


def _bottlenecks(
    jaxpr: jex.Jaxpr, given: Sequence[Any], at: Address = ()
) -> Iterator[tuple[str, _Found]]:
    """The values of four or more dimensions through which everything that depends on `given` flows, in order."""
    last: dict[Any, int] = {}
    for i, eqn in enumerate(jaxpr.eqns):
        last.update((var, i) for var in eqn.invars if not isinstance(var, jex.Literal))
    last.update((var, len(jaxpr.eqns)) for var in jaxpr.outvars if not isinstance(var, jex.Literal))
    live = {var for var in given if var in last}
    known = set(live)
    for i, eqn in enumerate(jaxpr.eqns):
        arguments_ = [not isinstance(var, jex.Literal) and var in known for var in eqn.invars]
        live = {var for var in live if last[var] > i}
        if not any(arguments_):
            continue
        body = body_of(eqn) if eqn.primitive.name in _CALLS else None
        if body is not None and not live and _computes(body.jaxpr):
            inside = [
                var for var, depends in zip(body.jaxpr.invars, arguments_, strict=False) if depends
            ]
            yield from _bottlenecks(body.jaxpr, inside, (*at, (i, 0)))
        known.update(eqn.outvars)
        live.update(var for var in eqn.outvars if var in last)
        aval = eqn.outvars[0].aval
        only = len(live) == len(eqn.outvars) == 1 and eqn.outvars[0] in live
        if only and len(aval.shape) >= 4 and jnp.issubdtype(aval.dtype, jnp.floating):
            scope = str(eqn.source_info.name_stack)
            path = "/".join(
                part for part in (scope, str(eqn.params.get("name", eqn.primitive.name))) if part
            )
            yield path, _Found((*at, (i, 0)), tuple(aval.shape), aval.dtype, _AUTOMATIC)


def _computes(jaxpr: jex.Jaxpr) -> bool:
    """Whether it is more than one activation: worth a look inside."""
    for eqn in jaxpr.eqns:
        body = body_of(eqn)
        if eqn.primitive.name in ("conv_general_dilated", "dot_general") or (
            body and _computes(body.jaxpr)
        ):
            return True
    return False


Edits = dict[Address, Callable[[Array], Array]]


def _evaluate(
    jaxpr: jex.Jaxpr, consts: Sequence[Any], args: Sequence[Any], edits: Edits, at: Address = ()
) -> list[Any]:
    """Evaluate with some layers' outputs edited; whatever holds none of them is bound as it is."""
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(var: Any) -> Any:
        return var.val if isinstance(var, jex.Literal) else env[var]

    attention = _attention(jaxpr)
    inside = {
        address[len(at)][0]
        for address in edits
        if address[: len(at)] == at and len(address) > len(at)
    }
    for i, eqn in enumerate(jaxpr.eqns):
        values = [read(var) for var in eqn.invars]
        here = (*at, (i, 0))
        if i not in inside:
            results = bind(eqn, values)
        elif here in edits:
            (result,) = bind(eqn, values)
            merged = edits[here](
                jnp.reshape(_heads(result), _heads_shape(result.shape))
                if i in attention
                else result
            )
            results = [_unheads(merged, result.shape) if i in attention else merged]
        elif eqn.primitive.name == "scan":
            results = _unroll(eqn, values, edits, at, i)
        else:
            body = body_of(eqn)
            assert body is not None
            results = _evaluate(body.jaxpr, body.consts, values, edits, here)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(var) for var in jaxpr.outvars]


def bind(eqn: jex.JaxprEqn, values: Sequence[Any]) -> list[Any]:
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = (
        bound if isinstance(bound, tuple) else ((), bound)
    )  # a tuple before JAX 0.10
    with getattr(eqn.ctx, "manager", contextlib.nullcontext()):
        results = eqn.primitive.bind(*functions, *values, **params)
    return results if eqn.primitive.multiple_results else [results]


def _unroll(
    eqn: jex.JaxprEqn, values: Sequence[Any], edits: Edits, at: Address, i: int
) -> list[Any]:
    """A scan in which a wanted layer runs, step by step."""
    body = body_of(eqn)
    assert body is not None
    fixed, carried = eqn.params["num_consts"], eqn.params["num_carry"]
    constants, carry, steps = (
        values[:fixed],
        list(values[fixed : fixed + carried]),
        values[fixed + carried :],
    )
    stacked: dict[int, list[Any]] = {}
    order = reversed(range(body.runs)) if eqn.params["reverse"] else range(body.runs)
    for run, step in enumerate(order):
        results = _evaluate(
            body.jaxpr,
            body.consts,
            [*constants, *carry, *(x[step] for x in steps)],
            edits,
            (*at, (i, run)),
        )
        carry, stacked[step] = results[:carried], results[carried:]
    rows = [stacked[step] for step in range(body.runs)]
    return [*carry, *(jnp.stack(column) for column in zip(*rows, strict=True))]


_CONTROL = {"cond": "lax.cond or lax.switch", "while": "lax.while_loop or lax.fori_loop"}

# inner functions that were already traced without names are traced again under this context
_named = jax.make_user_context(None) if hasattr(jax, "make_user_context") else None


class Trace(NamedTuple):
    jaxpr: jex.Jaxpr
    consts: Sequence[Any]
    table: dict[str, _Found]
    treedef: Any

    def __call__(
        self, args: Any, layers: Sequence[str], edit: Callable[[str, Array], Array]
    ) -> Outputs:
        for path in layers:
            self.check(path)
        edits: Edits = {self.table[path].address: functools.partial(edit, path) for path in layers}
        flat = _evaluate(self.jaxpr, self.consts, jax.tree.leaves(args), edits)
        return jax.tree.unflatten(self.treedef, flat)

    def check(self, path: str) -> None:
        """Raise where there is no such layer, or none that a tap reaches."""
        if path in self.table:
            return
        within = dict(_hidden(self.jaxpr)).get(path.split("#")[0])
        if within is not None:
            raise ValueError(
                f'layer "{path}" runs inside {_CONTROL.get(within, within)}, whose inner values cannot be had from '
                "outside; choose a layer that runs outside of it"
            )
        raise unknown_layer(path, self.table)


def traced(run: Run, values: Any, inputs: Inputs) -> Trace:
    with _named("gradcam") if _named is not None else contextlib.nullcontext():
        closed, shape = jax.make_jaxpr(functools.partial(called, run, _tap), return_shape=True)(
            values, inputs
        )
    given = (
        closed.jaxpr.invars[len(jax.tree.leaves(values)) :]
        if getattr(run, "nameless", False)
        else ()
    )
    return Trace(
        closed.jaxpr, closed.consts, _table(closed.jaxpr, given), jax.tree.structure(shape)
    )
