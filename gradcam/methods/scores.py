"""Methods that weigh each channel by the model's score for a variant made with that channel.

A variant is the activations without the channel (Ablation-CAM) or the input seen through it
(Score-CAM). The functions here are the array math. The variants are made and run by
`gradcam.methods.procedures`.
"""

from __future__ import annotations

from gradcam._arrays import array_namespace
from gradcam._types import Array
from gradcam.methods.gradients import weigh_channels

__all__ = ["ablation_cam", "score_cam"]


def ablation_cam(activations: Array, scores: Array, ablated: Array) -> Array:
    r"""Channels weighted by how much the score drops without them.

    $w_k = (y - y_k) / |y|$ with the score $y_k$ where channel k is 0. Where y is 0,
    $w_k = y - y_k$. The paper divides by y, which is the same for the positive scores that it looks
    at. For a negative score that would negate the map.
    Desai and Ramaswamy 2020, eq. 3, https://doi.org/10.1109/WACV45572.2020.9093360

    Shapes: activations (..., C, P), scores (...), ablated (..., C) -> (..., P).
    """
    xp = array_namespace(activations, scores, ablated)
    size = xp.abs(scores)[..., None]
    drops = (scores[..., None] - ablated) / xp.where(size == 0, xp.ones_like(size), size)
    return weigh_channels(drops[..., None], activations)


def score_cam(activations: Array, masked: Array) -> Array:
    r"""Channels weighted by the score of the input seen through them.

    $w = \mathrm{softmax}_k(S_k)$, $S_k = y(x \odot H_k) - y(x_b)$. The baseline's score is the same
    for all channels and cancels in the softmax.
    Wang et al. 2020, eqs. 4 to 8, https://arxiv.org/abs/1910.01279

    Shapes: activations (..., C, P), masked scores (..., C) -> (..., P). A masked score of -infinity
    gives its channel the weight 0.
    """
    xp = array_namespace(activations, masked)
    # The largest score is subtracted so that the exponential does not overflow.
    powers = xp.exp(masked - xp.max(masked, axis=-1, keepdims=True))
    return weigh_channels((powers / xp.sum(powers, axis=-1, keepdims=True))[..., None], activations)
