"""Guided backpropagation in JAX: the program read as a graph, in which every ReLU has another derivative.

A ReLU is found by what it computes, however it is spelled, in whatever inner `jit`, `remat`, `vmap`, `scan` or `cond`.
All of it can be traced, so a whole guided gradient is one compiled program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from gradcam._types import Array, Inputs, Outputs
from gradcam.backends.jax.model import JaxModel, _checked, _pulled
from gradcam.backends.jax.program import Body, bind, body_of, called, held
from gradcam.inputs import first_array
from gradcam.model import Capture, nothing_guided

__all__ = ["input_gradients"]

# ---------------------------------------------------------------------------------------------- other derivatives


@jax.custom_vjp
def _positive(y: Array) -> Array:
    """y; of what comes back only the positive part passes."""
    return y


_positive.defvjp(lambda y: (y, None), lambda _, incoming: (_relu(incoming),))


@jax.custom_vjp
def _gated(x: Array, gate: Array) -> Array:
    """x; what comes back passes where the gate is open."""
    return x


_gated.defvjp(
    lambda x, gate: (x, gate),
    lambda gate, incoming: (jnp.where(gate, incoming, jnp.zeros_like(incoming)), None),
)


@jax.custom_vjp
def _through(x: Array, y: Array) -> Array:
    """y; of what comes back the positive part goes to x, as it is."""
    return y


_through.defvjp(
    lambda x, y: (y, None), lambda _, incoming: (_relu(incoming), jnp.zeros_like(incoming))
)


def _relu(incoming: Array) -> Array:
    return jnp.where(incoming < 0, jnp.zeros_like(incoming), incoming)  # NaN stays NaN


# ---------------------------------------------------------------------------------------------- the graph


@dataclass(frozen=True, eq=False)
class _Node:
    """A value of the program, and what it was made of."""

    value: Any
    operation: str = ""
    parents: tuple[_Node, ...] = ()
    eqn: Any = None
    inside: tuple[_Node, ...] = ()
    """What the bodies of a loop or of a branch returned."""
    depends: bool = False
    """On the input, by a differentiable path."""
    zero: bool = False
    relu_of: _Node | None = None
    smooth: str = ""
    """The name of a smooth activation."""
    guided: bool = False


def _leaf(value: Any) -> _Node:
    scalar = not isinstance(value, jax.core.Tracer) and jnp.issubdtype(
        jnp.result_type(value), jnp.number
    )
    return _Node(value, zero=bool(scalar and np.size(value) == 1 and not np.any(np.asarray(value))))


_SAME = {"broadcast_in_dim", "convert_element_type", "copy", "reshape", "squeeze"}
_SQUASHING = {"erf", "erfc", "logistic", "tanh"}
_ELEMENTWISE = {"add", "convert_element_type", "copy", "div", "exp", "integer_pow", "mul", "neg", "pow", "square",
                "sub", *_SQUASHING}  # fmt: skip
_LAYERS = {"conv_general_dilated", "dot_general"}
_HIDDEN = {"shard_map", "xla_pmap"}
_SMOOTH = {
    "celu": "CELU",
    "elu": "ELU",
    "gelu": "GELU",
    "hard_silu": "hard SiLU",
    "hard_swish": "hard SiLU",
    "leaky_relu": "LeakyReLU",
    "mish": "Mish",
    "selu": "SELU",
    "silu": "SiLU",
    "softplus": "Softplus",
    "squareplus": "Squareplus",
    "swish": "SiLU",
}
"""Functions of `jax.nn`, by the names that `jit` gives them."""
_GATES = {"hard_sigmoid", "log_sigmoid"}
"""Functions of `jax.nn` that hold a ReLU or a softplus and are none."""


@dataclass(frozen=True)
class _Reader:
    """Evaluates a program node by node, its ReLUs under the rule."""

    rule: str
    smooth: str

    def read(self, jaxpr: jex.Jaxpr, nodes: Iterable[_Node]) -> list[_Node]:
        """`nodes` are those of the jaxpr's constants and arguments."""
        env = dict(zip((*jaxpr.constvars, *jaxpr.invars), nodes, strict=True))

        def node(var: Any) -> _Node:
            return _leaf(var.val) if isinstance(var, jex.Literal) else env[var]

        for eqn in jaxpr.eqns:
            env.update(
                zip(eqn.outvars, self._equation(eqn, tuple(map(node, eqn.invars))), strict=True)
            )
        return [node(var) for var in jaxpr.outvars]

    def _equation(self, eqn: jex.JaxprEqn, parents: tuple[_Node, ...]) -> list[_Node]:
        name, depends = eqn.primitive.name, any(parent.depends for parent in parents)
        if name == "scan" and depends:
            return self._scan(eqn, parents)
        if name == "cond" and depends:
            return self._cond(eqn, parents)
        if name in _HIDDEN and depends:
            raise NotImplementedError(
                f"guided backpropagation cannot look for ReLUs inside {name}; pass the model without it"
            )
        if name != "scan" and (body := body_of(eqn)) is not None:
            return self._call(eqn, body, parents)
        if not depends:
            return _bound(eqn, parents)
        if (x := _positive_part(name, parents)) is not None and x.value.shape == eqn.outvars[
            0
        ].aval.shape:
            return [self._rectified(eqn, parents, x, x, x.value > 0)]
        if name == "min" and (capped := _capped(parents)) is not None:
            below, top = capped
            assert below.relu_of is not None
            return [self._rectified(eqn, parents, below, below.relu_of, below.value < top.value)]
        if name == "mul" and (x := _gate_argument(parents)) is not None:
            (plain,) = _bound(eqn, parents)
            return [
                self._activated("GELU or SiLU", parents, x, lambda value: _again(plain, x, value))
            ]
        return _bound(eqn, parents)

    def _rectified(
        self, eqn: jex.JaxprEqn, parents: tuple[_Node, ...], inner: _Node, x: _Node, gate: Array
    ) -> _Node:
        """A ReLU of x: what the equation makes of `inner`, x itself or the ReLU that a minimum then cuts off."""
        if self.rule == "guided":
            value = _positive(_with(eqn, parents, inner, _gated(inner.value, gate)))
        else:
            value = _through(
                x.value, jax.lax.stop_gradient(_with(eqn, parents, inner, inner.value))
            )
        return _Node(value, eqn.primitive.name, parents, eqn, depends=True, relu_of=x, guided=True)

    def _activated(
        self, name: str, parents: tuple[_Node, ...], x: _Node, function: Callable[[Array], Array]
    ) -> _Node:
        """A smooth activation of x."""
        if self.smooth == "plain":
            value = function(x.value)
        elif self.rule == "guided":
            value = _positive(function(_gated(x.value, x.value > 0)))
        else:
            value = _through(x.value, jax.lax.stop_gradient(function(x.value)))
        return _Node(
            value, name, parents, depends=True, smooth=name, guided=self.smooth == "guided"
        )

    def _call(self, eqn: jex.JaxprEqn, body: Body, parents: tuple[_Node, ...]) -> list[_Node]:
        """What a call computes; a derivative of its own is respected, unless it is a ReLU's or a whole block's."""
        label = str(eqn.params.get("name", ""))
        x = next((parent for parent in parents if parent.depends), None)
        if (
            x is not None
            and label in _SMOOTH
            and [out.aval.shape for out in eqn.outvars] == [x.value.shape]
        ):
            return [
                self._activated(
                    _SMOOTH[label], parents, x, lambda value: _with(eqn, parents, x, value)
                )
            ]
        if label in _GATES:
            return _bound(eqn, parents)
        found = self.read(body.jaxpr, (*map(_leaf, body.consts), *parents))
        own = eqn.primitive.name.startswith("custom_")
        if not own or _has_layers(body.jaxpr) or (len(found) == 1 and found[0].relu_of in parents):
            return found
        return _bound(eqn, parents)

    def _scan(self, eqn: jex.JaxprEqn, parents: tuple[_Node, ...]) -> list[_Node]:
        body, params = body_of(eqn), eqn.params
        assert body is not None
        fixed, carried = params["num_consts"], params["num_carry"]
        consts = (*map(_leaf, body.consts), *parents[:fixed])
        returned: list[_Node] = []

        def step(carry: list[Any], rows: list[Any]) -> tuple[list[Any], list[Any]]:
            # what is carried may depend on the input after the first step, so all of it is taken to
            inner = (
                _Node(value, "scan", parents, depends=_inexact(value)) for value in (*carry, *rows)
            )
            returned[:] = self.read(body.jaxpr, (*consts, *inner))
            values = [node.value for node in returned]
            return values[:carried], values[carried:]

        values = [parent.value for parent in parents]
        carry, stacked = jax.lax.scan(
            step,
            values[fixed : fixed + carried],
            values[fixed + carried :],
            length=params["length"],
            reverse=params["reverse"],
            unroll=params["unroll"],
        )
        return self._made("scan", parents, returned, (*carry, *stacked))

    def _cond(self, eqn: jex.JaxprEqn, parents: tuple[_Node, ...]) -> list[_Node]:
        index, *operands = parents
        returned: list[_Node] = []

        def branch(closed: Any) -> Callable[[], list[Any]]:
            def run() -> list[Any]:
                nodes = self.read(closed.jaxpr, (*map(_leaf, closed.consts), *operands))
                returned.extend(nodes)
                return [node.value for node in nodes]

            return run

        values = jax.lax.switch(index.value, [branch(closed) for closed in eqn.params["branches"]])
        return self._made("cond", parents, returned, values)

    @staticmethod
    def _made(
        name: str, parents: tuple[_Node, ...], inside: list[_Node], values: Iterable[Any]
    ) -> list[_Node]:
        return [
            _Node(value, name, parents, inside=tuple(inside), depends=_inexact(value))
            for value in values
        ]


