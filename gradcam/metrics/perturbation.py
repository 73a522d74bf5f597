"""What small or local changes of the input do to the score and to the map."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np

from gradcam._arrays import to_numpy
from gradcam.metrics.result import Result
from gradcam.metrics.similarity import rank_correlation
from gradcam.metrics.subject import Baseline, Explain, Subject

__all__ = ["infidelity", "max_sensitivity", "occlusion", "occlusion_correlation"]


Perturbation = Literal["square", "noise"]


def infidelity(
    subject: Subject,
    maps: Any,
    *,
    samples: int = 50,
    perturbation: Perturbation = "square",
    baseline: Baseline = "zero",
    deviation: float = 0.2,
    seed: int = 0,
) -> Result:
    r"""Infidelity: the squared error of the map as a predictor of score changes.

    $\mathbb{E}_I [ (\beta \, I \cdot \Phi - (f(x) - f(x - I)))^2 ]$, where the map $\Phi$ is that
    of the pixels, the same for each channel. The scale $\beta = \mathbb{E}[(I \cdot \Phi)(f(x) -
    f(x - I))] / \mathbb{E}[(I \cdot \Phi)^2]$ makes the error least, so that a map's amplitude does
    not count; it is 0 where the denominator is. Yeh et al. 2019, definition 2.1 and section 3,
    https://arxiv.org/abs/1901.09392.

    perturbation: "square" replaces a random square by the `baseline`, with a side of 1 pixel to
        half the shorter side; "noise" subtracts normal noise of `deviation` times the sample's
        range from every pixel. All samples have the same squares.
    samples: how many changes I are drawn, and so how many forward passes are made for each input.

    In [0, infinity), in units of the confidence squared; lower is better. A flat map predicts by
    the changed area, so it does better than a map of zeros.
    """
    if samples < 2:
        raise ValueError(
            f"`samples` must be at least 2, but is {samples}: of one the scale is exact"
        )
    if perturbation not in ("square", "noise"):
        raise ValueError(f'`perturbation` must be "square" or "noise", but is {perturbation!r}')
    _check_floats(subject)
    heat = subject.heat(maps)
    changes = _Changes(subject, perturbation, subject.baseline(baseline, seed), deviation, seed)
    products = np.zeros((len(heat), samples))

    def variants() -> Iterator[np.ndarray]:
        for n, picture in enumerate(subject.inputs):
            for s, change in enumerate(changes.of_sample(n, samples)):
                total = change.sum(subject.channel_axis_of_sample, dtype=np.float64)
                products[n, s] = (total * heat[n]).sum()
                yield picture - change

    owners = np.repeat(np.arange(len(heat)), samples).tolist()
    scores = subject.stream(variants(), owners, "infidelity").reshape(len(heat), samples)
    drops = subject.clean[:, None] - scores
    square = (products**2).mean(1)
    beta = np.where(square > 0, (products * drops).mean(1) / np.where(square > 0, square, 1), 0)
    values = ((beta[:, None] * products - drops) ** 2).mean(1)
    settings: dict[str, Any] = {
        "samples": samples,
        "perturbation": perturbation,
        "seed": seed,
        "confidence": subject.confidence,
    }
    if perturbation == "square":
        settings["baseline"] = baseline
    else:
        settings["deviation"] = deviation
    return Result("infidelity", values, "lower", settings)


@dataclass(frozen=True)
class _Changes:
    """The changes I of `infidelity`."""

    subject: Subject
    perturbation: Perturbation
    baseline: np.ndarray
    deviation: float
    seed: int

    def of_sample(self, n: int, count: int) -> Iterator[np.ndarray]:
        """`count` changes in the sample's shape and dtype; all samples have the same draws."""
        picture = self.subject.inputs[n]
        random = np.random.default_rng(self.seed)
        for _ in range(count):
            if self.perturbation == "square":
                square = _random_square(random, self.subject.size)
                change = (picture - self.baseline[n]) * self.subject.with_channel_axis(square)
            else:
                noise = random.standard_normal(picture.shape)
                change = noise * self.deviation * np.ptp(picture)
            yield change.astype(picture.dtype)


