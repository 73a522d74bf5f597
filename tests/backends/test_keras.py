"""What only Keras has: two backends, layers by name, a mode that is an argument."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gradcam

keras = pytest.importorskip("keras")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # of Keras's own arrays in NumPy
ON_TORCH = keras.backend.backend() == "torch"
X = np.random.default_rng(1).normal(size=(2, 8, 9, 3)).astype("float32")


def give(x):
    if ON_TORCH:
        import torch

        return torch.from_numpy(x)
    import jax.numpy as jnp

    return jnp.asarray(x)


def network():
    layers = keras.layers
    keras.utils.set_random_seed(0)
    block = [
        layers.Conv2D(4, 3, name="conv"),
        layers.BatchNormalization(name="norm"),
        layers.Dropout(0.5, name="drop"),
    ]
    head = [
        layers.ReLU(name="relu"),
        layers.GlobalAveragePooling2D(name="pool"),
        layers.Dense(5, name="dense"),
    ]
    return keras.Sequential([layers.Input((8, 9, 3)), keras.Sequential(block, name="block"), *head])


def test_layers_have_their_names_and_the_mode_is_inference():
    model = network()
    paths = [layer.path for layer in gradcam.layers(model, give(X))]
    assert paths == ["block/conv", "block/norm", "block/drop", "block", "relu", "pool", "dense"]
    e = gradcam.explain(model, give(X), "block/drop", [[1, 2]])
    np.testing.assert_allclose(
        np.asarray(e.outputs), keras.ops.convert_to_numpy(model(X, training=False)), atol=1e-5
    )
    assert gradcam.explain(model, give(X), None, 1).layer == "relu"


def test_maps_are_those_worked_by_hand():
    model = network()
    e = gradcam.explain(model, give(X), "relu", [[1, 2]])
    block = keras.ops.convert_to_numpy(model.get_layer("block")(X, training=False))
    weights = keras.ops.convert_to_numpy(model.get_layer("dense").kernel)[:, [1, 2]]
    a = np.maximum(block, 0)
    expected = np.maximum(np.einsum("nhwc,ck->nkhw", a, weights / 42), 0)
    np.testing.assert_allclose(np.asarray(e.maps), expected, atol=1e-6)


def test_a_layer_may_be_the_layer_itself():
    model = network()
    assert gradcam.explain(model, give(X), model.get_layer("relu"), 1).layer == "relu"
    with pytest.raises(KeyError, match="is not a layer of this Sequential"):
        gradcam.explain(model, give(X), keras.layers.ReLU(), 1)
    with pytest.raises(
        KeyError, match='layer "block/cnov" is not in the model; did you mean "block/conv"'
    ):
        gradcam.explain(model, give(X), "block/cnov", 1)


class BoomError(Exception):
    pass


def test_the_model_is_left_as_it_was_also_when_it_raises():
    model = network()
    layers = [model, *model._flatten_layers()]
    before = [sorted(vars(layer)) for layer in layers]
    weights = model.get_weights()

    def target(outputs):
        raise BoomError

    gradcam.explain(model, give(X), "relu", 1)
    with pytest.raises(BoomError):
        gradcam.explain(model, give(X), "relu", target)
    assert [sorted(vars(layer)) for layer in layers] == before
    for one, other in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_new_weights_are_read():
    model = network()
    explainer = gradcam.Explainer(model, "relu")
    explainer(give(X), 1)
    model.set_weights([w * 1.1 for w in model.get_weights()])
    outputs = keras.ops.convert_to_numpy(model(X, training=False))
    np.testing.assert_allclose(np.asarray(explainer(give(X), 1).outputs), outputs, atol=1e-5)


def test_a_replaced_activation_is_seen():
    model = network()
    model.get_layer("dense").activation = keras.activations.softmax
    gradcam.explain(model, give(X), "relu", 1)
    for activation in (
        keras.activations.linear,
        keras.activations.tanh,
    ):  # what tutorials do to a softmax
        model.get_layer("dense").activation = activation
        outputs = keras.ops.convert_to_numpy(model(X, training=False))
        np.testing.assert_allclose(
            np.asarray(gradcam.explain(model, give(X), "relu", 1).outputs), outputs, atol=1e-5
        )


@pytest.mark.skipif(ON_TORCH, reason="nothing is compiled")
def test_new_weights_calls_and_training_trace_nothing():
    traces = []

    class Counted(keras.layers.Layer):
        def call(self, x):
            traces.append(1)
            return x

    inner = network()
    model, layer = (
        keras.Sequential([keras.layers.Input((8, 9, 3)), Counted(), inner]),
        inner.get_layer("relu"),
    )
    gradcam.explain(model, give(X), layer, 1)
    model.set_weights([w * 1.1 for w in model.get_weights()])
    model.compile("sgd", "mse")
    model.fit(X, np.zeros((2, 5)), verbose=0)
    count = len(traces)
    gradcam.explain(model, give(X), layer, 1)
    assert len(traces) == count


@pytest.mark.parametrize("names", [False, True])
def test_several_inputs_are_a_tuple_or_a_mapping(names):
    layers = keras.layers
    image, extra = keras.Input((8, 9, 3), name="image"), keras.Input((4,), name="extra")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, name="conv")(image))
    outputs = layers.Dense(5)(layers.Concatenate()([x, extra]))
    model = keras.Model({"image": image, "extra": extra} if names else [image, extra], outputs)
    given = {"image": give(X), "extra": give(np.ones((2, 4), "float32"))}
    expected = keras.ops.convert_to_numpy(
        model(given if names else list(given.values()), training=False)
    )
    for inputs in (given,) if names else (given, tuple(given.values())):
        e = gradcam.explain(model, inputs, "conv", 1)
        assert tuple(e.maps.shape) == (2, 6, 7)
        np.testing.assert_allclose(np.asarray(e.outputs), expected, atol=1e-5)


def test_full_grad_finds_the_biases_and_refuses_activations_behind_them():
    model = network()
    biases = dict(gradcam.backends.adapt(model, give(X)).biases(give(X)))
    assert list(biases) == ["block/conv", "block/norm", "dense"]
    model.get_layer("block").get_layer("norm").beta.assign([1.0, 2, 3, 4])
    assert gradcam.explain(model, give(X), None, [[1, 2]], "full-grad").maps.shape == (2, 2, 8, 9)
    biases = dict(gradcam.backends.adapt(model, give(X)).biases(give(X)))
    np.testing.assert_allclose(
        np.asarray(biases["block/norm"])[:, 0, 0], [[1, 2, 3, 4]] * 2, rtol=1e-6
    )
    model.get_layer("dense").activation = keras.activations.softmax
    with pytest.raises(
        ValueError,
        match=r'the bias of layer "dense" cannot be had in front of its own .* "softmax"',
    ):
        gradcam.explain(model, give(X), None, 1, "full-grad")


@pytest.mark.skipif(not ON_TORCH, reason="in JAX they are the JAX backend's")
def test_weights_have_their_layers_names_and_a_copy_takes_others_in_keras():
    model = network()
    tapped = gradcam.backends.adapt(model, give(X))
    weights = tapped.weights()
    block = ["block/conv/kernel", "block/conv/bias", "block/norm/gamma", "block/norm/beta"]
    assert list(weights) == [*block, "dense/kernel", "dense/bias"]
    twin = tapped.with_weights({"dense/bias": weights["dense/bias"] + 1})
    shifted = keras.ops.convert_to_numpy(twin(X, training=False))
    outputs = keras.ops.convert_to_numpy(model(X, training=False))
    np.testing.assert_allclose(shifted, outputs + 1, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(tapped.forward(give(X))), outputs, rtol=1e-5)


def test_a_model_that_is_not_built_says_so():
    with pytest.raises(ValueError, match="has no weights yet; call it once"):
        gradcam.explain(keras.Sequential([keras.layers.Dense(3)]), give(X), None, 1)


@pytest.mark.skipif(ON_TORCH, reason="this is the run on torch")
def test_the_same_on_keras_torch_backend():
    """The shared suite and this file, in a process of its own: Keras's backend is set once for
    each.
    """
    pytest.importorskip("torch")
    here = Path(__file__).parent.parent
    names = (
        "backends/test_backends",
        "backends/test_keras",
        "backends/test_interrupts",
        "backends/test_training",
        "explaining/test_smoothing",
        "explaining/test_concepts",
    )
    files = [here / f"{name}.py" for name in names]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
        "-k",
        "keras",
        *files,
    ]
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    ran = subprocess.run(
        command, capture_output=True, text=True, cwd=here.parent, env=environment, check=False
    )
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
    passed = int(ran.stdout.split(" passed")[0].split()[-1])
    assert passed >= 40


def test_verify_has_differences_in_double_precision():
    model = network()
    report = gradcam.verify(model, give(X), "block/drop", 1)
    report.assert_passed()
    assert (report.dtype, report.replay_dtype) == ("float32", "float64")
    assert max(report.error, report.resolution) <= 1e-5
    assert report.tolerance in (5e-4, 1e-2)  # the latter where the framework may use TF32
