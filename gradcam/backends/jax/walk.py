"""Reading and running a jaxpr, the program that JAX makes of a function.

A jaxpr is a list of equations. Each applies one primitive to variables and assigns the results to
new variables. This is `f(w, x) = sum(tanh(x * w))`, whose product is a layer named "conv":

    { lambda ; w:f32[] x:f32[2,3]. let
        c:f32[2,3] = mul x w
        d:f32[2,3] = gradcam_layer[path=conv kind=Conv] c        # the named identity of program.py
        e:f32[2,3] = tanh d
        f:f32[] = reduce_sum[axes=(0, 1)] e
      in (f,) }

`evaluate` runs it with some values replaced. With the edit `{((1, 0),): lambda value: new}`, traced
by JAX again, it is

    { lambda ; w:f32[] x:f32[2,3] new:f32[2,3]. let
        c:f32[2,3] = mul x w
        d:f32[2,3] = gradcam_layer[path=conv kind=Conv] c        # unused: the compiler drops both
        e:f32[2,3] = tanh new
        f:f32[] = reduce_sum[axes=(0, 1)] e
      in (f,) }

An equation can hold a jaxpr of its own: `jit`, `remat`, `vmap`'s and `custom_vjp`'s calls, and the
steps of a `scan`. An `Address` leads to an equation at any depth: for each level the index of the
equation, and which of its runs is meant. ((4, 2), (1, 0)) is equation 1 of the body of equation 4,
in the third step of that scan.

Everything that knows a primitive with an inner jaxpr is in this file. A new primitive that only
calls its jaxpr once is one more name in `CALLS`. A new loop needs a branch in `body_of`, `unrolled`
and, for guided backpropagation, a function such as `scan_again`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.extend.core as jex
import jax.numpy as jnp

__all__ = [
    "Address",
    "Block",
    "Body",
    "Edits",
    "all_bodies",
    "aval",
    "bind",
    "block_of",
    "body_of",
    "branches_of",
    "call_of",
    "computes",
    "evaluate",
    "interpret",
    "scan_again",
    "split_scan",
    "tappable_bodies",
    "variables",
    "walk",
]

T = TypeVar("T")

Address = tuple[tuple[int, int], ...]
"""The way to an equation: at each level of nesting its index, and which of its runs is meant."""

Edits = Mapping[Address, Callable[[Any], Any]]
"""For the address of an equation with one result: the value to use in place of that result."""

CALLS = {
    "checkpoint",
    "closed_call",
    "core_call",
    "custom_jvp_call",
    "custom_vjp_call",
    "custom_vjp_call_jaxpr",
    "jit",
    "pjit",
    "remat",
    "remat2",
}
"""Primitives that run their jaxpr once, its arguments and results being those of the equation."""

LAYERS = {"conv_general_dilated", "dot_general"}
"""Primitives with weights."""


# ------------------------------------------------------------------------------------- inner jaxprs


class Body(NamedTuple):
    """A jaxpr inside an equation, and how often the equation runs it."""

    jaxpr: jex.Jaxpr
    consts: Sequence[Any]
    runs: int = 1


def body_of(eqn: jex.JaxprEqn) -> Body | None:
    """The jaxpr of a call or a scan; None for other equations, `cond` and `while` among them."""
    if eqn.primitive.name not in CALLS and eqn.primitive.name != "scan":
        return None
    # the name of the parameter differs between primitives, and between versions of JAX
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if (inner := eqn.params.get(key)) is not None:
            # only a scan has a length
            return _body(inner, eqn.params.get("length", 1))
    return None


def call_of(eqn: jex.JaxprEqn) -> Body | None:
    """The jaxpr of an equation that runs it once, with its own operands as arguments."""
    return body_of(eqn) if eqn.primitive.name in CALLS else None


def branches_of(eqn: jex.JaxprEqn) -> list[Body]:
    """The branches of a `cond`, whose arguments are the operands after the first, the index."""
    return list(map(_body, eqn.params["branches"]))


def tappable_bodies(eqn: jex.JaxprEqn) -> list[Body]:
    """The inner jaxprs whose values can be read and replaced from outside."""
    body = body_of(eqn)
    if body is None:
        return []
    return [body]


def all_bodies(eqn: jex.JaxprEqn) -> list[Body]:
    """Every jaxpr among the parameters of an equation, whatever the primitive does with it."""
    bodies: list[Body] = []
    for parameter in eqn.params.values():
        # a `cond` has a tuple of branches, a `while` two parameters with a jaxpr each
        inners = parameter if isinstance(parameter, (tuple, list)) else (parameter,)
        bodies += map(_body, filter(_is_jaxpr, inners))
    return bodies


def _is_jaxpr(value: Any) -> bool:
    return isinstance(getattr(value, "jaxpr", value), jex.Jaxpr)


def _body(inner: Any, runs: int = 1) -> Body:
    """Of a jaxpr that holds its constants, or of one that has none."""
    if hasattr(inner, "consts"):
        return Body(inner.jaxpr, inner.consts, runs)
    return Body(inner, (), runs)


# ------------------------------------------------------------------------------------------ reading


def walk(
    jaxpr: jex.Jaxpr,
    find: Callable[[jex.Jaxpr, jex.JaxprEqn], T | None],
    bodies: Callable[[jex.JaxprEqn], Sequence[Body]] = tappable_bodies,
) -> Iterator[tuple[Address, T]]:
    """All that `find(jaxpr, eqn)` finds in a jaxpr and in those inside it, as they run.

    A finding in the body of a scan is repeated for each step. An equation is entered where nothing
    was found in it.
    """
    for i, eqn in enumerate(jaxpr.eqns):
        finding = find(jaxpr, eqn)
        if finding is not None:
            yield ((i, 0),), finding
            continue
        for body in bodies(eqn):
            # the body is read once, and its findings repeated; a loop may have very many steps
            inside = list(walk(body.jaxpr, find, bodies))
            for run in range(body.runs if inside else 0):
                for address, inner in inside:
                    yield ((i, run), *address), inner


def aval(atom: jex.Var | jex.Literal) -> Any:
    """The shape and dtype of an atom: its `ShapedArray`, which JAX's own types call less."""
    return atom.aval


