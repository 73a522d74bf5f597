"""What central differences at several steps say of a claimed slope.

Let y(t) be the score along a direction and c its slope at 0 as the gradient claims it. The central
difference (y(h) - y(-h)) / 2h of a step h agrees with c up to three things, and each asks for
another step:

- a curved score: an error of order h^2, so a smaller step. Two steps together are without it
  (Richardson's extrapolation).
- a kink, such as a ReLU at zero or a tie in max pooling, within h: a smaller step.
- rounding: the score is known up to its `noise` alone, the difference up to noise / h: a larger
  step.

So where one step does not agree, others are tried. Agreement at any step is evidence, because a
wrong gradient agrees at none. A point that agrees at no step is told apart by what two neighbouring
steps show, here for y = relu(a) with the gradient 1 that autograd gives for a > 0:

                               central differences         bend
a wrong gradient               agree with each other       proportional to the step
kink beside the point, d < h   (1 + d/h) / 2: changes      1 - d/h: changes
kink on the point, a = 0       1/2 at either step          1 at either step
rounding                       differ by noise / h         differs by noise / h
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import comb

import numpy as np

__all__ = ["FACTOR", "Judge", "Judgement", "Line", "measured_noise"]

FACTOR = 8.0
"""Between neighbouring steps."""
_MARGIN = 10.0
"""By how many standard deviations of its rounding a difference must differ from the gradient's."""
_ROUNDINGS = 10.0
"""How much coarser than a score a gradient may be."""
_SMALLEST, _LARGEST = 2.0**-32, 2.0**-3
"""Steps that can show a fault, relative to the activations' standard deviation."""
_FARTHEST = 2.0**24
"""And those that can show agreement: of a score that hardly moves, and so is nearly straight."""
_EVALUATIONS, _ORDER = 9, 3
"""Of the score, for its noise, and the order of their differences."""


@dataclass(frozen=True)
class Difference:
    """For each sample and target, (N, [K]), what one step to either side shows.

    slope: the central difference. bend: the slope to the right less the slope to the left.
    """

    slope: np.ndarray
    bend: np.ndarray


@dataclass(frozen=True)
class Line:
    """The score along one direction, `score(0)` in the middle."""

    score: Callable[[float], np.ndarray]
    middle: np.ndarray
    found: dict[float, Difference] = field(default_factory=dict)
    """By step."""

    def difference(self, step: float) -> Difference:
        if step not in self.found:
            right, left = self.score(step), self.score(-step)
            # The bend is (right - middle) / h - (middle - left) / h.
            bend = (right - 2 * self.middle + left) / step
            self.found[step] = Difference((right - left) / (2 * step), bend)
        return self.found[step]

    def slopes(self) -> Iterator[tuple[float, np.ndarray]]:
        """(step, slope) of all steps so far, and of neighbours together: their error of order h^2
        cancels.
        """
        steps = sorted(self.found)
        for step in steps:
            yield step, self.found[step].slope
        for narrow, wide in pairwise(steps):
            square = (wide / narrow) ** 2
            together = square * self.found[narrow].slope - self.found[wide].slope
            yield narrow, together / (square - 1)


@dataclass(frozen=True)
class Judgement:
    """What was found for each sample and target, (N, [K]).

    slope: the difference that comes nearest to the claim. off: its distance from the claim.
    resolution: distances that rounding hides; 0 where it hides none above the tolerance.
    wrong, kink, lost: whether it shows a wrong gradient, lies on a kink, or is lost in rounding; at
        most one of them. Where none is true, the claim is confirmed.
    """

    slope: np.ndarray
    off: np.ndarray
    resolution: np.ndarray
    wrong: np.ndarray
    kink: np.ndarray
    lost: np.ndarray

    @property
    def confirmed(self) -> np.ndarray:
        return np.asarray(~(self.wrong | self.kink | self.lost))

    def or_else(self, other: Judgement) -> Judgement:
        """This one where it confirms, and the other where it does not."""
        both = [
            np.where(self.confirmed, getattr(self, name), getattr(other, name))
            for name in self.__dataclass_fields__
        ]
        return Judgement(*both)


