"""A model as a JAX program, traced once into a jaxpr in which the output of every layer has a name.

`tap` binds `layer_p`, a primitive that returns its operand and carries the path of the layer as a
parameter. The primitive survives `jit`, `remat`, `vmap`, `scan` and differentiation, so a layer is
found in the jaxpr wherever it runs. `traced` makes a `Trace`: the jaxpr, and a table from paths to
addresses (see walk.py, with an example). Calling the trace evaluates the jaxpr with the outputs of
some layers edited. Nothing global is changed, and all of it can be traced by JAX again, so an
explanation is one compiled program.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax.interpreters import ad, batching, mlir

from gradcam._types import Array, Inputs, Outputs, Shape
from gradcam.backends.errors import unknown_layer
from gradcam.backends.jax import attention
from gradcam.backends.jax.bottlenecks import bottlenecks, images
from gradcam.backends.jax.statics import restore_static
from gradcam.backends.jax.walk import (
    Address,
    all_bodies,
    aval,
    evaluate,
    tappable_bodies,
    variables,
    walk,
)

__all__ = [
    "ATTENTION_KIND",
    "Run",
    "Site",
    "Tap",
    "Trace",
    "flow",
    "numbered",
    "run_model",
    "run_untapped",
    "tap",
    "traced",
]

Tap = Callable[..., Any]
"""`tap(path, value, kind)` returns the value, with each floating-point array in it named."""


class Run(Protocol):
    """How an adapter runs the user's model: a hashable value, equal for models of equal structure.

    An attribute `nameless` that is true says that the model has no layers of its own. Where the
    user names none either, its layers are the values through which everything flows
    (bottlenecks.py).
    """

    def __call__(self, tap: Tap, values: Any, inputs: Inputs) -> Outputs:
        """The outputs, with every layer's output passed through `tap(path, value, kind)`."""
        ...


def run_model(run: Run, tap: Tap, values: Any, inputs: Inputs) -> Outputs:
    """Run the user's model on weights and inputs whose static leaves are hidden."""
    return run(tap, restore_static(values), restore_static(inputs))


def run_untapped(run: Run, values: Any, inputs: Inputs) -> Outputs:
    """The same without naming any layer."""
    return run_model(run, lambda path, value, *_: value, values, inputs)


# ------------------------------------------------------------------------------- the named identity


def _identity(x: Array, **_: Any) -> Array:
    return x


def _differentiate(primals: Any, tangents: Any, **params: Any) -> tuple[Array, Array]:
    return layer_p.bind(primals[0], **params), tangents[0]


def _batch(args: Any, dims: Any, **params: Any) -> tuple[Array, int]:
    # the axis of a vmap comes first, as the batch does in any layer's output
    return layer_p.bind(jnp.moveaxis(args[0], dims[0], 0), **params), 0


# one rule for each way in which JAX runs or transforms a program; no rule for the transpose, since
# the tangent that `_differentiate` returns does not pass through the primitive
layer_p = jex.Primitive("gradcam_layer")
layer_p.def_impl(_identity)
layer_p.def_abstract_eval(_identity)
ad.primitive_jvps[layer_p] = _differentiate
batching.primitive_batchers[layer_p] = _batch
mlir.register_lowering(layer_p, lambda ctx, x, **_: [x])


def tap(path: str, value: Any, kind: str = "", is_leaf: Callable[[Any], bool] | None = None) -> Any:
    """The value, with each floating-point array in it named by `path` and its keys in the tree."""

    def named(keys: Any, leaf: Any) -> Any:
        # integers and flags have no gradient, so they are nobody's layer
        if not isinstance(leaf, jax.Array) or not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return layer_p.bind(leaf, path=path + jax.tree_util.keystr(keys), kind=kind)

    return jax.tree_util.tree_map_with_path(named, value, is_leaf=is_leaf)


# ------------------------------------------------------------------------------ the table of layers


