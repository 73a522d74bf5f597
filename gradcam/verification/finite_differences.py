"""`verify`: whether a backend's activations and gradients are those of the user's own model.

The derivative of the score along directions in a layer's activations is computed twice: from the
captured gradients, and by central differences of `replay`, which need no autograd. `probe.py` has
the formula and an example; `report.py` what comes out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradcam import layouts
from gradcam._arrays import to_numpy
from gradcam._types import Array, Inputs, LayerLike
from gradcam.explaining.prepare import Prepared, prepare, settle
from gradcam.model import HasFloat64, Model
from gradcam.targets import TargetLike
from gradcam.verification.probe import Probe
from gradcam.verification.report import Verification

__all__ = ["verify"]


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
    float64: work in a double precision copy, if the model allows one; else in its own precision.
    step: relative to the activations' root mean square. None: the cube root of the dtype's
        precision.
    tolerance: of relative errors. None: 1e-6 in float64, 1e-2 in float32, 1e-1 in half precision.

    Takes 4 forward passes of the layers after `layer` for each direction and channel, and as many
    again if most points lie on kinks (see `Verification.held_zeros`). Returns a report, whose
    `assert_passed()` raises.
    """
    prepared = prepare(model, inputs, layer, target, layout=layout, allow_training=allow_training)
    # A model that casts its inputs to float32 itself may not run with float64 weights.
    with suppress(RuntimeError, TypeError), _double_precision(prepared, float64) as double:
        probe = _probe(double, step, tolerance)
        if not float64 or probe.dtype == "float64":
            return probe.verification(directions, channels, seed)
    # The copy's activations are not float64: it has none, or parts of it cast to another dtype.
    return _probe(prepared, step, tolerance).verification(directions, channels, seed)


@contextmanager
def _double_precision(prepared: Prepared, wanted: bool) -> Iterator[Prepared]:
    """The model and its inputs in float64 if wanted and possible, else as they are."""
    model = prepared.model
    if not wanted or not isinstance(model, HasFloat64):
        yield prepared
        return
    with model.float64(prepared.inputs) as (double, inputs):
        yield replace(prepared, model=double, inputs=inputs)


def _probe(prepared: Prepared, step: float | None, tolerance: float | None) -> Probe:
    """Captures a layer, and makes the score a function of its activations."""
    layer = prepared.layer
    outputs, scores, activations, gradients = prepared.run(_Captured(layer))
    # The top class is that of the capture, also where a step along a direction changes the order.
    target = settle(prepared.target, outputs)

    layer_layout = prepared.layout_of(layer, activations.shape)
    samples = layer_layout.samples

    def score(activations: Array) -> np.ndarray:
        replayed = prepared.run(_Replayed(layer), samples.restore(activations), target=target)
        return to_numpy(replayed).astype(np.float64)

    gradients = samples.arrange(gradients, lead=scores.ndim - 1)
    return Probe(
        layer=layer,
        score=score,
        activations=samples.arrange(activations),
        scores=to_numpy(scores).astype(np.float64),
        gradients=to_numpy(gradients).astype(np.float64),
        layout=layer_layout,
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
