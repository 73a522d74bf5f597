"""What only Equinox has: modules of one sample, State, keys, wrappers."""

from __future__ import annotations

import networks
import numpy as np
import pytest

import gradcam

jax = pytest.importorskip("jax")
eqx = pytest.importorskip("equinox")
jnp = jax.numpy
from jax.ad_checkpoint import checkpoint_name  # noqa: E402

KEYS = jax.random.split(jax.random.key(0), 4)
X = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 8, 9)), jnp.float32)


class Block(eqx.Module):
    conv: eqx.nn.Conv2d
    drop: eqx.nn.Dropout

    def __call__(self, x, key=None):
        return self.drop(jax.nn.relu(self.conv(x)), key=key)


class Plain(eqx.Module):
    blocks: list
    linear: eqx.nn.Linear

    def __init__(self):
        convs = [eqx.nn.Conv2d(3, 4, 3, key=KEYS[0]), eqx.nn.Conv2d(4, 6, 3, key=KEYS[1])]
        self.blocks = [Block(conv, eqx.nn.Dropout(0.5)) for conv in convs]
        self.linear = eqx.nn.Linear(6, 5, key=KEYS[2])

    def __call__(self, x, key=None):
        for block in self.blocks:
            x = block(x, key=key)
        return self.linear(x.mean((1, 2)))


class Normed(eqx.Module):
    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    linear: eqx.nn.Linear

    def __init__(self):
        self.conv = eqx.nn.Conv2d(3, 4, 3, key=KEYS[0])
        self.norm = eqx.nn.BatchNorm(4, "batch", mode="ema")
        self.linear = eqx.nn.Linear(4, 5, key=KEYS[2])

    def __call__(self, x, state):
        x, state = self.norm(self.conv(x), state)
        return self.linear(jnp.tanh(x).mean((1, 2))), state


def test_paths_are_those_of_the_tree_and_dropout_is_off():
    model = Plain()
    paths = [layer.path for layer in gradcam.layers(model, X)]
    assert paths == [
        "blocks[0].conv",
        "blocks[0].drop",
        "blocks[0]",
        "blocks[1].conv",
        "blocks[1].drop",
        "blocks[1]",
        "linear",
    ]
    e = gradcam.explain(model, X, "blocks[1].conv", [[1, 2]])
    weights = model.linear.weight[jnp.array([1, 2])] / 20
    a = jax.vmap(lambda x: model.blocks[1].conv(jax.nn.relu(model.blocks[0].conv(x))))(X)
    alphas = weights[None, :, :, None, None] * (a > 0).astype(a.dtype)[:, None]
    expected = jax.nn.relu((alphas.mean((-2, -1), keepdims=True) * a[:, None]).sum(2))
    np.testing.assert_allclose(e.maps, expected, atol=1e-6)
    assert not model.blocks[0].drop.inference  # the user's model keeps its mode


@pytest.mark.parametrize(
    "wrap", [eqx.filter_jit, eqx.filter_vmap, lambda m: eqx.filter_jit(eqx.filter_vmap(m))]
)
def test_what_wraps_a_module_is_taken_off(wrap):
    model = Plain()
    expected = gradcam.explain(model, X, "blocks[1]", 1).maps
    np.testing.assert_allclose(
        gradcam.explain(wrap(model), X, "blocks[1]", 1).maps, expected, rtol=1e-6
    )


def test_a_layer_may_be_the_module_itself():
    model = Plain()
    expected = gradcam.explain(model, X, "blocks[1].conv", 1)
    assert gradcam.explain(model, X, model.blocks[1].conv, 1).layer == expected.layer
    with pytest.raises(KeyError, match="is not a module of this Plain"):
        gradcam.explain(model, X, Block(model.blocks[0].conv, eqx.nn.Dropout()), 1)


