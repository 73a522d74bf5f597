"""What a measure found: a value for each sample, what they come to, and how sure that is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

__all__ = ["Better", "Result", "mean"]

Better = Literal["higher", "lower"]


def mean(values: np.ndarray) -> float:
    """The mean of the samples that have a value, NaN where none has."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of an empty mean
        return float(np.nanmean(values))


@dataclass(frozen=True)
class Result:
    """One measure of one set of maps.

    name: a key of `gradcam.metrics.MEASURES`, or what measured it.
    values: (N,) or (N, T), for each sample; NaN where the measure is not defined there.
    better: whether "higher" or "lower" is better.
    settings: what it was measured with, such as the baseline; plain values, for a manifest.
    curves: for measures that are the area under a curve, its (N, S) points and their abscissa (S,), by name.
    summary: values -> one number; the mean of the samples that have a value, but where a measure says otherwise.
    """

    name: str
    values: np.ndarray
    better: Better
    settings: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)
    summary: Callable[[np.ndarray], float] = mean

    @property
    def value(self) -> float:
        return self.summary(self.values)

    @property
    def count(self) -> int:
        """How many samples have a value."""
        return int((~np.isnan(self.values.reshape(len(self.values), -1))).all(1).sum())

    def interval(
        self, level: float = 0.95, resamples: int = 2000, seed: int = 0
    ) -> tuple[float, float]:
        """The percentile bootstrap's confidence interval of `value`: samples are drawn with replacement.

        Efron 1979, https://doi.org/10.1214/aos/1176344552. Of few samples it is too narrow; of one it is a point.
        """
        if not 0 < level < 1:
            raise ValueError(f"`level` must lie between 0 and 1, but is {level}")
        count = len(self.values)
        draws = np.random.default_rng(seed).integers(0, count, (resamples, count))
        found = np.array([self.summary(self.values[draw]) for draw in draws])
        found = found[~np.isnan(found)]
        if not len(found):
            return float("nan"), float("nan")
        # one of the means themselves: nothing lies between a number and infinity, which a measure may be
        low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
        return float(low), float(high)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.name} {self.value:.3f} ({low:.3f} to {high:.3f}; {self.better} is better)"
