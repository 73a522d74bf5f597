"""How a layer's output lies in memory, as the model's own documentation says, and Grad-CAM's two
lines over it.

NumPy alone, and nothing of gradcam: this is what gradcam's reading of the axes is compared with.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Reading", "Tokens", "Truth", "fits", "grad_cam", "places", "read", "tokens"]

CONVOLUTIONAL = re.compile(
    r"^(Conv|BatchNorm|InstanceNorm|MaxPool|AvgPool|AdaptiveAvgPool|AdaptiveMaxPool|Upsample|LayerNorm2d|BatchNormAct2d"
    r"|Conv2dSame|StdConv|ScaledStdConv|Dropout2d)"
)
"""Modules whose outputs have the channels first, by their own documentation."""


@dataclass(frozen=True)
class Reading:
    """What the axes of one output are.

    kind: "channels_first" (N, C, *grid), "channels_last" (N, *grid, C), "tokens" (N, T, C),
        "sequence_first" (T, N, C) or "features_first" (N, C, T).
    grid: of the places; the shape tells it where channels are first or last.
    prefix: tokens before the places. Tokens behind them are left out, too.
    frames: N is a number of samples times that of frames; a map is for each frame then.
    """

    kind: str
    grid: tuple[int, ...] | None = None
    prefix: int = 0
    frames: int = 1

    def __str__(self) -> str:
        grid = "" if self.grid is None else " " + " x ".join(map(str, self.grid))
        prefix = f" {self.prefix} +" if self.prefix else ""
        frames = f", {self.frames} frames" if self.frames > 1 else ""
        return f"{self.kind}{prefix}{grid}{frames}"


@dataclass(frozen=True)
class Tokens:
    """One stage of a transformer: `prefix` tokens that are no place, a grid in row-major order,
    `suffix` tokens.
    """

    grid: tuple[int, ...]
    prefix: int = 0
    suffix: int = 0

    @property
    def count(self) -> int:
        return self.prefix + math.prod(self.grid) + self.suffix


@dataclass(frozen=True)
class Truth:
    """What a model's attributes and documentation say of its outputs.

    size: the input's spatial size.
    images: how an output with one axis for each of the input's, and samples and channels, lies:
        "channels_first", "channels_last", or "" where none of the model's own is a picture.
    tokens: the stages whose outputs (N, T, C) are tokens; the first with T tokens is meant.
    sequences: how outputs with three axes lie: "tokens", "sequence_first", "features_first".
    rules: (a regular expression that is searched in the layer's path, its reading), tried first; a
        text instead of a reading is why the layer's output is no picture.
    samples, frames: how many there are of each; where a layer has their product as samples, frames
        are folded in.
    behind: at most such a share of all leaf modules may run after the layer: else it was chosen too
        early.
    leak: such a share of a change of the input may reach the score round the layer; 1 or more where
        the model has no layer that all goes through.
    slack: how many places a grid may differ from the input's size by its stride.
    torch: whether it is a PyTorch model, whose convolutions and normalisations have the channels
        first.
    """

    size: tuple[int, ...]
    images: str = "channels_first"
    tokens: tuple[Tokens, ...] = ()
    sequences: str = "tokens"
    rules: tuple[tuple[str, Reading | str], ...] = ()
    samples: int = 2
    frames: int = 1
    behind: float = 0.5
    leak: float = 1e-4
    slack: float = 1.5
    torch: bool = True


def tokens(grid: tuple[int, ...], prefix: int = 0) -> tuple[Tokens, ...]:
    """One stage of tokens, or of tokens with some in front."""
    return (Tokens(tuple(int(n) for n in grid), int(prefix)),)


def fits(grid: tuple[int, ...], size: tuple[int, ...], slack: float = 1.5) -> bool:
    """Whether one stride for all axes makes this grid of that size, but for `slack` places of
    padding.
    """
    if len(grid) != len(size) or any(g > s + slack for g, s in zip(grid, size)):
        return False
    if len(size) > 2:
        return True  # frames have a stride of their own
    low = max((g - slack) / s for g, s in zip(grid, size))
    high = min((g + slack) / s for g, s in zip(grid, size))
    return low <= high


def read(truth: Truth, path: str, kind: str, shape: tuple[int, ...]) -> Reading | str:
    """The reading of the output of the layer at `path`, a module of type `kind`; or why it has
    none.
    """
    for pattern, reading in truth.rules:
        if re.search(pattern, path):
            return reading
    if len(shape) == 3 and truth.tokens:
        axis = {"tokens": 1, "sequence_first": 0, "features_first": 2}[truth.sequences]
        for stage in truth.tokens:
            if stage.count == shape[axis]:
                samples = shape[1 if truth.sequences == "sequence_first" else 0]
                frames = _frames(truth, samples)
                if not frames:
                    return f"{samples} samples: windows, heads or the like are folded into them"
                return Reading(truth.sequences, stage.grid, stage.prefix, frames)
        return f"no stage of the model has {shape[axis]} tokens"
    if len(shape) == 2 + len(truth.size):
        convolutional = truth.torch and CONVOLUTIONAL.match(kind) is not None
        images = "channels_first" if convolutional else truth.images
        if not images:
            return f"an output {shape} of a {kind} is no picture in this model"
        grid = shape[2:] if images == "channels_first" else shape[1:-1]
        if not fits(grid, truth.size, truth.slack):
            return f"{images}, the grid {grid} does not come of an input {truth.size}"
        frames = _frames(truth, shape[0])
        if not frames:
            return f"{shape[0]} samples: windows, heads or the like are folded into them"
        return Reading(images, tuple(grid), frames=frames)
    return f"an output of shape {shape} has no place in this model's documentation"


def _frames(truth: Truth, samples: int) -> int:
    """How many frames are folded into so many samples; 0 where it is something else."""
    if samples == truth.samples:
        return 1
    return truth.frames if samples == truth.samples * truth.frames else 0


def places(array: Any, reading: Reading) -> tuple[np.ndarray, tuple[int, ...]]:
    """The output as (N, frames, places, channels), and the grid of its places."""
    values = np.asarray(array, dtype=np.float64)
    if reading.kind in ("channels_first", "features_first"):
        values = np.moveaxis(values, 1, -1)
    if reading.kind == "sequence_first":
        values = np.swapaxes(values, 0, 1)
    if reading.kind in ("channels_first", "channels_last"):
        grid = values.shape[1:-1]
        if reading.grid is not None and tuple(reading.grid) != tuple(grid):
            raise ValueError(f"the output's grid is {grid}, not {reading.grid}")
    else:
        grid = tuple(reading.grid or ())
        values = values[:, reading.prefix : reading.prefix + math.prod(grid)]
    samples = len(values) // reading.frames
    return values.reshape(samples, reading.frames, -1, values.shape[-1]), tuple(grid)


def grad_cam(
    activation: Any, gradient: Any, reading: Reading, together: bool = False
) -> np.ndarray:
    """The sum over channels of their mean gradient times their activation, (N, *grid) or (N,
    frames, *grid); no ReLU.

    Selvaraju et al. 2017, equations 1 and 2. `together`: the mean is over all frames, not over each
    by itself.
    """
    a, grid = places(activation, reading)
    g, _ = places(gradient, reading)
    alpha = g.mean(axis=(1, 2) if together else 2, keepdims=True)
    found = (alpha * a).sum(-1)
    if reading.frames == 1:
        return found.reshape(len(found), *grid)
    return found.reshape(len(found), reading.frames, *grid)