def variables(atoms: Sequence[Any]) -> list[jex.Var]:
    """Those that are variables and not literal numbers."""
    return [atom for atom in atoms if not isinstance(atom, jex.Literal)]


def computes(jaxpr: jex.Jaxpr) -> bool:
    """Whether it has a convolution or a matrix product, and so is more than an activation."""

    def layer(_: jex.Jaxpr, eqn: jex.JaxprEqn) -> bool | None:
        return eqn.primitive.name in LAYERS or None

    return any(True for _ in walk(jaxpr, layer))


# ------------------------------------------------------------------------------------------ running


class Block(NamedTuple):
    """Equations in a row: those of a jaxpr, or a part of them."""

    inputs: Sequence[jex.Var]
    equations: Sequence[jex.JaxprEqn]
    outputs: Sequence[Any]


def block_of(jaxpr: jex.Jaxpr) -> Block:
    """All of a jaxpr; its constants are the first inputs."""
    return Block((*jaxpr.constvars, *jaxpr.invars), jaxpr.eqns, jaxpr.outvars)


def _itself(value: Any) -> Any:
    return value


def interpret(
    block: Block,
    values: Sequence[Any],
    rule: Callable[[int, jex.JaxprEqn, list[Any]], Sequence[Any]],
    literal: Callable[[Any], Any] = _itself,
) -> list[Any]:
    """Evaluate equation by equation, in the library's one interpreter.

    `rule(i, eqn, operands)` returns the results of equation i. Values need not be arrays: they are
    whatever `values`, `literal(number)` and the rule return. Everything here can be traced by JAX.
    """
    # the values of all variables that have been assigned
    env = dict(zip(block.inputs, values, strict=True))

    def read(atom: Any) -> Any:
        return literal(atom.val) if isinstance(atom, jex.Literal) else env[atom]

    for i, eqn in enumerate(block.equations):
        results = rule(i, eqn, list(map(read, eqn.invars)))
        env.update(zip(eqn.outvars, results, strict=True))
    return list(map(read, block.outputs))