def _bound(eqn: jex.JaxprEqn, parents: tuple[_Node, ...]) -> list[_Node]:
    """The equation as it is."""
    name = eqn.primitive.name
    depends = any(parent.depends for parent in parents) and name != "stop_gradient"
    zero = name in _SAME and parents[0].zero
    return [
        _Node(value, name, parents, eqn, depends=depends and _inexact(value), zero=zero)
        for value in bind(eqn, [parent.value for parent in parents])
    ]


def _with(eqn: jex.JaxprEqn, parents: tuple[_Node, ...], x: _Node, value: Any) -> Any:
    """What the equation computes with another value in the place of x."""
    return bind(eqn, [value if parent is x else parent.value for parent in parents])[0]


def _again(node: _Node, x: _Node, value: Any) -> Any:
    """The value of a node were that of x another."""
    if node is x or not node.depends:
        return value if node is x else node.value
    return bind(node.eqn, [_again(parent, x, value) for parent in node.parents])[0]


def _inexact(value: Any) -> bool:
    return bool(jnp.issubdtype(value.dtype, jnp.inexact))


# ---------------------------------------------------------------------------------------------- what a ReLU is


def _positive_part(name: str, parents: tuple[_Node, ...]) -> _Node | None:
    """The x of max(x, 0), of clamp(0, x, top) and of where(x > 0, x, 0)."""
    if name == "max":
        for x, other in (parents, parents[::-1]):
            if x.depends and other.zero and not _is_variance(x):
                return x
    if name == "clamp" and parents[0].zero and parents[1].depends:
        return parents[1]
    if name == "select_n" and len(parents) == 3:
        condition, *cases = parents
        compared, positive = _compared(condition)
        if (
            compared is not None
            and cases[positive] is compared
            and cases[not positive].zero
            and compared.depends
        ):
            return compared
    return None


