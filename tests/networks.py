"""One small network, written once for each framework, with the same weights in float64.

conv 3x3 (3 -> 4), ReLU [layer "first"], conv 3x3 stride 2 (4 -> 6), softplus [layer "second"],
mean, linear (6 -> 5), tanh. The last tanh makes gradients differ between samples; softplus keeps
the second layer's head smooth.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import gradcam

BACKENDS = (
    "numpy",
    "torch",
    "torch-split",
    "jax",
    "jax-nchw",
    "jax-split",
    "linen",
    "linen-bound",
    "nnx",
    "equinox",
    "haiku",
    "keras",
)


@functools.cache
def weights() -> dict[str, np.ndarray]:
    """Convolutions as (H, W, in, out)."""
    random = np.random.default_rng(7)
    return {
        "w1": random.normal(size=(3, 3, 3, 4)) * 0.5,
        "b1": random.normal(size=4) * 0.1,
        "w2": random.normal(size=(3, 3, 4, 6)) * 0.4,
        "b2": random.normal(size=6) * 0.1,
        "w3": random.normal(size=(6, 5)) * 0.3,
        "b3": random.normal(size=5) * 0.1,
    }


def images(count: int = 3, size: tuple[int, int] = (8, 10)) -> np.ndarray:
    """(N, 3, H, W)."""
    return np.random.default_rng(11).normal(size=(count, 3, *size))


@dataclass(frozen=True)
class Case:
    """A model of one backend. `first` and `second` are its layers; `give` and `take` convert arrays
    (N, C, H, W).
    """

    name: str
    model: Any
    first: str | None
    second: str
    give: Callable[[np.ndarray], Any]
    channels_first: bool

    def inputs(self, count: int = 3) -> Any:
        return self.give(images(count))

    def take(self, activations: Any) -> np.ndarray:
        """A layer's array as (..., C, H, W) in NumPy."""
        array = np.asarray(activations)
        return array if self.channels_first else np.moveaxis(array, -1, -3)

    @property
    def tapped(self) -> Any:
        from gradcam import backends

        return backends.adapt(self.model, self.inputs())


def case(name: str) -> Case:
    if name == "numpy":
        return Case(
            name, gradcam.Split(features_numpy, head_numpy), None, "features", np.asarray, True
        )
    if name.startswith("torch"):
        return _torch(name)
    if name == "equinox":
        return _equinox()
    if name == "haiku":
        return _haiku()
    if name == "keras":
        return _keras()
    return _jax(name)


# -------------------------------------------------------------------------------------------- numpy


def _conv_numpy(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: int) -> np.ndarray:
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[
        :, :, ::stride, ::stride
    ]
    return np.einsum("nchwij,ijco->nohw", windows, w) + b[:, None, None]


def features_numpy(x: np.ndarray) -> np.ndarray:
    w = weights()
    y = np.maximum(_conv_numpy(x, w["w1"], w["b1"], 1), 0)
    with np.errstate(invalid="ignore"):  # a test feeds it NaN
        return np.logaddexp(_conv_numpy(y, w["w2"], w["b2"], 2), 0)


def head_numpy(a: np.ndarray) -> np.ndarray:
    return np.tanh(a.mean(axis=(2, 3)) @ weights()["w3"] + weights()["b3"])


# -------------------------------------------------------------------------------------------- torch


def _torch(name: str) -> Case:
    import torch

    if name == "torch-split":
        module = torch_network()

        def features(x: Any) -> Any:
            return module.second(module.conv2(module.first(module.conv1(x))))

        def head(a: Any) -> Any:
            return torch.tanh(module.linear(a.mean(dim=(2, 3))))

        return Case(name, gradcam.Split(features, head), None, "features", torch.from_numpy, True)
    return Case(name, torch_network(), "first", "second", torch.from_numpy, True)


def torch_network() -> Any:
    import torch

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = torch.nn.Conv2d(3, 4, 3, padding=1)
            self.first = torch.nn.ReLU()
            self.conv2 = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1)
            self.second = torch.nn.Softplus()
            self.linear = torch.nn.Linear(6, 5)

        def forward(self, x: Any) -> Any:
            x = self.second(self.conv2(self.first(self.conv1(x))))
            return torch.tanh(self.linear(x.mean(dim=(2, 3))))

    network, w = Network().double().eval(), weights()
    with torch.no_grad():
        network.conv1.weight.copy_(torch.from_numpy(w["w1"].transpose(3, 2, 0, 1)))
        network.conv1.bias.copy_(torch.from_numpy(w["b1"]))
        network.conv2.weight.copy_(torch.from_numpy(w["w2"].transpose(3, 2, 0, 1)))
        network.conv2.bias.copy_(torch.from_numpy(w["b2"]))
        network.linear.weight.copy_(torch.from_numpy(w["w3"].T))
        network.linear.bias.copy_(torch.from_numpy(w["b3"]))
    return network