def bind(eqn: jex.JaxprEqn, values: Sequence[Any]) -> list[Any]:
    """The results of an equation for these operands."""
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions: Sequence[Any] = ()
    params = bound
    if isinstance(bound, tuple):  # before JAX 0.10
        functions, params = bound
    # the user's settings, such as the matrix precision, that the equation was traced under
    with getattr(eqn.ctx, "manager", contextlib.nullcontext()):
        results = eqn.primitive.bind(*functions, *values, **params)
    # a primitive with one result returns it without a list
    return results if eqn.primitive.multiple_results else [results]


def evaluate(
    jaxpr: jex.Jaxpr, consts: Sequence[Any], args: Sequence[Any], edits: Edits
) -> list[Any]:
    """The results of a jaxpr, with the value at each address replaced by `edits[address](value)`.

    Calls and scans are opened only where an edit is inside; all other equations are bound as they
    are.
    """
    # sorted by the first step of their way: edits of an equation itself, and of values inside it
    here: dict[int, Callable[[Any], Any]] = {}
    inside: dict[tuple[int, int], dict[Address, Callable[[Any], Any]]] = {}
    opened: set[int] = set()
    for (first, *rest), edit in edits.items():
        if rest:
            opened.add(first[0])
            inside.setdefault(first, {})[tuple(rest)] = edit
        else:
            here[first[0]] = edit

    def rule(i: int, eqn: jex.JaxprEqn, operands: list[Any]) -> Sequence[Any]:
        def run(body: Body, run_index: int, arguments: Sequence[Any]) -> list[Any]:
            return evaluate(body.jaxpr, body.consts, arguments, inside.get((i, run_index), {}))

        results = unrolled(eqn, operands, run) if i in opened else bind(eqn, operands)
        # of a call both its own value and one inside it may be edited: the inner one first
        if i in here:
            (result,) = results
            return [here[i](result)]
        return results

    return interpret(block_of(jaxpr), (*consts, *args), rule)


def unrolled(
    eqn: jex.JaxprEqn,
    operands: Sequence[Any],
    run: Callable[[Body, int, Sequence[Any]], list[Any]],
) -> list[Any]:
    """The results of a call or a scan, whose body is run by `run(body, run index, arguments)`.

    A scan becomes as many runs in a row as it has steps, so that each can be another one.
    """
    body = body_of(eqn)
    assert body is not None
    if eqn.primitive.name != "scan":
        return run(body, 0, operands)
    constants, carry, columns = split_scan(eqn, operands)
    # run 0 of a reversed scan reads, and writes, the last row
    rows = list(range(body.runs))
    if eqn.params["reverse"]:
        rows.reverse()
    returned: list[list[Any]] = [[] for _ in rows]
    for run_index, row in enumerate(rows):
        values = [column[row] for column in columns]
        results = run(body, run_index, [*constants, *carry, *values])
        carry = results[: len(carry)]
        returned[row] = results[len(carry) :]
    return [*carry, *map(jnp.stack, zip(*returned, strict=True))]


def split_scan(
    eqn: jex.JaxprEqn, operands: Sequence[Any]
) -> tuple[list[Any], list[Any], list[Any]]:
    """The operands of a scan: constants, the carry, and columns with a row for each step."""
    body = body_of(eqn)
    assert body is not None
    # the parameters that count them differ between versions of JAX; a column has one axis more
    # outside than inside, and only the carry is returned as it is inside
    pairs = zip(eqn.invars, body.jaxpr.invars, strict=True)
    end = sum(aval(outer).ndim == aval(inner).ndim for outer, inner in pairs)
    returned = zip(eqn.outvars, body.jaxpr.outvars, strict=True)
    start = end - sum(aval(outer).ndim == aval(inner).ndim for outer, inner in returned)
    return list(operands[:start]), list(operands[start:end]), list(operands[end:])


def scan_again(
    eqn: jex.JaxprEqn, step: Callable[[Any, Any], tuple[Any, Any]], carry: Any, columns: Any
) -> list[Any]:
    """The results of a scan with another function for its step."""
    carry, stacked = jax.lax.scan(
        step,
        carry,
        columns,
        length=eqn.params["length"],
        reverse=eqn.params["reverse"],
        unroll=eqn.params["unroll"],
    )
    return [*carry, *stacked]
