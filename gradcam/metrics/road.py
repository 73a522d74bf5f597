"""ROAD, remove and debias: the confidence as pixels are imputed, which leaves no visible hole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from gradcam.metrics.curves import Ties, pixel_ranks, tie_order
from gradcam.metrics.imputation import impute
from gradcam.metrics.result import Better, Result
from gradcam.metrics.subject import Subject

__all__ = ["removed", "road", "road_combined"]

Order = Literal["most", "least"]
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def road(
    subject: Subject,
    maps: Any,
    *,
    order: Order = "most",
    shares: Sequence[float] = SHARES,
    noise: float = 0.01,
    seed: int = 0,
    ties: Ties = "random",
) -> Result:
    r"""The mean confidence as shares of the pixels are removed by noisy linear imputation.

    $\frac1S \sum_s f_c(\mathrm{impute}(x, s))$, where the share s of the pixels is imputed: those
    with the highest values of the map (order "most", MoRF) or with the lowest ("least", LeRF). See
    `gradcam.metrics.impute`. Rong et al. 2022, section 5, https://arxiv.org/abs/2202.00449. At
    most one pixel more is removed than by the authors' code.

    maps: (N, h, w), resized to the input. Only the order of the resized pixels counts.
    shares: of the pixels that are removed, each in (0, 1): as many as are at or above the map's (1
        - share) quantile.
    noise: standard deviation of the noise on imputed pixels, in the inputs' own units.
    ties: as in `gradcam.metrics.curves.deletion`.

    In [0, 1] unless the confidence is "outputs"; of order "most" lower is better, of "least"
    higher. A flat map is a random order. `Result.curves` has "share" (S,) and "confidence" (N, S).
    """
    shares = tuple(float(share) for share in shares)
    _check(shares, order, noise)
    heat = subject.heat(maps)
    better: Better = "lower"
    if order == "least":
        heat = -heat
        better = "higher"
    ties_broken = tie_order(heat[0].size, ties, seed)

    def variants() -> Iterator[np.ndarray]:
        for n, (sample_heat, picture) in enumerate(zip(heat, subject.inputs, strict=True)):
            image = np.moveaxis(picture, subject.channel_axis_of_sample, -1)
            ranks = pixel_ranks(sample_heat, ties_broken)
            for s, share in enumerate(shares):
                kept = ranks >= removed(ranks.size, share)
                # Another seed for each sample and share: their noise is independent.
                imputed = impute(image, kept, noise=noise, seed=seed + 1000003 * n + s)
                yield np.moveaxis(imputed, -1, subject.channel_axis_of_sample)

    samples = np.repeat(np.arange(len(heat)), len(shares)).tolist()
    confidence = subject.stream(variants(), samples, f"road, {order}").reshape(len(heat), -1)
    settings = {
        "order": order,
        "shares": list(shares),
        "noise": noise,
        "seed": seed,
        "ties": ties,
        "confidence": subject.confidence,
    }
    curves = {"share": np.array(shares), "confidence": confidence}
    return Result(f"road-{order}", confidence.mean(1), better, settings, curves)


def _check(shares: Sequence[float], order: str, noise: float) -> None:
    if not shares or min(shares) <= 0 or max(shares) >= 1:
        raise ValueError(f"`shares` must lie between 0 and 1, without them, but are {list(shares)}")
    if order not in ("most", "least"):
        raise ValueError(f'`order` must be "most" or "least", but is {order!r}')
    if noise < 0:
        raise ValueError(f"`noise` must not be negative, but is {noise}")


def road_combined(
    subject: Subject,
    maps: Any,
    *,
    shares: Sequence[float] = SHARES,
    noise: float = 0.01,
    seed: int = 0,
    ties: Ties = "random",
) -> Result:
    """Half the difference of `road` in the order "least" and in the order "most".

    So it is the confidence after removing the least relevant pixels minus that after removing the
    most relevant.

    In [-1/2, 1/2] unless the confidence is "outputs"; higher is better. A random map scores 0 in
    the mean, and the inverted map the negative. `Result.curves` has "share", and "most" and "least"
    (N, S).
    """
    least = road(subject, maps, order="least", shares=shares, noise=noise, seed=seed, ties=ties)
    most = road(subject, maps, order="most", shares=shares, noise=noise, seed=seed, ties=ties)
    curves = {
        "share": least.curves["share"],
        "least": least.curves["confidence"],
        "most": most.curves["confidence"],
    }
    settings = dict(least.settings)
    del settings["order"]
    return Result("road", (least.values - most.values) / 2, "higher", settings, curves)


def removed(pixels: int, share: float) -> int:
    """How many pixels are at or above the (1 - share) quantile of `pixels` different values.

    That is the quantile of `numpy.quantile`, which interpolates.
    """
    # Rounded, since (pixels - 1) * (1 - share) may miss a whole number by the last bit.
    return pixels - int(np.ceil(round((pixels - 1) * (1 - share), 6)))
