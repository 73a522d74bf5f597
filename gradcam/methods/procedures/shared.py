"""Functions that several procedures share."""

from __future__ import annotations

import numpy as np

from gradcam._arrays import agree, array_namespace, constant, is_traced, to_numpy
from gradcam._types import Array
from gradcam._warnings import warn

__all__ = ["check_repeatable", "for_targets", "of_all_channels", "which"]


def for_targets(view: Array, scores: Array) -> Array:
    """Activations (N, C, P) as (N, 1, C, P) where the K targets of each sample share them."""
    if scores.ndim == 2:
        return array_namespace(view).expand_dims(view, axis=1)
    return view


def of_all_channels(scores: Array, alive: np.ndarray, channels: int) -> Array:
    """Scores of all channels (..., C) from those of the channels `alive`, (..., len(alive) + 1).

    The last entry is the score that all other channels share. `alive` has the channels in order.

    >>> of_all_channels(np.array([5.0, 6.0, 9.0]), alive=np.array([1, 3]), channels=4)
    array([9., 5., 9., 6.])
    """
    # For each channel the entry of `scores` that is its own.
    column = np.full(channels, len(alive))
    column[alive] = np.arange(len(alive))
    xp = array_namespace(scores)
    return xp.take(scores, constant(column, like=scores, dtype=xp.int32), axis=-1)


def check_repeatable(again: Array, scores: Array) -> None:
    """Warn where the unchanged input has other scores (N,) or (N, K) in another pass."""
    if not is_traced(again) and not agree(again, scores):
        warn(
            "the model gives other scores for the same input in another pass: it uses chance, or "
            "keeps something from one call to the next. This method is made of differences between "
            "scores, and its map is partly noise; a method of one pass, such as grad-cam, is not",
            UserWarning,
        )


def which(flags: Array) -> np.ndarray:
    """The flags on the host; all of them true where JAX is tracing, and has no numbers yet."""
    if is_traced(flags):
        return np.ones(flags.shape, dtype=bool)
    return to_numpy(flags)
