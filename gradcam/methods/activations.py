"""Methods that look at a layer's activations alone, and so at no class.

Shapes: activations (..., C, P) -> maps (..., P), before any ReLU.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from gradcam._arrays import array_namespace, constant, matmul, quotient
from gradcam._types import Array
from gradcam.maps import relu
from gradcam.methods.components import channel_sum, first_component, first_kernel_component
from gradcam.methods.gradients import weigh_channels

__all__ = ["eigen_cam", "factorise", "fem", "kpca_cam", "random_cam"]


def eigen_cam(activations: Array) -> Array:
    r"""The first principal component of the activations.

    $L = A^T v_1$ with the first right singular vector of $A^T = U \Sigma V^T$, positions by channels, not centred, as
    in the paper. The sign, which the decomposition leaves open, is that in which it agrees with the sum over channels:
    of activations behind a ReLU no position is negative. Computed by the smaller of the two Gram matrices.
    Muhammad and Yeasin 2020, https://arxiv.org/abs/2008.00299

    Shapes: (..., C, P) -> (..., P).
    """
    return first_component(activations)


def kpca_cam(activations: Array, kernel: Literal["sigmoid", "rbf", "linear"] = "sigmoid") -> Array:
    r"""The first component of kernel principal component analysis of the positions.

    $L = \sqrt{\lambda_1} u_1$ of the kernel matrix $k(a_p, a_q)$ between the channel vectors of positions, centred in
    feature space: $\tanh(a_p \cdot a_q / C + 1)$, $\exp(-|a_p - a_q|^2 / C)$, or $a_p \cdot a_q$, which is centred
    Eigen-CAM. Channels are centred over positions first, as in the authors' code; only the sigmoid kernel can tell.
    The paper leaves the kernel's parameters open; these are the usual defaults. The sign is that in which it agrees
    with the sum over channels; equal positions give 0. Karmani et al. 2024, https://arxiv.org/abs/2410.00267

    Shapes: (..., C, P) -> (..., P).
    """
    xp = array_namespace(activations)
    channels = int(activations.shape[-2])
    centred = (
        activations - activations[..., :1]
    )  # so that the mean of equal positions has no rounding
    centred = centred - xp.mean(centred, axis=-1, keepdims=True)
    products = matmul(xp.matrix_transpose(centred), centred)
    if kernel == "sigmoid":
        values = xp.tanh(products / channels + 1)
    elif kernel == "rbf":
        squares = xp.sum(centred**2, axis=-2)
        values = xp.exp((2 * products - squares[..., :, None] - squares[..., None, :]) / channels)
    elif kernel == "linear":
        values = products
    else:
        raise ValueError(f'`kernel` must be "sigmoid", "rbf" or "linear", but is {kernel!r}')
    return first_kernel_component(values, channel_sum(activations))


def fem(activations: Array, k: float = 2.0) -> Array:
    r"""Positions where channels are exceptionally active, weighted by the channels' means.

    $L_p = \sum_c \mu_c [A_{cp} > \mu_c + k \sigma_c]$ with each channel's mean and (population) standard deviation.
    Fuad et al. 2020, "Features Understanding in 3D CNNs" / FEM, https://doi.org/10.1109/IPTA50016.2020.9286629

    Shapes: (..., C, P) -> (..., P).
    """
    xp = array_namespace(activations)
    mean = xp.mean(activations, axis=-1, keepdims=True)
    rare = activations > mean + k * xp.std(activations, axis=-1, keepdims=True)
    return xp.sum(xp.where(rare, mean, xp.zeros_like(mean)), axis=-2)


def random_cam(activations: Array, seed: int = 0) -> Array:
    """Channels weighted at random, uniformly from -1 to 1: the control that a method must beat.

    The weights depend on the seed and the number of channels alone, in every framework and for every sample.

    Shapes: (..., C, P) -> (..., P).
    """
    weights = np.random.default_rng(seed).uniform(-1, 1, (int(activations.shape[-2]), 1))
    return weigh_channels(constant(weights, like=activations), activations)


def factorise(
    activations: Array, concepts: int, *, iterations: int = 200, seed: int = 0
) -> tuple[Array, Array]:
    r"""Deep feature factorisation: non-negative concepts that all samples share, and where each is.

    $A_{ncp} \approx \sum_k M_{nkp} V_{kc}$, $M, V \ge 0$: non-negative matrix factorisation of the positive part of the
    activations, by Lee and Seung's multiplicative updates of the squared error, which never let it grow. 0/0 is 0.
    Collins et al. 2018, https://arxiv.org/abs/1806.10206; Lee and Seung 2001.

    Shapes: activations (N, C, P) -> maps (N, K, P) and vectors (K, C), of unit length each.
    """
    xp = array_namespace(activations)
    samples, channels, positions = (int(n) for n in activations.shape)
    if not 1 <= concepts <= min(channels, samples * positions):
        raise ValueError(
            f"`concepts` must be between 1 and {min(channels, samples * positions)} for activations of shape "
            f"{tuple(activations.shape)}, but is {concepts}"
        )
    data = xp.reshape(xp.moveaxis(relu(activations), 1, -1), (samples * positions, channels))
    size = xp.max(data)
    data = data / xp.where(size == 0, xp.ones_like(size), size)
    random = np.random.default_rng(seed)
    where = constant(random.uniform(0.1, 1, (samples * positions, concepts)), like=data)
    vectors = constant(random.uniform(0.1, 1, (concepts, channels)), like=data)
    for _ in range(iterations):
        where = where * quotient(matmul(data, vectors.T), matmul(where, matmul(vectors, vectors.T)))
        vectors = vectors * quotient(matmul(where.T, data), matmul(matmul(where.T, where), vectors))
    length = xp.sqrt(xp.sum(vectors**2, axis=1, keepdims=True))
    vectors = quotient(vectors, length)
    where = where * length.T * size
    return xp.moveaxis(xp.reshape(where, (samples, positions, concepts)), -1, 1), vectors
