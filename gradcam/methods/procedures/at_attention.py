"""Methods for transformers, which use the attention weights of all layers."""

from __future__ import annotations

import math

from gradcam._arrays import array_namespace, widen
from gradcam._types import Array
from gradcam.layouts import Layout
from gradcam.methods import attention
from gradcam.methods.run import Explained, Run

__all__ = ["attention_rollout", "legrad"]


def attention_rollout(run: Run) -> Explained:
    """Attention rollout from the class token, or over all tokens where there is no class token."""
    capture = run.capture(layers=run.attentions(), scored=False)
    tokens = int(capture.activations[0].shape[-1])
    layout = run.layout_of("<attention>", (tokens, 1))
    weights = [widen(activations) for activations in capture.activations]
    query = None
    if layout.prefix:
        query = 0
    maps = _spatial(attention.attention_rollout(weights, query), layout)
    if capture.scores.ndim == 2:
        # Attention rollout looks at no class, so all K targets share the map.
        xp = array_namespace(maps)
        maps = xp.expand_dims(maps, axis=1)
        maps = xp.broadcast_to(maps, (*capture.scores.shape, *layout.grid))
    return maps, capture


def legrad(run: Run) -> Explained:
    """LeGrad from the gradients of all attention weights: one forward and one backward pass."""
    capture = run.capture(layers=run.attentions())
    tokens = int(capture.gradients[0].shape[-1])
    layout = run.layout_of("<attention>", (tokens, 1))
    gradients = [widen(gradient) for gradient in capture.gradients]
    return _spatial(attention.legrad(gradients), layout), capture


def _spatial(tokens: Array, layout: Layout) -> Array:
    """Values of all tokens (..., T) -> maps (..., *grid) of the patch tokens."""
    stop = layout.prefix + math.prod(layout.grid)
    return layout.maps(tokens[..., layout.prefix : stop])