def _compared(condition: _Node) -> tuple[_Node | None, bool]:
    """The x that is compared with 0, and the answer where it is positive."""
    if condition.operation not in ("gt", "ge", "lt", "le"):
        return None, False
    (left, right), above = condition.parents, condition.operation in ("gt", "ge")
    if right.zero:
        return left, above
    return (right, not above) if left.zero else (None, False)


def _capped(parents: tuple[_Node, ...]) -> tuple[_Node, _Node] | None:
    """The ReLU and the upper end of min(relu(x), top)."""
    for below, top in (parents, parents[::-1]):
        if below.relu_of is not None and not top.depends:
            return below, top
    return None


def _is_variance(node: _Node) -> bool:
    """Whether max(node, 0) only mends the rounding of E[x^2] - E[x]^2, as Flax's normalisations do."""
    while node.operation in (*_SAME, "div", "mul", "select_n"):
        changing = [parent for parent in node.parents if parent.depends]
        if len(changing) != 1:
            return False
        node = changing[0]
    if node.operation == "sub":
        return _is_square(node.parents[1])
    return node.operation == "reduce_sum" and _is_square(node.parents[0])


def _is_square(node: _Node) -> bool:
    while node.operation in _SAME:
        node = node.parents[0]
    if node.operation == "mul":
        return node.parents[0] is node.parents[1]
    return node.operation == "square" or (
        node.operation == "integer_pow" and node.eqn.params["y"] == 2
    )


