"""The methods: an example of each by hand, identities, the edges, and the table.

Their equality with plain loops, in every array library, is in test_loops.py.
"""

from __future__ import annotations

import functools
import math
import re

import networks
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import gradcam
from gradcam import methods
from gradcam.methods import (
    METHODS,
    TABLE,
    ablation_cam,
    as_spec,
    attention_rollout,
    cam,
    components,
    eigen_cam,
    eigen_grad_cam,
    element_wise,
    factorise,
    fem,
    full_grad,
    grad_cam,
    grad_cam_pp,
    hires_cam,
    kpca_cam,
    layer_cam,
    legrad,
    random_cam,
    score_cam,
    seg_eigen_cam,
    shapley_cam,
    smooth_grad_cam_pp,
    spec,
    xgrad_cam,
)
from gradcam.methods.components import (
    channel_sum,
    first_component,
    first_kernel_component,
    oriented,
)
from gradcam.methods.gradients import weigh_channels
from gradcam.methods.parameters import check_parameters

seeds = st.integers(0, 1000)
A = np.array([[1.0, 2.0], [3.0, -1.0]])  # two channels, two positions
GRADIENT = [e.function for e in TABLE if e.needs == "gradients"]
KERNELS = ["sigmoid", "rbf", "linear"]


def arrays(seed=0, shape=(2, 3, 4), scale=1.0):
    random = np.random.default_rng(seed)
    return random.normal(size=shape), random.normal(size=shape) * scale


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


# ------------------------------------------------------------------------------------------ by hand


def test_grad_cam_by_hand():
    # alpha = [(1 + 3) / 2, (-1 + 0) / 2] = [2, -0.5];  L = [2 * 1 - 0.5 * 3, 2 * 2 - 0.5 * -1] =
    # [0.5, 4.5]
    close(grad_cam(A, np.array([[1.0, 3.0], [-1.0, 0.0]])), [0.5, 4.5])


def test_cam_by_hand():
    # w = [1 + 3, -1 + 0] = [4, -1];  L = [4 * 1 - 1 * 3, 4 * 2 - 1 * -1] = [1, 9]
    close(cam(A, np.array([[1.0, 3.0], [-1.0, 0.0]])), [1, 9])


def test_grad_cam_pp_by_hand():
    # sums of A: [3, 2];  w = [1 / (2 + 1 * 3) + 3 / (2 + 3 * 3), 0] = [1/5 + 3/11, 0] = [26/55, 0]
    close(grad_cam_pp(A, np.array([[1.0, 3.0], [-1.0, 0.0]])), [26 / 55, 52 / 55])


def test_smooth_grad_cam_pp_by_hand():
    activations, gradients = (
        np.array([[[1.0, 2.0]], [[3.0, 0.0]]]),
        np.array([[[1.0, 0.0]], [[3.0, 2.0]]]),
    )
    # means of A [2, 1], which sum to 3; of G [2, 1], of G^2 [5, 2], of G^3 [14, 4]
    # w = 5 / (10 + 3 * 14) * 2 + 2 / (4 + 3 * 4) * 1 = 10/52 + 2/16 = 33/104;  L = 33/104 * [2, 1]
    close(smooth_grad_cam_pp(activations, gradients), [66 / 104, 33 / 104])


def test_xgrad_cam_by_hand():
    # w = [(1 * 1 + 2 * 3) / 3, (3 * -1 + -1 * 0) / 2] = [7/3, -3/2]
    # L = [7/3 * 1 - 3/2 * 3, 7/3 * 2 + 3/2 * 1] = [-13/6, 37/6]
    close(xgrad_cam(A, np.array([[1.0, 3.0], [-1.0, 0.0]])), [-13 / 6, 37 / 6])


def test_methods_that_weigh_each_position_by_hand():
    g = np.array([[1.0, 3.0], [-1.0, 2.0]])  # G A = [[1, 6], [-3, -2]]
    close(hires_cam(A, g), [-2, 4])
    close(element_wise(A, g), [1, 6])  # relu(1) + relu(-3), relu(6) + relu(-2)
    close(layer_cam(A, g), [1, 4])  # 1 * 1 + 0 * 3, 3 * 2 + 2 * -1
    close(layer_cam(A, g, gamma=2), [math.tanh(2 * 1 / 4), math.tanh(2)])


def test_shapley_cam_by_hand():
    g, curvatures = np.array([[1.0, 3.0], [-1.0, 0.0]]), np.array([[2.0, -2.0], [4.0, 0.0]])
    # G - H A / 2 = [[0, 4], [-3, 0]], w = [2, -1.5];  L = [2 * 1 - 1.5 * 3, 2 * 2 + 1.5 * 1] =
    # [-2.5, 5.5]
    close(shapley_cam(A, g, curvatures), [-2.5, 5.5])


@pytest.mark.parametrize("positions", [[1.0, 2.0], [1.0, 3.0, -2.0]])  # either Gram matrix
def test_eigen_methods_of_rank_one_by_hand(positions):
    values = np.outer(
        [3.0, 4.0], positions
    )  # v_1 = [3, 4] / 5, so L = [3, 4] . [3, 4] / 5 * positions = 5 * positions
    expected = 5 * np.array(positions)
    close(eigen_cam(values), expected)
    close(first_component(values), expected)
    close(eigen_cam(-values), -expected)  # the channels' sum is now -7 * positions
    close(eigen_grad_cam(values / 2, np.full_like(values, 2)), expected)
    tie = np.array([[1.0, -1.0]])
    close(
        seg_eigen_cam(tie, np.ones_like(tie)), tie[0]
    )  # in a tie it agrees with the channels' sum
    for values_or_negative in (
        values,
        -values,
    ):  # the largest magnitude is positive, whatever the sign of A and G
        close(seg_eigen_cam(values_or_negative / 2, np.full_like(values, -2)), expected)


