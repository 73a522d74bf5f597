"""Methods that show the model other inputs, or go back to the input: masked, noisy, and full gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from gradcam import maps as map_math
from gradcam._arrays import array_namespace, constant, to_numpy, widen
from gradcam._types import Array
from gradcam.inputs import INPUT
from gradcam.layouts import Layout
from gradcam.methods import gradients as gradient_methods
from gradcam.methods import inputs as input_methods
from gradcam.methods import scores as score_methods
from gradcam.methods.procedures.shared import check_positive, for_targets, of_all_channels
from gradcam.methods.run import Captured, Explained, Run

__all__ = ["contributions", "full_grad", "is_cam", "score_cam", "smooth_grad_cam_pp", "ss_cam"]


# ------------------------------------------------------------------------------------------ masked inputs


def score_cam(run: Run, channels: int | None = None) -> Explained:
    """Score-CAM; with `channels` only those of largest variance (Faster Score-CAM)."""
    return _masked(run, channels, samples=1)


def ss_cam(
    run: Run, channels: int | None = None, samples: int = 8, noise: float = 0.2, seed: int = 0
) -> Explained:
    """Smoothed Score-CAM: mean scores over maps with Gaussian noise of `noise` times their range.

    Naidu and Michael 2020, section 3, smooth on the feature map, https://arxiv.org/abs/2006.14255. The paper takes 35
    samples of standard deviation 2, on the map's own scale, which no two layers share.
    """

    def add_noise(grids: Array, variants: np.ndarray) -> Array:
        xp = array_namespace(grids)
        axes = tuple(range(2, grids.ndim))
        value_range = xp.max(grids, axis=axes, keepdims=True) - xp.min(
            grids, axis=axes, keepdims=True
        )
        shape = tuple(grids.shape[2:])
        drawn = [np.random.default_rng((seed, int(n))).standard_normal(shape) for n in variants]
        return grids + value_range * noise * constant(np.stack(drawn)[None], like=grids)

    return _masked(run, channels, samples, change_grids=add_noise)


def is_cam(run: Run, channels: int | None = None, samples: int = 10) -> Explained:
    """Integrated Score-CAM: mean scores as each mask grows from 1/S of itself to the whole.

    Naidu et al. 2020, eqs. 3 and 4, https://arxiv.org/abs/2010.03023
    """

    def grow(masks: Array, variants: np.ndarray) -> Array:
        shape = (1, len(variants), *(1,) * (masks.ndim - 2))
        shares = (variants % samples + 1) / samples
        return masks * constant(shares.reshape(shape), like=masks)

    return _masked(run, channels, samples, change_masks=grow)


Change: TypeAlias = Callable[[Array, np.ndarray], Array]
"""From maps (N, m, *grid) of m variants, and the variants' numbers, to these maps changed."""


