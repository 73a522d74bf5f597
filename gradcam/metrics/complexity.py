"""Measures of the map alone: how much of the picture it marks. They ask nothing of the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradcam.metrics.checks import check_maps
from gradcam.metrics.result import Result
from gradcam.metrics.subject import relative_heat

__all__ = ["complexity"]


def complexity(maps: Any, *, size: Sequence[int]) -> Result:
    """Complexity: the mean of the map over its maximum, which is its L1 norm per pixel.

    Of the positive part of maps (N, h, w), resized to `size` (H, W). Poppi et al. 2021,
    https://arxiv.org/abs/2104.10252.

    In [0, 1]; lower is better. 1 for a flat positive map, 0 for one that is nowhere positive.
    """
    return Result("complexity", relative_heat(check_maps(maps), size).mean((1, 2)), "lower")