def test_batch_norm_with_state_in_inference_mode():
    model, state = eqx.nn.make_with_state(Normed)()
    train = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    _, state = train(X, state)
    inference = eqx.nn.inference_mode(model)
    outputs, _ = jax.vmap(inference, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(
        X, state
    )
    e = gradcam.explain((model, state), X, "conv", 1)
    np.testing.assert_allclose(e.outputs, outputs, rtol=1e-5)
    gradcam.verify((model, state), X, "conv", 1).assert_passed()
    np.testing.assert_allclose(
        gradcam.explain((model, state), {"x": X}, "conv", 1).outputs, outputs, rtol=1e-5
    )
    assert not model.norm.inference


def test_a_module_with_state_asks_for_it():
    model, _ = eqx.nn.make_with_state(Normed)()
    with pytest.raises(ValueError, match=r"this Normed has state; pass the pair \(module, state\)"):
        gradcam.explain(model, X, "conv", 1)


def test_a_jitted_function_of_the_batch_is_called_with_the_batch():
    model = Plain()

    def features(x):
        return jax.vmap(lambda one: model.blocks[1](model.blocks[0](one, KEYS[0]), KEYS[0]))(x)

    def function(x):
        return checkpoint_name(features(x), "features").mean((2, 3)) @ model.linear.weight.T

    expected = gradcam.explain(function, X, "features", 1, layout="channels_first").maps
    found = gradcam.explain(
        eqx.filter_jit(function), X, "features", 1, layout="channels_first"
    ).maps
    np.testing.assert_allclose(found, expected, rtol=1e-6)


class Noisy(Plain):
    def __call__(self, x, key):
        return super().__call__(x + jax.random.normal(key, x.shape))


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_keys_may_be_one_for_each_sample(make):
    keys, model = jax.random.split(make(0), 2), Noisy()
    both = gradcam.explain(model, (X, keys), "blocks[0].conv", 1).outputs
    for n in range(2):
        alone = gradcam.explain(
            model, {"x": X[n : n + 1], "key": keys[n]}, "blocks[0].conv", 1
        ).outputs
        np.testing.assert_allclose(both[n], alone[0], rtol=1e-5)


def test_a_key_is_each_samples_alike_and_inputs_may_be_a_mapping():
    model = Plain()
    expected = gradcam.explain(model, X, "blocks[1]", 1).maps
    for key in (KEYS[0], jax.random.PRNGKey(0)):  # whose shape (2,) is that of a batch of two
        found = gradcam.explain(model, {"x": X, "key": key}, "blocks[1]", 1).maps
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_new_weights_and_another_model_of_equal_structure_trace_nothing():
    traces = []

    class Counted(eqx.Module):
        inner: Plain

        def __call__(self, x):
            traces.append(1)
            return self.inner(x)

    first, second = (
        Counted(Plain()),
        eqx.tree_at(lambda m: m.inner.linear.bias, Counted(Plain()), jnp.ones(5)),
    )
    one = gradcam.explain(first, X, "inner.blocks[1]", 1)
    count = len(traces)
    other = gradcam.explain(second, X, "inner.blocks[1]", 1)
    assert len(traces) == count
    assert not np.allclose(one.outputs, other.outputs)


def test_full_grad_finds_the_biases():
    with jax.enable_x64(True):
        model, x = networks.equinox_network(), jnp.asarray(networks.images(2))
        found = gradcam.explain(model, x, None, 1, "full-grad").maps
        torch = pytest.importorskip("torch")
        expected = gradcam.explain(
            networks.torch_network(), torch.from_numpy(networks.images(2)), None, 1, "full-grad"
        )
        np.testing.assert_allclose(found, np.asarray(expected.maps), rtol=1e-6)


def test_full_grads_biases_have_samples_and_targets_and_are_those_of_batch_norm_too():
    model, state = eqx.nn.make_with_state(Normed)()
    found = gradcam.explain(
        (model, state), X, None, [[0, 1, 2, 3]], "full-grad"
    ).maps  # as many targets as channels
    alone = gradcam.explain((model, state), X, None, 3, "full-grad").maps
    np.testing.assert_allclose(found[:, 3], alone, rtol=1e-5, atol=1e-6)
    paths = [path for path, _ in gradcam.backends.adapt((model, state), X).biases(X)]
    assert paths == ["conv", "norm[0]", "linear"]


def test_a_module_without_convolutions_has_its_channels_last():
    class Sequence(eqx.Module):
        embed: eqx.nn.Embedding
        linear: eqx.nn.Linear

        def __call__(self, ids):
            return self.linear(jnp.tanh(jax.vmap(self.embed)(ids)).mean(0))

    model = Sequence(eqx.nn.Embedding(20, 6, key=KEYS[0]), eqx.nn.Linear(6, 5, key=KEYS[1]))
    ids = jnp.arange(18).reshape(2, 9)
    assert gradcam.explain(model, ids, "embed", relu=False).maps.shape == (2, 9)


def test_the_clamp_of_a_layer_norms_variance_is_no_relu():
    norm, linear = eqx.nn.LayerNorm((6,)), eqx.nn.Linear(4, 6, key=KEYS[0])

    class Normalised(eqx.Module):
        norm: eqx.nn.LayerNorm
        linear: eqx.nn.Linear

        def __call__(self, x):
            return jnp.tanh(jax.vmap(self.norm)(jax.vmap(self.linear)(x))).mean(0)

    with pytest.raises(ValueError, match="no ReLU was found"):
        gradcam.guided_backprop(Normalised(norm, linear), X[:, 0, :, :4], 1)
