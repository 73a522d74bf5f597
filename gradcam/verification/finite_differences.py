"""Finite differences: whether a backend's activations and gradients are those of the user's own model.

Along a direction v the derivative of the score is <dy/dA, v>, and a central difference of `replay` knows it without
any autograd. Random directions check the whole gradient at a cost that does not grow with it; lifting one channel
everywhere checks alpha itself, since Z alpha_k is the derivative of the score along that lift.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gradcam import layouts
from gradcam._arrays import constant, to_numpy
from gradcam._types import Array, Inputs, LayerLike
from gradcam.explaining.prepare import Prepared, prepare, settle
from gradcam.model import HasFloat64, Model
from gradcam.targets import TargetLike

__all__ = ["Verification", "verify"]


@dataclass(frozen=True)
class Check:
    """One direction: its largest relative error over samples and targets, and how many of them were kinks."""

    what: str
    error: float
    kinks: int
    of: int


@dataclass(frozen=True)
class Verification:
    """What `verify` found. Print it, or call `assert_passed()`.

    verdict: "passed", "failed", or "inconclusive" where fewer than half of the points are smooth.
    gradient_error: the largest relative error along random directions, in units of what a random direction gives.
    alpha_error: the largest error of an alpha, relative to the largest alpha of its sample, or to a thousandth of what
        it is the mean of where that is larger, as in front of instance normalisation, whose alphas are all 0.
    replay_error: how far replaying the captured activations is from the captured scores, relative to the scores.
    kinks: points, of `points`, where the score bends within the step (ReLU at zero, a tie in max pooling): there a
        derivative does not exist, and no gradient is right or wrong. They are in neither error.
    held_zeros: activations that are exactly 0 lie on kinks (a ReLU again, max pooling); they were kept at 0.
    """

    layer: str
    dtype: str
    step: float
    tolerance: float
    replay_error: float
    checks: tuple[Check, ...] = field(repr=False)
    held_zeros: bool = False

    def _largest(self, what: str) -> float:
        return max((c.error for c in self.checks if c.what == what and c.kinks < c.of), default=0.0)

    @property
    def gradient_error(self) -> float:
        return self._largest("direction")

    @property
    def alpha_error(self) -> float:
        return self._largest("alpha")

    @property
    def error(self) -> float:
        return max(self.gradient_error, self.alpha_error, self.replay_error)

    @property
    def kinks(self) -> int:
        return sum(c.kinks for c in self.checks)

    @property
    def points(self) -> int:
        return sum(c.of for c in self.checks)

    @property
    def verdict(self) -> str:
        if not self.error <= self.tolerance:
            return "failed"
        return "passed" if 2 * self.kinks <= self.points else "inconclusive"

    @property
    def passed(self) -> bool:
        return self.verdict == "passed"

    def assert_passed(self) -> None:
        """Raise AssertionError, with the report, unless the verdict is "passed"."""
        if not self.passed:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        directions = sum(c.what == "direction" for c in self.checks)
        lines = [
            f'gradients at layer "{self.layer}": {self.verdict}',
            f"  relative error {self.gradient_error:.1e}  of the gradient along {directions} random directions",
            f"  relative error {self.alpha_error:.1e}  of alpha, {len(self.checks) - directions} channels lifted",
            f"  relative error {self.replay_error:.1e}  of the score when the captured activations are replayed",
            f"  tolerance {self.tolerance:.0e} in {self.dtype}, steps of {self.step:.1e} and half of it, "
            f"{self.kinks} of {self.points} points at a kink",
        ]
        if self.held_zeros:
            lines.append(
                "  activations that are 0 lie on kinks and were held: the gradient there is not verified"
            )
        if self.verdict == "inconclusive":
            lines.append(
                "  most points lie on kinks, where no derivative exists: try another layer or other inputs"
            )
        if self.verdict == "failed" and self.replay_error > self.tolerance:
            lines.append(
                "  replaying what was captured gives another score: the model depends on chance or on its past,"
            )
            lines.append(
                "  or the captured activations are not those that the rest of the model saw"
            )
        return "\n".join(lines)


# ------------------------------------------------------------------------------------------ what may be compiled


@dataclass(frozen=True)
class _Captured:
    layer: str

    def __call__(
        self, model: Model, inputs: Inputs, target: Any
    ) -> tuple[Any, Array, Array, Array]:
        capture = model.capture(inputs, (self.layer,), target)
        return capture.outputs, capture.scores, capture.activations[0], capture.gradients[0]


@dataclass(frozen=True)
class _Replayed:
    layer: str

    def __call__(self, model: Model, inputs: Inputs, target: Any, activations: Array) -> Array:
        return target(model.replay(inputs, (self.layer,), (activations,)))


# ------------------------------------------------------------------------------------------ the check


def verify(
    model: Any,
    inputs: Inputs,
    layer: LayerLike = None,
    target: TargetLike = None,
    *,
    directions: int = 8,
    channels: int = 8,
    float64: bool = True,
    step: float | None = None,
    tolerance: float | None = None,
    seed: int = 0,
    layout: layouts.Spec = None,
    allow_training: bool = False,
) -> Verification:
    """Compare the gradients that an explanation is made of with central differences, on your model and inputs.

    directions: random directions of the activations, each for all samples at once.
    channels: channels to lift, the ones of largest alpha and as many at random.
    float64: work in a double precision copy where the model allows it; else in its own precision.
    step: relative to the activations' root mean square; None: the cube root of the dtype's precision.
    tolerance: None: 1e-6 in float64, 1e-2 in float32, 1e-1 in half precision.

    Takes 4 forward passes for each direction and channel. Returns a report; `.assert_passed()` raises.
    """
    prepared = prepare(model, inputs, layer, target, layout=layout, allow_training=allow_training)
    path = prepared.layer
    for double in (True, False) if float64 else (False,):
        with _precision(prepared, double) as exact:
            outputs, scores, activations, gradients = exact.run(_Captured(path))
            if double and "float64" not in str(activations.dtype):
                continue
            place = exact.layout_of(path, activations.shape)
            probe = _Probe(
                score=_score(exact, settle(exact.target, outputs), place.samples),
                activations=place.samples.arrange(activations),
                scores=to_numpy(scores).astype(np.float64),
                gradients=to_numpy(place.samples.arrange(gradients, lead=scores.ndim - 1)).astype(
                    np.float64
                ),
                layout=place,
                step=step,
                tolerance=tolerance,
            )
            return probe.run(path, directions, channels, seed)
    raise AssertionError("unreachable")


def _score(
    prepared: Prepared, target: Any, samples: layouts.Samples
) -> Callable[[Array], np.ndarray]:
    """The score as a function of the layer's activations, samples first: (N,) or (N, K) in float64 on the host."""
    replay = _Replayed(prepared.layer)

    def score(activations: Array) -> np.ndarray:
        return to_numpy(prepared.run(replay, samples.restore(activations), target=target)).astype(
            np.float64
        )

    return score


