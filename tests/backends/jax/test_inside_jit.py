"""Explaining inside the user's own jit, grad or vmap, and under JAX's stricter settings."""

from __future__ import annotations

import functools

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import states_jax as states  # noqa: E402

import gradcam  # noqa: E402
from gradcam.methods import TABLE  # noqa: E402

METHODS = [row.name for row in TABLE if row.needs not in ("attention", "biases", "a linear head")]


def explained(x, method="grad-cam", layout="channels_last"):
    model = functools.partial(states.model, states.W)
    return gradcam.explain(model, x, "layer", 1, method, layout=layout, relu=False)


@pytest.mark.parametrize("method", METHODS)
def test_a_map_inside_jit_is_that_outside(method):
    """`check` is on, and checks nothing."""
    x = states.images()
    expected = explained(x, method).maps
    found = jax.jit(lambda x: explained(x, method).maps)(x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_a_map_can_be_differentiated_and_mapped():
    x = states.images()
    _, along = jax.jvp(lambda x: explained(x).maps, (x,), (x,))
    slope = jax.grad(lambda x: (explained(x).maps ** 2).sum())(x)
    np.testing.assert_allclose((slope * x).sum(), 2 * (explained(x).maps * along).sum(), rtol=1e-4)
    stacked = jax.numpy.stack([x, 2 * x])
    mapped = jax.vmap(lambda x: explained(x).maps)(stacked)
    np.testing.assert_allclose(mapped[1], explained(2 * x).maps, rtol=1e-4, atol=1e-7)


def test_a_question_to_the_network_must_have_been_asked_before():
    model = functools.partial(states.model, states.W)

    def maps(x):
        return gradcam.explain(model, x, "layer", 1).maps

    x = states.images()
    with pytest.raises(RuntimeError, match="say it with `layout`, or explain once outside"):
        jax.jit(maps)(x)
    expected = maps(x)
    np.testing.assert_allclose(jax.jit(maps)(x), expected, rtol=1e-5, atol=1e-7)


def test_which_layer_is_taken_must_have_been_asked_before():
    model = states.Linen(), states.variables()

    def maps(x):
        return gradcam.explain(model, x, None, 1).maps

    x = states.images()
    with pytest.raises(ValueError, match="name it with `layer`, or explain once outside"):
        jax.jit(maps)(x)
    expected = maps(x)
    np.testing.assert_allclose(jax.jit(maps)(x), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", [*METHODS, "full-grad"])
def test_no_method_promotes_ranks(method):
    x = states.images()
    model = states.Linen(), states.variables()
    expected = gradcam.explain(model, x, "conv2", [[1, 3]], method, relu=False).maps
    with jax.numpy_rank_promotion("raise"):
        found = gradcam.explain(model, x, "conv2", [[1, 3]], method, relu=False).maps
    np.testing.assert_array_equal(found, expected)
