"""Is the explanation any good? Measures on NumPy arrays and a plain `predict(inputs) -> outputs`; controls.

>>> from gradcam import metrics
>>> subject = metrics.Subject(predict, inputs, target)         # doctest: +SKIP
>>> metrics.insertion(subject, maps).value                     # doctest: +SKIP
>>> print(metrics.road_combined(subject, maps))                # doctest: +SKIP

A number means something beside that of the same measure on `CONTROLS`: maps that know nothing of the model.
"""

from __future__ import annotations

from dataclasses import dataclass

from gradcam.metrics.confidence import (
    adcc,
    adcc_parts,
    average_drop,
    average_gain,
    confidence_measures,
    increase_in_confidence,
)
from gradcam.metrics.controls import CONTROLS
from gradcam.metrics.curves import deletion, insertion
from gradcam.metrics.grid import collage, collages, grid_pointing_game
from gradcam.metrics.imputation import impute
from gradcam.metrics.localisation import (
    box_contrast,
    box_masks,
    boxes,
    energy,
    iou,
    localisation_error,
    mask_iou,
    max_box_accuracy,
    pointing_game,
    pointing_game_with_rejection,
)
from gradcam.metrics.perturbation import (
    infidelity,
    max_sensitivity,
    occlusion,
    occlusion_correlation,
)
from gradcam.metrics.result import Better, Result
from gradcam.metrics.road import road, road_combined
from gradcam.metrics.similarity import rank_correlation, structural_similarity
from gradcam.metrics.subject import Subject

__all__ = [
    "CONTROLS",
    "MEASURES",
    "Measure",
    "Result",
    "Subject",
    "adcc",
    "adcc_parts",
    "average_drop",
    "average_gain",
    "box_contrast",
    "box_masks",
    "boxes",
    "collage",
    "collages",
    "confidence_measures",
    "deletion",
    "energy",
    "grid_pointing_game",
    "impute",
    "increase_in_confidence",
    "infidelity",
    "insertion",
    "iou",
    "localisation_error",
    "mask_iou",
    "max_box_accuracy",
    "max_sensitivity",
    "occlusion",
    "occlusion_correlation",
    "pointing_game",
    "pointing_game_with_rejection",
    "rank_correlation",
    "road",
    "road_combined",
    "structural_similarity",
]


@dataclass(frozen=True)
class Measure:
    """A measure that `gradcam.evaluate` knows by name: what it needs besides maps, its range, and its paper."""

    name: str
    needs: str
    better: Better
    range: str
    about: str
    paper: str


_DROP = "https://arxiv.org/abs/1710.11063"
_RISE = "https://arxiv.org/abs/1806.07421"
_ADCC = "https://arxiv.org/abs/2104.10252"
_GRAD_CAM = "https://arxiv.org/abs/1610.02391"
_FIDELITY = "https://arxiv.org/abs/1901.09392"

MEASURES: dict[str, Measure] = {
    one.name: one
    for one in (
        Measure(
            "average-drop", "predict", "lower", "0 to 1", "confidence lost behind the map", _DROP
        ),
        Measure(
            "increase-in-confidence",
            "predict",
            "higher",
            "0 or 1",
            "surer behind the map than without",
            _DROP,
        ),
        Measure(
            "average-gain",
            "predict",
            "higher",
            "0 to 1",
            "doubt gone",
            "https://arxiv.org/abs/2301.07002",
        ),
        Measure(
            "insertion", "predict", "higher", "0 to 1", "area as the highest pixels come", _RISE
        ),
        Measure("deletion", "predict", "lower", "0 to 1", "area as the highest pixels go", _RISE),
        Measure(
            "road",
            "predict",
            "higher",
            "-1/2 to 1/2",
            "LeRF less MoRF",
            "https://arxiv.org/abs/2202.00449",
        ),
        Measure(
            "adcc",
            "explain",
            "higher",
            "0 to 1",
            "mean of coherency, simplicity, confidence kept",
            _ADCC,
        ),
        Measure(
            "coherency",
            "explain",
            "higher",
            "0 to 1",
            "the map of what the map shows is the same",
            _ADCC,
        ),
        Measure("complexity", "explain", "lower", "0 to 1", "how much the map shows", _ADCC),
        Measure(
            "infidelity",
            "predict",
            "lower",
            "0 to infinity",
            "what changes do is not what it says",
            _FIDELITY,
        ),
        Measure(
            "max-sensitivity",
            "explain",
            "lower",
            "0 to infinity",
            "small noise, another map",
            _FIDELITY,
        ),
        Measure(
            "occlusion-correlation",
            "predict",
            "higher",
            "-1 to 1",
            "in the order of occlusion",
            _GRAD_CAM,
        ),
        Measure(
            "pointing-game",
            "mask",
            "higher",
            "0 or 1",
            "its peak is on it",
            "https://arxiv.org/abs/1608.00507",
        ),
        Measure(
            "energy",
            "mask",
            "higher",
            "0 to 1",
            "its share on the object",
            "https://arxiv.org/abs/1910.01279",
        ),
        Measure(
            "box-contrast",
            "mask",
            "higher",
            "0 to infinity",
            "mean inside over mean outside",
            _GRAD_CAM,
        ),
        Measure(
            "mask-iou", "mask", "higher", "0 to 1", "overlap at 15 % of the maximum", _GRAD_CAM
        ),
        Measure("box-error", "mask", "lower", "0 or 1", "its box has an IoU below 1/2", _GRAD_CAM),
        Measure(
            "max-box-accuracy",
            "mask",
            "higher",
            "0 to 1",
            "boxes right",
            "https://arxiv.org/abs/2001.07437",
        ),
    )
}
"""By name."""
