"""Guided backpropagation and the deconvnet in JAX.

The jaxpr is interpreted (walk.py) with a `Node` for each value, which knows what the value was
computed from. Where an equation computes a ReLU, its result is computed by a function with another
derivative:

    d:f32[2,5] = max c 0.0        becomes        d = _guided(max(c, 0.0), gate=c > 0)

so that of the gradient R of d, R [c > 0] [R > 0] is passed on to c. What is taken for a ReLU of x:

- max(x, 0), clamp(0, x, top), where(x > 0, x, 0) and min(top, relu(x)), in calls and loops too
- for smooth activations: the functions of `jax.nn`, by the names that they give to their `jit`, and
  products of x and a sigmoid, tanh or error function of x, which GELU and SiLU are

Two look-alikes are left alone: the clamp of a variance at 0 in a normalisation layer, and
hard_sigmoid and log_sigmoid. All of it can be traced by JAX, so a whole guided gradient is one
compiled program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp

from gradcam._types import Array, Inputs, Outputs
from gradcam.backends.errors import nothing_guided
from gradcam.backends.jax.gradients import checked_scores, pull_back
from gradcam.backends.jax.program import Run, run_untapped
from gradcam.backends.jax.relus import (
    Node,
    capped,
    computed,
    constant,
    is_inexact,
    rectified_by,
    values_of,
    weighed_by_itself,
)
from gradcam.backends.jax.walk import (
    Body,
    aval,
    block_of,
    body_of,
    branches_of,
    call_of,
    computes,
    interpret,
    scan_again,
    split_scan,
)
from gradcam.inputs import first_array
from gradcam.model import Capture

__all__ = ["input_gradients"]


def input_gradients(
    run: Run,
    values: Any,
    inputs: Inputs,
    target: Callable[[Outputs], Array],
    rule: str,
    smooth: str,
) -> Capture:
    """See `model.HasInputGradients`. `values` and `inputs` are trees of arrays (statics.py)."""
    array = first_array(inputs)

    # the target is part of the program, since its ReLUs follow the rule too
    def scored(values: Any, inputs: Inputs) -> tuple[Array, Outputs]:
        outputs = run_untapped(run, values, inputs)
        return checked_scores(target(outputs), array), outputs

    closed, shapes = jax.make_jaxpr(scored, return_shape=True)(values, inputs)
    program = Body(closed.jaxpr, closed.consts)
    treedef = jax.tree.structure(shapes)

    def guided(x: Array) -> tuple[Array, Outputs]:
        start = Node(x, depends=True)
        weights = map(Node, jax.tree.leaves(values))
        # of all inputs the gradient is that of one, and only what depends on it is under the rule
        given = [start if leaf is array else Node(leaf) for leaf in jax.tree.leaves(inputs)]
        nodes = _Reader(rule, smooth).read(program, (*weights, *given))
        _check_guided(nodes[0], rule)
        scores, outputs = treedef.unflatten(values_of(nodes))
        return scores, outputs

    scores, pullback, outputs = jax.vjp(guided, array, has_aux=True)
    return Capture(outputs, scores, (array,), (pull_back(scores, pullback),))


# -------------------------------------------------------------------------------- other derivatives


@jax.custom_vjp
def _guided(y: Array, gate: Array) -> Array:
    """y itself; the positive part of its gradient is passed on where the gate is open."""
    return y


@jax.custom_vjp
def _through(x: Array, y: Array) -> Array:
    """y itself; the positive part of its gradient is passed on to x as it is."""
    return y


def _positive(gradient: Array) -> Array:
    # `gradient < 0` and not `gradient > 0`: NaN stays NaN
    return jnp.where(gradient < 0, jnp.zeros_like(gradient), gradient)


_guided.defvjp(
    lambda y, gate: (y, gate),
    lambda gate, gradient: (_positive(jnp.where(gate, gradient, jnp.zeros_like(gradient))), None),
)
_through.defvjp(
    lambda x, y: (y, None),
    lambda _, gradient: (_positive(gradient), jnp.zeros_like(gradient)),
)


# ---------------------------------------------------------------------------------- the interpreter

_OPAQUE = {"shard_map", "xla_pmap"}

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
"""Functions of `jax.nn`, by the names that they give to their `jit`."""

_NO_ACTIVATIONS = {"hard_sigmoid", "log_sigmoid"}
"""Functions of `jax.nn` that are computed by a ReLU or a softplus, and are neither."""


@dataclass(frozen=True)
class _Reader:
    """Interprets a program of nodes, with its activations under the rule."""

    rule: str
    smooth: str

    def read(self, body: Body, arguments: Iterable[Node]) -> list[Node]:
        constants = map(constant, body.consts)
        nodes = (*constants, *arguments)
        return interpret(block_of(body.jaxpr), nodes, self._equation, literal=constant)

    def _equation(self, i: int, eqn: jex.JaxprEqn, operands: list[Node]) -> list[Node]:
        parents = tuple(operands)
        depends = any(parent.depends for parent in parents)
        name = eqn.primitive.name
        if depends and name == "scan":
            return self._scan(eqn, parents)
        if depends and name == "cond":
            return self._cond(eqn, parents)
        if depends and name in _OPAQUE:
            raise NotImplementedError(
                f"guided backpropagation cannot look for ReLUs inside {name}; pass the model "
                "without it"
            )
        # a call that does not depend on the input is read too: it may return zeros
        if (call := call_of(eqn)) is not None:
            return self._call(eqn, call, parents)
        results = computed(eqn, parents)
        if not depends:
            return results
        activation = self._activation(name, parents, results[0].value)
        if activation is None:
            return results
        return [activation]

    def _activation(self, name: str, parents: tuple[Node, ...], value: Array) -> Node | None:
        """The node of an equation that computes an activation; None for any other."""
        x = rectified_by(name, parents)
        if x is not None and x.value.shape == value.shape:
            return self._relu(name, parents, x, x.value > 0, value)
        if name == "min" and (relu_and_top := capped(parents)) is not None:
            relu, top = relu_and_top
            assert relu.relu_of is not None
            return self._relu(name, parents, relu.relu_of, relu.value < top.value, value)
        if name == "mul" and (x := weighed_by_itself(parents)) is not None:
            return self._smooth("GELU or SiLU", parents, x, value)
        return None

    def _relu(
        self, name: str, parents: tuple[Node, ...], x: Node, gate: Array, value: Array
    ) -> Node:
        value = self._under_rule(x, gate, value)
        return Node(value, name, parents, depends=True, relu_of=x, guided=True)

    def _smooth(self, name: str, parents: tuple[Node, ...], x: Node, value: Array) -> Node:
        is_guided = self.smooth == "guided"
        if is_guided:
            value = self._under_rule(x, x.value > 0, value)
        return Node(value, name, parents, depends=True, smooth=name, guided=is_guided)

    def _under_rule(self, x: Node, gate: Array, value: Array) -> Array:
        """The value of an activation of x, with the derivative of the rule.

        An activation is element-wise, so the gate may act on the gradient before its derivative
        does.
        """
        if self.rule == "guided":
            return _guided(value, gate)
        return _through(x.value, jax.lax.stop_gradient(value))

    # --------------------------------------------------------------------------------- inner jaxprs

    def _call(self, eqn: jex.JaxprEqn, body: Body, parents: tuple[Node, ...]) -> list[Node]:
        """A call: a function of `jax.nn` by its name, any other by what is inside.

        A derivative that the user gave (custom_jvp, custom_vjp) is used, unless it is that of a
        ReLU or of a block with layers.
        """
        label = str(eqn.params.get("name", ""))
        if label in _NO_ACTIVATIONS:
            return computed(eqn, parents)
        if label in _SMOOTH and (x := _activated_by(eqn, parents)) is not None:
            (plain,) = computed(eqn, parents)
            return [self._smooth(_SMOOTH[label], parents, x, plain.value)]
        results = self.read(body, parents)
        has_own_derivative = eqn.primitive.name.startswith("custom_")
        is_relu = len(results) == 1 and results[0].relu_of in parents
        if has_own_derivative and not is_relu and not computes(body.jaxpr):
            return computed(eqn, parents)
        return results

    def _scan(self, eqn: jex.JaxprEqn, parents: tuple[Node, ...]) -> list[Node]:
        body = body_of(eqn)
        assert body is not None
        constants, carry, columns = split_scan(eqn, parents)
        returned: list[Node] = []

        def step(carry: list[Any], row: list[Any]) -> tuple[list[Any], list[Any]]:
            # a carry may depend on the input from the second step on: every carry counts as such
            arguments = [
                Node(value, "scan", parents, depends=is_inexact(value)) for value in (*carry, *row)
            ]
            # JAX may trace the step several times: the last trace counts
            returned[:] = self.read(body, (*constants, *arguments))
            results = values_of(returned)
            return results[: len(carry)], results[len(carry) :]

        results = scan_again(eqn, step, values_of(carry), values_of(columns))
        return _opaque_results("scan", parents, returned, results)

    def _cond(self, eqn: jex.JaxprEqn, parents: tuple[Node, ...]) -> list[Node]:
        index, *operands = parents
        returned: list[Node] = []

        def branch(body: Body) -> Callable[[], list[Any]]:
            def run() -> list[Any]:
                nodes = self.read(body, operands)
                returned.extend(nodes)
                return values_of(nodes)

            return run

        results = jax.lax.switch(index.value, list(map(branch, branches_of(eqn))))
        return _opaque_results("cond", parents, returned, results)


def _opaque_results(
    name: str, parents: tuple[Node, ...], inside: Sequence[Node], values: Iterable[Any]
) -> list[Node]:
    """The results of a scan or a cond, whose nodes inside cannot be told apart by result."""
    return [
        Node(value, name, parents, tuple(inside), depends=is_inexact(value)) for value in values
    ]


def _activated_by(eqn: jex.JaxprEqn, parents: tuple[Node, ...]) -> Node | None:
    """The operand that depends on the input, if the one result has its shape."""
    x = next((parent for parent in parents if parent.depends), None)
    if x is None or [aval(var).shape for var in eqn.outvars] != [x.value.shape]:
        return None
    return x


def _check_guided(score: Node, rule: str) -> None:
    """Raise if no activation under the rule lies between the input and the score."""
    if not score.depends:
        raise RuntimeError(
            "the score does not depend on the input by a differentiable path: the input is not "
            "used, or a stop_gradient, a rounding or an argmax is on the way; choose another target"
        )
    waiting = [score]
    visited = {score}
    while waiting:
        node = waiting.pop()
        if node.guided:
            return
        for parent in (*node.parents, *node.inside):
            if parent.depends and parent not in visited:
                visited.add(parent)
                waiting.append(parent)
    raise nothing_guided(rule, [node.smooth for node in visited if node.smooth])
