"""Maps that know nothing of the model. A measure says something of a method only beside what it says of these."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

__all__ = ["CONTROLS", "centre", "edges", "random", "uniform"]

Control = Callable[[np.ndarray, int, int], np.ndarray]
"""(inputs (N, ...), channel_axis, seed) -> maps (N, h, w)."""

CELLS = 7
"""How many cells a side random maps have: as coarse as a class activation map."""


def random(inputs: np.ndarray, channel_axis: int = 1, seed: int = 0) -> np.ndarray:
    """Independent uniform noise in 7 x 7 cells, another for every sample: the same one again has the same map."""
    seeds = [
        (seed, zlib.crc32(np.ascontiguousarray(one).tobytes()))
        for one in np.moveaxis(inputs, channel_axis, 1)
    ]
    return np.stack([np.random.default_rng(some).random((CELLS, CELLS)) for some in seeds])


def centre(inputs: np.ndarray, channel_axis: int = 1, seed: int = 0) -> np.ndarray:
    """A Gaussian in the middle, with a deviation of a quarter of each side: photographers centre what they show."""
    height, width = _size(inputs, channel_axis)
    down, across = ((np.arange(n) + 0.5) / n - 0.5 for n in (height, width))
    one = np.exp(-((down[:, None] ** 2 + across**2) / (2 * 0.25**2)))
    return np.broadcast_to(one, (len(inputs), height, width)).copy()


def edges(inputs: np.ndarray, channel_axis: int = 1, seed: int = 0) -> np.ndarray:
    """The magnitude of the picture's gradient, central differences of the channels' mean: what is easily mistaken for
    an explanation (Adebayo et al. 2018, https://arxiv.org/abs/1810.03292). Along a side of one pixel it is 0.
    """
    grey = np.asarray(inputs, dtype=np.float64).mean(axis=channel_axis)
    down, across = (
        np.gradient(grey, axis=n) if grey.shape[n] > 1 else np.zeros_like(grey) for n in (1, 2)
    )
    return np.array(np.hypot(down, across))


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
    height, width = (
        n for axis, n in enumerate(inputs.shape) if axis not in (0, channel_axis % inputs.ndim)
    )
    return height, width
