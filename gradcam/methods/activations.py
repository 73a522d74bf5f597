"""Methods that look at a layer's activations alone. Their maps are the same for every class.

Shapes: activations (..., C, P) -> maps (..., P), before any ReLU.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from gradcam._arrays import array_namespace, constant, matmul, quotient
from gradcam._numbers import check_whole
from gradcam._types import Array
from gradcam.maps import relu
from gradcam.methods.components import (
    beyond_rounding,
    channel_sum,
    first_component,
    first_kernel_component,
)
from gradcam.methods.gradients import weigh_channels

__all__ = ["eigen_cam", "factorise", "fem", "kpca_cam", "random_cam"]


def eigen_cam(activations: Array) -> Array:
    r"""The first principal component of the activations.

    $L = A^T v_1$ with the first right singular vector of $A^T = U \Sigma V^T$, positions by
    channels. As in the paper, the matrix is not centred. The decomposition leaves the sign open;
    here it is the sign that agrees with the sum over channels. Behind a ReLU no position is then
    negative. It is computed by the smaller of the two Gram matrices.
    Muhammad and Yeasin 2020, https://arxiv.org/abs/2008.00299

    Shapes: (..., C, P) -> (..., P).
    """
    return first_component(activations)


def kpca_cam(activations: Array, kernel: Literal["sigmoid", "rbf", "linear"] = "sigmoid") -> Array:
    r"""The first component of kernel principal component analysis of the positions.

    $L = \sqrt{\lambda_1} u_1$ of the kernel matrix $k(a_p, a_q)$ between the channel vectors of
    positions, centred in feature space. The kernels are $\tanh(a_p \cdot a_q / C + 1)$,
    $\exp(-|a_p - a_q|^2 / C)$, and $a_p \cdot a_q$, which is centred Eigen-CAM. Channels are
    centred over positions first, as in the authors' code; this changes the sigmoid kernel alone.
    The paper leaves the kernel's parameters open, and these are the usual defaults. The sign is the
    one that agrees with the sum over channels. Equal positions give 0.
    Karmani et al. 2024, https://arxiv.org/abs/2410.00267

    Shapes: (..., C, P) -> (..., P).
    """
    xp = array_namespace(activations)
    channels = int(activations.shape[-2])
    # The first position is subtracted first: the mean of equal positions then has no rounding.
    centred = activations - activations[..., :1]
    centred = centred - xp.mean(centred, axis=-1, keepdims=True)
    centred = beyond_rounding(centred, xp.max(xp.abs(activations), axis=-1, keepdims=True), 2)
    products = matmul(xp.matrix_transpose(centred), centred)
    # Centring removes a kernel's constant, but not that constant's rounding. So the constant, the
    # kernel of two positions at 0, is left out from the start: small activations keep their digits.
    if kernel == "sigmoid":
        # tanh(1 + u) - tanh(1)
        at_zero = math.tanh(1.0)
        change = xp.tanh(products / channels)
        values = change * (1 - at_zero**2) / (1 + at_zero * change)
    elif kernel == "rbf":
        # |a_p - a_q|^2 = |a_p|^2 + |a_q|^2 - 2 a_p a_q
        squares = xp.sum(centred**2, axis=-2)
        values = xp.expm1((2 * products - squares[..., :, None] - squares[..., None, :]) / channels)
    elif kernel == "linear":
        values = products
    else:
        raise ValueError(f'`kernel` must be "sigmoid", "rbf" or "linear", but is {kernel!r}')
    return first_kernel_component(values, channel_sum(activations))


def fem(activations: Array, k: float = 2.0) -> Array:
    r"""Positions where channels are exceptionally active, weighted by the channels' means.

    $L_p = \sum_c \mu_c [A_{cp} > \mu_c + k \sigma_c]$ with the mean $\mu_c$ and the population
    standard deviation $\sigma_c$ of each channel.
    Fuad et al. 2020, "Features Understanding in 3D CNNs" / FEM,
    https://doi.org/10.1109/IPTA50016.2020.9286629

    Shapes: (..., C, P) -> (..., P).
    """
    xp = array_namespace(activations)
    mean = xp.mean(activations, axis=-1, keepdims=True)
    # Asked this way round, a channel with NaN is NaN everywhere, and not left out.
    is_common = activations <= mean + k * xp.std(activations, axis=-1, keepdims=True)
    return xp.sum(xp.where(is_common, xp.zeros_like(mean), mean), axis=-2)


def random_cam(activations: Array, seed: int = 0) -> Array:
    """Channels weighted at random, uniformly from -1 to 1: the control that a method must beat.

    The weights depend on the seed and the number of channels alone. They are the same in every
    framework and for every sample.

    Shapes: (..., C, P) -> (..., P).
    """
    weights = np.random.default_rng(seed).uniform(-1, 1, (int(activations.shape[-2]), 1))
    return weigh_channels(constant(weights, like=activations), activations)


def factorise(
    activations: Array, concepts: int, *, iterations: int = 200, seed: int = 0
) -> tuple[Array, Array]:
    r"""Deep feature factorisation: non-negative concepts that all samples share, and where each is.

    $A_{ncp} \approx \sum_k M_{nkp} V_{kc}$, $M, V \ge 0$: non-negative matrix factorisation of the
    positive part of the activations, by Lee and Seung's multiplicative updates, which never let the
    squared error grow. 0/0 is 0.
    Collins et al. 2018, https://arxiv.org/abs/1806.10206; Lee and Seung 2001.

    Shapes: activations (N, C, P) -> maps (N, K, P) and vectors (K, C), of unit length each.
    """
    xp = array_namespace(activations)
    samples, channels, positions = (int(n) for n in activations.shape)
    largest = min(channels, samples * positions)
    check_whole("concepts", concepts)
    check_whole("iterations", iterations, 0)
    check_whole("seed", seed, 0)
    if not 1 <= concepts <= largest:
        raise ValueError(
            f"`concepts` must be between 1 and {largest} for activations of shape "
            f"{tuple(activations.shape)}, but is {concepts}"
        )
    data = xp.reshape(xp.moveaxis(relu(activations), 1, -1), (samples * positions, channels))
    size = xp.max(data)
    # Scaled to 1 at most, so that products of small numbers do not underflow.
    data = data / xp.where(size == 0, xp.ones_like(size), size)
    random = np.random.default_rng(seed)
    # The start is positive everywhere: a multiplicative update can never leave 0.
    presence = constant(random.uniform(0.1, 1, (samples * positions, concepts)), like=data)
    vectors = constant(random.uniform(0.1, 1, (concepts, channels)), like=data)
    for _ in range(iterations):
        gram = matmul(vectors, vectors.T)
        presence = presence * quotient(matmul(data, vectors.T), matmul(presence, gram))
        gram = matmul(presence.T, presence)
        vectors = vectors * quotient(matmul(presence.T, data), matmul(gram, vectors))
    # The product fixes the factors up to a scale, which all goes into the maps.
    length = xp.sqrt(xp.sum(vectors**2, axis=1, keepdims=True))
    vectors = quotient(vectors, length)
    presence = xp.reshape(presence * length.T * size, (samples, positions, concepts))
    return xp.moveaxis(presence, -1, 1), vectors
