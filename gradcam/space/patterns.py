"""Which parts of the input are disturbed: along each axis its halves, and its alternating quarters.

Like structured light. Where an element of a layer answers more to noise in one half of an axis than
in the other, it lies on that side; two patterns along an axis tell four places apart, and a wrong
reading of the axes agrees with neither.

>>> Pattern(axis=1, stripes=2).mask(8)
array([0., 0., 0., 0., 1., 1., 1., 1.])
>>> Pattern(axis=1, stripes=4).mask(8)
array([0., 0., 1., 1., 0., 0., 1., 1.])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Pattern", "patterns_of", "sides"]


def sides(count: int, stripes: int) -> np.ndarray:
    """-1 or 1 for each of `count` positions: whether the stripe that its centre lies in is even or
    odd.
    """
    centres = (np.arange(count) + 0.5) / count
    return 2.0 * (np.floor(centres * stripes) % 2) - 1.0


@dataclass(frozen=True)
class Pattern:
    """Every second of `stripes` equal stripes along one axis of the input (the samples' axis is
    0).
    """

    axis: int
    stripes: int

    def mask(self, length: int) -> np.ndarray:
        """1 in the odd stripes of an axis of that length, 0 in the even ones."""
        return (sides(length, self.stripes) + 1) / 2

    def broadcast(self, shape: Sequence[int]) -> np.ndarray:
        """The mask in the shape of one sample of an input (N, ...): size 1 but along its axis."""
        mask_shape = [1] * (len(shape) - 1)
        mask_shape[self.axis - 1] = int(shape[self.axis])
        return self.mask(int(shape[self.axis])).reshape(mask_shape)


def patterns_of(shape: Sequence[int], axes: Sequence[int]) -> list[Pattern]:
    """The patterns for these axes of an input of that shape; an axis of fewer than four positions
    has halves alone.
    """
    patterns = []
    for axis in axes:
        if shape[axis] >= 2:
            patterns.append(Pattern(axis, 2))
        if shape[axis] >= 4:
            patterns.append(Pattern(axis, 4))
    return patterns