def _masked(
    run: Run,
    channels: int | None,
    samples: int,
    change_grids: Change | None = None,
    change_masks: Change | None = None,
) -> Explained:
    """The inputs seen through each channel's map, `samples` times each: scores are means over these.

    H = scaled(resized(A)), as the paper has it: first to the input's size, then from minimum to maximum. Variant n
    is sample `n % samples` of channel `n // samples`.
    """
    check_positive("samples", samples)
    capture = run.unscored
    run = run.settled(capture)
    layout = run.layout(capture)
    input_layout, size = _input_with_space(run, layout, capture)
    view = _strongest(layout.view(widen(capture.activations[0])), channels)
    xp = array_namespace(view)

    # All constant channels give the same mask, so one of them is run, and stands for all.
    uneven_each = xp.max(view, axis=-1, keepdims=True) != xp.min(view, axis=-1, keepdims=True)
    uneven = to_numpy(xp.any(uneven_each[..., 0], axis=0))
    alive = np.flatnonzero(uneven)
    used = np.concatenate([alive, np.flatnonzero(~uneven)[:1]])
    # Resizing a constant leaves rounding noise, which scaling would blow up, so it is set to exactly 0.
    view_or_zero = xp.where(uneven_each, view, xp.zeros_like(view))
    grids = xp.take(layout.maps(view_or_zero), constant(used, like=view, dtype=xp.int32), axis=1)

    scorer = run.input_scorer()
    array = run.input_array if scorer.value is None else scorer.value

    def masked_inputs(variants: np.ndarray) -> Array:
        which = constant(variants // samples, like=grids, dtype=xp.int32)
        masks = xp.take(grids, which, axis=1)
        if change_grids is not None:
            masks = change_grids(masks, used[variants // samples] * samples + variants % samples)
        masks = map_math.scale(map_math.resize(masks, size), len(size), "minmax")
        if change_masks is not None:
            masks = change_masks(masks, variants)
        masks = xp.astype(xp.moveaxis(masks, 1, 0), array.dtype)
        return array * input_layout.broadcast(masks)

    scores = run.score(scorer.run, masked_inputs, len(used) * samples, "masking the input")
    scores = xp.mean(xp.reshape(scores, (*scores.shape[:-1], len(used), samples)), axis=-1)
    scores = of_all_channels(scores, alive, len(uneven))
    view = for_targets(view, capture.scores)
    return layout.maps(score_methods.score_cam(view, scores)), capture


def _input_with_space(
    run: Run, layout: Layout, capture: Captured
) -> tuple[Layout, tuple[int, ...]]:
    """The input's layout and size, where it has channels and as many spatial axes as the layer; else a ValueError."""
    size = run.size
    input_layout = run.input_layout
    if size is None or input_layout is None or len(size) != len(layout.grid):
        raise ValueError(
            f"this method shows the model its input through the maps of layer {run.path!r}, and so needs an input with "
            f"channels and as many spatial axes as the layer, but they have shapes {tuple(run.input_array.shape)} and "
            f"{tuple(capture.activations[0].shape)}"
        )
    return input_layout, size


def _strongest(view: Array, count: int | None) -> Array:
    """(N, C, P) -> (N, count, P): each sample's channels of largest variance over positions, largest first."""
    channels = int(view.shape[-2])
    if count is None or count >= channels:
        return view
    check_positive("channels", count)
    xp = array_namespace(view)
    order = xp.argsort(-xp.var(view, axis=-1), axis=-1, stable=True)[:, :count, None]
    order = xp.broadcast_to(order, (*order.shape[:-1], view.shape[-1]))
    return xp.take_along_axis(view, order, axis=1)


# ------------------------------------------------------------------------------------------ noisy inputs


def smooth_grad_cam_pp(run: Run, samples: int = 16, noise: float = 0.1, seed: int = 0) -> Explained:
    """Captures of `samples` noisy copies of the input; noise is relative to each sample's range."""
    check_positive("samples", samples)
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


# ------------------------------------------------------------------------------------------ full gradients


def full_grad(run: Run) -> Explained:
    """The input's and the biases' contributions as one picture of the input's size."""
    capture, parts = contributions(run)
    _, input_layout, _ = parts[0]
    if run.size is None or input_layout is None:
        raise ValueError("full-grad needs an input with channels and space")
    images = []
    for _, layout, contribution in parts:
        if layout is not None:  # the biases of layers without space have no place in the picture
            images.append(layout.maps(layout.view(widen(contribution))))
    return input_methods.full_grad(images, run.size), capture


def contributions(run: Run) -> tuple[Captured, list[tuple[str, Layout | None, Array]]]:
    """What the input and each bias contribute to the score: (path, layout, (N, [K,] *sample)), the input's first.

    Of a network that is linear piece by piece they sum to the score.
    """
    biases = list(run.biases())
    paths = (INPUT, *(path for path, _ in biases))
    capture = run.capture(layers=paths)
    several = capture.scores.ndim == 2
    arrays = [run.input_array, *(bias for _, bias in biases)]
    parts: list[tuple[str, Layout | None, Array]] = []
    for path, array, gradient in zip(paths, arrays, capture.gradients, strict=True):
        value = array_namespace(array).expand_dims(array, axis=1) if several else array
        sample = tuple(int(n) for n in gradient.shape[1 + several :])
        parts.append((path, _bias_layout(run, path, sample), value * gradient))
    return capture, parts


def _bias_layout(run: Run, path: str, sample: tuple[int, ...]) -> Layout | None:
    if path == INPUT:
        return run.input_layout
    return run.layout_of(path, sample) if len(sample) > 1 else None
