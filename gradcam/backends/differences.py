"""Derivatives of a score that can only be evaluated, in the few digits of its rounding.

A central difference over a step h has the rounding of the score, divided by h, and a truncation
error of order h squared. In float32 no single step is good: one small enough for a curved head
loses the digits of a flat one. So a very small step comes first, which has few digits, but is near.
Then steps go from large to small, and each entry stays where three in turn agree within the
rounding, and agree with the small one within its own:

- the differences themselves: the score is straight there, and the larger step has more digits;
- or their extrapolations to h = 0 (Romberg's), where it is curved.

A kink between, as of a ReLU, moves an average of its two sides into all larger steps. These then
agree with each other, and not with the small one. Where nothing agrees the small one is taken.

A head of integers rounds far more than its floats show: one entry's lift may move no integer at
all. There all entries are lifted at once, by multiples of the head's own grid, in patterns of
signs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gradcam._types import Shape

__all__ = ["Grid", "PooledTokens", "RoughGradientsWarning", "Slopes", "slopes"]

Score = Callable[[np.ndarray], np.ndarray]
"""Variants (M, N, ...) of the activations -> scores (M, N) or (M, N, K)."""

LARGEST = 4.0
"""The first step, over the activations' root mean square; for single elements its square."""

RATIO = 2.0
"""From one step to the next."""

MOST = 13
"""Steps from the first to the small one."""

ORDERS = 2
"""How often differences are extrapolated: twice leaves an error of order h^6. A third time buys
nothing, and steps that shrink by 4 at a time leave five times the error."""

CONFIRMS = 4.0
"""How many roundings of the small step an estimate may be from it."""

GRID = (2, 4, 8, 16)
"""Steps in a quantised head, in units of its grid."""

LIFTED = 256
"""Lifted copies of samples that are evaluated at a time, at most."""

MOST_BYTES = 2**26
"""And what they may take."""


class RoughGradientsWarning(UserWarning):
    """Where a model has no autograd, and its scores are rounded so much that finite differences
    leave more than a twentieth of the gradient open, as in a network of integers.

    A map sums over many channels, and so is nearer than its gradients. To be silent,
    `warnings.simplefilter("ignore", gradcam.RoughGradientsWarning)`.
    """


@runtime_checkable
class PooledTokens(Protocol):
    """What a `PooledAxes` may offer besides, for backends to which each derivative costs a pass."""

    def tokens(self, sample: Shape) -> tuple[int, slice] | None:
        """The axis of tokens, from the end, and those over which the mean gradient is enough."""
        ...


@dataclass(frozen=True)
class Grid:
    """The numbers that a head rounds activations to: multiples of `unit` from `low` to `high`."""

    unit: float
    low: float
    high: float

    def rounded(self, array: np.ndarray) -> np.ndarray:
        """The activations as the head takes them."""
        steps = np.round(array.astype(np.float64) / self.unit) * self.unit
        return np.clip(steps, self.low, self.high)


@dataclass(frozen=True)
class Slopes:
    """The derivative of the scores, averaged over some axes, and how sure it is.

    values: (N, [K,] *sample), with those axes of size 1.
    doubt: the error that the steps leave open, over the derivative: root mean squares of both.
    evaluations: how many times the head saw the batch.
    """

    values: np.ndarray
    doubt: float
    evaluations: int


def slopes(
    score: Score,
    activations: np.ndarray,
    axes: Mapping[int, slice] | tuple[int, ...] = (),
    grid: Grid | None = None,
) -> Slopes:
    """The derivative of the scores in activations (N, *sample), averaged over `axes`.

    axes: from the end, lifted by one amount at once, so that they cost one derivative; as a
        mapping, the part of each that is lifted.
    grid: the numbers that the head rounds these activations to, where it does.
    """
    lifts = _Lifts(score, activations, axes)
    return lifts.along_grid(grid) if grid else lifts.from_large_to_small()


