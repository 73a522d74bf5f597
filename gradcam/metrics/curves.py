"""Deletion and insertion: areas under the confidence as pixels are removed or put in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gradcam.metrics.result import Better, Result
from gradcam.metrics.subject import Baseline, Subject

__all__ = ["Ties", "deletion", "insertion", "pixel_ranks", "tie_order"]

Ties = Literal["random", "rows"]


def deletion(
    subject: Subject,
    maps: Any,
    *,
    steps: int = 20,
    baseline: Baseline = "zero",
    seed: int = 0,
    ties: Ties = "random",
) -> Result:
    r"""Deletion: the area under the confidence as the map's highest pixels are removed first.

    $\int_0^1 f_c(x_{-\phi}) \, d\phi$, where $x_{-\phi}$ is $x$ with the share $\phi$ of its pixels
    that is highest in the map replaced by the `baseline`, in all channels; by the trapezoidal rule.
    Petsiuk et al. 2018, RISE, https://arxiv.org/abs/1806.07421.

    maps: (N, h, w), resized to the input. Only the order of the resized pixels counts: a rising
        function of a map at the input's resolution changes nothing.
    steps: how many shares the pixels are divided into: `ceil(H * W / steps)` in each, and the
        remainder in the last, so there may be fewer of them. The default of 20 costs 20 predictions
        per sample; `steps=H` removes as many pixels at a time as a row has, as the authors' code
        does.
    baseline: 0, as in the authors' code: the mean colour of standardised inputs. `Subject.baseline`
        lists the others.
    ties: the order of pixels of the same value: "random", drawn from `seed` and the same for every
        sample, so that a flat map is a random order; or "rows", from the top left corner.

    In [0, 1] unless the confidence is "outputs"; lower is better. A flat map scores as chance does.
    `Result.curves` has "fraction" (S,), from 0 to 1, and "confidence" (N, S). NaN where a
    prediction is NaN.
    """
    return _area("deletion", subject, maps, steps, baseline, seed, ties)


def insertion(
    subject: Subject,
    maps: Any,
    *,
    steps: int = 20,
    baseline: Baseline = "blur",
    seed: int = 0,
    ties: Ties = "random",
) -> Result:
    r"""Insertion: the area under the confidence as the map's highest pixels are put in first.

    As `deletion`, but of $x_{+\phi}$: the baseline, in which the share $\phi$ of pixels that is
    highest in the map is the input's. Petsiuk et al. 2018, RISE, https://arxiv.org/abs/1806.07421.

    baseline: the blurred input, as in the paper: on a plain colour, inserted pixels would make
        edges, which are evidence of their own. It needs SciPy.

    In [0, 1] unless the confidence is "outputs"; higher is better. With the same baseline, the
    `insertion` curve of a map without ties is the `deletion` curve of the negative map in reverse,
    where `steps` divides the pixels.
    """
    return _area("insertion", subject, maps, steps, baseline, seed, ties)


def _area(
    name: Literal["deletion", "insertion"],
    subject: Subject,
    maps: Any,
    steps: int,
    baseline: Baseline,
    seed: int,
    ties: Ties,
) -> Result:
    if not isinstance(steps, (int, np.integer)) or steps < 1:
        raise ValueError(f"`steps` must be a whole number of at least 1, but is {steps!r}")
    heat = subject.heat(maps)
    pixels = heat[0].size
    counts = [*range(0, pixels, -(-pixels // int(steps))), pixels]
    fraction = np.array(counts) / pixels
    changes = _Changes(name, subject, subject.baseline(baseline, seed))
    # One end of the curve is the input itself, whose confidence is known.
    unchanged, changed = 0, slice(1, None)
    if name == "insertion":
        unchanged, changed = -1, slice(-1)
    confidence = np.empty((len(heat), len(counts)))
    confidence[:, unchanged] = subject.clean
    samples = np.repeat(np.arange(len(heat)), len(counts) - 1).tolist()
    variants = changes.variants(heat, counts[changed], tie_order(pixels, ties, seed))
    confidence[:, changed] = subject.stream(variants, samples, name).reshape(len(heat), -1)
    area = ((confidence[:, 1:] + confidence[:, :-1]) / 2 * np.diff(fraction)).sum(-1)
    settings = {
        "steps": int(steps),
        "baseline": baseline,
        "seed": seed,
        "ties": ties,
        "confidence": subject.confidence,
    }
    better: Better = "higher"
    if name == "deletion":
        better = "lower"
    curves = {"fraction": fraction, "confidence": confidence}
    return Result(name, area, better, settings, curves)


def tie_order(pixels: int, ties: Ties, seed: int) -> np.ndarray:
    """(P,): the order of the pixels where they have the same value in the map."""
    if ties == "random":
        return np.random.default_rng(seed).permutation(pixels)
    if ties == "rows":
        return np.arange(pixels)
    raise ValueError(f'`ties` must be "random" or "rows", but is {ties!r}')


def pixel_ranks(heat: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(H, W) ints: how many pixels come before each, the map's highest first.

    heat: (H, W), a map at the input's size. order: (H W,), see `tie_order`.
    """
    ranks = np.empty(order.size, int)
    # A stable sort leaves pixels of the same value in the order in which it gets them.
    ranks[order[np.argsort(-heat.ravel()[order], kind="stable")]] = np.arange(order.size)
    return ranks.reshape(heat.shape)


@dataclass(frozen=True)
class _Changes:
    """How inputs are changed pixel by pixel: towards the baseline, or from it."""

    name: Literal["deletion", "insertion"]
    subject: Subject
    baseline: np.ndarray

    def variants(
        self, heat: np.ndarray, counts: list[int], order: np.ndarray
    ) -> Iterator[np.ndarray]:
        """For each sample and count: the input with that many of the highest pixels changed."""
        for sample_heat, picture, absent in zip(
            heat, self.subject.inputs, self.baseline, strict=True
        ):
            ranks = pixel_ranks(sample_heat, order)
            for count in counts:
                highest = self.subject.with_channel_axis(ranks < count) != 0
                if self.name == "deletion":
                    yield np.where(highest, absent, picture)
                else:
                    yield np.where(highest, picture, absent)
