"""What small or local changes of the input do, to the score and to the map."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from gradcam._arrays import to_numpy
from gradcam.metrics.result import Result
from gradcam.metrics.similarity import rank_correlation
from gradcam.metrics.subject import Baseline, Explain, Subject

__all__ = ["infidelity", "max_sensitivity", "occlusion", "occlusion_correlation"]


def infidelity(
    subject: Subject,
    maps: Any,
    *,
    samples: int = 50,
    perturbation: Literal["square", "noise"] = "square",
    baseline: Baseline = "zero",
    deviation: float = 0.2,
    seed: int = 0,
) -> Result:
    r"""How far the map is from telling what a change of the input does to the score.

    $\mathbb{E}_I [ (\beta \, I \cdot \Phi - (f(x) - f(x - I)))^2 ]$, where the map $\Phi$ is that of the pixels, each
    channel's alike, and $\beta = \mathbb{E}[(I \cdot \Phi)(f(x) - f(x - I))] / \mathbb{E}[(I \cdot \Phi)^2]$ is the
    scale that makes it least, so that a map's amplitude does not count (0 where the map and all of I have nothing in
    common). Yeh et al. 2019, definition 2.1 and section 3, https://arxiv.org/abs/1901.09392.

    perturbation: "square" puts the `baseline` into a random square of each side's length drawn from 1 to half the
        shorter side; "noise" is normal noise of `deviation` times the sample's range on every pixel. Every sample sees
        the same squares.
    samples: how many of them, and so forward passes for each input.

    In [0, infinity), the units of the confidence squared; lower is better. A flat map of "square" tells how much is
    gone, and is no zero.
    """
    if samples < 2:
        raise ValueError(
            f"`samples` must be at least 2, but is {samples}: of one the scale is exact"
        )
    if perturbation not in ("square", "noise"):
        raise ValueError(f'`perturbation` must be "square" or "noise", but is {perturbation!r}')
    _must_be_floats(subject)
    heat = subject.heat(maps)
    products = np.zeros((len(heat), samples))
    gone = subject.baseline(baseline, seed)

    def variants() -> Iterator[np.ndarray]:
        for n, (one, picture) in enumerate(zip(heat, subject.inputs, strict=True)):
            random = np.random.default_rng(seed)
            for s in range(samples):
                if perturbation == "square":
                    mask = subject.spread(_square(random, subject.size)[None])[0]
                    change = (picture - gone[n]) * mask
                else:
                    change = random.standard_normal(picture.shape) * deviation * np.ptp(picture)
                change = change.astype(picture.dtype)
                total = change.sum(0 if subject.channel_axis == 1 else -1, dtype=np.float64)
                products[n, s] = (total * one).sum()
                yield picture - change

    which = np.repeat(np.arange(len(heat)), samples).tolist()
    scores = subject.stream(variants(), which, "infidelity").reshape(len(heat), samples)
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
    settings |= {"baseline": baseline} if perturbation == "square" else {"deviation": deviation}
    return Result("infidelity", values, "lower", settings)


def _must_be_floats(subject: Subject) -> None:
    if subject.inputs.dtype.kind != "f":  # differences of unsigned integers wrap
        raise ValueError(
            f"`inputs` must be floats to be changed by a little, but have dtype {subject.inputs.dtype}; "
            "pass inputs.astype(np.float32), and let `predict` undo it"
        )


def _square(random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    side = int(random.integers(1, max(min(size) // 2, 1) + 1))
    top, left = (
        int(random.integers(0, height - side + 1)),
        int(random.integers(0, width - side + 1)),
    )
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
    r"""How much the map changes at most when the input hardly does.

    $\max_{\|\delta\|_\infty \le r} \|\Phi(x + \delta) - \Phi(x)\| / \|\Phi(x)\|$ over `samples` of $\delta$, uniform in
    each value, with r the `radius` times the sample's range. Yeh et al. 2019, definition 2.4, relative to the map so
    that its scale does not count, https://arxiv.org/abs/1901.09392.

    explain: (inputs, classes) -> maps, the method that made `maps`; it runs `samples` times on each input.
    In [0, infinity); lower is better. NaN where the map is 0. A map that ignores the input scores 0, as `edges` nearly
    does: it says nothing of truth.
    """
    if radius <= 0 or samples < 1:
        raise ValueError(
            f"`radius` must be positive and `samples` at least 1, but are {radius} and {samples}"
        )
    _must_be_floats(subject)
    raw = np.asarray(to_numpy(maps), dtype=np.float64)
    subject.heat(raw)  # which checks them
    random = np.random.default_rng(seed)
    shape = subject.inputs.shape[1:]
    shifts = random.uniform(-1, 1, (samples, *shape))
    spread = np.ptp(subject.inputs.reshape(len(raw), -1), axis=1) * radius
    worst = np.zeros(len(raw))
    norm = np.sqrt((raw**2).sum((1, 2)))
    pairs = [(n, s) for n in range(len(raw)) for s in range(samples)]
    for start in range(0, len(pairs), subject.batch):
        which, drawn = (
            np.array(some) for some in zip(*pairs[start : start + subject.batch], strict=True)
        )
        moved = subject.inputs[which] + spread[which].reshape(-1, 1, 1, 1) * shifts[drawn]
        found = to_numpy(
            explain(moved.astype(subject.inputs.dtype), subject.classes[which])
        ).astype(np.float64)
        if found.shape != raw[which].shape:
            raise ValueError(
                f"`explain` must give maps {raw[which].shape} as `maps` are, but gave {found.shape}"
            )
        np.maximum.at(worst, which, np.sqrt(((found - raw[which]) ** 2).sum((1, 2))))
    values = np.where(norm > 0, worst / np.where(norm > 0, norm, 1), np.nan)
    return Result(
        "max-sensitivity", values, "lower", {"radius": radius, "samples": samples, "seed": seed}
    )


def occlusion(
    subject: Subject,
    *,
    patch: int | None = None,
    stride: int | None = None,
    baseline: Baseline = "mean",
) -> np.ndarray:
    """By how much the confidence falls when a square is covered by the `baseline`: (N, rows, columns).

    Squares of `patch` pixels a side, `stride` apart from the top left corner, as many as fit. One forward pass each.
    None: a seventh of the shorter side, 32 of 224, and half the patch.
    Zeiler and Fergus 2013, section 4.2, https://arxiv.org/abs/1311.2901.
    """
    height, width = subject.size
    patch, stride = _squares(subject, patch, stride)
    if not 1 <= patch <= min(height, width) or stride < 1:
        raise ValueError(
            f"`patch` must be 1 to {min(height, width)} and `stride` at least 1: are {patch} and {stride}"
        )
    tops, lefts = range(0, height - patch + 1, stride), range(0, width - patch + 1, stride)
    gone = subject.baseline(baseline)
    channels_first = subject.channel_axis == 1

    def variants() -> Iterator[np.ndarray]:
        for picture, absent in zip(subject.inputs, gone, strict=True):
            for top in tops:
                for left in lefts:
                    rows, columns = slice(top, top + patch), slice(left, left + patch)
                    where = (slice(None), rows, columns) if channels_first else (rows, columns)
                    covered = picture.copy()
                    covered[where] = absent[where]
                    yield covered

    count = len(tops) * len(lefts)
    which = np.repeat(np.arange(len(subject.inputs)), count).tolist()
    scores = subject.stream(variants(), which, "occlusion").reshape(len(subject.inputs), count)
    return np.array((subject.clean[:, None] - scores).reshape(-1, len(tops), len(lefts)))


def _squares(subject: Subject, patch: int | None, stride: int | None) -> tuple[int, int]:
    patch = max(min(subject.size) // 7, 1) if patch is None else patch
    return patch, max(patch // 2, 1) if stride is None else stride


def occlusion_correlation(
    subject: Subject,
    maps: Any,
    *,
    patch: int | None = None,
    stride: int | None = None,
    baseline: Baseline = "mean",
    occluded: np.ndarray | None = None,
) -> Result:
    """Spearman's rank correlation of the map with `occlusion`: the paper's test of faithfulness.

    Of the map's mean over each square, in the order of what covering it costs. Selvaraju et al. 2017, section 5.3,
    https://arxiv.org/abs/1610.02391.

    occluded: what `occlusion` gave with the same settings, so that several methods can share it.
    In [-1, 1]; higher is better, 0 is chance, and the inverted map scores the negative. NaN where either is flat. A
    rising function of a map that is constant on each square changes nothing.
    """
    heat = subject.heat(maps)
    patch, stride = _squares(subject, patch, stride)
    costs = (
        occlusion(subject, patch=patch, stride=stride, baseline=baseline)
        if occluded is None
        else occluded
    )
    sums = np.pad(heat.cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    tops = np.arange(0, subject.size[0] - patch + 1, stride)[:, None]
    lefts = np.arange(0, subject.size[1] - patch + 1, stride)
    means = sums[:, tops + patch, lefts + patch] - sums[:, tops, lefts + patch]
    means = (means - sums[:, tops + patch, lefts] + sums[:, tops, lefts]) / patch**2
    if costs.shape != means.shape:
        raise ValueError(
            f"`occluded` must be {means.shape}, what `occlusion` gives with these settings: is {costs.shape}"
        )
    # what is equal but for the rounding of sums is a tie
    scale = np.abs(heat).max((1, 2), keepdims=True)
    means = np.round(means / np.where(scale > 0, scale, 1), 12)
    settings = {
        "patch": patch,
        "stride": stride,
        "baseline": baseline,
        "confidence": subject.confidence,
    }
    return Result("occlusion-correlation", rank_correlation(means, costs), "higher", settings)
