"""The way from maps to findings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gradcam._arrays import to_numpy
from gradcam._types import Array, Inputs, Outputs
from gradcam.diagnosis.classes import Classes
from gradcam.diagnosis.findings import Diagnosis, Finding, Seen
from gradcam.diagnosis.look import ONE_POSITION, Look
from gradcam.diagnosis.source import Source
from gradcam.inputs import first_array
from gradcam.targets import as_target

__all__ = ["diagnose"]


def diagnose(
    maps: Array,
    scores: Array,
    outputs: Outputs,
    target: Any,
    layer: str,
    source: Source | None,
    inputs: Inputs = None,
) -> Diagnosis:
    """What is wrong with each map, (N, *grid) or (N, K, *grid): see `Explanation.diagnose`."""
    if inputs is not None and source is None:
        raise ValueError(
            "this explanation knows no model: it was loaded, or made by hand; explain these inputs again, and "
            "diagnose that"
        )
    with np.errstate(
        all="ignore"
    ):  # NumPy, and networks of its functions, complain of what is looked for here
        values = to_numpy(scores)
        return Diagnosis(
            tuple(_findings(maps, values, outputs, target, layer, source, inputs)), values.size
        )


def _findings(
    maps: Array,
    scores: np.ndarray,
    outputs: Outputs,
    target: Any,
    layer: str,
    source: Source | None,
    inputs: Inputs,
) -> Iterator[Finding]:
    several = scores.ndim == 2
    scores = scores if several else scores[:, None]
    values = to_numpy(maps).reshape(*scores.shape, -1)
    good = np.isfinite(values).all(-1)
    level = good & (values.max(-1) == values.min(-1))
    target = (
        source.target if source is not None else target if target is None else as_target(target)
    )
    classes = Classes(target, outputs, scores)
    rounded = good & ~level & classes.surely_saturated
    look, why = _look(source, inputs, scores) if (~good | level).any() else (None, "")
    for n, k in np.argwhere(~good | level | rounded):
        seen = Seen(int(n), int(k) if several else None, values[n, k], layer)
        if rounded[n, k]:
            yield seen.finding(
                "saturated", f"the map is made of rounding errors: {classes.saturation(n, k)}"
            )
        elif look is None:
            yield _alone(seen, bool(good[n, k]), why)
        else:
            yield from look.findings(seen, bool(good[n, k]), int(k), classes)


def _look(source: Source | None, inputs: Inputs, scores: np.ndarray) -> tuple[Look | None, str]:
    """The model on its inputs; or, where it cannot be had, why."""
    if source is None:
        return (
            None,
            "this explanation was loaded, or made by hand: explain the inputs again, and diagnose that",
        )
    try:
        model = source.model()
    except ReferenceError:
        return None, "its model is gone: explain the inputs again, and diagnose that"
    try:
        inputs = source.inputs() if inputs is None else inputs
    except ReferenceError:
        return None, "its inputs are gone: pass them, .diagnose(inputs)"
    if int(first_array(inputs).shape[0]) != len(scores):
        raise ValueError(
            f"`inputs` are {int(first_array(inputs).shape[0])} samples, but {len(scores)} were explained; pass the same"
        )
    return Look(source, source.adapt(model, inputs), inputs, scores), ""


def _alone(seen: Seen, good: bool, why: str) -> Finding:
    """What a map says of itself."""
    if not good:
        return seen.finding(
            "not-finite", f"the map is NaN or infinite; the layer cannot be named, since {why}"
        )
    if seen.values.size == 1:
        return seen.finding("flat", ONE_POSITION.format(path=seen.layer), seen.layer)
    if not seen.blank:
        return seen.finding(
            "flat",
            f"the map is {seen.values[0]:.3g} at every position; there is no more to say: {why}",
        )
    return seen.finding("blank", f"the map is 0 everywhere; the reason cannot be told: {why}")