# ---------------------------------------------------------------------------------------------- JAX


def _jax(name: str) -> Case:
    import jax
    import jax.numpy as jnp
    from jax.ad_checkpoint import checkpoint_name

    first = name == "jax-nchw"
    order = ("NCHW", "HWIO", "NCHW") if first else ("NHWC", "HWIO", "NHWC")
    space = (2, 3) if first else (1, 2)

    def give(x: np.ndarray) -> Any:
        return jnp.asarray(x if first else x.transpose(0, 2, 3, 1))

    def conv(x: Any, w: Any, b: Any, stride: int) -> Any:
        y = jax.lax.conv_general_dilated(
            x, w, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=order
        )
        return y + (b[:, None, None] if first else b)

    def features(w: Any, x: Any) -> Any:
        y = checkpoint_name(jax.nn.relu(conv(x, w["w1"], w["b1"], 1)), "first")
        return checkpoint_name(jax.nn.softplus(conv(y, w["w2"], w["b2"], 2)), "second")

    def head(w: Any, a: Any) -> Any:
        return jnp.tanh(jnp.mean(a, space) @ w["w3"] + w["b3"])

    values = {key: jnp.asarray(value) for key, value in weights().items()}
    if name == "jax-split":
        split = gradcam.Split(functools.partial(features, values), functools.partial(head, values))
        return Case(name, split, None, "features", give, False)
    if name.startswith("jax"):
        model = functools.partial(lambda w, x: head(w, features(w, x)), values)
        return Case(name, model, "first", "second", give, first)
    if name == "nnx":
        return Case(name, nnx_network(), "first", "second", give, False)
    module, variables = linen_network()
    model = module.bind(variables) if name == "linen-bound" else (module, variables)
    return Case(name, model, "first", "second", give, False)


def linen_network() -> tuple[Any, Any]:
    import flax.linen as nn
    import jax.numpy as jnp

    class Activation(nn.Module):
        kind: str

        def __call__(self, x: Any) -> Any:
            return nn.relu(x) if self.kind == "relu" else nn.softplus(x)

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = nn.Conv(4, (3, 3), padding=1, param_dtype=jnp.float64, name="conv1")(x)
            x = Activation("relu", name="first")(x)
            x = nn.Conv(6, (3, 3), strides=2, padding=1, param_dtype=jnp.float64, name="conv2")(x)
            x = Activation("softplus", name="second")(x)
            return jnp.tanh(
                nn.Dense(5, param_dtype=jnp.float64, name="linear")(jnp.mean(x, (1, 2)))
            )

    w = {key: jnp.asarray(value) for key, value in weights().items()}
    return Network(), {
        "params": {
            "conv1": {"kernel": w["w1"], "bias": w["b1"]},
            "conv2": {"kernel": w["w2"], "bias": w["b2"]},
            "linear": {"kernel": w["w3"], "bias": w["b3"]},
        }
    }


def nnx_network() -> Any:
    import jax
    import jax.numpy as jnp
    from flax import nnx

    class Activation(nnx.Module):
        def __init__(self, function: Any) -> None:
            self.function = function

        def __call__(self, x: Any) -> Any:
            return self.function(x)

    class Network(nnx.Module):
        def __init__(self) -> None:
            rngs, w = nnx.Rngs(0), {key: jnp.asarray(value) for key, value in weights().items()}
            self.conv1 = nnx.Conv(3, 4, (3, 3), padding=1, param_dtype=jnp.float64, rngs=rngs)
            self.first = Activation(jax.nn.relu)
            self.conv2 = nnx.Conv(
                4, 6, (3, 3), strides=2, padding=1, param_dtype=jnp.float64, rngs=rngs
            )
            self.second = Activation(jax.nn.softplus)
            self.linear = nnx.Linear(6, 5, param_dtype=jnp.float64, rngs=rngs)
            for layer, n in ((self.conv1, 1), (self.conv2, 2), (self.linear, 3)):
                layer.kernel[...], layer.bias[...] = w[f"w{n}"], w[f"b{n}"]

        def __call__(self, x: Any) -> Any:
            x = self.second(self.conv2(self.first(self.conv1(x))))
            return jnp.tanh(self.linear(jnp.mean(x, (1, 2))))

    return Network()


# ---------------------------------------------------------------------------- Equinox, Haiku, Keras


def _last(x: np.ndarray) -> Any:
    import jax.numpy as jnp

    return jnp.asarray(x.transpose(0, 2, 3, 1))


