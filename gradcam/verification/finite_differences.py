"""`verify`: whether a backend's activations and gradients are those of the user's own model.

The derivative of the score along directions in a layer's activations is computed twice: from the
captured gradients, and by central differences of `replay`, which need no autograd. `probe.py` has
the formula and an example; `differences.py` how kinks and rounding are told from wrong gradients;
`report.py` what comes out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradcam import layouts
from gradcam._arrays import array_namespace, to_numpy
from gradcam._numbers import check_real, check_whole
from gradcam._types import Array, Inputs, LayerLike, Outputs
from gradcam.backends import entry, rounds_products
from gradcam.explaining.prepare import Prepared, prepare, settle
from gradcam.model import HasFloat64, Model
from gradcam.targets import TargetLike
from gradcam.verification.naming import ratio
from gradcam.verification.probe import TOLERANCE, Probe, dtype_of, precision_of
from gradcam.verification.report import Verification

__all__ = ["verify"]

_TF32 = 2.0**-10
"""The difference of 1 and the next number in TF32."""


@entry
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
    """Compare the gradients that an explanation is made of with central differences.

    directions: the number of random directions of the activations, each for all samples at once.
    channels: the number of channels to lift, half of them those of largest alpha, others random.
    float64: check the gradients of a double precision copy, if the model allows one; else those of
        the model in its own precision. The differences are the copy's in both cases. Where the copy
        computes parts in its own precision, and that hides more than float32 shows, the gradients
        are the model's own, and the differences those of the model with every operation in float64.
    step: the first that is tried, relative to the activations' standard deviation. None: the cube
        root of the dtype's precision.
    tolerance: of relative errors. None: 5e-7 in float64, 5e-4 in float32, 1e-1 in half precision,
        and 1e-2 for float32 gradients on an accelerator that may multiply in TF32. A double
        precision copy knows no TF32.

    Takes 2 forward passes of the model with the layer replaced for each direction and channel.
    Where they do not agree with the gradient, further steps are tried (`Verification.passes` counts
    them all). Returns a report, whose `assert_passed()` raises.
    """
    check_whole("directions", directions, 0)
    check_whole("channels", channels, 0)
    if not directions and not channels:
        raise ValueError("`directions` and `channels` are both 0: nothing would be verified")
    check_whole("seed", seed, 0)
    for name, value in (("step", step), ("tolerance", tolerance)):
        if value is not None:
            check_real(name, value, above=0)
    prepared = prepare(model, inputs, layer, target, layout=layout, allow_training=allow_training)
    passes = _Passes()
    outputs, *captured = passes.capture(prepared)
    # The top class is that of the model itself, also where a step or a copy changes the order.
    prepared = replace(prepared, target=settle(prepared.target, outputs))
    own = _Found.of(prepared, passes, *captured)

    def report(found: _Found, remark: str) -> Verification:
        probe = _probe(prepared, found, step, tolerance, passes)
        found_out = probe.verification(directions, channels, seed, found.replay_error)
        return replace(found_out, passes=passes.count, remark=remark)

    blunt: list[Verification] = []
    remark = ""
    # A copy whose gradients are checked; where rounding hides much, one for sharper differences.
    for copy, gradients in (("float64", float64), ("in_double", False)):
        with _double_precision(prepared, copy) as double:
            if double is None:
                continue
            try:
                found = _in_double(own, double, gradients, passes)
            except Exception as problem:  # whatever the user's modules raise in another dtype
                remark = f"no float64 copy is checked: {str(problem) or type(problem).__name__}"
                continue
            told = report(found, remark)
        if told.resolution <= TOLERANCE["float32"]:
            return told
        blunt.append(told)
    if blunt:
        return min(blunt, key=lambda one: (one.verdict == "inconclusive", one.resolution))
    return report(own, remark)


@contextmanager
def _double_precision(prepared: Prepared, copy: str) -> Iterator[Prepared | None]:
    """The model and its inputs in float64, if there is such a copy."""
    model = prepared.model
    if not isinstance(model, HasFloat64):
        yield None
        return
    with getattr(model, copy)(prepared.inputs) as (double, inputs):
        yield None if double is model else replace(prepared, model=double, inputs=inputs)


@dataclass
class _Passes:
    """Runs a model, and counts its forward passes."""

    count: int = 0

    def capture(self, prepared: Prepared) -> tuple[Outputs, Array, Array, Array]:
        """Outputs, scores, activations and gradients."""
        self.count += 1
        found: tuple[Outputs, Array, Array, Array] = prepared.run(_Captured(prepared.layer))
        return found

    def replay(self, prepared: Prepared, activations: Array) -> np.ndarray:
        """The scores with the layer's activations replaced, in float64."""
        self.count += 1
        return _float64(prepared.run(_Replayed(prepared.layer), activations))


