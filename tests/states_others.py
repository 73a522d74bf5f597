"""States of models of Equinox, Haiku and Keras (here on JAX): the suite's one network, its maps
worked by hand.
"""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import networks
import numpy as np
from states import Explained, state

import gradcam


def by_hand() -> np.ndarray:
    """alpha_k = (1 - y_c^2) w_kc / Z at the second layer, for classes 1 and 3."""
    a, w = networks.features_numpy(networks.images(2)), networks.weights()["w3"][:, [1, 3]]
    slopes = 1 - networks.head_numpy(a)[:, [1, 3]] ** 2
    return np.maximum(np.einsum("nk,ck,nchw->nkhw", slopes, w / a[0, 0].size, a), 0)


def explained(model: Any, layer: Any, last: bool, **others: Any) -> Explained:
    x = networks.images(2)
    x = jnp.asarray(x.transpose(0, 2, 3, 1) if last else x)
    return gradcam.explain(
        model, {"x": x, **others} if others else x, layer, [[1, 3]]
    ).maps, by_hand()


def in_float64(run: Any) -> Any:
    @functools.wraps(run)
    def wide() -> Explained:
        with jax.enable_x64(True):
            return run()

    return wide


def row(framework: str, name: str, **options: Any) -> Any:
    return lambda run: state(framework, "models", name, **options)(in_float64(run))


equinox = functools.partial(row, "Equinox")
haiku = functools.partial(row, "Haiku")
of_keras = functools.partial(row, "Keras")


@equinox("a module of one sample: mapped over the batch")
def per_sample() -> Explained:
    return explained(networks.equinox_network(), "second", False)


@equinox("`eqx.filter_jit(model)`, `eqx.filter_vmap(model)`: what they wrap")
def wrapped() -> Explained:
    return explained(eqx.filter_jit(eqx.filter_vmap(networks.equinox_network())), "second", False)


@equinox("the layer as the module itself")
def own_module() -> Explained:
    model = networks.equinox_network()
    return explained(model, model.second, False)


class Keyed(eqx.Module):
    """Dropout in front of the network, and a count of the calls in its state."""

    drop: eqx.nn.Dropout
    network: Any
    calls: eqx.nn.StateIndex

    def __call__(self, x: Any, state: Any, key: Any = None) -> Any:
        state = state.set(self.calls, state.get(self.calls) + 1)
        return self.network(self.drop(x, key=key)), state


@equinox("`State`, and a key for dropout, which is off: `(model, state)`")
def keyed() -> Explained:
    index = eqx.nn.StateIndex(jnp.zeros(()))
    model, state = eqx.nn.make_with_state(Keyed)(
        eqx.nn.Dropout(0.5), networks.equinox_network(), index
    )
    return explained((model, state), "network.second", False, key=jax.random.PRNGKey(0))


@haiku("`(transformed, params)`")
def transformed() -> Explained:
    return explained(networks.haiku_network(), "network/second", True)


@haiku("`without_apply_rng`")
def without_rng() -> Explained:
    transformed, params = networks.haiku_network()
    return explained((hk.without_apply_rng(transformed), params), "network/second", True)


@haiku("no parameters given", error=ValueError, says="holds no weights; pass (transformed, params)")
def without_params() -> Explained:
    return explained(networks.haiku_network()[0], "network/second", True)


@of_keras(
    "a built model, its layer by name; on torch the same, in a run of its own "
    "(`tests/backends/test_keras.py`)"
)
def built() -> Explained:
    return explained(networks.keras_network(), "second", True)


@of_keras("the layer as the object itself")
def own_layer() -> Explained:
    model = networks.keras_network()
    return explained(model, model.second, True)


@of_keras("not built", error=ValueError, says="has no weights yet; call it once")
def not_built() -> Explained:
    return explained(keras.Sequential([keras.layers.Dense(3)]), None, True)