def _check_floats(subject: Subject) -> None:
    if subject.inputs.dtype.kind != "f":  # differences of unsigned integers wrap
        raise ValueError(
            "`inputs` must be floats to be changed by a little, but have dtype "
            f"{subject.inputs.dtype}; pass inputs.astype(np.float32), and let `predict` undo it"
        )


def _random_square(random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """(H, W): 1 in a square that lies wholly in the picture, 0 elsewhere."""
    height, width = size
    side = int(random.integers(1, max(min(size) // 2, 1) + 1))
    top = int(random.integers(0, height - side + 1))
    left = int(random.integers(0, width - side + 1))
    mask = np.zeros(size)
    mask[top : top + side, left : left + side] = 1
    return mask


def max_sensitivity(
    subject: Subject,
    maps: Any,
    explain: Explain,
    *,
    radius: float = 0.02,
    samples: int = 10,
    seed: int = 0,
) -> Result:
    r"""Max-sensitivity: the largest relative change of the map under small noise.

    $\max_{\|\delta\|_\infty \le r} \|\Phi(x + \delta) - \Phi(x)\| / \|\Phi(x)\|$ over `samples`
    draws of $\delta$, uniform in each value, with r the `radius` times the sample's range. Yeh et
    al. 2019, definition 2.4, here relative to the map so that its scale does not count,
    https://arxiv.org/abs/1901.09392.

    explain: (inputs, classes) -> maps, the method that made `maps`. It runs `samples` times on each
        input.

    In [0, infinity); lower is better. NaN where the map is 0. A map that ignores the input scores
    0, and `edges` nearly
    so: this measures stability, not truth.
    """
    if radius <= 0 or samples < 1:
        raise ValueError(
            f"`radius` must be positive and `samples` at least 1, but are {radius} and {samples}"
        )
    _check_floats(subject)
    original = np.asarray(to_numpy(maps), dtype=np.float64)
    subject.heat(original)  # for its checks
    count = len(original)
    shifts = np.random.default_rng(seed).uniform(-1, 1, (samples, *subject.inputs.shape[1:]))
    reach = np.ptp(subject.inputs.reshape(count, -1), axis=1) * radius
    largest = np.zeros(count)
    owners = np.repeat(np.arange(count), samples)
    draws = np.tile(np.arange(samples), count)
    for start in range(0, len(owners), subject.batch):
        batch = slice(start, start + subject.batch)
        owner = owners[batch]
        moved = subject.inputs[owner] + reach[owner].reshape(-1, 1, 1, 1) * shifts[draws[batch]]
        again = _explained(subject, explain, moved, owner, original[owner].shape)
        change = np.sqrt(((again - original[owner]) ** 2).sum((1, 2)))
        np.maximum.at(largest, owner, change)
    norm = np.sqrt((original**2).sum((1, 2)))
    values = np.where(norm > 0, largest / np.where(norm > 0, norm, 1), np.nan)
    settings = {"radius": radius, "samples": samples, "seed": seed}
    return Result("max-sensitivity", values, "lower", settings)


def _explained(
    subject: Subject,
    explain: Explain,
    inputs: np.ndarray,
    samples: np.ndarray,
    shape: tuple[int, ...],
) -> np.ndarray:
    """Maps of variants of `samples`, which must have that shape."""
    maps = explain(inputs.astype(subject.inputs.dtype), subject.classes[samples])
    array = to_numpy(maps).astype(np.float64)
    if array.shape != shape:
        raise ValueError(f"`explain` must give maps {shape} as `maps` are, but gave {array.shape}")
    return array


# --------------------------------------------------------------------------------------- occlusion


def occlusion(
    subject: Subject,
    *,
    patch: int | None = None,
    stride: int | None = None,
    baseline: Baseline = "mean",
) -> np.ndarray:
    """How much the confidence falls when a square is covered by the `baseline`: (N, rows, columns).

    Zeiler and Fergus 2013, section 4.2, https://arxiv.org/abs/1311.2901. One forward pass for each
    square.

    patch: the squares' side in pixels; None: a seventh of the shorter side, 32 of 224.
    stride: how far they are apart, from the top left corner, as many as fit; None: half of `patch`.
    """
    grid = _grid(subject, patch, stride)
    absent = subject.baseline(baseline)
    owners = np.repeat(np.arange(len(subject.inputs)), len(grid.tops) * len(grid.lefts)).tolist()
    scores = subject.stream(_covered(subject, absent, grid), owners, "occlusion")
    costs = subject.clean[:, None] - scores.reshape(len(subject.inputs), -1)
    return np.array(costs.reshape(-1, len(grid.tops), len(grid.lefts)))


@dataclass(frozen=True)
class _Grid:
    """Squares of `patch` pixels a side, `stride` apart, with their upper and left edges."""

    patch: int
    stride: int
    tops: range
    lefts: range


def _grid(subject: Subject, patch: int | None, stride: int | None) -> _Grid:
    height, width = subject.size
    shorter = min(height, width)
    if patch is None:
        patch = max(shorter // 7, 1)
    if stride is None:
        stride = max(patch // 2, 1)
    if not 1 <= patch <= shorter or stride < 1:
        raise ValueError(
            f"`patch` must be 1 to {shorter} and `stride` at least 1: are {patch} and {stride}"
        )
    tops = range(0, height - patch + 1, stride)
    lefts = range(0, width - patch + 1, stride)
    return _Grid(patch, stride, tops, lefts)


def _covered(subject: Subject, absent: np.ndarray, grid: _Grid) -> Iterator[np.ndarray]:
    """Each sample with each of the squares covered."""
    for picture, absent_picture in zip(subject.inputs, absent, strict=True):
        for top, left in product(grid.tops, grid.lefts):
            square: tuple[slice, ...] = (
                slice(top, top + grid.patch),
                slice(left, left + grid.patch),
            )
            if subject.channel_axis == 1:
                square = (slice(None), *square)
            covered = picture.copy()
            covered[square] = absent_picture[square]
            yield covered


def occlusion_correlation(
    subject: Subject,
    maps: Any,
    *,
    patch: int | None = None,
    stride: int | None = None,
    baseline: Baseline = "mean",
    occluded: np.ndarray | None = None,
) -> Result:
    """Spearman's rank correlation of the map's means over squares with their `occlusion`.

    The paper's test of faithfulness: Selvaraju et al. 2017, section 5.3,
    https://arxiv.org/abs/1610.02391.

    occluded: what `occlusion` gave with the same settings, so that several methods can share it.

    In [-1, 1]; higher is better, 0 is chance, and the inverted map scores the negative. NaN where
    the map or the costs are flat. A rising function of a map that is constant on each square
    changes nothing.
    """
    heat = subject.heat(maps)
    grid = _grid(subject, patch, stride)
    costs = occluded
    if costs is None:
        costs = occlusion(subject, patch=grid.patch, stride=grid.stride, baseline=baseline)
    means = _square_means(heat, grid)
    if costs.shape != means.shape:
        raise ValueError(
            f"`occluded` must be {means.shape}, what `occlusion` gives with these settings: "
            f"is {costs.shape}"
        )
    # Means that differ by the rounding of sums alone are ties.
    scale = np.abs(heat).max((1, 2), keepdims=True)
    means = np.round(means / np.where(scale > 0, scale, 1), 12)
    settings = {
        "patch": grid.patch,
        "stride": grid.stride,
        "baseline": baseline,
        "confidence": subject.confidence,
    }
    return Result("occlusion-correlation", rank_correlation(means, costs), "higher", settings)


def _square_means(heat: np.ndarray, grid: _Grid) -> np.ndarray:
    """(N, rows, columns): the map's mean over each square.

    From sums over all pixels above and to the left of a corner, of which a square takes four.
    """
    sums = np.pad(heat.cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    tops = np.array(grid.tops)[:, None]
    lefts = np.array(grid.lefts)
    bottoms = tops + grid.patch
    rights = lefts + grid.patch
    means = sums[:, bottoms, rights] - sums[:, tops, rights]
    return np.array((means - sums[:, bottoms, lefts] + sums[:, tops, lefts]) / grid.patch**2)
