"""Calls and fresh models of one kind keep neither programs nor objects."""

from __future__ import annotations

import gc

import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx

import gradcam

X = jnp.ones((2, 8, 8, 3))


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Conv(4, (3, 3), name="conv")(x))
        return linen.Dense(5)(x.mean((1, 2)))


class Nnx(nnx.Module):
    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.head = nnx.Linear(4, 5, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.conv(x)).mean((1, 2)))


def fresh_linen(seed):
    net = Linen()
    return net, net.init(jax.random.key(seed), X)


def kept():
    gc.collect()
    return len(jax.devices()[0].client.live_executables()), len(gc.get_objects())


@pytest.mark.parametrize("fresh", [fresh_linen, Nnx])
def test_fresh_models_leave_no_programs_and_no_objects(fresh):
    def explained(seed):
        gradcam.explain(fresh(seed), X, "conv", 1, relu=False)

    for seed in range(30):  # fills what keeps a few of the last
        explained(seed)
    programs, objects = kept()
    for seed in range(20):
        explained(seed)
    now = kept()
    assert now[0] == programs
    assert now[1] - objects < 20  # less than one for each


@pytest.mark.parametrize("fresh", [fresh_linen, Nnx])
def test_calls_of_one_model_leave_no_programs_and_no_objects(fresh):
    model = fresh(0)
    explainer = gradcam.Explainer(model, "conv", relu=False)
    for _ in range(4):
        explainer(X, 1)
    programs, objects = kept()
    for _ in range(20):
        explainer(X, 1)
    now = kept()
    assert now[0] == programs
    assert now[1] - objects < 20
