"""ROAD: remove and debias, the confidence as pixels go without leaving a hole to be seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from gradcam.metrics.curves import Ties, tie_order
from gradcam.metrics.imputation import impute
from gradcam.metrics.result import Result
from gradcam.metrics.subject import Subject

__all__ = ["road", "road_combined"]

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

    $\frac1S \sum_s f_c(\mathrm{impute}(x, s))$ where the pixels with the highest (order "most", MoRF) or the lowest
    ("least", LeRF) values of the map are missing: see `gradcam.metrics.imputation.impute`. Rong et al. 2022, section 5,
    https://arxiv.org/abs/2202.00449.

    maps: (N, h, w), resized to the input. Only the order of the resized pixels counts.
    shares: what is removed, each in (0, 1): as many pixels as are at or above the map's (1 - share) quantile.
    noise: standard deviation of the noise on imputed pixels, in the inputs' own units.
    ties: as in `gradcam.metrics.curves.deletion`.

    In [0, 1] unless the confidence is "outputs"; of order "most" lower is better, of "least" higher. A flat map is a
    random order. `Result.curves` has "share" (S,) and "confidence" (N, S).
    """
    shares = tuple(float(share) for share in shares)
    if not shares or min(shares) <= 0 or max(shares) >= 1:
        raise ValueError(f"`shares` must lie between 0 and 1, without them, but are {list(shares)}")
    if order not in ("most", "least"):
        raise ValueError(f'`order` must be "most" or "least", but is {order!r}')
    if noise < 0:
        raise ValueError(f"`noise` must not be negative, but is {noise}")
    heat = subject.heat(maps) * (1 if order == "most" else -1)
    first = tie_order(heat[0].size, ties, seed)

    def variants() -> Iterator[np.ndarray]:
        for n, (one, picture) in enumerate(zip(heat, subject.inputs, strict=True)):
            image = np.moveaxis(picture, 0, -1) if subject.channel_axis == 1 else picture
            ranks = np.empty(first.size, int)
            ranks[first[np.argsort(-one.ravel()[first], kind="stable")]] = np.arange(first.size)
            for s, share in enumerate(shares):
                kept = ranks.reshape(one.shape) >= removed(first.size, share)
                found = impute(image, kept, noise=noise, seed=seed + 1000003 * n + s)
                yield np.moveaxis(found, -1, 0) if subject.channel_axis == 1 else found

    samples = np.repeat(np.arange(len(heat)), len(shares)).tolist()
    confidence = subject.stream(variants(), samples, f"road, {order}").reshape(len(heat), -1)
    settings = {
        "shares": list(shares),
        "noise": noise,
        "seed": seed,
        "ties": ties,
        "confidence": subject.confidence,
    }
    curves = {"share": np.array(shares), "confidence": confidence}
    better: Literal["higher", "lower"] = "lower" if order == "most" else "higher"
    return Result(f"road-{order}", confidence.mean(1), better, {"order": order, **settings}, curves)


def road_combined(
    subject: Subject,
    maps: Any,
    *,
    shares: Sequence[float] = SHARES,
    noise: float = 0.01,
    seed: int = 0,
    ties: Ties = "random",
) -> Result:
    """Half of what `road` in order "least" leaves over what it leaves in order "most".

    In [-1/2, 1/2] unless the confidence is "outputs"; higher is better, and 0 is what a random map scores in the mean.
    The inverted map scores the negative. `Result.curves` has "share", and "most" and "least" (N, S).
    """
    least, most = (
        road(subject, maps, order=order, shares=shares, noise=noise, seed=seed, ties=ties)
        for order in ("least", "most")
    )
    curves = {
        "share": least.curves["share"],
        "least": least.curves["confidence"],
        "most": most.curves["confidence"],
    }
    settings = {name: value for name, value in least.settings.items() if name != "order"}
    return Result("road", (least.values - most.values) / 2, "higher", settings, curves)


def removed(pixels: int, share: float) -> int:
    """How many pixels are at or above the (1 - share) quantile of different values, which numpy interpolates."""
    return pixels - int(np.ceil(round((pixels - 1) * (1 - share), 6)))