@contextmanager
def _precision(prepared: Prepared, double: bool) -> Iterator[Prepared]:
    """The model and its inputs in double precision, where its backend can, for as long as the context lasts."""
    model = prepared.model
    if not double or not isinstance(model, HasFloat64):
        yield prepared
        return
    with model.float64(prepared.inputs) as (wide, inputs):
        yield replace(prepared, model=wide, inputs=inputs)


@dataclass(frozen=True)
class _Probe:
    """One layer's activations (N, *sample), its gradients (N, [K,] *sample), and the score as a function of them."""

    score: Callable[[Array], np.ndarray]
    activations: Array
    scores: np.ndarray
    gradients: np.ndarray
    layout: layouts.Layout
    step: float | None
    tolerance: float | None

    def run(self, path: str, directions: int, channels: int, seed: int) -> Verification:
        values = to_numpy(self.activations).astype(np.float64)
        dtype = str(self.activations.dtype).removeprefix("torch.")
        precision = 2.0**-52 if dtype == "float64" else 2.0**-23 if dtype == "float32" else 2.0**-8
        step = self.step or precision ** (1 / 3)
        tolerance = self.tolerance or {2.0**-52: 1e-6, 2.0**-23: 1e-2}.get(precision, 1e-1)
        base = self.score(self.activations)
        replay_error = float(np.max(_ratio(np.abs(base - self.scores), np.abs(self.scores).max())))
        held = False
        while True:
            mask = (values != 0).astype(np.float64) if held else None
            checks = tuple(
                self._checks(values, base, step, tolerance, directions, channels, seed, mask)
            )
            bent = sum(c.kinks for c in checks) * 2 > sum(c.of for c in checks)
            if held or not bent or values.all():
                return Verification(path, dtype, step, tolerance, replay_error, checks, held)
            held = True  # ReLU's zeros are at a kink when a ReLU or a max pooling follows: leave them where they are

    def _checks(
        self,
        values: np.ndarray,
        base: np.ndarray,
        step: float,
        tolerance: float,
        directions: int,
        channels: int,
        seed: int,
        mask: np.ndarray | None,
    ) -> Iterator[Check]:
        random = np.random.default_rng(seed)
        flat = values.reshape(len(values), -1)
        size = np.sqrt(np.mean(flat**2, axis=1))
        size = np.where(size > 0, size, 1.0).reshape(-1, *(1,) * (values.ndim - 1))
        several = self.scores.ndim == 2
        sample_axes = tuple(range(self.scores.ndim, self.gradients.ndim))

        def slope(direction: np.ndarray) -> np.ndarray:
            """<dy/dA, v> for each sample and target."""
            along = direction[:, None] if several else direction
            return np.asarray(np.sum(self.gradients * along, axis=sample_axes))

        norm = np.sqrt(np.sum(self.gradients**2, axis=sample_axes))
        for _ in range(directions):
            direction = random.standard_normal(values.shape) * size
            direction = direction if mask is None else direction * mask
            length = np.sqrt(np.mean(direction.reshape(len(values), -1) ** 2, axis=1))
            scale = norm * (length[:, None] if several else length)
            yield self._check(
                "direction", direction, slope(direction), scale, base, step, tolerance
            )

        gradients = self.layout.view(self.gradients)
        alphas = np.sum(gradients, axis=-1)  # (N, [K,] C), times Z
        # in front of a norm over positions all alphas are 0, and their rounding is that of the gradients that cancel
        largest = np.maximum(
            np.max(np.abs(alphas), axis=-1),
            1e-3 * np.max(np.sum(np.abs(gradients), axis=-1), axis=-1),
        )
        for channel in _some_channels(alphas, channels, random):
            direction = self._lift(channel, values) * size
            direction = direction if mask is None else direction * mask
            unit = size.reshape(-1, *(1,) * (largest.ndim - 1))
            yield self._check(
                "alpha", direction, slope(direction), largest * unit, base, step, tolerance
            )

    def _lift(self, channel: int, values: np.ndarray) -> np.ndarray:
        """One on a channel's positions, zero elsewhere."""
        lift = np.zeros_like(values)
        if self.layout.kind == "channels_first":
            lift[:, channel] = 1
        elif self.layout.kind == "tokens":
            lift[
                :, self.layout.prefix : self.layout.prefix + int(np.prod(self.layout.grid)), channel
            ] = 1
        else:
            lift[..., channel] = 1
        return lift

    def _check(
        self,
        what: str,
        direction: np.ndarray,
        slope: np.ndarray,
        scale: np.ndarray,
        base: np.ndarray,
        step: float,
        tolerance: float,
    ) -> Check:
        def at(h: float) -> tuple[np.ndarray, np.ndarray]:
            """The central difference, and by how much the slopes to the right and to the left differ."""
            move = constant(direction * h, like=self.activations)
            up, down = self.score(self.activations + move), self.score(self.activations - move)
            return (up - down) / (2 * h), (up - 2 * base + down) / h

        (wide, bend_wide), (narrow, bend) = at(step), at(step / 2)
        off = np.abs(narrow - slope)
        error = _ratio(off, scale)
        # A wrong slope of a smooth score is wrong alike at both steps, and the score hardly bends there: its bend
        # halves with the step. At a kink beside the point the steps disagree; at one on it, the bend stays.
        beside = np.abs(wide - narrow) > 0.1 * off
        on_it = (np.abs(bend) >= 0.05 * off) & (np.abs(bend - bend_wide) <= 0.25 * np.abs(bend))
        kink = (error > tolerance) & (beside | on_it)
        smooth = np.where(kink, 0.0, error)
        return Check(what, float(smooth.max()), int(kink.sum()), int(kink.size))


def _ratio(error: np.ndarray, scale: Any) -> np.ndarray:
    """error / scale; where the scale is 0, no error is 0 and any error infinite."""
    scale = np.broadcast_to(scale, error.shape)
    return np.where(
        scale > 0, error / np.where(scale > 0, scale, 1), np.where(error > 0, np.inf, 0.0)
    )


def _some_channels(alphas: np.ndarray, count: int, random: np.random.Generator) -> list[int]:
    """The channels of largest alpha anywhere, and as many others at random."""
    strongest = np.argsort(-np.abs(alphas).reshape(-1, alphas.shape[-1]).max(axis=0), kind="stable")
    count = min(count, len(strongest))
    top = strongest[: (count + 1) // 2]
    rest = random.permutation(strongest[len(top) :])[: count - len(top)]
    return [int(channel) for channel in (*top, *rest)]
