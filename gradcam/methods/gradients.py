"""Methods that weigh a layer's activations by the score's gradient there.

Shapes: activations (..., C, P) and gradients that broadcast with it -> maps (..., P), signed,
before any ReLU. A gradient that is the same at all positions may come as (..., C, 1).
"""

from __future__ import annotations

from gradcam._arrays import array_namespace, matmul, quotient
from gradcam._types import Array
from gradcam.maps import relu
from gradcam.methods.components import first_component

__all__ = [
    "cam",
    "eigen_grad_cam",
    "element_wise",
    "grad_cam",
    "grad_cam_pp",
    "hires_cam",
    "layer_cam",
    "seg_eigen_cam",
    "shapley_cam",
    "smooth_grad_cam_pp",
    "weigh_channels",
    "xgrad_cam",
]


def weigh_channels(weights: Array, activations: Array) -> Array:
    r"""$\sum_k w_k A_{kp}$: weights (..., C, 1) and activations (..., C, P) -> (..., P).

    K targets that share their activations, (..., K, C, 1) and (..., 1, C, P), cost one matrix
    product and no copy.
    """
    # Weights (..., K, C) times activations (..., C, P): the K targets are the rows of one matrix.
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
    return weigh_channels(xp.mean(gradients, axis=-1, keepdims=True), activations)


def cam(activations: Array, gradients: Array) -> Array:
    r"""Channels weighted by the class's weights in the linear layer behind global average pooling.

    $L_p = \sum_k w_k A_{kp}$. With $y = \sum_k w_k \frac1Z \sum_p A_{kp} + b$ the gradient is
    $w_k / Z$ everywhere, so $w_k = \sum_p \partial y / \partial A_{kp}$, and CAM is Z times
    Grad-CAM (Selvaraju et al. 2017, section 3.1). With another head there is no CAM;
    `gradcam.explain` tests the head and raises.
    Zhou et al. 2016, eq. 2, https://arxiv.org/abs/1512.04150

    Shapes: activations (..., C, P) and gradients (..., C, P) -> (..., P).
    """
    xp = array_namespace(activations, gradients)
    return weigh_channels(xp.sum(gradients, axis=-1, keepdims=True), activations)


def grad_cam_pp(activations: Array, gradients: Array) -> Array:
    r"""Channels weighted by their positive gradients, so that all instances of a class count alike.

    $w_k = \sum_p \alpha_{kp}\, \mathrm{relu}(G_{kp})$ with
    $\alpha_{kp} = \frac{G^2}{2 G^2 + (\sum_q A_{kq}) G^3}$, and 0 where $G = 0$. This is the form
    for the score $Y = e^y$, without the factor $e^y$, which all channels share. It is computed as
    $1 / (2 + G \sum_q A_{kq})$, the same number without powers that underflow. Where that
    denominator is 0, the weight is 0; this takes negative activations. As G tends to 0, w tends to
    half the sum of its positive part.
    Chattopadhay et al. 2018, eqs. 5 and 19, https://arxiv.org/abs/1710.11063

    Shapes: activations (..., C, P) and gradients that broadcast with it -> (..., P).
    """
    xp = array_namespace(activations, gradients)
    total = xp.sum(activations, axis=-1, keepdims=True)
    weights = xp.sum(quotient(relu(gradients), 2 + gradients * total), axis=-1, keepdims=True)
    return weigh_channels(weights, activations)


def smooth_grad_cam_pp(activations: Array, gradients: Array) -> Array:
    r"""Grad-CAM++ whose derivatives are means over noisy copies of the input.

    $\alpha_{kp} = \frac{\overline{G^2}}{2 \overline{G^2} + (\sum_q \bar A_{kq}) \overline{G^3}}$,
    $w_k = \sum_p \alpha_{kp}\, \mathrm{relu}(\bar G_{kp})$, $L = \sum_k w_k \bar A_k$. Bars are
    means over all the copies. The paper leaves open which activations are meant; here they are the
    mean too. 0/0 is 0. Powers are taken of gradients over their largest magnitude, so that they do
    not underflow.
    Omeiza et al. 2019, eqs. 5 to 8, https://arxiv.org/abs/1908.01224

    Shapes: activations and gradients (S, ..., C, P), S noisy copies first -> (..., P).
    """
    xp = array_namespace(activations, gradients)
    mean_activations = xp.mean(activations, axis=0)
    total = xp.sum(mean_activations, axis=-1, keepdims=True)
    size = xp.max(xp.abs(gradients), axis=(0, -2, -1), keepdims=True)
    unit = quotient(gradients, size)
    size = size[0, ...]
    first = xp.mean(unit, axis=0)
    second = xp.mean(unit**2, axis=0)
    third = xp.mean(unit**3, axis=0)
    # With G = size * unit: G^2 / (2 G^2 + A G^3) = unit^2 / (2 unit^2 + A size unit^3).
    alpha = quotient(second, 2 * second + total * size * third)
    weights = xp.sum(alpha * relu(first) * size, axis=-1, keepdims=True)
    return weigh_channels(weights, mean_activations)


