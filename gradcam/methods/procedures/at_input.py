"""Methods that run the model on changed inputs, or take gradients back to the input.

Score-CAM and its relatives mask the input, Smooth Grad-CAM++ adds noise to it, and FullGrad needs
the gradients at the input and at all biases.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from gradcam import maps as map_math
from gradcam._arrays import array_namespace, constant, widen
from gradcam._checks import check_integer
from gradcam._types import Array
from gradcam.inputs import INPUT
from gradcam.layouts import Layout
from gradcam.methods import gradients as gradient_methods
from gradcam.methods import inputs as input_methods
from gradcam.methods import scores as score_methods
from gradcam.methods.procedures.shared import (
    check_repeatable,
    for_targets,
    of_all_channels,
    which,
)
from gradcam.methods.run import Captured, Explained, Run

__all__ = ["contributions", "full_grad", "is_cam", "score_cam", "smooth_grad_cam_pp", "ss_cam"]


# ------------------------------------------------------------------------------- masked inputs


def score_cam(run: Run, channels: int | None = None) -> Explained:
    """Score-CAM. With `channels`, only the channels of largest variance (Faster Score-CAM)."""
    return _masked(run, channels, samples=1)


def ss_cam(
    run: Run, channels: int | None = None, samples: int = 8, noise: float = 0.2, seed: int = 0
) -> Explained:
    """Smoothed Score-CAM: mean scores over maps with Gaussian noise of `noise` times their range.

    Naidu and Michael 2020, section 3, smooth on the feature map, https://arxiv.org/abs/2006.14255.
    The paper takes 35 samples of standard deviation 2, on the map's own scale, which differs
    between layers. The noise is added to the map in the layer's resolution; public implementations
    add it to the map that has been resized.
    """

    def add_noise(grids: Array, variants: np.ndarray) -> Array:
        xp = array_namespace(grids)
        axes = tuple(range(2, grids.ndim))
        largest = xp.max(grids, axis=axes, keepdims=True)
        value_range = largest - xp.min(grids, axis=axes, keepdims=True)
        draws = np.empty((1, *grids.shape[1:]))
        for m, variant in enumerate(variants):
            # Seeded by the variant's number, so that the batch size changes nothing.
            random = np.random.default_rng((seed, int(variant)))
            draws[0, m] = random.standard_normal(grids.shape[2:])
        return grids + value_range * noise * constant(draws, like=grids)

    return _masked(run, channels, samples, change_grids=add_noise)


def is_cam(
    run: Run, channels: int | None = None, samples: int = 10, accumulate: bool = False
) -> Explained:
    """Integrated Score-CAM: mean scores as each mask grows from 1/S of itself to the whole.

    accumulate: the masks are sums of those before, 1/S, 3/S, 6/S, ... of the whole and beyond it,
        as public implementations have them.
    Naidu et al. 2020, https://arxiv.org/abs/2010.03023
    """
    growing = np.arange(1, samples + 1) / samples
    growing = np.cumsum(growing) if accumulate else growing

    def grow(masks: Array, variants: np.ndarray) -> Array:
        shape = (1, len(variants), *(1,) * (masks.ndim - 2))
        shares = growing[variants % samples]
        return masks * constant(shares.reshape(shape), like=masks)

    return _masked(run, channels, samples, change_masks=grow)


Change: TypeAlias = Callable[[Array, np.ndarray], Array]
"""From maps (N, m, *grid) of m variants, and the variants' numbers (m,), to changed maps."""


