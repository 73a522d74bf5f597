"""What only Haiku has: transformed functions, their state, and their keys."""

from __future__ import annotations

import networks
import numpy as np
import pytest

import gradcam

jax = pytest.importorskip("jax")
hk = pytest.importorskip("haiku")
jnp = jax.numpy
X = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 9, 3)), jnp.float32)


def network(x, is_training=False):
    x = hk.Conv2D(4, 3, name="conv")(x)
    x = hk.BatchNorm(True, True, 0.9, name="norm")(x, is_training)
    if is_training:
        x = hk.dropout(hk.next_rng_key(), 0.5, x)
    return hk.Linear(5, name="linear")(jax.nn.relu(x).mean((1, 2)))


TRANSFORMED = hk.transform_with_state(network)
PARAMS, STATE = TRANSFORMED.init(jax.random.key(0), X, True)


def test_state_is_read_and_not_returned():
    e = gradcam.explain((TRANSFORMED, PARAMS, STATE), X, "conv", 1)
    outputs, _ = TRANSFORMED.apply(PARAMS, STATE, None, X)
    np.testing.assert_allclose(e.outputs, outputs, rtol=1e-5)
    gradcam.verify((TRANSFORMED, PARAMS, STATE), X, "conv", 1).assert_passed()


def test_flags_and_keys_are_passed_through():
    model, key = (TRANSFORMED, PARAMS, STATE), jax.random.key(3)
    e = gradcam.explain(model, {"x": X, "is_training": True, "rng": key}, "conv", 1)
    outputs, _ = TRANSFORMED.apply(PARAMS, STATE, key, X, True)
    np.testing.assert_allclose(e.outputs, outputs, rtol=1e-5)
    with pytest.raises(ValueError, match="You must pass a non-None PRNGKey"):
        gradcam.explain(model, {"x": X, "is_training": True}, "conv", 1)


def test_without_apply_rng():
    with jax.enable_x64(True):
        transformed, params = networks.haiku_network()
        x = jnp.asarray(networks.images(2).transpose(0, 2, 3, 1))
        expected = gradcam.explain((transformed, params), x, "network/second", 1).maps
        found = gradcam.explain(
            (hk.without_apply_rng(transformed), params), x, "network/second", 1
        ).maps
    np.testing.assert_allclose(found, expected)


def test_missing_weights_are_asked_for():
    with pytest.raises(ValueError, match=r"holds no weights; pass \(transformed, params, state\)"):
        gradcam.explain((TRANSFORMED, PARAMS), X, "conv", 1)
    with pytest.raises(ValueError, match=r"holds no weights; pass \(transformed, params\)"):
        gradcam.explain(networks.haiku_network()[0], X, "conv", 1)


def test_new_parameters_trace_nothing():
    traces = []

    def counted(x, is_training=False):
        traces.append(1)
        return network(x, is_training)

    transformed = hk.transform_with_state(counted)
    params, state = transformed.init(jax.random.key(0), X, True)
    gradcam.explain((transformed, params, state), X, "conv", 1)
    count = len(traces)
    gradcam.explain((transformed, jax.tree.map(lambda p: p * 2, params), state), X, "conv", 1)
    assert len(traces) == count


def test_full_grad_knows_the_bias_of_batch_norm():
    paths = [path for path, _ in gradcam.backends.adapt((TRANSFORMED, PARAMS, STATE), X).biases(X)]
    assert paths == ["conv", "norm", "linear"]
