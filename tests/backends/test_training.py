"""Models of JAX's libraries and of Keras that run as in training: nothing of them changes."""

from __future__ import annotations

import os

import numpy as np
import pytest

import gradcam
from benchmarks.interrupts_others import X, arrays, process

ON_TORCH = os.environ["KERAS_BACKEND"] == "torch"

pytestmark = [
    pytest.mark.filterwarnings("ignore::gradcam.BlankMapWarning"),
    pytest.mark.filterwarnings("ignore::gradcam.GuessedAxesWarning"),  # samples are mixed
    pytest.mark.filterwarnings("ignore::gradcam.GuessedLayerWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Keras's own arrays in NumPy
]


class BoomError(Exception):
    pass


def nnx():
    import jax
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.head = nnx.Linear(4, 5, rngs=rngs)
            self.calls = nnx.BatchStat(jax.numpy.zeros(()))

        def __call__(self, x):
            self.calls[...] += 1
            x = self.norm(self.conv(x), use_running_average=False)
            x = self.drop(nnx.relu(x), deterministic=False)
            return self.head(x.mean((1, 2)))

    net, x = Net(nnx.Rngs(0)), jax.numpy.asarray(X)
    return net, x, lambda: arrays(nnx.state(net)), lambda: net(x)


def haiku():
    import haiku as hk
    import jax

    def network(x, train):
        x = hk.BatchNorm(True, True, 0.9, name="norm")(hk.Conv2D(4, 3, name="conv")(x), train)
        x = hk.dropout(hk.next_rng_key(), 0.5, jax.nn.relu(x))
        return hk.Linear(5, name="head")(x.mean((1, 2)))

    net, x = hk.transform_with_state(network), jax.numpy.asarray(X)
    params, state = net.init(jax.random.key(0), x, True)
    inputs = {"x": x, "train": True, "rng": jax.random.key(1)}
    return (net, params, state), inputs, lambda: arrays((params, state)), None


def keras():
    import keras

    layers = keras.layers

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.conv = layers.Conv2D(4, 3, name="conv")
            self.norm = layers.BatchNormalization(name="norm")
            self.relu = layers.ReLU(name="relu")
            self.drop = layers.Dropout(0.5, name="drop")
            self.noise = layers.GaussianNoise(0.1, name="noise")
            self.head = layers.Dense(5, name="head")
            self.calls = self.add_weight(shape=(), trainable=False, name="calls")

        def call(self, x, training=False):
            self.calls.assign_add(1.0)
            self.add_loss(keras.ops.mean(x))
            x = self.relu(self.norm(self.conv(x), training=training))
            x = self.noise(self.drop(x, training=training), training=training)
            return self.head(keras.ops.mean(x, (1, 2)))

    keras.utils.set_random_seed(0)
    net, x = Net(), keras.ops.convert_to_tensor(X)
    net(x)

    def held():
        parts = [net, *net._flatten_layers()]
        variables = {id(v): v for part in parts for v in part.variables}
        values = [keras.ops.convert_to_numpy(v.value).tobytes() for v in variables.values()]
        return values, [len(part._losses) for part in parts]

    return net, {"x": x, "training": True}, held, lambda: net(x, training=True)


LIBRARIES = {f.__name__: f for f in (nnx, haiku, keras)}


def boom(outputs):
    raise BoomError


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_model_that_runs_as_in_training_is_left_as_it_was(library):
    pytest.importorskip("flax" if library == "nnx" else library)
    if ON_TORCH and library != "keras":
        pytest.skip("this is the run of Keras on torch")
    model, inputs, held, own = LIBRARIES[library]()
    if own is not None:
        before = held()
        own()
        assert held() != before  # this test would notice
    gradcam.explain(model, inputs, "conv", 1)  # what is made once, is made
    before, around = held(), process()
    found = gradcam.explain(model, inputs, "conv", [[1, 2]])
    again = gradcam.explain(model, inputs, "conv", [[1, 2]])
    np.testing.assert_array_equal(found.numpy().maps, again.numpy().maps)  # all draw the same
    gradcam.explain(model, inputs, None, 1)
    gradcam.explain(model, inputs, "conv", 1, "ablation-cam")
    gradcam.guided_backprop(model, inputs, 1)
    gradcam.layers(model, inputs)
    # behind the norm, which mixes the samples
    gradcam.verify(model, inputs, "norm", 1, directions=2, channels=2).assert_passed()
    with pytest.raises(BoomError):
        gradcam.explain(model, inputs, "conv", boom)
    assert held() == before
    after = process()
    assert {name: after[name] for name in around} == around