class Site(NamedTuple):
    """Where in the jaxpr a layer's output is, and what it is."""

    path: str
    address: Address
    shape: Shape
    dtype: Any
    kind: str


ATTENTION_KIND = "attention"
"""The kind of attention weights, which are not listed among the layers."""

_AUTOMATIC = "everything flows through it"
"""The kind of the values of a function that names no layer."""


def _layer_of(_: jex.Jaxpr, eqn: jex.JaxprEqn) -> tuple[str, str] | None:
    """The path and kind of the layer whose output an equation names."""
    if eqn.primitive is layer_p:
        return eqn.params["path"], eqn.params["kind"]
    if eqn.primitive.name == "name":  # the user's own jax.ad_checkpoint.checkpoint_name
        return eqn.params["name"], "checkpoint_name"
    return None


def _site_of(jaxpr: jex.Jaxpr, eqn: jex.JaxprEqn) -> Site | None:
    """The layer or attention weights that an equation computes, without the address."""
    layer = _layer_of(jaxpr, eqn)
    if layer is not None:
        path, kind = layer
        return _site(path, (), eqn, kind)
    if attention.is_attention(jaxpr, eqn):
        site = _site(attention.ATTENTION, (), eqn, ATTENTION_KIND)
        return site._replace(shape=attention.heads_shape(site.shape))
    return None


def _site(path: str, address: Address, eqn: jex.JaxprEqn, kind: str) -> Site:
    result = aval(eqn.outvars[0])
    return Site(path, address, tuple(result.shape), result.dtype, kind)


def _automatic_sites(jaxpr: jex.Jaxpr, inputs: Sequence[jex.Var]) -> list[Site]:
    sites = []
    for address, eqn in images(jaxpr, inputs):
        # the user's jax.named_scope, if there is one
        scope = str(eqn.source_info.name_stack)
        name = str(eqn.params.get("name", eqn.primitive.name))
        path = "/".join(filter(None, (scope, name)))
        sites.append(_site(path, address, eqn, _AUTOMATIC))
    return sites


def _table(jaxpr: jex.Jaxpr, inputs: Sequence[jex.Var]) -> dict[str, Site]:
    """Every layer's output, in the order in which they run; the second call of a layer is "path#1".

    Where no layer has a name, the values through which everything that depends on `inputs` flows.
    """
    sites = [site._replace(address=address) for address, site in walk(jaxpr, _site_of)]
    # attention weights are found in any program: they do not say that the user named a layer
    if all(site.kind == ATTENTION_KIND for site in sites):
        sites += _automatic_sites(jaxpr, inputs)
    names = numbered(site.path for site in sites)
    return dict(zip(names, sites, strict=True))


def numbered(paths: Iterable[str]) -> list[str]:
    """The paths in order, with the calls of one layer numbered: "conv", "conv#1", "conv#2"."""
    calls: dict[str, int] = {}
    names: dict[str, None] = {}
    for path in paths:
        call = calls.get(path, 0)
        while (name := f"{path}#{call}" if call else path) in names:  # a layer named "conv#1"
            call += 1
        calls[path] = call + 1
        names[name] = None
    return list(names)


_OPAQUE = {"cond": "lax.cond or lax.switch", "while": "lax.while_loop or lax.fori_loop"}
"""What users call the primitives from whose inside no value can be read."""


def _hidden_layers(jaxpr: jex.Jaxpr) -> dict[str, str]:
    """Layers that run inside an opaque primitive, each with the primitive's name."""

    def opaque(_: jex.Jaxpr, eqn: jex.JaxprEqn) -> jex.JaxprEqn | None:
        return eqn if all_bodies(eqn) and not tappable_bodies(eqn) else None

    hidden = {}
    for _, eqn in walk(jaxpr, opaque):
        for body in all_bodies(eqn):
            for _, (path, _kind) in walk(body.jaxpr, _layer_of, all_bodies):
                hidden[path] = eqn.primitive.name
    return hidden


# ---------------------------------------------------------------------------------------- the trace


