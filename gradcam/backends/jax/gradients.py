"""Gradients of scores with respect to the outputs of layers, in one forward and one backward pass.

The gradient is taken with respect to a zero that is added to each layer's output, the *lift*. It is
the gradient with respect to the output itself, and since a lift depends on nothing, JAX
differentiates nothing below the lowest layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradcam._types import Array, Inputs, Outputs
from gradcam.backends.jax.program import Trace
from gradcam.inputs import first_array, with_first_array
from gradcam.model import INPUT, Capture

__all__ = ["Lifted", "checked_scores", "pull_back"]

Lifts = Mapping[str, Array]
"""For each layer's path an array of the shape of its output."""


class Lifted(NamedTuple):
    """A model as a function of arrays that are added to the outputs of some layers."""

    trace: Trace
    values: Any
    inputs: Inputs
    layers: Sequence[str]
    """Paths, `model.INPUT` for the input itself."""
    replaced: Mapping[str, Array]
    """Activations to use in place of a layer's own."""

    def __call__(self, lifts: Lifts) -> tuple[Outputs, dict[str, Array]]:
        """The outputs, and the activations without lifts. No lifts are the same as zeros."""
        activations = {}

        def lift(path: str, value: Array) -> Array:
            value = self.replaced.get(path, value)
            activations[path] = value
            return value + lifts[path] if lifts else value

        inputs = self.inputs
        if INPUT in self.layers:
            inputs = with_first_array(inputs, lift(INPUT, first_array(inputs)))
        # the input is no value of the jaxpr, but one of its arguments
        inner = [path for path in self.layers if path != INPUT]
        outputs = self.trace((self.values, inputs), inner, lift)
        return outputs, activations

    def capture(
        self, target: Callable[[Outputs], Array], sharded: bool, curvature: bool
    ) -> Capture:
        """See `model.Model.capture`."""

        def scored(lifts: Lifts) -> tuple[Array, tuple[Outputs, dict[str, Array]]]:
            outputs, activations = self(lifts)
            scores = checked_scores(target(outputs), first_array(self.inputs))
            return scores, (outputs, activations)

        zeros = jax.tree.map(
            lambda like: _placed(jnp.zeros_like(like), like.sharding),
            jax.eval_shape(lambda: self({})[1]),
        )
        try:
            scores, pullback, (outputs, activations) = jax.vjp(scored, zeros, has_aux=True)
        except ValueError as problem:
            if "callbacks do not support" in str(problem):
                raise _not_differentiable(self.layers) from problem
            raise
        gradients = pull_back(scores, pullback, sharded)

        def curved(path: str) -> Array:
            """The scores' Hessian times the activations: the gradients' derivative along them."""

            def gradients_at(lift: Array) -> Array:
                scores, pullback, _ = jax.vjp(scored, {**zeros, path: lift}, has_aux=True)
                return pull_back(scores, pullback, sharded)[path]

            # forward over reverse: no Hessian is formed
            return jax.jvp(gradients_at, (zeros[path],), (activations[path],))[1]

        return Capture(
            outputs,
            scores,
            tuple(map(activations.__getitem__, self.layers)),
            tuple(map(gradients.__getitem__, self.layers)),
            tuple(map(curved, self.layers)) if curvature else (),
        )


def _not_differentiable(layers: Sequence[str]) -> ValueError:
    """The error for a host function on the way to the score."""
    names = " and ".join(f'"{path}"' for path in layers)
    return ValueError(
        f"between layer {names} and the score the model calls a function on the host, by "
        "jax.pure_callback or jax.experimental.io_callback, which JAX cannot differentiate; give "
        "it a derivative with jax.custom_jvp, choose a later layer, or a method without gradients "
        'such as "ablation-cam"'
    )


def _placed(constant: Array, sharding: Any) -> Array:
    """The constant over the devices of a mesh with explicit axes, as an array of that sharding lies
    there. In JAX 0.10 `zeros_like` and `ones_like` do that themselves, in JAX 0.11 they do not.
    """
    if sharding is None or not any(sharding.spec):
        return constant
    return jax.sharding.reshard(constant, sharding)


def pull_back(scores: Array, pullback: Callable[[Array], Any], sharded: bool = False) -> Any:
    """Gradients (N, ...) of scores (N,), or (N, K, ...) of scores (N, K).

    sharded: `vmap` over the K targets would gather a batch that lies on several devices, so they
    run in a row.
    """
    ones = _placed(jnp.ones_like(scores), jax.typeof(scores).sharding)
    if scores.ndim == 1:
        return pullback(ones)[0]
    # samples do not depend on each other: one pass gives the gradients of N scores
    # (K, N, K): for each target k the derivative of the scores in column k
    cotangents = jnp.eye(scores.shape[1], dtype=scores.dtype)[:, None] * ones[None]
    if not sharded:
        return jax.vmap(pullback, out_axes=1)(cotangents)[0]
    gradients = jax.lax.map(pullback, cotangents)[0]
    return jax.tree.map(lambda gradient: jnp.moveaxis(gradient, 0, 1), gradients)


def checked_scores(scores: Any, array: Array) -> Array:
    """The scores, if they are (N,) or (N, K) for an input array (N, ...); else raises
    ValueError.
    """
    samples = array.shape[0]
    if not isinstance(scores, jax.Array):
        problem: Any = type(scores).__name__
    elif scores.ndim not in (1, 2) or scores.shape[0] != samples:
        problem = tuple(scores.shape)
    else:
        return scores
    raise ValueError(
        f"`target` must return scores of shape (N,) or (N, K) for N = {samples} samples, but "
        f"returned {problem}"
    )
