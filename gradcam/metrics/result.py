"""The result of a measure: a value for each sample, their summary, and how sure that is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

__all__ = ["Better", "Result", "Summary", "mean"]

Better: TypeAlias = Literal["higher", "lower"] | None
"""Which way a measure is better. None: it describes, and neither way is better."""

Summary: TypeAlias = Callable[[np.ndarray], float]
"""The values of all samples, (N,) or (N, T) -> one number."""

BLOCK = 2**20
"""How many values are resampled at a time, so that the memory does not grow with their number."""


def mean(values: np.ndarray) -> float:
    """The mean of the values that are not NaN; NaN where all are."""
    return float(_means(values.reshape(1, -1))[0])


def _means(values: np.ndarray) -> np.ndarray:
    """(R, N) -> (R,): the mean of each row's values that are not NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, for rows without a value
        return np.asarray(np.nanmean(values, axis=1))


@dataclass(frozen=True)
class Result:
    """One measure of one set of maps.

    name: a key of `gradcam.metrics.MEASURES`, or the name of another measure.
    values: (N,) or (N, T), for each sample; NaN where the measure is not defined there.
    better: whether "higher" or "lower" is better; None where neither is.
    settings: what it was measured with, such as the baseline; plain values, for a manifest.
    curves: for measures that are the area under a curve, its (N, S) points and their abscissa (S,),
        by name.
    summary: values -> one number. It is the mean of the samples that have a value, unless a measure
        says otherwise.
    """

    name: str
    values: np.ndarray
    better: Better
    settings: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, np.ndarray] = field(default_factory=dict)
    summary: Summary = mean
    _intervals: dict[tuple[float, int, int], tuple[float, float]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def value(self) -> float:
        """The summary of the values."""
        return self.summary(self.values)

    @property
    def count(self) -> int:
        """How many samples have a value."""
        return int((~np.isnan(self.values.reshape(len(self.values), -1))).all(1).sum())

    def interval(
        self, level: float = 0.95, resamples: int = 2000, seed: int = 0
    ) -> tuple[float, float]:
        """The confidence interval of `value` by the percentile bootstrap over samples.

        Efron 1979, https://doi.org/10.1214/aos/1176344552. It is too narrow for few samples, and a
        point for one. NaN where no sample has a value. It is computed once, and kept.
        """
        if not 0 < level < 1:
            raise ValueError(f"`level` must lie between 0 and 1, but is {level}")
        asked = (level, resamples, seed)
        if asked not in self._intervals:
            self._intervals[asked] = self._bootstrap(level, resamples, seed)
        return self._intervals[asked]

    def _bootstrap(self, level: float, resamples: int, seed: int) -> tuple[float, float]:
        count = len(self.values)
        draws = np.random.default_rng(seed).integers(0, count, (resamples, count))
        summaries = np.concatenate([self._summaries(block) for block in _blocks(draws)])
        summaries = summaries[~np.isnan(summaries)]
        if not len(summaries):
            return float("nan"), float("nan")
        # No interpolation between quantiles: a measure may be infinite.
        ends = [(1 - level) / 2, (1 + level) / 2]
        low, high = np.quantile(summaries, ends, method="inverted_cdf")
        return float(low), float(high)

    def _summaries(self, draws: np.ndarray) -> np.ndarray:
        """The summary of the samples of each draw (R, N): (R,)."""
        if self.summary is mean:
            return _means(self.values[draws].reshape(len(draws), -1))
        return np.array([self.summary(self.values[draw]) for draw in draws])

    def __str__(self) -> str:
        low, high = self.interval()
        direction = ""
        if self.better is not None:
            direction = f"; {self.better} is better"
        return f"{self.name} {self.value:.3f} ({low:.3f} to {high:.3f}{direction})"


def _blocks(draws: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(BLOCK // draws.shape[1], 1)
    for start in range(0, len(draws), rows):
        yield draws[start : start + rows]
