"""Methods that need scores or gradients at changed activations of the layer."""

from __future__ import annotations

import math

import numpy as np

from gradcam._arrays import array_namespace, constant, widen
from gradcam._checks import check_integer
from gradcam._types import Array
from gradcam.methods import gradients as gradient_methods
from gradcam.methods import scores as score_methods
from gradcam.methods.procedures.shared import (
    check_repeatable,
    for_targets,
    of_all_channels,
    which,
)
from gradcam.methods.run import Explained, Run

__all__ = ["ablation_cam", "cam", "integrated_grad_cam"]


def cam(run: Run, tolerance: float = 1e-3) -> Explained:
    """CAM, where the head is linear; a ValueError elsewhere.

    The gradient of a linear head is the same at all positions and for all activations. Both are
    tested, up to `tolerance` times the largest gradient.
    """
    capture = run.first
    run = run.settled(capture)
    layout = run.layout(capture)
    gradients = layout.view(widen(capture.gradients[0]))
    # Negated activations are far from the layer's own, and reach the other side of any ReLU.
    negated = run.capture(at=-capture.activations[0])
    _check_linear_head(gradients, layout.view(widen(negated.gradients[0])), tolerance, run.path)
    view = for_targets(layout.view(widen(capture.activations[0])), capture.scores)
    return layout.maps(gradient_methods.cam(view, gradients)), capture


def _check_linear_head(gradients: Array, at_negated: Array, tolerance: float, path: str) -> None:
    """Raise unless the gradient is constant over positions and under negated activations."""
    xp = array_namespace(gradients)
    limit = tolerance * float(xp.max(xp.abs(gradients)))
    mean = xp.mean(gradients, axis=-1, keepdims=True)
    over_positions = float(xp.max(xp.abs(gradients - mean)))
    over_activations = float(xp.max(xp.abs(gradients - at_negated)))
    if max(over_positions, over_activations) <= limit:
        return
    reason = "depends on the activations"
    if over_positions > limit:
        reason = "differs between positions"
    raise ValueError(
        f'CAM needs global average pooling and one linear layer behind layer "{path}", but the '
        f'gradient there {reason}; use method="grad-cam", which is CAM where there is one, or the '
        "layer in front of the pooling"
    )


def integrated_grad_cam(run: Run, steps: int = 32) -> Explained:
    """Grad-CAM whose gradients are means over the path from zero to the activations.

    The mean is taken at the midpoints of `steps` equal parts of that straight path.
    """
    check_integer("steps", steps)
    capture = run.unscored
    run = run.settled(capture)
    layout = run.layout(capture)
    activations = capture.activations[0]
    total = 0.0
    for step in run.track(range(steps), "integrating"):
        on_path = run.capture(at=activations * ((step + 0.5) / steps))
        total = total + layout.view(widen(on_path.gradients[0]))
    view = for_targets(layout.view(widen(activations)), capture.scores)
    return layout.maps(gradient_methods.grad_cam(view, total / steps)), capture


def ablation_cam(run: Run) -> Explained:
    """Each channel is set to 0 in turn, at all positions. Only the layer's head runs again."""
    capture = run.unscored
    run = run.settled(capture)
    layout = run.layout(capture)
    activations = capture.activations[0]
    view = layout.view(widen(activations))
    xp = array_namespace(view)
    channels = int(view.shape[-2])
    channel_axis = -1
    if layout.kind == "channels_first":
        channel_axis = -len(layout.grid) - 1

    scorer = run.scorer()
    scores_of = scorer.run
    batch = run.batch
    if scorer.averaged is not None and layout.kind != "tokens":
        # The head uses nothing but the mean over positions. Averaging commutes with removing a
        # channel, so the averaged activations are ablated. They are smaller by the number of
        # positions, and so many more of them run at a time.
        positions = math.prod(activations.shape[axis] for axis in scorer.axes)
        activations = xp.mean(activations, axis=scorer.axes, keepdims=True)
        scores_of = scorer.averaged
        batch = run.batch * positions

    # Removing a channel that is 0 everywhere changes nothing, so its score is known.
    alive = np.flatnonzero(which(xp.any(xp.any(view != 0, axis=-1), axis=0)))
    # Last comes no channel: its score is that of every channel that is not removed.
    removed = np.append(alive, channels)

    def without(indices: np.ndarray) -> Array:
        return activations[None, ...] * _all_but(
            removed[indices], channels, channel_axis, like=activations
        )

    scores = run.score(scores_of, without, len(removed), "ablating channels", batch)
    check_repeatable(scores[..., -1], widen(capture.scores))
    ablated = of_all_channels(scores, alive, channels)
    view = for_targets(view, capture.scores)
    return layout.maps(score_methods.ablation_cam(view, widen(capture.scores), ablated)), capture


def _all_but(removed: np.ndarray, channels: int, channel_axis: int, like: Array) -> Array:
    """Factors (m, 1, ..., C, ..., 1) of m variants: 0 for the removed channel, 1 for the others."""
    kept = (np.arange(channels) != removed[:, None]).astype(np.float32)
    shape = [len(removed), *(1,) * like.ndim]
    shape[channel_axis] = channels
    return constant(kept.reshape(shape), like=like)
