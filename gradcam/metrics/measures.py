"""The measures that `gradcam.evaluate` knows: a row of `TABLE` for each.

A row says what a measure is called, how it is run, which way is better and what it needs. `evaluate` asks the row and
never looks at the name, so a row of your own is measured like any other:

>>> from gradcam.metrics import Measure, Result
>>> def sparsity(context):
...     return Result("sparsity", (context.maps <= 0).mean((1, 2)), "higher")
>>> measures = ["deletion", Measure("sparsity", sparsity, "higher")]
>>> gradcam.evaluate(model, images, ["grad-cam"], measures)      # doctest: +SKIP
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np

from gradcam.metrics import perturbation
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
from gradcam.metrics.result import Better, Result, Summary, mean
from gradcam.metrics.road import road_combined
from gradcam.metrics.subject import Explain, Subject

__all__ = ["MEASURES", "TABLE", "Context", "Measure", "Needs"]

Needs = Literal["predict", "explain", "mask"]
"""What a measure asks for besides maps: the model's outputs, further explanations, or where the object is."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Context:
    """What a measure is run with: samples, their maps, and what can be asked about them.

    subject: the samples as the model's inputs, and the model as a function. `evaluate` measures one sample at a time.
    maps: (N, h, w), as the method made them.
    explain: (inputs, classes) -> maps, the method that made `maps`.
    masks: (N, H, W) booleans at the inputs' size, true on the object; None where that is not known.
    boxes: for each sample the boxes (x0, y0, x1, y1) round its objects, in the inputs' pixels.
    seed: the source of all that is drawn at random.
    options: keyword arguments of this measure, from the user.
    of_maps, of_subject: results that several measures of these maps, or of all maps of this subject, share: see
        `share`.
    """

    subject: Subject
    maps: np.ndarray
    explain: Explain
    masks: np.ndarray | None = None
    boxes: Sequence[Sequence[Sequence[int]]] = ()
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    of_maps: dict[str, Any] = field(default_factory=dict)
    of_subject: dict[str, Any] = field(default_factory=dict)

    @property
    def seeded(self) -> dict[str, Any]:
        """The options, with the seed where they have none."""
        return {"seed": self.seed, **self.options}

    def share(self, cache: dict[str, Any], name: str, compute: Callable[[], T]) -> T:
        """What `compute()` returned when it was first asked for by this name and with these options.

        cache: `of_maps`, or `of_subject` for what does not depend on the maps.
        """
        key = f"{name} {sorted(self.options.items())}"
        if key not in cache:
            cache[key] = compute()
        result: T = cache[key]
        return result


Run = Callable[[Context], Result]


def _mean(options: Mapping[str, Any]) -> Summary:
    return mean


@dataclass(frozen=True)
class Measure:
    """One measure, as `gradcam.evaluate` runs it.

    name: as users write it; results are told apart by it.
    run: from a `Context` to a `Result` with a value for each sample.
    better: whether "higher" or "lower" is better.
    range: the values that it can have. about: one line on what it is. paper: where it comes from.
    needs: "predict", "explain" or "mask". One that needs a mask is run where there is one, and has no value elsewhere.
    takes: the function whose keyword arguments the options are. None: any options are passed on unchecked.
    summary: from the options to a function that sums up the values of all samples; the mean unless told.
    """

    name: str
    run: Run
    better: Better
    range: str = ""
    about: str = ""
    paper: str = ""
    needs: Needs = "predict"
    takes: Callable[..., Any] | None = None
    summary: Callable[[Mapping[str, Any]], Summary] = _mean

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise a TypeError where an option is not one of the measure's."""
        if self.takes is None:
            return
        names = [
            name
            for name, parameter in inspect.signature(self.takes).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY and name not in _FROM_CONTEXT
        ]
        for name in options:
            if name not in names:
                own = ", ".join(names) or "none"
                raise TypeError(f"`{name}` is no option of {self.name}; its options are {own}")


_FROM_CONTEXT = ("size", "occluded")
"""Keyword arguments that a row takes from the context, and not from the user."""


# ------------------------------------------------------------------------------------------ how rows are run


def _with_seed(function: Callable[..., Result]) -> Run:
    def run(context: Context) -> Result:
        return function(context.subject, context.maps, **context.seeded)

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


# ------------------------------------------------------------------------------------------ the table

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
        "half of: confidence after removing the least relevant pixels minus after the most relevant",
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
        _part_of_adcc("complexity"),
        "lower",
        "0 to 1",
        "mean of the map over its maximum",
        ADCC,
        needs="explain",
        takes=adcc_parts,
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