def _equinox() -> Case:
    import jax.numpy as jnp

    return Case("equinox", equinox_network(), "first", "second", jnp.asarray, True)


def equinox_network() -> Any:
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    class Network(eqx.Module):
        """One sample, channels first, as Equinox's convolutions are."""

        conv1: eqx.nn.Conv2d
        first: eqx.nn.Lambda
        conv2: eqx.nn.Conv2d
        second: eqx.nn.Lambda
        linear: eqx.nn.Linear

        def __call__(self, x: Any) -> Any:
            x = self.second(self.conv2(self.first(self.conv1(x))))
            return jnp.tanh(self.linear(jnp.mean(x, (1, 2))))

    w, key = {name: jnp.asarray(value) for name, value in weights().items()}, jax.random.key(0)
    network = Network(
        eqx.nn.Conv2d(3, 4, 3, padding=1, key=key),
        eqx.nn.Lambda(jax.nn.relu),
        eqx.nn.Conv2d(4, 6, 3, stride=2, padding=1, key=key),
        eqx.nn.Lambda(jax.nn.softplus),
        eqx.nn.Linear(6, 5, key=key),
    )
    return eqx.tree_at(
        lambda n: [
            getattr(layer, part)
            for layer in (n.conv1, n.conv2, n.linear)
            for part in ("weight", "bias")
        ],
        network,
        [
            w["w1"].transpose(3, 2, 0, 1),
            w["b1"][:, None, None],
            w["w2"].transpose(3, 2, 0, 1),
            w["b2"][:, None, None],
            w["w3"].T,
            w["b3"],
        ],
    )


def _haiku() -> Case:
    return Case("haiku", haiku_network(), "network/first", "network/second", _last, False)


def haiku_network() -> Any:
    import haiku as hk
    import jax
    import jax.numpy as jnp

    class Activation(hk.Module):
        def __init__(self, function: Any, name: str) -> None:
            super().__init__(name)
            self.function = function

        def __call__(self, x: Any) -> Any:
            return self.function(x)

    class Network(hk.Module):
        def __call__(self, x: Any) -> Any:
            x = Activation(jax.nn.relu, "first")(hk.Conv2D(4, 3, padding=(1, 1), name="conv1")(x))
            x = Activation(jax.nn.softplus, "second")(
                hk.Conv2D(6, 3, 2, padding=(1, 1), name="conv2")(x)
            )
            return jnp.tanh(hk.Linear(5, name="linear")(jnp.mean(x, (1, 2))))

    w = {key: jnp.asarray(value) for key, value in weights().items()}
    layers = (("conv1", 1), ("conv2", 2), ("linear", 3))
    return hk.transform(lambda x: Network(name="network")(x)), {
        f"network/{name}": {"w": w[f"w{n}"], "b": w[f"b{n}"]} for name, n in layers
    }


def _keras() -> Case:
    import keras

    if keras.backend.backend() == "jax":
        return Case("keras", keras_network(), "first", "second", _last, False)
    import torch

    give = lambda x: torch.from_numpy(np.ascontiguousarray(x.transpose(0, 2, 3, 1)))  # noqa: E731
    return Case("keras", keras_network(), "first", "second", give, False)


def keras_network() -> Any:
    """On whichever backend Keras runs; some of its own operations (tanh, means, Dense) round
    float64 to float32.
    """
    import keras

    if keras.backend.backend() == "torch":
        from torch import tanh
    else:
        from jax.numpy import tanh
    layers = keras.layers

    class Network(keras.Model):
        def __init__(self) -> None:
            super().__init__(dtype="float64")
            self.conv1 = layers.Conv2D(4, 3, padding="same", name="conv1", dtype="float64")
            self.first = layers.Activation("relu", name="first", dtype="float64")
            # Keras pads a convolution of stride 2 at the end alone: here zeros are put around it,
            # and it pads nothing
            self.padding = layers.ZeroPadding2D(1, name="padding", dtype="float64")
            self.conv2 = layers.Conv2D(6, 3, strides=2, name="conv2", dtype="float64")
            self.second = layers.Activation("softplus", name="second", dtype="float64")
            self.linear = layers.Conv2D(5, 1, name="mixing", dtype="float64")

        def call(self, x: Any) -> Any:
            x = self.second(self.conv2(self.padding(self.first(self.conv1(x)))))
            return tanh(self.linear(x.mean((1, 2))[:, None, None])[:, 0, 0])

    model, w = Network(), weights()
    model(np.zeros((1, 8, 10, 3)))
    model.set_weights([w["w1"], w["b1"], w["w2"], w["b2"], w["w3"][None, None], w["b3"]])
    return model
