"""The measures that `gradcam.evaluate` knows: a row for each.

A new measure is a function in a module of its own and a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gradcam.metrics import perturbation
from gradcam.metrics.complexity import complexity
from gradcam.metrics.confidence import adcc_parts, confidence_measures
from gradcam.metrics.curves import deletion, insertion
from gradcam.metrics.localisation import (
    best_threshold,
    box_contrast,
    box_error,
    energy,
    mask_iou,
    max_box_accuracy,
    pointing_game,
)
from gradcam.metrics.measure import Context, Measure, Run
from gradcam.metrics.result import Result, Summary
from gradcam.metrics.road import road_combined

__all__ = ["MEASURES", "TABLE"]

# -------------------------------------------------------------------------------- how rows are run


def _with_seed(function: Callable[..., Result]) -> Run:
    def run(context: Context) -> Result:
        return function(context.subject, context.maps, **context.seeded)

    return run


def _on_maps(function: Callable[..., Result]) -> Run:
    """For a measure that asks nothing of the model; `size` is that of the inputs."""

    def run(context: Context) -> Result:
        return function(context.maps, size=context.subject.size, **context.options)

    return run


def _on_mask(function: Callable[..., Result]) -> Run:
    def run(context: Context) -> Result:
        return function(context.maps, context.masks, **context.options)

    return run


def _on_boxes(function: Callable[..., Result]) -> Run:
    def run(context: Context) -> Result:
        size = context.subject.size
        return function(context.maps, context.boxes, size=size, **context.options)

    return run


def _change_of_confidence(name: str) -> Run:
    """One of the measures that come from one pass over the masked inputs."""

    def run(context: Context) -> Result:
        results = context.share(
            context.of_maps,
            "confidence",
            lambda: confidence_measures(context.subject, context.maps, **context.seeded),
        )
        return results[name]

    return run


def _part_of_adcc(name: str) -> Run:
    """One of the measures that come from one further explanation of the masked inputs."""

    def run(context: Context) -> Result:
        results = context.share(
            context.of_maps,
            "adcc",
            lambda: adcc_parts(context.subject, context.maps, context.explain, **context.seeded),
        )
        return results[name]

    return run


def _max_sensitivity(context: Context) -> Result:
    return perturbation.max_sensitivity(
        context.subject, context.maps, context.explain, **context.seeded
    )


def _occlusion_correlation(context: Context) -> Result:
    occluded = context.share(
        context.of_subject,
        "occlusion",
        lambda: perturbation.occlusion(context.subject, **context.options),
    )
    return perturbation.occlusion_correlation(
        context.subject, context.maps, occluded=occluded, **context.options
    )


def _best_of_thresholds(options: Mapping[str, Any]) -> Summary:
    return best_threshold(int(np.size(options.get("overlap", 0.5))))


# --------------------------------------------------------------------------------------- the table

GRAD_CAM = "https://arxiv.org/abs/1610.02391"
GRAD_CAM_PP = "https://arxiv.org/abs/1710.11063"
RISE = "https://arxiv.org/abs/1806.07421"
INFIDELITY = "https://arxiv.org/abs/1901.09392"
ADCC = "https://arxiv.org/abs/2104.10252"

TABLE: tuple[Measure, ...] = (
    Measure(
        "average-drop",
        _change_of_confidence("average-drop"),
        "lower",
        "0 to 1",
        "share of the confidence that is lost where only the map is shown",
        GRAD_CAM_PP,
        takes=confidence_measures,
    ),
    Measure(
        "increase-in-confidence",
        _change_of_confidence("increase-in-confidence"),
        "higher",
        "0 or 1",
        "whether the confidence is higher where only the map is shown",
        GRAD_CAM_PP,
        takes=confidence_measures,
    ),
    Measure(
        "average-gain",
        _change_of_confidence("average-gain"),
        "higher",
        "0 to 1",
        "share of the missing confidence that is gained",
        "https://arxiv.org/abs/2301.07002",
        takes=confidence_measures,
    ),
    Measure(
        "insertion",
        _with_seed(insertion),
        "higher",
        "0 to 1",
        "area under the confidence as pixels are inserted, the map's highest first",
        RISE,
        takes=insertion,
    ),
    Measure(
        "deletion",
        _with_seed(deletion),
        "lower",
        "0 to 1",
        "area under the confidence as pixels are deleted, the map's highest first",
        RISE,
        takes=deletion,
    ),
    Measure(
        "road",
        _with_seed(road_combined),
        "higher",
        "-1/2 to 1/2",
        "half of: confidence after removing the least relevant pixels "
        "minus after the most relevant",
        "https://arxiv.org/abs/2202.00449",
        takes=road_combined,
    ),
    Measure(
        "adcc",
        _part_of_adcc("adcc"),
        "higher",
        "0 to 1",
        "harmonic mean of coherency, 1 - complexity and 1 - average drop",
        ADCC,
        needs="explain",
        takes=adcc_parts,
    ),
    Measure(
        "coherency",
        _part_of_adcc("coherency"),
        "higher",
        "0 to 1",
        "correlation of the map with the map of what it shows",
        ADCC,
        needs="explain",
        takes=adcc_parts,
    ),
    Measure(
        "complexity",
        _on_maps(complexity),
        "lower",
        "0 to 1",
        "mean of the map over its maximum",
        ADCC,
        needs="maps",
        takes=complexity,
    ),
    Measure(
        "infidelity",
        _with_seed(perturbation.infidelity),
        "lower",
        "0 to infinity",
        "squared error of the map as a predictor of score changes",
        INFIDELITY,
        takes=perturbation.infidelity,
    ),
    Measure(
        "max-sensitivity",
        _max_sensitivity,
        "lower",
        "0 to infinity",
        "largest relative change of the map under small noise",
        INFIDELITY,
        needs="explain",
        takes=perturbation.max_sensitivity,
    ),
    Measure(
        "occlusion-correlation",
        _occlusion_correlation,
        "higher",
        "-1 to 1",
        "rank correlation with occlusion",
        GRAD_CAM,
        takes=perturbation.occlusion_correlation,
    ),
    Measure(
        "pointing-game",
        _on_mask(pointing_game),
        "higher",
        "0 or 1",
        "whether the map's highest pixel is on the object",
        "https://arxiv.org/abs/1608.00507",
        needs="mask",
        takes=pointing_game,
    ),
    Measure(
        "energy",
        _on_mask(energy),
        "higher",
        "0 to 1",
        "share of the map's positive part on the object",
        "https://arxiv.org/abs/1910.01279",
        needs="mask",
        takes=energy,
    ),
    Measure(
        "box-contrast",
        _on_mask(box_contrast),
        "higher",
        "0 to infinity",
        "mean of the map on the object over its mean elsewhere",
        GRAD_CAM,
        needs="mask",
        takes=box_contrast,
    ),
    Measure(
        "mask-iou",
        _on_mask(mask_iou),
        "higher",
        "0 to 1",
        "IoU of the object and the pixels above 15 % of the map's maximum",
        GRAD_CAM,
        needs="mask",
        takes=mask_iou,
    ),
    Measure(
        "box-error",
        _on_boxes(box_error),
        "lower",
        "0 or 1",
        "whether the map's box has an IoU below 1/2",
        GRAD_CAM,
        needs="mask",
        takes=box_error,
    ),
    Measure(
        "max-box-accuracy",
        _on_boxes(max_box_accuracy),
        "higher",
        "0 to 1",
        "share of boxes with sufficient IoU, at the best threshold",
        "https://arxiv.org/abs/2001.07437",
        needs="mask",
        takes=max_box_accuracy,
        summary=_best_of_thresholds,
    ),
)
"""Every measure."""

MEASURES: dict[str, Measure] = {measure.name: measure for measure in TABLE}
"""Name -> measure. Each can be passed to `gradcam.evaluate` wherever its name can."""
