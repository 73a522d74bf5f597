"""From maps to findings: which maps are wrong, and which rules are applied to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from gradcam._arrays import to_numpy
from gradcam._types import Array, Inputs, Outputs
from gradcam.backends import entry
from gradcam.diagnosis.classes import Classes
from gradcam.diagnosis.findings import BlankMap, Diagnosis, Finding
from gradcam.diagnosis.probe import Probe
from gradcam.diagnosis.rules import (
    LAYER_RULES,
    MAP_RULES,
    METHOD_RULES,
    cause,
    single_position_message,
)
from gradcam.diagnosis.source import Source
from gradcam.inputs import first_array
from gradcam.targets import as_target

__all__ = ["diagnose"]

_OF_CLASS = ("negative", "saturated", "no-gradient")
"""Reasons behind which may be a wrong class."""


@entry
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
            "this explanation has no model: it was loaded, or made by hand; explain these inputs "
            "again, and diagnose that"
        )
    scores = to_numpy(scores)
    columns = scores.reshape(len(scores), -1)
    values = to_numpy(maps).reshape(*columns.shape, -1)
    # The model, if it is made of NumPy functions, would warn of the NaN that is looked for here.
    with np.errstate(all="ignore"):
        classes = Classes(_resolved(target, source), outputs, columns)
        findings = _findings(values, scores.ndim == 2, layer, classes, source, inputs)
        return Diagnosis(tuple(findings), scores.size)


def _findings(
    values: np.ndarray,
    several: bool,
    layer: str,
    classes: Classes,
    source: Source | None,
    inputs: Inputs,
) -> Iterator[Finding]:
    finite = np.isfinite(values).all(-1)
    flat = values.max(-1) == values.min(-1)
    wrong = ~finite | flat
    rounding = ~wrong & classes.surely_saturated
    probe: Probe | str = ""
    if wrong.any():
        probe = _probe(source, inputs, classes)
    for sample, column in np.argwhere(wrong | rounding).tolist():
        target = column if several else None
        blank = BlankMap(sample, column, target, values[sample, column])
        if rounding[sample, column]:
            message = f"the map consists of rounding errors: {classes.saturation(sample, column)}"
            yield blank.finding("saturated", message)
        elif isinstance(probe, Probe):
            yield from _causes(probe, blank)
        else:
            yield _without_model(blank, layer, probe)


def _resolved(target: Any, source: Source | None) -> Any:
    """The target as a function of the outputs, where it is known."""
    if source is not None:
        return source.target
    if target is None:  # an explanation made by hand need not say
        return None
    return as_target(target)


def _probe(source: Source | None, inputs: Inputs, classes: Classes) -> Probe | str:
    """The model and its inputs; or why they cannot be had, with what to do."""
    if source is None:
        return (
            "this explanation was loaded, or made by hand: explain the inputs again, and diagnose "
            "that"
        )
    try:
        model = source.model()
    except ReferenceError:
        return "its model is gone: explain the inputs again, and diagnose that"
    if inputs is None:
        try:
            inputs = source.inputs()
        except ReferenceError:
            return "its inputs are gone: pass them, .diagnose(inputs)"
    samples = int(first_array(inputs).shape[0])
    explained = len(classes.scores)
    if samples != explained:
        raise ValueError(
            f"`inputs` are {samples} samples, but {explained} were explained; pass the same inputs"
        )
    return Probe(source, source.adapt(model, inputs), inputs, classes.scores, classes)


def _causes(probe: Probe, blank: BlankMap) -> list[Finding]:
    """Each layer's cause, and perhaps a hint at a wrong class behind them."""
    finding = cause(MAP_RULES, probe, blank)
    if finding is not None:
        return [finding]
    if probe.method.uses_layer:
        found = [cause(LAYER_RULES, probe, layer_map) for layer_map in _layer_maps(probe, blank)]
    else:
        found = [cause(METHOD_RULES, probe, blank)]
    findings = [finding for finding in found if finding is not None]
    if not findings:
        # Every layer's own map shows something, so only their product can be 0.
        message = (
            "each layer has evidence, but no position has it in all of them, and "
            'fusion="product" keeps only what they share; use "mean" or "max"'
        )
        findings = [blank.finding("fusion", message)]
    return findings + _hints(probe, blank, findings)


def _hints(probe: Probe, blank: BlankMap, findings: list[Finding]) -> list[Finding]:
    """That the target may be the wrong class, where a wrong class explains one of the findings."""
    if not probe.method.uses_scores:
        return []
    reasons = {finding.reason for finding in findings}
    hint = probe.classes.mismatch(*blank.index)
    if hint is None or reasons.isdisjoint(_OF_CLASS):
        return []
    return [blank.finding("target", hint)]


def _layer_maps(probe: Probe, blank: BlankMap) -> list[BlankMap]:
    """The map of each layer, if it is flat by itself."""
    layers = probe.source.layers
    if len(layers) == 1:
        return [replace(blank, layer=layers[0])]
    maps = []
    for layer in layers:
        layer_map = replace(blank, layer=layer, values=probe.maps(layer)[blank.index])
        # A layer whose own map shows something needs no cause. Another one made the whole blank.
        if layer_map.flat:
            maps.append(layer_map)
    return maps


def _without_model(blank: BlankMap, layer: str, why: str) -> Finding:
    """What the map alone tells."""
    if not blank.finite:
        message = f"the map is NaN or infinite; the layer cannot be named: {why}"
        return blank.finding("not-finite", message)
    if blank.values.size == 1:
        return replace(blank, layer=layer).finding("flat", single_position_message(layer))
    if blank.zero:
        return blank.finding("blank", f"the map is 0 everywhere; the cause is unknown: {why}")
    value = f"{blank.values[0]:.3g}"
    message = f"the map is {value} at every position; the cause is unknown: {why}"
    return blank.finding("flat", message)
