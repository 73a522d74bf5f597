"""Methods whose map lies on the input itself."""

from __future__ import annotations

from collections.abc import Sequence

from gradcam._arrays import array_namespace
from gradcam._types import Array
from gradcam.maps import resize, scale

__all__ = ["full_grad"]


def full_grad(contributions: Sequence[Array], size: tuple[int, ...]) -> Array:
    r"""What the input and every bias contribute to the score, each as an image.

    $L = \psi(\nabla_x y \odot x) + \sum_l \sum_c \psi(\nabla_{z_{lc}} y \odot b_{lc})$ with $\psi$: magnitude, scaled
    from its minimum to its maximum, resized. Of a network that is linear piece by piece the contributions themselves,
    in the order given and with those of layers without space, sum to the score; a flat contribution has no shape and
    adds nothing to the map.
    Srinivas and Fleuret 2019, eqs. 6 and 8, https://arxiv.org/abs/1905.00780

    Shapes: contributions (..., C, *grid), the input's first, each with its own C and grid -> (..., *size).
    """
    total = None
    for contribution in contributions:
        xp = array_namespace(contribution)
        found = xp.sum(scale(xp.abs(contribution), len(size), "minmax"), axis=-len(size) - 1)
        found = resize(
            found, size
        )  # linear, so what is summed before is the same, and thousands of channels are one
        total = found if total is None else total + found
    if total is None:
        raise ValueError("`contributions` is empty: pass at least the input's")
    return total