class _Lifts:
    """Scores of one batch, as entries of it are lifted."""

    def __init__(
        self, score: Score, activations: np.ndarray, axes: Mapping[int, slice] | tuple[int, ...]
    ) -> None:
        self.score = score
        self.activations = activations
        sample = activations.shape[1:]
        parts = axes if isinstance(axes, Mapping) else dict.fromkeys(axes, slice(None))
        self.parts: dict[int, slice] = {}
        self.together = 1
        for axis, part in parts.items():
            self.parts[axis % len(sample)] = part
            self.together *= len(range(*part.indices(sample[axis])))
        self.places = [self.parts.get(axis, slice(None)) for axis in range(len(sample))]
        self.pooled = tuple(1 if axis in self.parts else n for axis, n in enumerate(sample))
        self.count = math.prod(self.pooled)
        flat = activations.reshape(len(activations), -1).astype(np.float64)
        size = np.sqrt(np.mean(np.square(flat), axis=1))
        self.size = np.where(size > 0, size, 1.0)  # of each sample by itself
        self.evaluations = 0
        self.rounding = self._rounding()

    def _rounding(self) -> np.ndarray:
        """How much rounding moves the scores: (N, [K]), seen as activations move by theirs."""
        precision = float(np.finfo(self.activations.dtype).eps)
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (4, *self.activations.shape))
        moved = self.activations * (1 + precision * signs).astype(self.activations.dtype)
        scores = self._evaluated(moved)
        return np.maximum(np.ptp(scores, axis=0), precision * np.abs(scores).max(axis=0) / 2)

    def _evaluated(self, variants: np.ndarray) -> np.ndarray:
        self.evaluations += len(variants)
        return np.asarray(self.score(variants), np.float64)

    def _together(self) -> int:
        """How many variants of the batch are evaluated at a time."""
        return min(LIFTED // len(self.activations), MOST_BYTES // self.activations.nbytes)

    # ---------------------------------------------------------------------------- one difference

    def differences(self, entries: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Central differences: for entries (E,) and steps (N,), (E, N, [K])."""
        found = []
        for part in _parts(entries, max(1, self._together() // 2)):
            up, down = (np.broadcast_to(self.activations, (2, len(part), *self.activations.shape))
                        .copy())  # fmt: skip
            made = np.empty((len(part), len(steps)))
            for n, place in enumerate(self._places(part)):
                shape = (-1, *(1,) * (up[n][place].ndim - 1))
                up[n][place] += steps.astype(up.dtype).reshape(shape)
                down[n][place] -= steps.astype(up.dtype).reshape(shape)
                # the step that was made, not the one asked for: the sum was rounded
                step = up[n][place].astype(np.float64) - down[n][place]
                made[n] = step.reshape(len(steps), -1).max(axis=1)
            scores = self._evaluated(np.concatenate([up, down]))
            change = scores[: len(part)] - scores[len(part) :]
            found.append(change / _like(np.where(made > 0, made, 1), change))
        return np.concatenate(found)

    def _places(self, entries: np.ndarray) -> Iterator[tuple[Any, ...]]:
        """Where each entry is in activations (N, *sample): all along the axes that are lifted."""
        for entry in zip(*np.unravel_index(entries, self.pooled), strict=True):
            along = [slice(at, at + 1) for at in entry]
            for axis, part in self.parts.items():
                along[axis] = part
            yield (slice(None), *along)

    # ------------------------------------------------------------------------------ smooth heads

    def from_large_to_small(self) -> Slopes:
        """See the module's text."""
        first = LARGEST if self.together > 1 else LARGEST**2
        entries = np.arange(self.count)
        steps = self.size * first / RATIO**MOST
        near = kept = self.differences(entries, steps)
        limit = CONFIRMS * self._at(steps, near.shape)
        doubt = limit.copy()
        settled = np.zeros(near.shape, bool)
        steps = self.size * first
        rows = [[self.differences(entries, steps)]]
        agreed = [np.zeros(near.shape, bool)] * (ORDERS + 1)
        for _ in range(MOST - 1):
            entries = np.flatnonzero(~settled.reshape(self.count, -1).all(axis=1))
            if not len(entries):
                break
            steps = steps / RATIO
            new = rows[-1][0].copy()
            new[entries] = self.differences(entries, steps)
            rounding = self._at(steps, new.shape)
            rows.append([new])
            for order, old in enumerate(rows[-2]):
                error = np.abs(rows[-1][order] - old)
                before, agreed[order] = agreed[order], error <= 2 * rounding
                # of the three, that over the largest step: it has the most digits
                estimate = rows[-3][order] if before.any() else old
                taken = before & agreed[order] & ~settled & (np.abs(estimate - near) <= limit)
                kept = np.where(taken, estimate, kept)
                doubt = np.where(taken, np.maximum(error, rounding), doubt)
                settled |= taken
                if order < ORDERS:
                    larger = RATIO ** (2 * order + 2)
                    rows[-1].append(rows[-1][order] + (rows[-1][order] - old) / (larger - 1))
        return self._result(kept, doubt)

    def _at(self, steps: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """How much rounding moves the differences over these steps."""
        return np.broadcast_to(self.rounding / _like(steps, self.rounding), shape)

    # ---------------------------------------------------------------------------- quantised heads

    def along_grid(self, grid: Grid) -> Slopes:
        """All entries are lifted at once, by signs that differ between them, so that the rounding
        of the integers averages out; what belongs to an entry is told by its signs.

        The signs are the columns of a Hadamard matrix, which are orthogonal. An entry's change is
        divided by the lift that the integers made of it, which ends at the largest and the least.
        """
        rows = 1 << self.count.bit_length()  # more than there are entries
        columns = np.arange(1, self.count + 1)
        found, lifted = [], []
        for multiple in GRID:
            lift = self.activations.dtype.type(multiple * grid.unit)
            total: np.ndarray | float = 0.0
            for part in _parts(np.arange(rows), max(1, self._together() // 2)):
                signs = 1.0 - 2.0 * (np.bitwise_count(part[:, None] & columns) & 1)
                lifts = self._spread(signs) * lift
                scores = self._evaluated(
                    np.concatenate([self.activations + lifts, self.activations - lifts])
                )
                change = scores[: len(part)] - scores[len(part) :]
                total = total + np.tensordot(signs, change, axes=(0, 0))
            made = self._mean(grid.rounded(self.activations + lift))
            made -= self._mean(grid.rounded(self.activations - lift))
            found.append(np.asarray(total) / rows)
            lifted.append(_like(made, found[-1]))
        # the line through the changes over all these lifts
        lifts, changes = np.broadcast_arrays(np.stack(lifted), np.stack(found))
        over = np.maximum(np.sum(lifts**2, axis=0), np.finfo(np.float64).tiny)
        slope = np.sum(lifts * changes, axis=0) / over
        left = np.sum((changes - lifts * slope) ** 2, axis=0)
        return self._result(slope, np.sqrt(left / over / (len(GRID) - 1)))

    def _mean(self, array: np.ndarray) -> np.ndarray:
        """(N, *sample) -> (E, N): the mean over all the places of an entry."""
        axes = tuple(np.array([*self.parts], int) + 1)
        mean = np.mean(array[(slice(None), *self.places)], axis=axes, dtype=np.float64)
        return mean.reshape(len(array), -1).T

    def _spread(self, values: np.ndarray) -> np.ndarray:
        """A number for each entry (M, E) at all the places that it stands for: (M, 1, *sample)."""
        sample = self.activations.shape[1:]
        array = np.zeros((len(values), 1, *sample), self.activations.dtype)
        array[(slice(None), slice(None), *self.places)] = values.reshape(
            len(values), 1, *self.pooled
        )
        return array

    def _result(self, found: np.ndarray, doubt: np.ndarray) -> Slopes:
        values = np.moveaxis(found, 0, -1) / self.together
        shape = (*values.shape[:-1], *self.pooled)
        size = float(np.sqrt(np.mean(np.square(found))))
        left = float(np.sqrt(np.mean(np.square(doubt))))
        return Slopes(
            values.reshape(shape).astype(self.activations.dtype),
            left / size if size > 0 else 0.0,
            self.evaluations,
        )


def _like(steps: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Steps with axes of size 1 for the targets, where the scores have such an axis."""
    return steps.reshape(*steps.shape, *(1,) * (scores.ndim - steps.ndim))


def _parts(entries: Sequence[int] | np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(entries), size):
        yield np.asarray(entries[start : start + size])