def xgrad_cam(activations: Array, gradients: Array) -> Array:
    r"""Channels weighted by their gradients where they are active.

    $w_k = \sum_p \frac{A_{kp}}{\sum_q A_{kq}} G_{kp}$. A channel whose activations sum to 0 has
    weight 0.
    Fu et al. 2020, eq. 8, https://arxiv.org/abs/2008.02312

    Shapes: activations (..., C, P) and gradients that broadcast with it -> (..., P).
    """
    xp = array_namespace(activations, gradients)
    total = xp.sum(activations, axis=-1, keepdims=True)
    weights = quotient(xp.sum(gradients * activations, axis=-1, keepdims=True), total)
    return weigh_channels(weights, activations)


def hires_cam(activations: Array, gradients: Array) -> Array:
    r"""Each activation times its own gradient, summed over channels.

    $L_p = \sum_k G_{kp} A_{kp}$. With one linear layer as head it sums to the score less the bias.
    Draelos and Carin 2020, eq. 5, https://arxiv.org/abs/2011.08891

    Shapes: activations (..., C, P) and gradients that broadcast with it -> (..., P).
    """
    xp = array_namespace(activations, gradients)
    return xp.sum(gradients * activations, axis=-2)


def element_wise(activations: Array, gradients: Array) -> Array:
    r"""HiResCAM of the channels that speak for the class, position by position.

    $L_p = \sum_k \mathrm{relu}(G_{kp} A_{kp})$. Pillai 2021, AAAI-8236; GradCAMElementWise
    of https://github.com/jacobgil/pytorch-grad-cam

    Shapes: activations (..., C, P) and gradients that broadcast with it -> (..., P).
    """
    xp = array_namespace(activations, gradients)
    return xp.sum(relu(gradients * activations), axis=-2)


def layer_cam(activations: Array, gradients: Array, gamma: float | None = None) -> Array:
    r"""Each activation weighted by its own positive gradient, for maps of shallow layers too.

    $L_p = \sum_k \mathrm{relu}(G_{kp}) A_{kp}$; with `gamma` (the paper's 2, for shallow layers)
    $\tanh(\gamma\, \mathrm{relu}(L_p) / \max_q \mathrm{relu}(L_q))$, and 0 where no position is
    positive.
    Jiang et al. 2021, eqs. 6, 7 and 9, https://doi.org/10.1109/TIP.2021.3089943

    Shapes: activations (..., C, P) and gradients that broadcast with it -> (..., P).
    """
    xp = array_namespace(activations, gradients)
    combined = xp.sum(relu(gradients) * activations, axis=-2)
    if gamma is None:
        return combined
    positive = relu(combined)
    return xp.tanh(gamma * quotient(positive, xp.max(positive, axis=-1, keepdims=True)))


def eigen_grad_cam(activations: Array, gradients: Array) -> Array:
    r"""The first principal component of the activations times their gradients.

    $L = \sigma_1 u_1$ of $(G \odot A)^T = U \Sigma V^T$, positions by channels, as Eigen-CAM does
    for A alone; not centred. The decomposition leaves the sign open; here it is the sign that
    agrees with HiResCAM (see `first_component`). It has no paper of its own: it is Eigen-CAM
    (Muhammad and Yeasin 2020, https://arxiv.org/abs/2008.00299) with gradients.

    Shapes: activations (..., C, P) and gradients that broadcast with it -> (..., P).
    """
    return first_component(gradients * activations)


def seg_eigen_cam(activations: Array, gradients: Array) -> Array:
    r"""The first principal component of the activations times the magnitude of their gradients.

    $L = \sigma_1 u_1$ of $(|G| \odot A)^T = U \Sigma V^T$, not centred, turned so that its largest
    magnitude is positive. It is made for segmentation. Some implementations centre the channels
    first; this one does not.
    Seg-Eigen-CAM, Applied Sciences 2025, 15(13), 7562, https://doi.org/10.3390/app15137562

    Shapes: activations (..., C, P) and gradients that broadcast with it -> (..., P).
    """
    xp = array_namespace(activations, gradients)
    component = first_component(xp.abs(gradients) * activations)
    low = xp.min(component, axis=-1, keepdims=True)
    high = xp.max(component, axis=-1, keepdims=True)
    return xp.where(-low > high, -component, component)


def shapley_cam(activations: Array, gradients: Array, curvatures: Array) -> Array:
    r"""Channels weighted by their Shapley values, from the score's second-order expansion.

    $w_k = \frac1Z \sum_p \left(G_{kp} - \tfrac12 (H A)_{kp}\right)$ with the Hessian H of the score
    in the activations. It is Grad-CAM where the head is linear (H = 0).
    Cai 2025, https://arxiv.org/abs/2501.06261

    Shapes: activations (..., C, P), gradients G and curvatures H A that broadcast with it
    -> (..., P).
    """
    xp = array_namespace(activations, gradients, curvatures)
    return weigh_channels(xp.mean(gradients - curvatures / 2, axis=-1, keepdims=True), activations)