def test_kpca_cam_by_hand():
    a = np.array(
        [[1.0, 3.0], [0.0, 2.0]]
    )  # centred [[-1, 1], [-1, 1]]: products [[2, -2], [-2, 2]], distance^2 8
    # a centred kernel [[c, -c], [-c, c]] has lambda_1 = 2 c, u_1 = [-1, 1] / sqrt(2), so L =
    # sqrt(c) [-1, 1]
    close(kpca_cam(a, "linear"), np.sqrt(2) * np.array([-1, 1]))  # c = 2
    t = math.tanh(2 / 2 + 1)  # the kernel is [[t, tanh(0)], [tanh(0), t]], c = t / 2
    close(kpca_cam(a), np.sqrt(t / 2) * np.array([-1, 1]))
    e = math.exp(-8 / 2)  # the kernel is [[1, e], [e, 1]], c = (1 - e) / 2
    close(kpca_cam(a, "rbf"), np.sqrt((1 - e) / 2) * np.array([-1, 1]))


@pytest.mark.parametrize("kernel", ["sigmoid", "rbf", "linear"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kpca_cam_keeps_the_digits_of_small_activations(kernel, dtype):
    a = np.random.default_rng(0).standard_normal((2, 6, 12))
    # to first order all kernels are linear: 1 - tanh(1)^2, 2 and 1 times the centred products
    slope = {"sigmoid": (1 - math.tanh(1) ** 2) / 6, "rbf": 2 / 6, "linear": 1}[kernel]
    limit = kpca_cam(a, "linear") * math.sqrt(slope)
    for power in (4, 6, 9, 12):
        found = kpca_cam((a * 10.0**-power).astype(dtype), kernel) * 10.0**power
        np.testing.assert_allclose(found, limit, atol=1e-4 * np.abs(limit).max())
    assert not kpca_cam(np.full((6, 12), 0.1, dtype), kernel).any()


def test_first_kernel_component_by_hand():
    kernel = np.array(
        [[2.0, 0.0], [0.0, 2.0]]
    )  # centred [[1, -1], [-1, 1]]: lambda_1 = 2, u_1 = [-1, 1] / sqrt(2)
    close(first_kernel_component(kernel, np.array([0.0, 1.0])), [-1, 1])
    close(first_kernel_component(kernel, np.array([1.0, 0.0])), [1, -1])
    close(first_kernel_component(-kernel, np.array([1.0, 0.0])), [0, 0])  # lambda_1 = 0, and -2


def test_oriented_by_hand():
    component = np.array([1.0, -2.0])
    close(oriented(component, np.array([1.0, 1.0])), [-1, 2])  # 1 - 2 < 0
    close(oriented(component, np.array([3.0, 1.0])), [1, -2])  # 3 - 2 > 0
    close(
        oriented(component, np.array([2.0, 1.0])), [-1, 2]
    )  # 2 - 2 = 0, and 2 is the largest magnitude
    close(oriented(-component, np.array([2.0, 1.0])), [-1, 2])
    close(oriented(np.array([1.0, -1.0]), np.ones(2)), [1, -1])  # a tie of both stays
    each = np.array([[1.0, -2.0], [1.5, 1.0], [9.0, 8.0]])
    close(oriented(each, np.zeros((3, 2))), [[-1, 2], [1.5, 1], [9, 8]])


def test_channel_sum_by_hand():
    close(channel_sum(A), [4, 1])
    # 0.1 + 0.2 - 0.3 leaves 5.6e-17 behind in floating point
    assert channel_sum(np.array([[0.1], [0.2], [-0.3]])) == 0
    assert channel_sum(np.array([[0.1], [0.2], [-0.3 + 2e-16]])) == 0  # within 3 roundings of 0.6
    assert channel_sum(np.array([[0.1], [0.2], [-0.3 + 1e-14]])) != 0
    assert (
        channel_sum(np.array([[1e6, 0.1], [1e6, -0.1 + 1e-12]]))[1] != 0
    )  # each position by itself


def test_fem_by_hand():
    a = np.zeros((2, 10))
    a[0, 9] = 10  # mean 1, deviation sqrt((9 * 1 + 81) / 10) = 3: 10 > 1 + 2 * 3
    a[1, 8:] = (
        5  # mean 1, deviation sqrt((8 * 1 + 2 * 16) / 10) = 2: 5 > 1 + 2 * 2 is not true, but 5 > 1 + 1 * 2
    )
    close(fem(a), [0] * 9 + [1])
    close(fem(a, k=1), [0] * 8 + [1, 2])
    close(fem(a, k=3), [0] * 10)  # nor 10 > 1 + 3 * 3


def test_random_cam_by_hand():
    w = [
        0.2739233746429086,
        -0.46042657272313396,
    ]  # the first two draws of NumPy's generator, seed 0, from -1 to 1
    close(random_cam(A), [w[0] + 3 * w[1], 2 * w[0] - w[1]])


def test_factorise_by_hand():
    a = np.array([np.outer([3.0, 4.0], [1.0, 2.0]), np.outer([3.0, 4.0], [0.0, -5.0])])
    maps, vectors = factorise(a, 1)  # the positive part is one concept, [3, 4] / 5
    close(vectors, [[0.6, 0.8]])
    close(maps, [[[5, 10]], [[0, 0]]])


def test_ablation_cam_by_hand():
    # w = [(4 - 3) / 4, (4 - 6) / 4] = [1/4, -1/2];  L = [1/4 * 1 - 1/2 * 3, 1/4 * 2 + 1/2 * 1] =
    # [-1.25, 1]
    close(ablation_cam(A, np.array(4.0), np.array([3.0, 6.0])), [-1.25, 1])
    # a negative score: w = [(-4 + 5) / 4, (-4 + 2) / 4], the same
    close(ablation_cam(A, np.array(-4.0), np.array([-5.0, -2.0])), [-1.25, 1])
    # a score of 0: w = [0 - 1, 0 + 2]
    close(ablation_cam(A, np.array(0.0), np.array([1.0, -2.0])), [-1 + 6, -2 - 2])


def test_score_cam_by_hand():
    # w = softmax([0, log 3]) = [1/4, 3/4];  L = [1/4 * 1 + 3/4 * 3, 1/4 * 2 - 3/4 * 1] = [2.5,
    # -0.25]
    close(score_cam(A, np.array([0.0, math.log(3)])), [2.5, -0.25])


def test_full_grad_by_hand():
    inputs, biases = np.array([[[-1.0, 3.0], [1.0, 5.0]]]), np.array([[[2.0, -4.0]]])
    # magnitudes [[1, 3], [1, 5]], scaled [[0, 1/2], [0, 1]]; and [[2, 4]], scaled [[0, 1]], on both
    # rows
    close(full_grad([inputs, biases], (2, 2)), [[0, 1.5], [0, 2]])


def test_attention_rollout_by_hand():
    first = np.array(
        [[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]]
    )  # over heads [[1, 0], [1/2, 1/2]]
    second = np.array([[[0.0, 2.0], [0.0, 1.0]]])
    # (A + I) / 2 is [[1, 0], [1/4, 3/4]], and [[1/2, 1], [0, 1]], whose rows scale to [[1/3, 2/3],
    # [0, 1]] R = second @ first = [[1/3 + 1/6, 1/2], [1/4, 3/4]]
    close(attention_rollout([first, second]), [0.5, 0.5])
    close(attention_rollout([first, second], query=1), [0.25, 0.75])
    close(attention_rollout([first, second], query=None), [0.375, 0.625])


def test_legrad_by_hand():
    first = np.array([[[1.0, -1.0], [3.0, 2.0]], [[0.0, 4.0], [-5.0, 0.0]]])
    # positive parts: [1 + 3 + 0 + 0, 0 + 2 + 4 + 0] over 2 heads of 2 queries: [1, 1.5]; twice
    # that; their mean
    close(legrad([first, 2 * first]), [1.5, 2.25])


def test_weighing_channels_by_hand():
    close(weigh_channels(np.array([[2.0], [-1.0]]), A), [2 * 1 - 3, 2 * 2 + 1])


# --------------------------------------------------------------------------------------- identities


@given(seeds, st.floats(-3, 3), st.floats(-3, 3))
def test_grad_cam_is_linear_in_the_gradient(seed, a, b):
    activations, g = arrays(seed)
    h = arrays(seed + 1)[0]
    expected = a * grad_cam(activations, g) + b * grad_cam(activations, h)
    close(grad_cam(activations, a * g + b * h), expected)


@given(seeds)
def test_alpha_is_the_derivative_of_a_lift_over_z(seed):
    # y = sum of A * G has gradient G; lifting channel k everywhere by h changes y by h * sum_p G_kp
    # = h * Z * alpha_k
    activations, gradients = arrays(seed)
    for k in range(3):
        lifted = activations.copy()
        lifted[:, k] += 0.5
        change = ((lifted - activations) * gradients).sum((-2, -1)) / 0.5
        only = np.zeros_like(activations)
        only[:, k] = 1
        close(grad_cam(only, gradients)[:, 0], change / 4)


@given(seeds)
def test_where_gradients_are_constant_over_space_grad_cam_is_hires_cam(seed):
    activations, g = arrays(seed)
    g = np.broadcast_to(g[..., :1], g.shape)
    close(grad_cam(activations, g), hires_cam(activations, g))
    close(grad_cam(activations, g[..., :1]), grad_cam(activations, g))  # pooled already


@given(seeds, st.floats(-5, 5))
def test_of_pooling_and_a_linear_head_every_gradient_method_is_what_its_paper_says(seed, bias):
    a, w = arrays(seed)[0], arrays(seed + 1, (3,))[0]
    scores = a.mean(-1) @ w + bias
    g = np.broadcast_to(w[:, None] / 4, a.shape)
    close(cam(a, g), (w[:, None] * a).sum(-2))
    close(cam(a, g), 4 * grad_cam(a, g))
    close(hires_cam(a, g).sum(-1), scores - bias)
    positive = np.abs(a)
    close(xgrad_cam(positive, g), grad_cam(positive, g))
    # Ablation-CAM: without channel k the score lacks w_k mean(A_k)
    ablated = scores[:, None] - w * a.mean(-1)
    close(
        ablation_cam(a, scores, ablated) * np.abs(scores)[:, None],
        ((w * a.mean(-1))[..., None] * a).sum(-2),
    )


@given(seeds)
def test_of_channels_that_are_active_xgrad_cam_sums_to_what_hires_cam_sums_to(seed):
    a, g = arrays(seed)
    close(xgrad_cam(np.abs(a), g).sum(-1), hires_cam(np.abs(a), g).sum(-1))


@given(seeds)
def test_of_small_gradients_grad_cam_pp_weights_are_half_the_sum_of_the_positive_ones(seed):
    a, g = arrays(seed, scale=1e-12)
    expected = ((np.maximum(g, 0).sum(-1, keepdims=True) / 2) * a).sum(-2)
    np.testing.assert_allclose(
        grad_cam_pp(a, g), expected, rtol=1e-9, atol=1e-10 * np.abs(expected).max()
    )


@given(seeds, st.permutations(range(3)), st.sampled_from([1.0, 1e-6, 1e-12]))
def test_of_copies_that_are_equal_smooth_grad_cam_pp_is_grad_cam_pp(seed, order, scale):
    a, g = arrays(seed, scale=scale)
    expected = grad_cam_pp(a, g)
    found = smooth_grad_cam_pp(np.stack([a] * 3), np.stack([g] * 3))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
    several = arrays(seed, (3, 2, 3, 4))
    close(smooth_grad_cam_pp(*(x[order] for x in several)), smooth_grad_cam_pp(*several))


@given(seeds)
def test_of_active_channels_element_wise_is_layer_cam_and_not_negative(seed):
    a, g = arrays(seed)
    assert np.all(element_wise(a, g) >= np.maximum(hires_cam(a, g), 0) - 1e-12)
    found = layer_cam(np.abs(a), g)
    assert np.all(found >= 0)
    close(element_wise(np.abs(a), g), found)


@given(seeds, st.sampled_from([1e-12, 1e-3, 5.0]), st.floats(0.1, 5))
def test_gamma_makes_layer_cam_free_of_scale(seed, scale, gamma):
    a, g = arrays(seed)
    found = layer_cam(np.abs(a), g, gamma)
    close(layer_cam(np.abs(a), g * scale, gamma), found)
    close(found.max(-1), math.tanh(gamma))


@given(seeds)
def test_without_curvature_shapley_cam_is_grad_cam(seed):
    a, g = arrays(seed)
    close(shapley_cam(a, g, np.zeros_like(a)), grad_cam(a, g))


@given(seeds)
def test_of_a_quadratic_score_and_flat_channels_shapley_cam_sums_to_the_score(seed):
    # y = b . A + A . H A / 2 has the gradient b + H A, and A . (G - H A / 2) = y
    b, h = arrays(seed, (12,))[0], arrays(seed + 1, (12, 12))[0]
    h, a = h + h.T, np.repeat(arrays(seed + 2, (3, 1))[0], 4, axis=1)
    curvatures = (h @ a.ravel()).reshape(3, 4)
    found = shapley_cam(a, b.reshape(3, 4) + curvatures, curvatures)
    close(found.sum(), b @ a.ravel() + a.ravel() @ h @ a.ravel() / 2)


@given(seeds, st.sampled_from([(2, 3, 4), (2, 5, 4)]))
def test_the_first_component_is_the_singular_vector_and_its_value(seed, shape):
    a = arrays(seed, shape)[0]
    u, s, _ = np.linalg.svd(np.moveaxis(a, 1, 2), full_matrices=False)
    found = first_component(a)
    np.testing.assert_allclose(np.abs(found), np.abs(u[..., 0] * s[:, :1]), rtol=1e-7, atol=1e-9)
    assert np.all((found * a.sum(1)).sum(1) >= 0)
    close(first_component(a * 1e-200), found * 1e-200)
    np.testing.assert_allclose(first_component(a * 1e-200) * 1e200, found, rtol=1e-9)


@given(seeds, st.sampled_from([(2, 3, 4), (2, 5, 4)]))
def test_of_activations_behind_a_relu_eigen_cam_is_not_negative(seed, shape):
    a = np.maximum(arrays(seed, shape)[0], 0)
    assert eigen_cam(a).min() >= -1e-12


@given(seeds, st.sampled_from([(2, 3, 4), (2, 5, 4)]))
def test_of_gradients_of_one_eigen_methods_are_eigen_cam(seed, shape):
    a, g = arrays(seed, shape)
    one = np.ones_like(a)
    close(eigen_grad_cam(a, one), eigen_cam(a))
    close(eigen_grad_cam(g, a), eigen_grad_cam(a, g))
    close(np.abs(seg_eigen_cam(a, one)), np.abs(eigen_cam(a)))
    close(seg_eigen_cam(a, -g), seg_eigen_cam(a, g))
    close(seg_eigen_cam(-a, g), seg_eigen_cam(a, g))
    assert np.all(seg_eigen_cam(a, g).max(-1) >= -seg_eigen_cam(a, g).min(-1))


@given(seeds, st.sampled_from([(2, 3, 6), (2, 8, 4)]))
def test_kpca_cam_of_a_linear_kernel_is_centred_principal_component_analysis(seed, shape):
    a = arrays(seed, shape)[0]
    u, s, _ = np.linalg.svd(np.moveaxis(a - a.mean(-1, keepdims=True), 1, 2), full_matrices=False)
    found = kpca_cam(a, "linear")
    np.testing.assert_allclose(np.abs(found), np.abs(u[..., 0] * s[:, :1]), rtol=1e-6, atol=1e-8)
    assert np.all((found * a.sum(1)).sum(1) >= 0)


@pytest.mark.parametrize("kernel", KERNELS)
@given(seeds, st.floats(-100, 100))
def test_lifting_a_channel_changes_no_kpca_cam(kernel, seed, lift):
    a = arrays(seed)[0]
    lifted = a + np.array([[lift], [0], [0]])
    np.testing.assert_allclose(kpca_cam(lifted, kernel), kpca_cam(a, kernel), rtol=1e-9, atol=1e-9)


@given(seeds, st.floats(-5, 5))
def test_a_constant_added_to_a_kernel_changes_nothing(seed, constant):
    k = arrays(seed, (2, 4, 4))[0]
    k, reference = k @ np.moveaxis(k, -1, -2), arrays(seed + 1, (2, 4))[0]
    found = first_kernel_component(k, reference)
    np.testing.assert_allclose(
        first_kernel_component(k + constant, reference), found, rtol=1e-7, atol=1e-8
    )
    centre = np.eye(4) - 1 / 4
    close((found**2).sum(-1), np.linalg.eigvalsh(centre @ k @ centre)[:, -1])


@given(seeds)
def test_orientation_forgets_the_sign_it_is_given(seed):
    component, reference = arrays(seed, (2, 4))
    found = oriented(component, reference)
    close(oriented(-component, reference), found)
    close(oriented(found, reference), found)
    close(oriented(component, -reference), -found)


@given(seeds, st.sampled_from([0.25, 8.0]), st.floats(0.5, 2))
def test_fem_scales_with_the_activations(seed, scale, k):
    a = arrays(seed, (2, 3, 10))[0]
    close(fem(a * scale, k), scale * fem(a, k))
    assert np.all(np.abs(fem(a, k)) <= np.abs(a.mean(-1)).sum(-1)[:, None] + 1e-12)


@given(seeds, seeds)
def test_random_cam_is_linear_with_weights_between_minus_one_and_one(data, seed):
    a, b = arrays(data)
    close(random_cam(2 * a - b, seed), 2 * random_cam(a, seed) - random_cam(b, seed))
    assert np.all(np.abs(random_cam(a, seed)) <= np.abs(a).sum(-2))
    close(random_cam(a, seed)[1], random_cam(a[1], seed))  # the same weights for every sample
    assert np.abs(random_cam(a, seed) - random_cam(a, seed + 1)).max() > 1e-3


@given(seeds, st.integers(1, 3))
def test_the_error_of_a_factorisation_never_grows(seed, concepts):
    a = np.maximum(arrays(seed)[0], 0)
    errors = []
    for iterations in range(12):
        maps, vectors = factorise(a, concepts, iterations=iterations)
        assert maps.min() >= 0
        assert vectors.min() >= 0
        close(np.sqrt((vectors**2).sum(1)), np.ones(concepts))
        errors.append(((np.einsum("nkp,kc->ncp", maps, vectors) - a) ** 2).sum())
    assert np.all(np.diff(errors) <= 1e-12)


@given(seeds)
def test_what_is_made_of_two_concepts_is_factorised(seed):
    random = np.random.default_rng(seed)
    a = np.einsum("nkp,kc->ncp", random.uniform(size=(2, 2, 9)), random.uniform(size=(2, 4)))
    maps, vectors = factorise(a, 2)
    assert np.linalg.norm(np.einsum("nkp,kc->ncp", maps, vectors) - a) < 0.07 * np.linalg.norm(a)


@given(seeds, st.sampled_from([1e-12, 1e-3, 1e6]))
def test_ablation_cam_is_free_of_the_scores_scale(seed, scale):
    a, scores, ablated = arrays(seed)[0], *arrays(seed, (2, 3))
    close(
        ablation_cam(a, scores[:, 0] * scale, ablated * scale),
        ablation_cam(a, scores[:, 0], ablated),
    )


@given(seeds, st.floats(-1e3, 1e3))
def test_a_constant_added_to_all_scores_changes_no_score_cam(seed, constant):
    a, masked = arrays(seed)[0], arrays(seed, (2, 3))[0]
    found = score_cam(a, masked)
    np.testing.assert_allclose(score_cam(a, masked + constant), found, rtol=1e-9, atol=1e-9)
    assert np.all((found <= a.max(-2)) & (found >= a.min(-2)))  # weights sum to 1
    close(score_cam(a, np.full((2, 3), constant)), a.mean(-2))


@given(seeds, st.floats(0.1, 10), st.permutations(range(3)))
def test_full_grad_forgets_the_size_and_sign_of_each_contribution(seed, scale, order):
    contributions = [arrays(seed + i, (2, 3, 2 + i, 4))[0] for i in range(3)]
    found = full_grad(contributions, (5, 6))
    close(full_grad([-scale * contributions[i] for i in order], (5, 6)), found)
    assert np.all((found >= 0) & (found <= 9))


def attention(seed, shape=(2, 3, 4, 4)):
    powers = np.exp(arrays(seed, shape)[0])
    return powers / powers.sum(-1, keepdims=True)


@given(seeds, st.floats(0.1, 10))
def test_rows_of_rolled_out_attention_sum_to_one(seed, scale):
    layers = [attention(seed + i) for i in range(3)]
    for query in (0, 1, 2, 3, None):
        found = attention_rollout(layers, query)
        assert found.min() >= 0
        close(found.sum(-1), 1)
        close(attention_rollout([scale * attention(seed)], query).sum(-1), 1)
    looks_at_itself = np.broadcast_to(np.eye(4), (2, 3, 4, 4))
    close(attention_rollout([*layers, looks_at_itself]), attention_rollout(layers))
    close(attention_rollout([looks_at_itself, *layers]), attention_rollout(layers))


@given(seeds, st.floats(0, 10), st.permutations(range(3)))
def test_legrad_scales_with_the_gradients_and_not_with_the_order_of_layers(seed, scale, order):
    layers = [arrays(seed + i, (2, 3, 4, 4))[0] for i in range(3)]
    found = legrad(layers)
    assert found.min() >= 0
    close(legrad([scale * layers[i] for i in order]), scale * found)
    close(legrad([-np.abs(x) for x in layers]), np.zeros((2, 4)))


@pytest.mark.parametrize(
    ("weights", "activations"),
    [
        ((3, 1), (3, 4)),
        ((1, 3, 1), (1, 3, 4)),
        ((2, 3, 1), (1, 3, 4)),
        ((2, 5, 3, 1), (2, 1, 3, 4)),
        ((3, 1), (2, 3, 4)),
        ((3, 1), (1, 3, 4)),
    ],
)
def test_weighing_channels_broadcasts_like_the_sum(weights, activations):
    random = np.random.default_rng(0)
    w, a = random.normal(size=weights), random.normal(size=activations)
    close(weigh_channels(w, a), (w * a).sum(-2))


# -------------------------------------------------------------------------------------------- edges


def zero(found, shape):
    np.testing.assert_array_equal(found, np.zeros(shape))


@pytest.mark.parametrize("method", GRADIENT)
def test_no_gradient_or_no_activation_is_no_map(method):
    a, g = arrays()
    zero(method(a, np.zeros_like(g)), (2, 4))
    zero(method(np.zeros_like(a), g), (2, 4))


def test_smooth_grad_cam_pp_without_positive_gradients_is_zero():
    a = arrays(shape=(3, 2, 3, 4))[0]
    zero(smooth_grad_cam_pp(a, np.zeros_like(a)), (2, 4))
    zero(np.abs(smooth_grad_cam_pp(a, -np.ones_like(a))), (2, 4))


def test_a_sample_of_small_numbers_keeps_its_map_beside_one_of_large():
    a, g = arrays()
    small = np.array([1, 1e-200])[:, None, None]
    close(eigen_cam(a * small) / small[..., 0], eigen_cam(a))
    close(kpca_cam(a * small**0.25, "linear") / small[..., 0] ** 0.25, kpca_cam(a, "linear"))
    expected = grad_cam_pp(a[1], g[1] * 1e-200) * 1e200
    close(smooth_grad_cam_pp(a[None], (g * small)[None])[1] * 1e200, expected)
    masked = np.array([[0.0, 1.0, 2.0], [2000.0, 2001.0, 2002.0]])
    close(score_cam(a, masked), score_cam(a, masked[0]))


def test_a_denominator_that_is_exactly_zero_weighs_nothing():
    # the sum of A is -2 and G is 1, so 2 G^2 - 2 G^3 = 0; where G is 1/2 the weight is 1/2 / (2 -
    # 1) = 1/2
    a, g = np.array([[-3.0, 1.0]]), np.array([[1.0, 0.5]])
    close(grad_cam_pp(a, g), [-1.5, 0.5])
    close(smooth_grad_cam_pp(a[None], g[None]), [-1.5, 0.5])
    close(grad_cam_pp(a, np.ones((1, 2))), [0, 0])
    # channels that sum to 0, and to 0 in the first channel alone
    zero(xgrad_cam(np.array([[1.0, -1.0]]), g), 2)
    close(xgrad_cam(np.array([[1.0, -1.0], [2.0, 2.0]]), np.ones((2, 2))), [2, 2])


def test_layer_cam_with_gamma_is_zero_where_no_position_is_positive():
    a, g = np.array([[[-1.0, -2.0]], [[1.0, 2.0]]]), np.ones((2, 1, 2))
    close(layer_cam(a, g, gamma=2), [[0, 0], [math.tanh(1), math.tanh(2)]])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(seed=seeds, positions=st.integers(1, 60), size=st.sampled_from([1e-6, 1.0, 300.0]))
@example(seed=33, positions=38, size=1.0)  # whose mean in float32 is not the number itself
def test_equal_positions_have_no_kernel_component(kernel, dtype, seed, positions, size):
    channels = arrays(seed, (64, 1))[0] * size
    zero(kpca_cam(np.repeat(channels, positions, axis=1).astype(dtype), kernel), positions)


def test_no_activations_are_no_eigen_cam():
    for shape in ((2, 3, 4), (2, 4, 3)):
        zero(np.abs(eigen_cam(np.zeros(shape))), (2, shape[-1]))
    one_of_two = np.stack([np.zeros((3, 4)), np.ones((3, 4))])
    close(eigen_cam(one_of_two), [[0] * 4, [math.sqrt(3)] * 4])


@pytest.mark.parametrize("function", [eigen_cam, kpca_cam])
@given(seed=seeds, order=st.permutations(range(8)))
def test_where_channels_cancel_the_largest_magnitude_is_positive(function, seed, order):
    """As behind layer normalisation, where the sum over channels is rounding."""
    a = arrays(seed, (8, 5))[0]
    a -= a.mean(0)
    found = function(a)
    assert found.max() >= -found.min()
    np.testing.assert_allclose(function(a[order]), found, atol=1e-6)
    np.testing.assert_allclose(function(a.astype(np.float32)), found, atol=1e-4)


def test_where_channels_sum_to_the_same_everywhere_a_kernel_component_is_turned_by_its_largest_magnitude():
    kernel = np.outer([1.0, 1.0, -2.0], [1.0, 1.0, -2.0])
    close(first_kernel_component(kernel, np.array([0.1, 0.1, 0.1])), [-1, -1, 2])
    for positions in range(1, 30):
        zero(
            first_kernel_component(np.full((positions, positions), -0.3), np.arange(positions)),
            positions,
        )


@given(seeds)
def test_a_flat_reference_says_nothing_about_a_kernel_component(seed):
    k = arrays(seed, (3, 5, 5))[0]
    reference = np.repeat(arrays(seed, (3, 1))[0], 5, axis=1)
    found = first_kernel_component(k @ np.moveaxis(k, -1, -2), reference)
    assert np.all(found.max(-1) >= -found.min(-1))


@pytest.mark.parametrize("shape", [(50, 3, 40), (50, 40, 3)])
def test_the_smaller_gram_matrix_is_decomposed(shape, monkeypatch):
    seen, decompose = [], components._largest_eigenpair
    monkeypatch.setattr(
        components, "_largest_eigenpair", lambda gram: seen.append(gram.shape) or decompose(gram)
    )
    eigen_cam(arrays(shape=shape)[0])
    assert seen == [(50, 3, 3)]


def test_numbers_that_are_not_numbers_are_not_hidden():
    assert np.isnan(channel_sum(np.array([[np.nan, 1.0], [1.0, 2.0]]))[0])
    assert np.isnan(grad_cam_pp(A, np.array([[np.nan, 1.0], [1.0, 1.0]]))).all()


def test_a_flat_map_has_no_exceptional_position():
    zero(fem(np.full((2, 3, 7), 0.1)), (2, 7))


def test_a_masked_score_of_minus_infinity_leaves_its_channel_out():
    close(score_cam(A, np.array([-np.inf, 7.0])), A[1])
    close(score_cam(A, np.array([1e4, -1e4])), A[0])  # powers that would overflow


def test_a_flat_contribution_adds_nothing():
    some = arrays(shape=(1, 2, 3))[0]
    close(full_grad([some, np.full((4, 5, 5), 3.0)], (2, 3)), full_grad([some], (2, 3)))


def test_nothing_to_factorise_is_nothing():
    maps, vectors = factorise(-np.ones((2, 3, 4)), 2)
    zero(maps, (2, 2, 4))
    zero(vectors, (2, 3))


def test_as_many_concepts_as_there_are_channels_or_positions_at_most():
    assert factorise(np.ones((2, 3, 4)), 3)[0].shape == (2, 3, 4)
    assert factorise(np.ones((1, 3, 2)), 2)[1].shape == (2, 3)
    for shape, most in (((2, 3, 4), 3), ((1, 3, 2), 2)):
        for concepts in (0, most + 1):
            match = rf"`concepts` must be between 1 and {most} for activations of shape \({shape[0]}, 3, {shape[2]}\)"
            with pytest.raises(ValueError, match=match + f", but is {concepts}"):
                factorise(np.ones(shape), concepts)


def test_the_seed_decides_where_a_factorisation_starts():
    a = arrays(shape=(2, 5, 9))[0]
    np.testing.assert_array_equal(factorise(a, 3)[0], factorise(a, 3, iterations=200, seed=0)[0])
    assert (
        np.abs(factorise(a, 3, iterations=3)[0] - factorise(a, 3, iterations=3, seed=1)[0]).max()
        > 1e-3
    )


def test_errors_of_methods_say_what_to_do():
    with pytest.raises(
        ValueError, match='`kernel` must be "sigmoid", "rbf" or "linear", but is \'poly\''
    ):
        kpca_cam(A, "poly")
    with pytest.raises(ValueError, match="`attentions` is empty: pass at least one layer's"):
        attention_rollout([])
    with pytest.raises(ValueError, match="`gradients` is empty: pass at least one layer's"):
        legrad([])
    with pytest.raises(ValueError, match="`contributions` is empty: pass at least the input's"):
        full_grad([], (2, 2))


# ---------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.name)
def test_every_method_says_what_it_is_where_it_is_from_and_what_it_costs(entry):
    assert entry.about.endswith(".")
    assert "\n" not in entry.about
    assert entry.needs in spec.Needs.__args__
    assert "forward" in entry.cost
    assert entry.when
    if not entry.has_paper:
        assert entry.paper == ""
    else:
        assert "https://" in entry.paper
        assert entry.paper[
            0
        ].isupper()  # no half sentence: "et al. 2017, eqs. 1 and 2" has full stops of its own
    assert METHODS[entry.name] is entry
    assert as_spec(entry.name) is entry


def test_a_paper_is_cited_whole():
    cited = "Selvaraju et al. 2017, eqs. 1 and 2, https://arxiv.org/abs/1610.02391"
    assert as_spec("grad-cam").paper == cited
    assert (
        as_spec("hires-cam").paper
        == "Draelos and Carin 2020, eq. 5, https://arxiv.org/abs/2011.08891"
    )

    def own(activations, gradients):
        """https://example.org/own"""

    assert as_spec(own).paper == as_spec(own).about == "https://example.org/own"
    own.__doc__ = "Mine. By me et al. 2020, https://example.org/own. More of it. The end."
    assert as_spec(own).paper.startswith("By me et al. 2020, https://example.org/own")


def test_names_are_the_tables_and_unlike():
    assert list(METHODS) == [entry.name for entry in TABLE]
    assert len(METHODS) == len(set(TABLE)) == len(TABLE)
    pooled = {entry.name for entry in TABLE if entry.uses_mean_gradient}
    assert pooled == {"grad-cam", "cam"}


def test_an_entry_by_name_by_function_and_of_your_own():
    assert as_spec("score-cam") is as_spec(score_cam)
    assert as_spec("is-cam").function is score_cam

    def own(activations, gradients):
        return gradients

    assert as_spec(own) == methods.MethodSpec("own", own, "gradients", "1 forward, 1 backward")
    assert (as_spec(own).about, as_spec(own).paper) == ("", "")

    class Own:
        def __call__(self, activations, gradients):
            return gradients

    assert as_spec(Own()).name == "Own"


def test_a_name_that_is_unknown_is_answered_with_the_nearest():
    known = re.escape("The methods are " + ", ".join(METHODS))
    with pytest.raises(
        ValueError, match=f'`method` "gradcam" is unknown; did you mean "grad-cam"\\? {known}'
    ):
        as_spec("gradcam")
    with pytest.raises(ValueError, match=f'`method` "lime" is unknown; {known}'):
        as_spec("lime")


def test_a_parameter_that_a_method_does_not_have_is_named():
    layer = as_spec("layer-cam")
    check_parameters(layer, {"gamma": 2}, "gradcam.explain")
    check_parameters(layer, {}, "gradcam.explain")
    own = "`k` is no option of gradcam.explain and no parameter of"
    with pytest.raises(TypeError, match=f"{own} layer-cam; its own are gamma$"):
        check_parameters(layer, {"gamma": 2, "k": 3}, "gradcam.explain")
    with pytest.raises(TypeError, match=f"{own} grad-cam; it has none of its own$"):
        check_parameters(as_spec("grad-cam"), {"k": 3}, "gradcam.explain")
    with pytest.raises(
        TypeError, match=r"`activations` is no option .* random-cam; its own are seed$"
    ):
        check_parameters(as_spec("random-cam"), {"activations": 3}, "gradcam.compare")
    with pytest.raises(TypeError, match=r"its own are channels, samples, accumulate$"):
        check_parameters(as_spec("is-cam"), {"k": 3}, "gradcam.explain")


# ------------------------------------------------------------------------------------------ combine


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
    np.testing.assert_allclose(
        found[:, 2], gradcam.combine(a, g[:, 2], channel_axis=-1, relu=False), atol=1e-14
    )
    assert found.min() < 0


def test_half_precision_is_pooled_in_float32():
    torch = pytest.importorskip("torch")
    a, g = (torch.from_numpy(x).to(torch.bfloat16) for x in arrays(shape=(1, 3, 40, 40)))
    found = gradcam.combine(a, g)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, gradcam.combine(a.float(), g.float()))


def test_combine_errors():
    a = np.zeros((2, 3, 4, 4))
    with pytest.raises(
        ValueError, match=r"`gradients` must have the shape of `activations`, \(2, 3, 4, 4\)"
    ):
        gradcam.combine(a, a[:, :2])
    with pytest.raises(
        ValueError, match="`channel_axis` 0 must name an axis other than the samples'"
    ):
        gradcam.combine(a, a, channel_axis=0)
    with pytest.raises(ValueError, match="`channel_axis` 4 must name"):
        gradcam.combine(a, a, channel_axis=4)
    with pytest.raises(ValueError, match='`method` "gradcam" is unknown; did you mean "grad-cam"'):
        gradcam.combine(a, a, method="gradcam")


def test_every_method_of_a_paper_names_its_own():
    papers = [entry.paper for entry in TABLE if entry.paper]
    assert len(set(papers)) == len(papers)
    assert "2006.14255" in next(entry.paper for entry in TABLE if entry.name == "ss-cam")
    assert not METHODS["random-cam"].has_paper  # a control


# ------------------------------------------------------------------------------ identity, not names


@pytest.mark.parametrize("name", METHODS)
def test_every_name_and_what_it_names_are_the_same_method(name):
    assert as_spec(METHODS[name]) is as_spec(name)


def test_a_function_of_your_own_runs_whatever_it_is_called():
    case = networks.case("numpy")

    def cam(activations, gradients):
        return (activations * 0 + gradients * 0).sum(-2) + 7.0

    def legrad(activations, gradients):
        return (activations * 0 + gradients * 0).sum(-2) + 3.0

    for function, value in ((cam, 7.0), (legrad, 3.0)):
        maps = gradcam.explain(case.model, case.inputs(), case.second, 1, function).maps
        np.testing.assert_array_equal(maps, np.full_like(maps, value))


def test_compare_keeps_two_partials_and_takes_a_methods_own_parameters():
    case = networks.case("numpy")
    soft = functools.partial(layer_cam, gamma=2.0)
    hard = functools.partial(layer_cam, gamma=8.0)
    pair = ("layer-cam", {"gamma": 4.0})
    results = gradcam.compare(case.model, case.inputs(), case.second, 1, [soft, hard, pair])
    assert list(results) == ["layer_cam(gamma=2.0)", "layer_cam(gamma=8.0)", "layer-cam(gamma=4.0)"]
    for gamma, explanation in zip((2.0, 8.0, 4.0), results.values(), strict=True):
        alone = gradcam.explain(case.model, case.inputs(), case.second, 1, "layer-cam", gamma=gamma)
        np.testing.assert_array_equal(explanation.maps, alone.maps)


def test_compare_refuses_two_methods_that_its_result_could_not_tell_apart():
    case = networks.case("numpy")
    twins = [lambda a, g: (a * g).sum(-2), lambda a, g: (a + g).sum(-2)]
    with pytest.raises(ValueError, match='two methods with the name "<lambda>"'):
        gradcam.compare(case.model, case.inputs(), case.second, 1, twins)


def test_old_names_go_on_with_a_warning():
    case = networks.case("numpy")
    with pytest.warns(DeprecationWarning, match="Entry is now gradcam.methods.MethodSpec"):
        assert methods.Entry is methods.MethodSpec
    with pytest.warns(DeprecationWarning, match="`chunk` is now `batch`"):
        old = gradcam.Explainer(case.model, method="ablation-cam", chunk=2)
    with pytest.warns(DeprecationWarning, match="`channels_first` of gradcam.Split is now layout="):
        assert gradcam.Split(len, len, channels_first=False).channels_first is False
    with pytest.warns(DeprecationWarning, match="`chunk` of gradcam.Split is now batch"):
        assert gradcam.Split(len, len, chunk=3).batch == 3
    new = gradcam.Explainer(case.model, method="ablation-cam", batch=2)
    np.testing.assert_array_equal(old(case.inputs(), 1).maps, new(case.inputs(), 1).maps)
