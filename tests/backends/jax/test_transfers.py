"""JAX's transfer guard of the user's own: what the library moves itself, it means to move."""

from __future__ import annotations

import functools

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
import numpy as np
import pytest

import gradcam


def model(weights, x):
    h = jax.lax.conv(x, weights["conv"], (1, 1), "SAME")
    h = jax.ad_checkpoint.checkpoint_name(jax.nn.relu(h), "conv")
    return h.mean((2, 3)) @ weights["head"]


@pytest.fixture
def network():
    random = np.random.default_rng(0)
    weights = {"conv": random.normal(size=(4, 3, 3, 3)), "head": random.normal(size=(4, 5))}
    weights = jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), weights)
    return functools.partial(model, weights), jnp.asarray(
        random.normal(size=(2, 3, 8, 8)), "float32"
    )


CALLS = {
    "no layer named": lambda net, x: gradcam.explain(net, x),
    "layers": lambda net, x: gradcam.layers(net, x),
    "targets": lambda net, x: gradcam.explain(net, x, "conv", [[1, 2], [0, 1]]),
    "smoothing": lambda net, x: gradcam.explain(net, x, "conv", 1, smoothing=gradcam.Smoothing()),
    "heatmaps": lambda net, x: gradcam.explain(net, x, "conv", 1).heatmaps(),
    "boxes": lambda net, x: gradcam.explain(net, x, "conv", 1).boxes(),
    "diagnose": lambda net, x: gradcam.explain(net, x, "conv", 1).diagnose(x),
    "explainer": lambda net, x: gradcam.Explainer(net, "conv").heatmaps(x, 1),
    "compare": lambda net, x: gradcam.compare(net, x, "conv", 1, ["grad-cam", "fem"]),
    "guided": lambda net, x: gradcam.guided_grad_cam(net, x, "conv", 1),
    "verify": lambda net, x: gradcam.verify(net, x, "conv", 1),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_guard_that_disallows_transfers_disallows_none_of_ours(network, call):
    with jax.transfer_guard("disallow"):
        call(*network)
        with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
            jnp.zeros(3) * 2  # the user's own are disallowed still


@pytest.mark.parametrize("method", ["grad-cam", "kpca-cam", "score-cam", "ablation-cam"])
def test_maps_are_the_same_under_a_guard(network, method):
    expected = gradcam.explain(*network, "conv", 1, method=method).maps
    with jax.transfer_guard("disallow"):
        found = gradcam.explain(*network, "conv", 1, method=method).maps
    np.testing.assert_array_equal(found, expected)