class Trace(NamedTuple):
    """The program of a model for inputs of one shape, and where its layers are."""

    jaxpr: jex.Jaxpr
    consts: Sequence[Any]
    table: dict[str, Site]
    treedef: Any
    """The structure of the outputs."""

    def __call__(
        self, args: Any, layers: Sequence[str], edit: Callable[[str, Array], Array]
    ) -> Outputs:
        """The outputs for (weights, inputs), with layers' outputs as `edit(path, value)`."""
        edits = {}
        for path in layers:
            site = self.site(path)
            edits[site.address] = _edit_at(site, functools.partial(edit, path))
        leaves = evaluate(self.jaxpr, self.consts, jax.tree.leaves(args), edits)
        return jax.tree.unflatten(self.treedef, leaves)

    def site(self, path: str) -> Site:
        """Where a layer is. Raises KeyError if unknown, ValueError inside a `cond` or `while`."""
        if path in self.table:
            return self.table[path]
        # looked for only now: it reads every jaxpr in the program
        primitive = _hidden_layers(self.jaxpr).get(path.rpartition("#")[0] or path)
        if primitive is None:
            raise unknown_layer(path, self.table)
        raise ValueError(
            f'layer "{path}" runs inside {_OPAQUE.get(primitive, primitive)}, and JAX gives no '
            "access to the values inside; choose a layer that runs outside of it"
        )


def _edit_at(site: Site, edit: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """An edit of a layer's output, as it is in the jaxpr."""
    return attention.edited(edit) if site.kind == ATTENTION_KIND else edit


# JAX caches the jaxprs of inner functions. Under this context they are traced again, with names
_named_context = jax.make_user_context(None) if hasattr(jax, "make_user_context") else None


def _named() -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if _named_context is None else _named_context("gradcam")


def traced(run: Run, values: Any, inputs: Inputs) -> Trace:
    """Trace a model for its weights and inputs; no array is computed."""
    with _named():
        tapped = functools.partial(run_model, run, tap)
        closed, shapes = jax.make_jaxpr(tapped, return_shape=True)(values, inputs)
    # the arguments of the jaxpr are the leaves of both trees, those of the weights first
    input_variables: Sequence[jex.Var] = ()
    if getattr(run, "nameless", False):
        input_variables = closed.jaxpr.invars[len(jax.tree.leaves(values)) :]
    table = _table(closed.jaxpr, input_variables)
    return Trace(closed.jaxpr, closed.consts, table, jax.tree.structure(shapes))


def flow(
    run: Run, values: Any, inputs: Inputs, score: Callable[[Outputs], Array]
) -> dict[str, int]:
    """See `gradcam.model.HasFlow`. The model is only traced."""
    if getattr(run, "nameless", False):
        return {path: n for n, path in enumerate(traced(run, values, inputs).table)}
    with _named():
        closed = jax.make_jaxpr(lambda v, x: score(run_model(run, tap, v, x)))(values, inputs)
    jaxpr = closed.jaxpr
    starts = jaxpr.invars[len(jax.tree.leaves(values)) :]
    gates = {address for address, _ in bottlenecks(jaxpr, starts, jaxpr.outvars, _any_call)}

    def layer(jaxpr: jex.Jaxpr, eqn: jex.JaxprEqn) -> tuple[str, jex.JaxprEqn] | None:
        named = _layer_of(jaxpr, eqn)
        return None if named is None else (named[0], eqn)

    found = list(walk(jaxpr, layer))
    names = numbered(path for _, (path, _) in found)
    values_named: dict[jex.Var, int] = {}
    through = {}
    for n, (name, (address, (_, eqn))) in enumerate(zip(names, found, strict=True)):
        # a layer whose operand is what another layer returned gives the same value
        (operand,) = variables(eqn.invars)
        value = values_named.get(operand, n)
        values_named[eqn.outvars[0]] = value
        if address in gates:
            through[name] = value
    return through


def _any_call(_: jex.Jaxpr) -> bool:
    return True