@dataclass(frozen=True)
class _Found:
    """Gradients that are to be checked, and where the activations are replayed.

    model: the model and inputs of the replays. scores, gradients: as captured.
    activations: as they are replayed. replayed: their scores.
    replay_error: the difference of the captured scores from those of the captured activations
        replayed in the same precision, relative to the largest of them.
    """

    model: Prepared
    scores: np.ndarray
    activations: Array
    gradients: Array
    replayed: np.ndarray
    replay_error: float

    @staticmethod
    def of(
        model: Prepared, passes: _Passes, scores: Array, activations: Array, gradients: Array
    ) -> _Found:
        known = _float64(scores)
        replayed = passes.replay(model, activations)
        error = _relative(replayed - known, known)
        return _Found(model, known, activations, gradients, replayed, error)


def _in_double(own: _Found, double: Prepared, float64: bool, passes: _Passes) -> _Found:
    """The gradients of a double precision copy, if asked for, else the model's own; with replays of
    the copy. Raises ValueError where the copy is not the same model.
    """
    if float64:
        _, *captured = passes.capture(double)
        if dtype_of(captured[1]) == "float64":
            found = _Found.of(double, passes, *captured)
            _compare(found.scores, own)
            return found
    xp = array_namespace(own.activations)
    activations = xp.astype(own.activations, xp.float64)
    replayed = passes.replay(double, activations)
    _compare(replayed, own)
    return replace(own, model=double, activations=activations, replayed=replayed)


def _compare(scores: np.ndarray, own: _Found) -> None:
    """Raises ValueError where a copy's scores are not the model's own in its precision."""
    error = _relative(scores - own.scores, own.scores)
    precision = _TF32 if _is_rounded(own) else precision_of(dtype_of(own.gradients))
    if not error <= precision ** (1 / 3):
        raise ValueError(
            f"the double precision copy gives other scores, with a relative difference of "
            f"{error:.1e}: an operation is wrong in one of the precisions, or the model is random"
        )


def _is_rounded(found: _Found) -> bool:
    return dtype_of(found.gradients) == "float32" and rounds_products(found.gradients)


def _relative(error: np.ndarray, scores: np.ndarray) -> float:
    """The largest error, relative to the largest score."""
    return float(np.max(ratio(np.abs(error), np.abs(scores).max())))


def _float64(array: Array) -> np.ndarray:
    return to_numpy(array).astype(np.float64)


def _probe(
    prepared: Prepared,
    found: _Found,
    step: float | None,
    tolerance: float | None,
    passes: _Passes,
) -> Probe:
    """Makes the score a function of the layer's activations."""
    layer_layout = prepared.layout_of(prepared.layer, found.activations.shape)
    samples = layer_layout.samples

    def score(activations: Array) -> np.ndarray:
        return passes.replay(found.model, samples.restore(activations))

    return Probe(
        layer=prepared.layer,
        score=score,
        activations=samples.arrange(found.activations),
        replayed=found.replayed,
        gradients=_float64(samples.arrange(found.gradients, lead=found.scores.ndim - 1)),
        layout=layer_layout,
        dtype=dtype_of(found.gradients),
        rounded=_is_rounded(found),
        given_step=step,
        given_tolerance=tolerance,
    )


@dataclass(frozen=True)
class _Captured:
    """Outputs, scores, activations and gradients of one layer. May be compiled."""

    layer: str

    def __call__(
        self, model: Model, inputs: Inputs, target: Any
    ) -> tuple[Any, Array, Array, Array]:
        capture = model.capture(inputs, (self.layer,), target)
        return capture.outputs, capture.scores, capture.activations[0], capture.gradients[0]


@dataclass(frozen=True)
class _Replayed:
    """The scores with the layer's activations replaced. May be compiled."""

    layer: str

    def __call__(self, model: Model, inputs: Inputs, target: Any, activations: Array) -> Array:
        return target(model.replay(inputs, (self.layer,), (activations,)))