@dataclass(frozen=True)
class Judge:
    """step: the first that is tried. tolerance: of distances, relative to the scale of a direction.

    coarsest: the tolerance where rounding does not let a smaller one be.
    noises: functions that give the standard deviation of the score's rounding, (N, [K]); the next
        is asked where with the one before not all was confirmed.
    """

    step: float
    tolerance: float
    coarsest: float
    noises: Sequence[Callable[[], np.ndarray]]

    def __call__(self, line: Line, claimed: np.ndarray, scale: np.ndarray) -> Judgement:
        first = line.difference(self.step)
        off = np.abs(first.slope - claimed)
        nowhere = np.zeros(off.shape, bool)
        if np.all(off <= self.tolerance * scale):
            return Judgement(first.slope, off, np.zeros(off.shape), nowhere, nowhere, nowhere)
        found = Judgement(first.slope, off, off, nowhere, ~nowhere, nowhere)
        for noise in self.noises:
            found = found.or_else(self._judged(line, claimed, scale, noise()))
            if found.confirmed.all():
                break
        return found

    def _judged(
        self, line: Line, claimed: np.ndarray, scale: np.ndarray, noise: np.ndarray
    ) -> Judgement:
        off = np.abs(line.difference(self.step).slope - claimed)
        fine = self.tolerance * scale
        # A gradient of 0 has no scale; the slope that it misses has one.
        fine = np.where(scale > 0, fine, self.tolerance * off)
        rounding = _MARGIN * noise
        least = np.divide(rounding, fine, out=np.full(fine.shape, np.inf), where=fine > 0)
        most = max(self.coarsest, self.tolerance) * scale
        self._try_steps(line, claimed, fine, rounding, most)

        steps, slopes = map(np.stack, zip(*line.slopes(), strict=True))
        offs = np.abs(slopes - claimed)
        hidden = np.stack([rounding / step for step in steps])
        limited = least > self.step
        agrees = np.any((offs <= fine) & (hidden <= fine) | (offs == 0), axis=0)
        wrong = ~agrees & _shows_fault(line, claimed, rounding, np.where(limited, 2, 1))
        # A gradient is about as coarse as its score.
        largest = float(np.abs(line.middle).max()) or 1.0
        coarse = np.maximum(hidden, _ROUNDINGS * rounding * scale / largest)
        roughly = np.any((offs <= coarse) & (coarse <= most), axis=0) & ~agrees & ~wrong
        left = ~(agrees | wrong | roughly)

        best = np.argmin(np.where(hidden <= fine, offs, offs + hidden), axis=0)[None]
        hides = roughly | (limited & ~agrees & ~wrong)
        resolution = np.where(hides, (offs + hidden).min(axis=0), 0.0)
        return Judgement(
            slope=np.take_along_axis(slopes, best, axis=0)[0],
            off=np.take_along_axis(offs, best, axis=0)[0],
            resolution=resolution,
            wrong=wrong,
            kink=left & ~limited,
            lost=left & limited,
        )

    def _try_steps(
        self,
        line: Line,
        claimed: np.ndarray,
        fine: np.ndarray,
        rounding: np.ndarray,
        most: np.ndarray,
    ) -> None:
        """Differences at smaller steps, as far as rounding allows, and then at larger ones where it
        asks for them; until all agree to `fine`, or else as well as rounding lets them, to `most`.
        """

        def waiting(allowed: np.ndarray) -> np.ndarray:
            agrees = [
                (np.abs(slope - claimed) <= allowed) & (rounding <= step * allowed)
                for step, slope in line.slopes()
            ]
            return np.asarray(~np.any(agrees, axis=0))

        def asks_for(step: float) -> np.ndarray:
            finer = waiting(fine) & (rounding <= step * fine)
            return np.asarray(finer | waiting(most) & (rounding <= step * most))

        line.difference(self.step / FACTOR)
        step = self.step / FACTOR**2
        while step >= _SMALLEST and np.any(asks_for(step)):
            line.difference(step)
            step /= FACTOR
        step = self.step * FACTOR
        while step <= _LARGEST and np.any(waiting(fine) & (rounding * FACTOR > self.step * fine)):
            line.difference(step)
            step *= FACTOR
        while step <= _FARTHEST and np.any(waiting(most) & (rounding > self.step * fine)):
            line.difference(step)
            step *= FACTOR**2


def _shows_fault(
    line: Line, claimed: np.ndarray, rounding: np.ndarray, agreements: np.ndarray
) -> np.ndarray:
    """Where so many pairs of the smallest steps that rounding allows have one slope, and it is not
    the claimed.

    The thresholds are shares of the distance, so that the smallest error counts as well as the
    largest.
    """
    fault = np.zeros(claimed.shape, bool)
    count = np.zeros(claimed.shape, int)
    decided = np.zeros(claimed.shape, bool)
    for narrow, wide in pairwise(step for step in sorted(line.found) if step <= _LARGEST):
        fine, coarse = line.found[narrow], line.found[wide]
        off = np.abs(fine.slope - claimed)
        moves = np.abs(coarse.slope - fine.slope) > 0.1 * off + 0.3 * rounding / narrow
        # A wrong gradient of a curved score has a bend too, but that one shrinks with the step.
        bends = np.abs(fine.bend) >= 0.05 * off
        stays = np.abs(fine.bend - coarse.bend) <= 0.25 * np.abs(fine.bend)
        known = ~decided & ~(off <= rounding / narrow)  # NaN is no rounding
        same = known & ~moves & ~(bends & stays)
        count += same
        fault |= same & (count >= agreements)
        decided |= fault | known & ~same
    return fault


def measured_noise(score: Callable[[float], np.ndarray], step: float, last: float) -> np.ndarray:
    """The standard deviation of a score's rounding, (N, [K]): ECnoise.

    The differences of third order of a smooth score at equal steps are its rounding, times the
    square root of 20. The lower third of them is taken, since the others may lie at kinks.

    score: t -> (N, [K]). step: of t. last: the precision of the dtype of the scores, which are off
        by a share of their last digit at least. A score that is a float32 number is at least as
        coarse as one, whatever its dtype.
    More & Wild 2011, "Estimating computational noise", https://doi.org/10.1137/100786125
    """
    values = np.stack([score(i * step) for i in range(1, _EVALUATIONS + 1)])
    with np.errstate(invalid="ignore"):  # of infinite scores
        differences = np.abs(np.diff(values, n=_ORDER, axis=0))
    variance = sum(comb(_ORDER, i) ** 2 for i in range(_ORDER + 1))
    # A third of a normal distribution's absolute values is less than 0.43 standard deviations.
    found = np.quantile(differences, 1 / 3, axis=0) / (0.43 * np.sqrt(variance))
    if np.array_equal(values, values.astype(np.float32)):
        last = max(last, 2.0**-23)
    return np.asarray(np.maximum(found, 0.3 * last * np.abs(values).max(axis=0)))
