"""Central differences of a score along directions in a layer's activations.

Let A be a layer's activations, y(A) the score, G = dy/dA the gradient that is to be checked, and V
a direction of A's shape. The derivative of the score along V is an inner product,

    d/dh y(A + h V) at h = 0  =  sum over the sample of G * V,

and the central difference (y(A + h V) - y(A - h V)) / 2h gives it by two forward passes without any
autograd, up to an error of order h^2. There are two kinds of directions:

- A random V checks the whole gradient, at a cost that does not grow with its size.
- A V that is 1 at every position of channel k and 0 elsewhere checks alpha_k, the weight of
  Grad-CAM: the derivative along it is Z alpha_k, where Z is the number of positions.

For example, let y = a0^2 + 3 a1 at A = (1, 2), so that G = (2, 3). Along V = (1, -1) the gradient
says 2 - 3 = -1. With h = 0.1 the scores are y(1.1, 1.9) = 6.91 and y(0.9, 2.1) = 7.11, and their
central difference is -0.2 / 0.2 = -1: `Check("direction", error=0.0, kinks=0, of=1)`. A capture
that claims G = (2, 3.003) says -1.003, and fails in float64.

A score with ReLU or max pooling is only piecewise smooth. Where it bends within the step, central
differences and gradient disagree although both are right; `_kinks` tells these points apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np

from gradcam._arrays import constant, to_numpy
from gradcam._types import Array
from gradcam.layouts import Layout
from gradcam.verification.report import Check, Verification

__all__ = ["Probe"]

_PRECISION = {"float64": 2.0**-52, "float32": 2.0**-23}
_HALF_PRECISION = 2.0**-8
_TOLERANCE = {"float64": 1e-6, "float32": 1e-2}
_HALF_TOLERANCE = 1e-1


class _Move(NamedTuple):
    """A direction (N, *sample), and the size (N, [K]) to which its error is relative."""

    what: str
    direction: np.ndarray
    scale: np.ndarray


class _Difference(NamedTuple):
    """For each sample and target, (N, [K]), what one step to either side shows.

    slope: the central difference. bend: the slope to the right less the slope to the left.
    """

    slope: np.ndarray
    bend: np.ndarray


@dataclass(frozen=True)
class Probe:
    """A score as a function of one layer's activations, and the gradient that is to be checked.

    score: activations -> scores (N,) or (N, K), in float64.
    activations: (N, *sample), as captured. scores: the captured scores.
    gradients: (N, *sample) or (N, K, *sample), in float64.
    given_step, given_tolerance: None: by the dtype of the activations.
    """

    layer: str
    score: Callable[[Array], np.ndarray]
    activations: Array
    scores: np.ndarray
    gradients: np.ndarray
    layout: Layout
    given_step: float | None = None
    given_tolerance: float | None = None

    @property
    def dtype(self) -> str:
        return str(self.activations.dtype).removeprefix("torch.")

    @property
    def step(self) -> float:
        """Relative to the root mean square of a sample's activations.

        At the cube root of the precision, rounding errors and those of order h^2 are alike.
        """
        precision = _PRECISION.get(self.dtype, _HALF_PRECISION)
        return self.given_step or float(precision ** (1 / 3))

    @property
    def tolerance(self) -> float:
        return self.given_tolerance or _TOLERANCE.get(self.dtype, _HALF_TOLERANCE)

    @cached_property
    def values(self) -> np.ndarray:
        """The activations on the host, in float64."""
        return to_numpy(self.activations).astype(np.float64)

    @cached_property
    def replayed(self) -> np.ndarray:
        """The scores of the captured activations, replayed."""
        return self.score(self.activations)

    @property
    def replay_error(self) -> float:
        """The largest difference from the captured scores, relative to the largest of them."""
        error = np.abs(self.replayed - self.scores)
        return float(np.max(_ratio(error, np.abs(self.scores).max())))

    def verification(self, directions: int, channels: int, seed: int) -> Verification:
        """The report: one check for each direction and each channel.

        The outputs of a ReLU are often 0, which is a kink if another ReLU or a max pooling follows.
        If most points are kinks, all is done again with these activations kept at 0.
        """
        report = self._report(directions, channels, seed)
        if report.verdict == "untested":
            return replace(report, ignored=self._ignored(seed))
        return report

    def _report(self, directions: int, channels: int, seed: int) -> Verification:
        report = Verification(
            layer=self.layer,
            dtype=self.dtype,
            step=self.step,
            tolerance=self.tolerance,
            replay_error=self.replay_error,
            checks=self._checks(directions, channels, seed, np.ones_like(self.values)),
        )
        if 2 * report.kinks <= report.points or self.values.all():
            return report
        nonzero = (self.values != 0).astype(np.float64)
        checks = self._checks(directions, channels, seed, nonzero)
        return replace(report, checks=checks, held_zeros=True)

    def _checks(
        self, directions: int, channels: int, seed: int, mask: np.ndarray
    ) -> tuple[Check, ...]:
        """mask: (N, *sample), 0 where an activation is to stay as it is, 1 elsewhere."""
        random = np.random.default_rng(seed)
        moves = chain(
            self._random_moves(directions, random, mask), self._lifts(channels, random, mask)
        )
        return tuple(self._check(move) for move in moves)

    # -------------------------------------------------------------------------------- directions

    @cached_property
    def _size(self) -> np.ndarray:
        """(N, 1, ...): the root mean square of each sample's activations; 1 where all are 0."""
        size = np.sqrt(np.mean(self.values.reshape(len(self.values), -1) ** 2, axis=1))
        size[size == 0] = 1.0
        return np.asarray(size.reshape(-1, *(1,) * (self.values.ndim - 1)))

    @property
    def _sample_axes(self) -> tuple[int, ...]:
        return tuple(range(self.scores.ndim, self.gradients.ndim))

    def _for_targets(self, array: np.ndarray) -> np.ndarray:
        """(N, ...) as (N, 1, ...) where there are K targets."""
        if self.scores.ndim == 2:
            return array[:, None]
        return array

    def _random_moves(
        self, count: int, random: np.random.Generator, mask: np.ndarray
    ) -> Iterator[_Move]:
        norm = np.sqrt(np.sum(self.gradients**2, axis=self._sample_axes))
        for _ in range(count):
            direction = random.standard_normal(self.values.shape) * self._size * mask
            length = np.sqrt(np.mean(direction.reshape(len(direction), -1) ** 2, axis=1))
            # The root mean square, over random directions, of the derivative along them.
            yield _Move("direction", direction, norm * self._for_targets(length))

    def _lifts(self, count: int, random: np.random.Generator, mask: np.ndarray) -> Iterator[_Move]:
        gradients = self.layout.view(self.gradients)
        frames = tuple(range(self.scores.ndim, gradients.ndim - 2))
        alphas = np.sum(gradients, axis=(*frames, -1))  # (N, [K,] C), times Z
        # In front of a norm over positions all alphas are 0, and their rounding errors are those
        # of the gradients that cancel.
        largest = np.maximum(
            np.max(np.abs(alphas), axis=-1),
            1e-3 * np.max(np.sum(np.abs(gradients), axis=(*frames, -1)), axis=-1),
        )
        scale = largest * self._size.reshape(-1, *(1,) * (largest.ndim - 1))
        for channel in _some_channels(alphas, count, random):
            yield _Move("alpha", self._lift(channel) * self._size * mask, scale)

    def _lift(self, channel: int) -> np.ndarray:
        """1 at a channel's positions, 0 elsewhere, also at class and register tokens."""
        lift = np.zeros_like(self.values)
        of_channel = np.moveaxis(lift, self.layout.channel_axis, 0)[channel]
        if self.layout.of_tokens:  # class and register tokens are no positions
            stop = self.layout.prefix + int(np.prod(self.layout.grid))
            of_channel[..., self.layout.prefix : stop] = 1
        else:
            of_channel[...] = 1
        return lift

    # -------------------------------------------------------------------------------- differences

    def _check(self, move: _Move) -> Check:
        product = self.gradients * self._for_targets(move.direction)
        claimed = np.asarray(np.sum(product, axis=self._sample_axes))
        wide = self._difference(move.direction, self.step)
        narrow = self._difference(move.direction, self.step / 2)
        off = np.abs(narrow.slope - claimed)
        error = _ratio(off, move.scale)
        kink = (error > self.tolerance) & _kinks(wide, narrow, off)
        smooth = np.where(kink, 0.0, error)
        # At the minimum of a score the slope is 0 too, but there it bends: its gradient is tested.
        shown = (claimed, wide.slope, wide.bend, narrow.slope, narrow.bend)
        flat = np.all([values == 0 for values in shown], axis=0)
        return Check(
            move.what, float(smooth.max()), int(kink.sum()), int(kink.size), int(flat.sum())
        )

    def _ignored(self, seed: int) -> bool:
        """Whether quite other activations have the same score: zeros, negated ones, random ones."""
        random = np.random.default_rng(seed).standard_normal(self.values.shape)
        for others in (0 * self.values, -self.values, 10 * self._size * random):
            if not np.array_equal(
                self.score(constant(others, like=self.activations)), self.replayed
            ):
                return False
        return True

    def _difference(self, direction: np.ndarray, step: float) -> _Difference:
        move = constant(direction * step, like=self.activations)
        right = self.score(self.activations + move)
        left = self.score(self.activations - move)
        # The bend is (right - middle) / h - (middle - left) / h.
        bend = (right - 2 * self.replayed + left) / step
        return _Difference((right - left) / (2 * step), bend)


