"""Maps that know nothing of the model: a method must do better than these."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

__all__ = ["CONTROLS", "Control", "centre", "edges", "random", "uniform"]

Control = Callable[[np.ndarray, int, int], np.ndarray]
"""(inputs (N, ...), channel_axis, seed) -> maps (N, h, w)."""

CELLS = 7
"""How many cells a side random maps have: as coarse as a class-activation map."""


def random(inputs: np.ndarray, channel_axis: int = 1, seed: int = 0) -> np.ndarray:
    """Independent uniform noise in 7 x 7 cells, drawn from the seed and each sample's content.

    So a sample has the same map again, in whatever batch and channel order.
    """
    maps = []
    for sample in np.moveaxis(inputs, channel_axis, 1):
        content = zlib.crc32(np.ascontiguousarray(sample).tobytes())
        maps.append(np.random.default_rng((seed, content)).random((CELLS, CELLS)))
    return np.stack(maps)


def centre(inputs: np.ndarray, channel_axis: int = 1, seed: int = 0) -> np.ndarray:
    """A Gaussian in the middle, with a deviation of a quarter of each side.

    Photographers centre their objects.
    """
    height, width = _size(inputs, channel_axis)
    y = _from_the_middle(height)[:, None]
    x = _from_the_middle(width)
    gaussian = np.exp(-((y**2 + x**2) / (2 * 0.25**2)))
    return np.broadcast_to(gaussian, (len(inputs), height, width)).copy()


def _from_the_middle(count: int) -> np.ndarray:
    """The positions of pixel centres, from -1/2 to 1/2 of the side."""
    return (np.arange(count) + 0.5) / count - 0.5


def edges(inputs: np.ndarray, channel_axis: int = 1, seed: int = 0) -> np.ndarray:
    """The magnitude of the picture's gradient: central differences of the channels' mean.

    Edges are easily mistaken for an explanation: Adebayo et al. 2018,
        https://arxiv.org/abs/1810.03292. Along a side of one pixel the gradient is 0.
    """
    grey = np.asarray(inputs, dtype=np.float64).mean(axis=channel_axis)
    return np.array(np.hypot(_differences(grey, 1), _differences(grey, 2)))


def _differences(grey: np.ndarray, axis: int) -> np.ndarray:
    if grey.shape[axis] == 1:
        return np.zeros_like(grey)
    return np.asarray(np.gradient(grey, axis=axis))


def uniform(inputs: np.ndarray, channel_axis: int = 1, seed: int = 0) -> np.ndarray:
    """The same everywhere."""
    return np.ones((len(inputs), 1, 1))


CONTROLS: dict[str, Control] = {
    "random": random,
    "centre": centre,
    "edges": edges,
    "uniform": uniform,
}
"""By name."""


def _size(inputs: np.ndarray, channel_axis: int) -> tuple[int, int]:
    height, width = np.delete(inputs.shape, [0, channel_axis % inputs.ndim])
    return int(height), int(width)