def _gate_argument(parents: tuple[_Node, ...]) -> _Node | None:
    """The x of x g(x), g made of a sigmoid, a tanh or an error function of x alone: GELU, SiLU, however spelled."""
    for scaled, gate in (parents, parents[::-1]):
        x: _Node | None = scaled
        while x is not None and x.depends:
            if _is_gate(gate, x):
                return x
            x = _unscaled(x)
    return None


def _unscaled(node: _Node) -> _Node | None:
    """y of c y or y / c for a number c > 0."""
    if node.operation not in ("mul", "div"):
        return None
    for y, factor in (node.parents, node.parents[::-1])[: 1 if node.operation == "div" else 2]:
        number = factor.value
        if (
            y.depends
            and not isinstance(number, jax.core.Tracer)
            and np.size(number) == 1
            and np.all(number > 0)
        ):
            return y
    return None


def _is_gate(node: _Node, x: _Node) -> bool:
    waiting, seen, squashed = [node], {node}, False
    while waiting:
        part = waiting.pop()
        if part is x or not part.depends:
            continue
        if part.operation not in _ELEMENTWISE or part.eqn is None:
            return False
        squashed = squashed or part.operation in _SQUASHING
        below = [parent for parent in part.parents if parent not in seen]
        seen.update(below)
        waiting += below
    return squashed


def _has_layers(jaxpr: jex.Jaxpr) -> bool:
    bodies = (body_of(eqn) for eqn in jaxpr.eqns)
    return any(eqn.primitive.name in _LAYERS for eqn in jaxpr.eqns) or any(
        _has_layers(body.jaxpr) for body in bodies if body is not None
    )


# ---------------------------------------------------------------------------------------------- the verb


def input_gradients(
    model: JaxModel, inputs: Inputs, target: Callable[[Outputs], Array], rule: str, smooth: str
) -> Capture:
    """The verb of that name: see `gradcam.model.Model`."""
    inputs = held(inputs)
    array = first_array(inputs)

    def scored(values: Any, inputs: Inputs) -> tuple[Array, Outputs]:
        outputs = called(model.run, lambda path, value, *_: value, values, inputs)
        return _checked(target(outputs), array), outputs

    closed, shapes = jax.make_jaxpr(scored, return_shape=True)(model.values, inputs)
    treedef = jax.tree.structure(shapes)

    def run(x: Array) -> tuple[Array, Outputs]:
        start = _Node(x, depends=True)
        weights = [_Node(leaf) for leaf in jax.tree.leaves(model.values)]
        given = [start if leaf is array else _Node(leaf) for leaf in jax.tree.leaves(inputs)]
        consts = map(_leaf, closed.consts)
        found = _Reader(rule, smooth).read(closed.jaxpr, (*consts, *weights, *given))
        _check_guided(found[0], rule)
        scores, outputs = jax.tree.unflatten(treedef, [node.value for node in found])
        return scores, outputs

    scores, pullback, outputs = jax.vjp(run, array, has_aux=True)
    return Capture(outputs, scores, (array,), (_pulled(scores, pullback),))


def _check_guided(score: _Node, rule: str) -> None:
    """Raise where no ReLU lies on the way from the score to the input."""
    if not score.depends:
        raise RuntimeError(
            "the score does not depend on the input by a differentiable path: the input is not used, or a "
            "stop_gradient, a rounding or an argmax is on the way; choose another target"
        )
    waiting, seen = [score], {score}
    while waiting:
        node = waiting.pop()
        if node.guided:
            return
        below = {parent for parent in (*node.parents, *node.inside) if parent.depends} - seen
        seen |= below
        waiting += below
    raise nothing_guided(rule, [node.smooth for node in seen if node.smooth])