def _kinks(wide: _Difference, narrow: _Difference, off: np.ndarray) -> np.ndarray:
    """Where a slope that is `off` from the gradient's is explained by a bend of the score.

    `narrow` has half the step of `wide`. Three cases differ in what halving the step does, here for
    y = relu(a) with the gradient 1 that autograd gives for a > 0:

                                   central differences         bend
    a wrong gradient               agree with each other       proportional to the step, so halves
    kink beside the point, d < h   (1 + d/h) / 2: changes      1 - d/h: changes
    kink on the point, a = 0       1/2 at either step          1 at either step

    The thresholds are shares of `off`, so that the smallest error counts as well as the largest.
    """
    beside = np.abs(wide.slope - narrow.slope) > 0.1 * off
    # A wrong gradient of a curved score has a bend too, but that one halves with the step.
    bends = np.abs(narrow.bend) >= 0.05 * off
    stays = np.abs(narrow.bend - wide.bend) <= 0.25 * np.abs(narrow.bend)
    return np.asarray(beside | (bends & stays))


def _ratio(error: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """error / scale. Where the scale is 0, no error is 0 and any error is infinite."""
    scale = np.broadcast_to(scale, error.shape)
    without_scale = np.where(error > 0, np.inf, 0.0)
    return np.where(scale > 0, error / np.where(scale > 0, scale, 1), without_scale)


def _some_channels(alphas: np.ndarray, count: int, random: np.random.Generator) -> Sequence[int]:
    """The channels of largest alpha anywhere, and as many others at random."""
    largest = np.abs(alphas).reshape(-1, alphas.shape[-1]).max(axis=0)
    strongest = np.argsort(-largest, kind="stable")
    count = min(count, len(strongest))
    top = strongest[: (count + 1) // 2]
    others = random.permutation(strongest[len(top) :])[: count - len(top)]
    return [int(channel) for channel in (*top, *others)]
