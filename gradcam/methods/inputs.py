"""Methods whose map lies on the input itself."""

from __future__ import annotations

from collections.abc import Sequence

from gradcam._arrays import array_namespace
from gradcam._types import Array
from gradcam.maps import resize, scale

__all__ = ["full_grad"]


def full_grad(contributions: Sequence[Array], size: tuple[int, ...]) -> Array:
    r"""What the input and every bias contribute to the score, each as an image.

    $L = \psi(\nabla_x y \odot x) + \sum_l \sum_c \psi(\nabla_{z_{lc}} y \odot b_{lc})$ with $\psi$:
    magnitude, scaled from its minimum to its maximum, resized. A flat contribution adds nothing to
    the map. In a piecewise linear network the contributions themselves, together with those of
    layers without space, sum to the score.
    Srinivas and Fleuret 2019, eqs. 6 and 8, https://arxiv.org/abs/1905.00780

    Shapes: contributions (..., C, *grid), the input's first, each with its own C and grid
    -> (..., *size).
    """
    channel_axis = -len(size) - 1
    total = None
    for contribution in contributions:
        xp = array_namespace(contribution)
        channels = scale(xp.abs(contribution), len(size), "minmax")
        # Resizing is linear, so channels are summed first: one image is resized, not thousands.
        image = resize(xp.sum(channels, axis=channel_axis), size)
        if total is None:
            total = image
        else:
            total = total + image
    if total is None:
        raise ValueError("`contributions` is empty: pass at least the input's")
    return total
