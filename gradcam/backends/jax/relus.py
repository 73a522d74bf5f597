"""The graph that guided backpropagation reads, and what in it is a ReLU.

A ReLU is recognised by what it computes, since a jaxpr has no name for it. In

    c:f32[2,5] = dot_general a b
    d:bool[2,5] = gt c 0.0
    e:f32[2,5] = select_n d 0.0 c

the node of e has the operation "select_n" and three parents, of which the first is the comparison
"gt" of c with a zero: `rectified_by` returns the node of c.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradcam.backends.jax.walk import bind

__all__ = [
    "Node",
    "capped",
    "computed",
    "constant",
    "is_inexact",
    "rectified_by",
    "values_of",
    "weighed_by_itself",
]


@dataclass(frozen=True, eq=False)
class Node:
    """A value of the program, and what it was computed from."""

    value: Any
    operation: str = ""
    """The primitive that computed it; "square" for an integer power of 2 too."""
    parents: tuple[Node, ...] = ()
    inside: tuple[Node, ...] = ()
    """What the body of a scan, or the branches of a cond, returned."""
    depends: bool = False
    """Whether it depends on the input by a differentiable path."""
    zero: bool = False
    """Whether it is the number 0, or an array of it."""
    relu_of: Node | None = None
    smooth: str = ""
    """The name of the smooth activation that it is."""
    guided: bool = False
    """Whether it follows the rule."""


def constant(value: Any) -> Node:
    """A literal or a constant of the program."""
    if isinstance(value, Tracer) or np.size(value) != 1:
        return Node(value)
    # a random key has a type that is no number
    is_number = jnp.issubdtype(jnp.result_type(value), jnp.number)
    return Node(value, zero=bool(is_number and not np.any(np.asarray(value))))


def values_of(nodes: Iterable[Node]) -> list[Any]:
    return [node.value for node in nodes]


def is_inexact(value: Any) -> bool:
    return bool(jnp.issubdtype(value.dtype, jnp.inexact))


_SAME_VALUES = {"broadcast_in_dim", "convert_element_type", "copy", "reshape", "squeeze"}
"""Primitives whose result has the values of their operand."""

_SQUASHING = {"erf", "erfc", "logistic", "tanh"}

_ELEMENTWISE = _SQUASHING | {
    "add",
    "convert_element_type",
    "copy",
    "div",
    "exp",
    "integer_pow",
    "mul",
    "neg",
    "pow",
    "square",
    "sub",
}


def computed(eqn: jex.JaxprEqn, parents: tuple[Node, ...]) -> list[Node]:
    """The results of an equation that is left as it is."""
    name = eqn.primitive.name
    depends = name != "stop_gradient" and any(parent.depends for parent in parents)
    zero = name in _SAME_VALUES and parents[0].zero
    if name == "integer_pow" and eqn.params["y"] == 2:
        name = "square"
    return [
        Node(value, name, parents, depends=depends and is_inexact(value), zero=zero)
        for value in bind(eqn, values_of(parents))
    ]


# ----------------------------------------------------------------------------------- what a ReLU is


def rectified_by(name: str, parents: tuple[Node, ...]) -> Node | None:
    """The x of max(x, 0), of clamp(0, x, top) and of where(x > 0, x, 0)."""
    if name == "max":
        return _above_zero(parents)
    if name == "clamp" and parents[0].zero and parents[1].depends:
        return parents[1]
    if name == "select_n" and len(parents) == 3:
        return _selected_where_positive(*parents)
    return None


def _above_zero(parents: tuple[Node, ...]) -> Node | None:
    for x, limit in (parents, parents[::-1]):
        # `limit` may be a constant or an array of zeros, as in max(x, zeros_like(x))
        if x.depends and limit.zero and not _is_variance(x):
            return x
    return None


def _selected_where_positive(condition: Node, if_false: Node, if_true: Node) -> Node | None:
    """The x of where(x > 0, x, 0), or of where(x <= 0, 0, x), with either side of it swapped."""
    if condition.operation not in ("gt", "ge", "lt", "le"):
        return None
    left, right = condition.parents
    x = right if left.zero else left
    limit = left if left.zero else right
    # the comparison is true for positive x if it is `x > 0` or `0 < x`
    positive, negative = if_false, if_true
    is_greater = condition.operation in ("gt", "ge")
    if is_greater == (x is left):
        positive, negative = if_true, if_false
    if limit.zero and positive is x and negative.zero and x.depends:
        return x
    return None


def capped(parents: tuple[Node, ...]) -> tuple[Node, Node] | None:
    """The ReLU and the upper end of min(relu(x), top), which ReLU6 is."""
    for below, top in (parents, parents[::-1]):
        if below.relu_of is not None and not top.depends:
            return below, top
    return None


def weighed_by_itself(parents: tuple[Node, ...]) -> Node | None:
    """The x of x g(x) for a gate g: SiLU is x sigmoid(x), and GELU is x (1 + erf(x / sqrt(2))) / 2.

    `jax.nn.gelu` has no name in the jaxpr, and may multiply x by 1/2 before it multiplies by the
    gate.
    """
    for factor, gate in (parents, parents[::-1]):
        for x in (factor, _unscaled(factor)):
            if x is not None and x.depends and _is_gate(gate, x):
                return x
    return None


def _unscaled(node: Node) -> Node | None:
    """The x of c x, for a number c > 0."""
    if node.operation != "mul":
        return None
    for x, factor in (node.parents, node.parents[::-1]):
        number = factor.value
        if x.depends and not isinstance(number, Tracer) and np.size(number) == 1:
            # with c < 0 the gate would be open on the wrong side
            return x if np.all(number > 0) else None
    return None


def _is_gate(node: Node, x: Node) -> bool:
    """Whether it is an element-wise function of x with a sigmoid, tanh or error function in it."""
    operations = set()
    waiting = [node]
    visited = {node, x}
    while waiting:
        part = waiting.pop()
        if part is x or not part.depends:
            continue
        if part.operation not in _ELEMENTWISE:
            return False
        operations.add(part.operation)
        for parent in part.parents:
            if parent not in visited:
                visited.add(parent)
                waiting.append(parent)
    return not operations.isdisjoint(_SQUASHING)


def _is_variance(node: Node) -> bool:
    """Whether max(node, 0) only corrects the rounding of a variance, as normalisation layers do.

    Flax computes E[x^2] - E[x]^2; Equinox the mean of squares, as `jnp.var`: a sum that is divided
    and selected.
    """
    while node.operation in (*_SAME_VALUES, "div", "mul", "select_n"):
        changing = [parent for parent in node.parents if parent.depends]
        if len(changing) != 1:
            return False
        (node,) = changing
    if node.operation == "sub":
        return _is_square(node.parents[1])
    return node.operation == "reduce_sum" and _is_square(node.parents[0])


def _is_square(node: Node) -> bool:
    while node.operation in _SAME_VALUES:
        node = node.parents[0]
    if node.operation == "mul":
        return node.parents[0] is node.parents[1]
    return node.operation == "square"