def _masked(
    run: Run,
    channels: int | None,
    samples: int,
    change_grids: Change | None = None,
    change_masks: Change | None = None,
) -> Explained:
    """Score-CAM's weights, from scores of the input times each channel's map.

    The mask is H = scaled(resized(A)), as in the paper: resized to the input's size, then scaled
    from minimum to maximum. Each channel has `samples` variants, and its score is the mean of
    theirs. Variant n is sample `n % samples` of channel `n // samples`. `change_grids` changes the
    maps before they become masks, `change_masks` the masks.
    """
    check_integer("samples", samples)
    capture = run.unscored
    run = run.settled(capture)
    layout = run.layout(capture)
    input_layout, size = _input_with_space(run, layout, capture)
    view = _strongest(layout.view(widen(capture.activations[0])), channels)
    xp = array_namespace(view)

    # All constant channels give the same mask, so one of them is run, and stands for all.
    varies = xp.max(view, axis=-1, keepdims=True) != xp.min(view, axis=-1, keepdims=True)
    varies_in_batch = which(xp.any(varies[..., 0], axis=0))
    alive = np.flatnonzero(varies_in_batch)
    used = np.concatenate([alive, np.flatnonzero(~varies_in_batch)[:1]])
    # Resizing a constant leaves rounding noise, which scaling would amplify. It is set to exact 0.
    view_or_zero = xp.where(varies, view, xp.zeros_like(view))
    grids = xp.take(layout.maps(view_or_zero), constant(used, like=view, dtype=xp.int32), axis=1)

    array = run.input_array
    count = len(used) * samples

    def masked_inputs(variants: np.ndarray) -> Array:
        unmasked = variants == count  # the last variant is the input itself
        variants = np.where(unmasked, 0, variants)
        columns = constant(variants // samples, like=grids, dtype=xp.int32)
        masks = xp.take(grids, columns, axis=1)
        if change_grids is not None:
            # Numbered by the layer's channels, so that a draw does not depend on which are run.
            masks = change_grids(masks, used[variants // samples] * samples + variants % samples)
        masks = map_math.scale(map_math.resize(masks, size), len(size), "minmax")
        if change_masks is not None:
            masks = change_masks(masks, variants)
        one = constant(unmasked.reshape(1, -1, *(1,) * len(size)), like=masks)
        masks = xp.moveaxis(xp.maximum(masks, one), 1, 0)
        return _masked_input(array, input_layout.broadcast(masks))

    scores = run.score(run.input_scorer().run, masked_inputs, count + 1, "masking the input")
    check_repeatable(scores[..., -1], widen(capture.scores))
    scores = scores[..., :-1]
    scores = xp.mean(xp.reshape(scores, (*scores.shape[:-1], len(used), samples)), axis=-1)
    scores = of_all_channels(scores, alive, len(varies_in_batch))
    view = for_targets(view, capture.scores)
    return layout.maps(score_methods.score_cam(view, scores)), capture


def _masked_input(array: Array, masks: Array) -> Array:
    """The input times its masks, in the input's dtype; integers, such as bytes, are rounded."""
    xp = array_namespace(array)
    array = xp.expand_dims(array, axis=0)
    if xp.isdtype(array.dtype, "integral"):
        return xp.astype(xp.round(array * masks), array.dtype)
    return array * xp.astype(masks, array.dtype)


def _input_with_space(
    run: Run, layout: Layout, capture: Captured
) -> tuple[Layout, tuple[int, ...]]:
    """The input's layout and size.

    A ValueError where the input has no channels, or not as many spatial axes as the layer.
    """
    size = run.size
    input_layout = run.input_layout
    if size is None or input_layout is None or len(size) != len(layout.grid):
        raise ValueError(
            f"this method shows the model its input through the maps of layer {run.path!r}, and so "
            "needs an input with channels and as many spatial axes as the layer, but they have "
            f"shapes {tuple(run.input_array.shape)} and {tuple(capture.activations[0].shape)}"
        )
    return input_layout, size


def _strongest(view: Array, count: int | None) -> Array:
    """Each sample's channels of largest variance over positions: (N, C, P) -> (N, count, P)."""
    channels = int(view.shape[-2])
    if count is None or count >= channels:
        return view
    check_integer("channels", count)
    xp = array_namespace(view)
    order = xp.argsort(-xp.var(view, axis=-1), axis=-1, stable=True)[:, :count, None]
    order = xp.broadcast_to(order, (*order.shape[:-1], view.shape[-1]))
    return xp.take_along_axis(view, order, axis=1)


# -------------------------------------------------------------------------------- noisy inputs


def smooth_grad_cam_pp(run: Run, samples: int = 16, noise: float = 0.1, seed: int = 0) -> Explained:
    """Smooth Grad-CAM++ from captures of `samples` noisy copies of the input.

    noise: standard deviation over each sample's range.
    """
    check_integer("samples", samples)
    capture = run.unscored
    run = run.settled(capture)
    layout = run.layout(capture)
    views = []
    gradients = []
    copies = list(run.noisy(samples, noise, seed))
    for n in run.track(range(samples), "noisy copies"):
        noisy = run.capture(copies[n])
        views.append(for_targets(layout.view(widen(noisy.activations[0])), capture.scores))
        gradients.append(layout.view(widen(noisy.gradients[0])))
    xp = array_namespace(*views)
    positions = gradient_methods.smooth_grad_cam_pp(xp.stack(views), xp.stack(gradients))
    return layout.maps(positions), capture


# ------------------------------------------------------------------------------ full gradients


def full_grad(run: Run) -> Explained:
    """The contributions of the input and of all biases, as one map of the input's size."""
    capture, parts = contributions(run)
    _, input_layout, _ = parts[0]
    if run.size is None or input_layout is None:
        raise ValueError("full-grad needs an input with channels and space")
    images = []
    for _, layout, contribution in parts:
        # Biases of layers without space, or of another input's, have no position in the map.
        if layout is not None:
            images.append(layout.maps(layout.view(widen(contribution))))
    return input_methods.full_grad(images, run.size), capture


def contributions(run: Run) -> tuple[Captured, list[tuple[str, Layout | None, Array]]]:
    """The contributions of the input and of each bias to the score, the input's first.

    Each is (path, layout, (N, [K,] *sample)); the layout is None where the layer has no space. In a
    piecewise linear network they sum to the score.
    """
    biases = list(run.biases())
    values = [(INPUT, run.input_array), *biases]
    capture = run.capture(layers=tuple(path for path, _ in values))
    has_many_targets = capture.scores.ndim == 2
    parts: list[tuple[str, Layout | None, Array]] = []
    for (path, array), gradient in zip(values, capture.gradients, strict=True):
        sample = tuple(int(n) for n in gradient.shape[1 + has_many_targets :])
        if has_many_targets:
            array = array_namespace(array).expand_dims(array, axis=1)
        parts.append((path, _bias_layout(run, path, sample), array * gradient))
    return capture, parts


def _bias_layout(run: Run, path: str, sample: tuple[int, ...]) -> Layout | None:
    if path == INPUT:
        return run.input_layout
    if len(sample) > 1:
        return run.layout_of_same_input(path, sample)
    return None
