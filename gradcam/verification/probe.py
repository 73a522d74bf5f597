"""Directions in a layer's activations, along which a score is probed.

Let A be a layer's activations, y(A) the score, G = dy/dA the gradient that is to be checked, and V
a direction of A's shape. The derivative of the score along V is an inner product,

    d/dh y(A + h V) at h = 0  =  sum over the sample of G * V,

and the central difference (y(A + h V) - y(A - h V)) / 2h gives it by two forward passes without any
autograd. There are two kinds of directions:

- A random V checks the whole gradient, at a cost that does not grow with its size.
- A V that is 1 at every position of channel k and 0 elsewhere checks alpha_k, the weight of
  Grad-CAM: the derivative along it is Z alpha_k, where Z is the number of positions.

For example, let y = a0^2 + 3 a1 at A = (1, 2), so that G = (2, 3). Along V = (1, -1) the gradient
says 2 - 3 = -1. With h = 0.1 the scores are y(1.1, 1.9) = 6.91 and y(0.9, 2.1) = 7.11, and their
central difference is -0.2 / 0.2 = -1: `Check("direction", error=0.0, kinks=0, of=1)`. A capture
that claims G = (2, 3.003) says -1.003, and fails in float64.

What a difference that does not agree says is told by `differences.py`.
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
from gradcam.verification.differences import Judge, Line, measured_noise
from gradcam.verification.naming import Tested, named
from gradcam.verification.report import Verification

__all__ = ["TOLERANCE", "Probe", "dtype_of", "precision_of"]

_PRECISION = {"float64": 2.0**-52, "float32": 2.0**-23}
_HALF_PRECISION = 2.0**-8
TOLERANCE = {"float64": 5e-7, "float32": 5e-4}
"""Of relative errors, for the dtype of the gradients."""
_HALF_TOLERANCE = 1e-1
_ROUNDED_TOLERANCE = 1e-2


class _Move(NamedTuple):
    """A direction (N, *sample), and the size (N, [K]) to which its error is relative."""

    what: str
    direction: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Probe:
    """A score as a function of one layer's activations, and the gradient that is to be checked.

    score: activations -> scores (N,) or (N, K), in float64.
    activations: (N, *sample), in the dtype that is replayed. replayed: their scores.
    gradients: (N, *sample) or (N, K, *sample), in float64.
    dtype: that in which the gradients were captured. rounded: whether they are float32 numbers of
        products that may have the 10 bits of TF32.
    given_step, given_tolerance: None: by these dtypes.
    """

    layer: str
    score: Callable[[Array], np.ndarray]
    activations: Array
    replayed: np.ndarray
    gradients: np.ndarray
    layout: Layout
    dtype: str
    rounded: bool = False
    given_step: float | None = None
    given_tolerance: float | None = None

    @property
    def replay_dtype(self) -> str:
        return dtype_of(self.activations)

    @property
    def precision(self) -> float:
        return precision_of(self.replay_dtype)

    @property
    def step(self) -> float:
        """Relative to the standard deviation of a sample's activations.

        At the cube root of the precision, rounding errors and those of order h^2 are alike.
        """
        return self.given_step or float(self.precision ** (1 / 3))

    @property
    def tolerance(self) -> float:
        if self.rounded:
            return self.given_tolerance or _ROUNDED_TOLERANCE
        return self.given_tolerance or TOLERANCE.get(self.dtype, _HALF_TOLERANCE)

    @cached_property
    def values(self) -> np.ndarray:
        """The activations on the host, in float64."""
        return to_numpy(self.activations).astype(np.float64)

    def verification(
        self, directions: int, channels: int, seed: int, replay_error: float
    ) -> Verification:
        """The report: one check for each direction and each channel.

        The outputs of a ReLU are often 0, which is a kink if another ReLU or a max pooling follows.
        If a point is wrong, or most are kinks, all is done again with these activations kept at 0.
        """
        tested, held = self._tested(directions, channels, seed), False
        if self._asks_for_zeros(tested):
            nonzero = (self.values != 0).astype(np.float64)
            again = self._tested(directions, channels, seed, nonzero)
            if not _without_kinks(tested).any():
                tested, held = again, True
        report = Verification(
            layer=self.layer,
            dtype=self.dtype,
            step=self.step,
            tolerance=self.tolerance,
            replay_error=replay_error,
            checks=tuple(one.check() for one in tested),
            held_zeros=held,
            replay_dtype=self.replay_dtype,
            fault=named(tested),
        )
        if report.verdict == "untested":
            return replace(report, ignored=self._ignored(seed))
        return report

    def _asks_for_zeros(self, tested: Sequence[Tested]) -> bool:
        """Whether a point is wrong, or most of one kind of direction are kinks."""
        if self.values.all():
            return False
        for what in ("direction", "alpha"):
            judged = [one.judged for one in tested if one.what == what]
            kinks = [one.kink for one in judged]
            if any(one.wrong.any() for one in judged) or (kinks and 2 * np.mean(kinks) > 1):
                return True
        return False

    def _tested(
        self, directions: int, channels: int, seed: int, mask: np.ndarray | None = None
    ) -> list[Tested]:
        """mask: (N, *sample), 0 where an activation is to stay as it is, 1 elsewhere."""
        random = np.random.default_rng(seed)
        mask = np.ones_like(self.values) if mask is None else mask
        moves = chain(
            self._random_moves(directions, random, mask), self._lifts(channels, random, mask)
        )
        return [self._test(move) for move in moves]

    # -------------------------------------------------------------------------------- directions

    @cached_property
    def _size(self) -> np.ndarray:
        """(N, 1, ...): the standard deviation of each sample's activations, or a thousandth of
        their root mean square where that is more; 1 where all are 0.
        """
        flat = self.values.reshape(len(self.values), -1)
        size = np.maximum(flat.std(axis=1), 1e-3 * np.sqrt(np.mean(flat**2, axis=1)))
        size[size == 0] = 1.0
        return np.asarray(size.reshape(-1, *(1,) * (self.values.ndim - 1)))

    @property
    def _sample_axes(self) -> tuple[int, ...]:
        return tuple(range(self.replayed.ndim, self.gradients.ndim))

    def _for_targets(self, array: np.ndarray) -> np.ndarray:
        """(N, ...) as (N, 1, ...) where there are K targets."""
        if self.replayed.ndim == 2:
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
        # Of frames that the layer takes for samples there is an axis in between.
        places = (*range(self.replayed.ndim, gradients.ndim - 2), -1)
        alphas = np.sum(gradients, axis=places)  # (N, [K,] C), times Z
        # In front of a norm over positions all alphas are 0, and their rounding errors are those
        # of the gradients that cancel.
        largest = np.maximum(
            np.max(np.abs(alphas), axis=-1),
            1e-3 * np.max(np.sum(np.abs(gradients), axis=places), axis=-1),
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

    def _test(self, move: _Move) -> Tested:
        product = self.gradients * self._for_targets(move.direction)
        claimed = np.asarray(np.sum(product, axis=self._sample_axes))
        line = Line(self._along(move.direction), self.replayed)
        judged = self._judge(line, claimed, move.scale)
        # At the minimum of a score the slope is 0 too, but there it bends: its gradient is tested.
        shown = [claimed, *(v for d in line.found.values() for v in (d.slope, d.bend))]
        flat = np.all([values == 0 for values in shown], axis=0)
        return Tested(move.what, claimed, move.scale, judged, flat)

    @cached_property
    def _judge(self) -> Judge:
        noises = [lambda: self._noise]
        if self.replay_dtype == "float64":
            noises.append(lambda: self._coarse_noise)
        return Judge(self.step, self.tolerance, TOLERANCE["float32"], noises)

    @cached_property
    def _noise(self) -> np.ndarray:
        return self._measured_noise(float(np.sqrt(self.precision)))

    @cached_property
    def _coarse_noise(self) -> np.ndarray:
        """With what a part of the model that computes in float32 does: smaller steps than its last
        digit leave it as it is.
        """
        coarse = self._measured_noise(8 * _PRECISION["float32"])
        return np.asarray(np.maximum(self._noise, coarse))

    def _measured_noise(self, step: float) -> np.ndarray:
        direction = np.random.default_rng(0).standard_normal(self.values.shape) * self._size
        # Zeros may be kinks, whose bend looks like rounding.
        return measured_noise(self._along(direction * (self.values != 0)), step, self.precision)

    def _along(self, direction: np.ndarray) -> Callable[[float], np.ndarray]:
        def score(step: float) -> np.ndarray:
            return self.score(self.activations + constant(direction * step, like=self.activations))

        return score

    def _ignored(self, seed: int) -> bool:
        """Whether quite other activations have the same score: zeros, negated ones, random ones."""
        random = np.random.default_rng(seed).standard_normal(self.values.shape)
        for others in (0 * self.values, -self.values, 10 * self._size * random):
            if not np.array_equal(
                self.score(constant(others, like=self.activations)), self.replayed
            ):
                return False
        return True


def _without_kinks(tested: Sequence[Tested]) -> np.ndarray:
    """(N, [K]): what is wrong although no other direction of that sample and target shows a kink.

    Kinks of opposite sign can cancel in the bend along one direction, and then look like a wrong
    gradient, but not along most.
    """
    wrong = np.any([one.judged.wrong for one in tested], axis=0)
    kinks = np.any([one.judged.kink for one in tested], axis=0)
    return np.asarray(wrong & ~kinks)


def _some_channels(alphas: np.ndarray, count: int, random: np.random.Generator) -> Sequence[int]:
    """The channels of largest alpha anywhere, and as many others at random."""
    largest = np.abs(alphas).reshape(-1, alphas.shape[-1]).max(axis=0)
    strongest = np.argsort(-largest, kind="stable")
    count = min(count, len(strongest))
    top = strongest[: (count + 1) // 2]
    others = random.permutation(strongest[len(top) :])[: count - len(top)]
    return [int(channel) for channel in (*top, *others)]


def dtype_of(array: Array) -> str:
    """Its dtype's name, which all frameworks share."""
    return str(array.dtype).removeprefix("torch.")


def precision_of(dtype: str) -> float:
    """The difference of 1 and the next number."""
    return _PRECISION.get(dtype, _HALF_PRECISION)
