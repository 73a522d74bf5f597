"""Methods that weigh a layer's activations by the score's gradient there.

Shapes: activations (..., C, P) and gradients that broadcast with it -> maps (..., P), before any ReLU.
"""

from __future__ import annotations

from array_api_compat import array_namespace

from gradcam._arrays import matmul
from gradcam._types import Array

__all__ = ["grad_cam", "weigh_channels"]


def weigh_channels(weights: Array, activations: Array) -> Array:
    r"""$\sum_k w_k A_{kp}$: weights (..., C, 1) and activations (..., C, P) -> (..., P).

    K targets that share their activations, (..., K, C, 1) and (..., 1, C, P), cost one product and no copy.
    """
    if activations.ndim >= 3 and activations.shape[-3] == 1 and weights.ndim == activations.ndim:
        return matmul(weights[..., 0], activations[..., 0, :, :])
    return matmul(array_namespace(weights).matrix_transpose(weights), activations)[..., 0, :]


def grad_cam(activations: Array, gradients: Array) -> Array:
    r"""Channels weighted by their mean gradient.

    $L_p = \sum_k \alpha_k A_{kp}$ with $\alpha_k = \frac1Z \sum_p \partial y / \partial A_{kp}$.
    Selvaraju et al. 2017, eqs. 1 and 2, https://arxiv.org/abs/1610.02391

    Shapes: activations (..., C, P) and gradients that broadcast with it -> (..., P).
    """
    xp = array_namespace(activations, gradients)
    alpha = xp.mean(gradients, axis=-1, keepdims=True)
    return weigh_channels(alpha, activations)
