"""Each method: an example by hand, identities, and equality with a loop; the same in every array library."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradcam
from gradcam.methods import grad_cam
from gradcam.methods.gradients import weigh_channels


def arrays(seed=0, shape=(2, 3, 4), scale=1.0):
    random = np.random.default_rng(seed)
    return random.normal(size=shape), random.normal(size=shape) * scale


def test_grad_cam_by_hand():
    activations = np.array([[[1.0, 2.0], [3.0, -1.0]]])  # two channels, two positions
    gradients = np.array([[[1.0, 3.0], [-1.0, 0.0]]])
    # alpha = [(1 + 3) / 2, (-1 + 0) / 2] = [2, -0.5];  L = [2 * 1 - 0.5 * 3, 2 * 2 - 0.5 * -1] = [0.5, 4.5]
    np.testing.assert_allclose(grad_cam(activations, gradients), [[0.5, 4.5]])


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-12])
def test_grad_cam_is_the_papers_loop(scale):
    activations, gradients = arrays(scale=scale)
    expected = np.zeros((2, 4))
    for n in range(2):
        for p in range(4):
            for k in range(3):
                expected[n, p] += gradients[n, k].sum() / 4 * activations[n, k, p]
    np.testing.assert_allclose(grad_cam(activations, gradients), expected, rtol=1e-9)


@given(st.integers(0, 1000), st.floats(-3, 3), st.floats(-3, 3))
def test_grad_cam_is_linear_in_the_gradient(seed, a, b):
    activations, g = arrays(seed)
    h = arrays(seed + 1)[0]
    expected = a * grad_cam(activations, g) + b * grad_cam(activations, h)
    np.testing.assert_allclose(grad_cam(activations, a * g + b * h), expected, atol=1e-12)


@given(st.integers(0, 1000), st.permutations(range(3)))
def test_permuting_channels_changes_nothing(seed, order):
    activations, gradients = arrays(seed)
    permuted = grad_cam(activations[:, order], gradients[:, order])
    np.testing.assert_allclose(permuted, grad_cam(activations, gradients), atol=1e-12)


@given(st.integers(0, 1000))
def test_alpha_is_the_derivative_of_a_lift_over_z(seed):
    # y = sum of A * G has gradient G; lifting channel k everywhere by h changes y by h * sum_p G_kp = h * Z * alpha_k
    activations, gradients = arrays(seed)
    alpha = gradients.mean(-1)
    for k in range(3):
        lifted = activations.copy()
        lifted[:, k] += 0.5
        change = ((lifted - activations) * gradients).sum((-2, -1))
        np.testing.assert_allclose(change / 0.5 / 4, alpha[:, k], atol=1e-12)


def test_k_targets_share_their_activations():
    random = np.random.default_rng(0)
    activations, gradients = random.normal(size=(2, 1, 3, 4)), random.normal(size=(2, 5, 3, 4))
    found = grad_cam(activations, gradients)
    assert found.shape == (2, 5, 4)
    for k in range(5):
        np.testing.assert_allclose(found[:, k], grad_cam(activations[:, 0], gradients[:, k]), atol=1e-14)


@pytest.mark.parametrize(
    ("weights", "activations"),
    [
        ((3, 1), (3, 4)),
        ((1, 3, 1), (1, 3, 4)),
        ((2, 3, 1), (1, 3, 4)),
        ((2, 5, 3, 1), (2, 1, 3, 4)),
        ((3, 1), (2, 3, 4)),
    ],
)
def test_weighing_channels_broadcasts_like_the_sum(weights, activations):
    random = np.random.default_rng(0)
    w, a = random.normal(size=weights), random.normal(size=activations)
    np.testing.assert_allclose(weigh_channels(w, a), (w * a).sum(-2), atol=1e-14)


@pytest.mark.parametrize("method", gradcam.METHODS.values(), ids=gradcam.METHODS)
def test_every_array_library_gives_the_same_map(method):
    activations, gradients = arrays()
    expected = method(activations, gradients)
    strict = method(array_api_strict.asarray(activations), array_api_strict.asarray(gradients))
    np.testing.assert_allclose(np.asarray(strict), expected, rtol=1e-9)
    torch = pytest.importorskip("torch")
    found = method(torch.from_numpy(activations), torch.from_numpy(gradients))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jit(method)(activations, gradients), expected, rtol=1e-9)
    single = jax.jit(method)(activations.astype(np.float32), gradients.astype(np.float32))
    np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("shape", [(2, 3, 5), (2, 3, 5, 4), (2, 3, 2, 5, 4)])
@pytest.mark.parametrize("axis", [1, -1])
def test_combine_takes_any_channel_axis_in_any_dimension(shape, axis):
    random = np.random.default_rng(0)
    a, g = random.normal(size=shape), random.normal(size=shape)
    alpha = g.mean(tuple(range(2, len(shape))), keepdims=True)
    expected = np.maximum((alpha * a).sum(1), 0)
    moved = gradcam.combine(np.moveaxis(a, 1, axis), np.moveaxis(g, 1, axis), channel_axis=axis)
    np.testing.assert_allclose(moved, expected, atol=1e-12)


def test_combine_with_k_targets_without_relu():
    random = np.random.default_rng(0)
    a, g = random.normal(size=(2, 4, 5, 3)), random.normal(size=(2, 7, 4, 5, 3))
    found = gradcam.combine(a, g, channel_axis=3, relu=False)
    assert found.shape == (2, 7, 4, 5)
    np.testing.assert_allclose(found[:, 2], gradcam.combine(a, g[:, 2], channel_axis=-1, relu=False), atol=1e-14)
    assert found.min() < 0


def test_half_precision_is_pooled_in_float32():
    torch = pytest.importorskip("torch")
    a, g = (torch.from_numpy(x).to(torch.bfloat16) for x in arrays(shape=(1, 3, 40, 40)))
    found = gradcam.combine(a, g)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, gradcam.combine(a.float(), g.float()))


def test_combine_errors():
    a = np.zeros((2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"`gradients` must have the shape of `activations`, \(2, 3, 4, 4\)"):
        gradcam.combine(a, a[:, :2])
    with pytest.raises(ValueError, match="`channel_axis` 0 must name an axis other than the samples'"):
        gradcam.combine(a, a, channel_axis=0)
    with pytest.raises(ValueError, match="`channel_axis` 4 must name"):
        gradcam.combine(a, a, channel_axis=4)
    with pytest.raises(ValueError, match='`method` "gradcam" is unknown; did you mean "grad-cam"'):
        gradcam.combine(a, a, method="gradcam")
