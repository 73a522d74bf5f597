"""Methods for transformers, from attention weights: (..., heads, query tokens, key tokens)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradcam._arrays import array_namespace, constant, matmul, quotient
from gradcam._types import Array
from gradcam.maps import relu

__all__ = ["attention_rollout", "legrad"]


def attention_rollout(attentions: Sequence[Array], query: int | None = 0) -> Array:
    r"""How much each input token is mixed into the class token, layer by layer.

    $R = \prod_l \tilde A_l$, later layers on the left, with $\tilde A = \frac12 (\bar A + I)$, rows
    scaled to sum to 1, and the mean $\bar A$ over heads. The result is row `query` of R. With
    `query=None`, for models without a class token, it is the mean over rows.
    Abnar and Zuidema 2020, eq. 1 and section 4, https://arxiv.org/abs/2005.00928

    Shapes: attentions (..., H, T, T), in the order in which they run -> (..., T).
    """
    rollout = None
    for attention in attentions:
        xp = array_namespace(attention)
        mean = xp.mean(attention, axis=-3)
        mixed = (mean + constant(np.eye(int(mean.shape[-1])), like=mean)) / 2
        mixed = quotient(mixed, xp.sum(mixed, axis=-1, keepdims=True))
        if rollout is None:
            rollout = mixed
        else:
            rollout = matmul(mixed, rollout)
    if rollout is None:
        raise ValueError("`attentions` is empty: pass at least one layer's")
    if query is None:
        return array_namespace(rollout).mean(rollout, axis=-2)
    return rollout[..., query, :]


def legrad(gradients: Sequence[Array]) -> Array:
    r"""The positive gradient of the score in the attention weights, over heads, queries and layers.

    $E_l = \frac{1}{H T} \sum_{h, q} \mathrm{relu}(\partial y / \partial A_{l h q \cdot})$, and
    their mean over layers. The paper takes a score of its own for each layer, that of the head
    applied to the layer's tokens. Here every layer has the model's own score, which every model
    has. For the last layer the two are the same where the head reads the class token alone.
    Bousselham et al. 2024, eqs. 5 to 8, https://arxiv.org/abs/2404.03214

    Shapes: gradients (..., H, T, T), one array for each layer -> (..., T).
    """
    if not gradients:
        raise ValueError("`gradients` is empty: pass at least one layer's")
    xp = array_namespace(*gradients)
    layers = [xp.mean(relu(gradient), axis=(-3, -2)) for gradient in gradients]
    return xp.mean(xp.stack(layers), axis=0)
