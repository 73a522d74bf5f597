"""Is the explanation any good? Measures on NumPy arrays and a plain `predict(inputs)`; controls.

>>> from gradcam import metrics
>>> subject = metrics.Subject(predict, inputs, target)         # doctest: +SKIP
>>> metrics.insertion(subject, maps).value                     # doctest: +SKIP
>>> print(metrics.road_combined(subject, maps))                # doctest: +SKIP

A number means something beside that of the same measure on `CONTROLS`: maps that know nothing of
the model.
"""

from __future__ import annotations

from gradcam.metrics.boxes import box_masks, boxes, iou, largest_box
from gradcam.metrics.complexity import complexity
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
    box_error,
    energy,
    localisation_error,
    mask_iou,
    max_box_accuracy,
    pointing_game,
    pointing_game_with_rejection,
)
from gradcam.metrics.measure import Context, Measure
from gradcam.metrics.perturbation import (
    infidelity,
    max_sensitivity,
    occlusion,
    occlusion_correlation,
)
from gradcam.metrics.result import Result
from gradcam.metrics.road import road, road_combined
from gradcam.metrics.similarity import rank_correlation, structural_similarity
from gradcam.metrics.subject import Subject
from gradcam.metrics.table import MEASURES

__all__ = [
    "CONTROLS",
    "MEASURES",
    "Context",
    "Measure",
    "Result",
    "Subject",
    "adcc",
    "adcc_parts",
    "average_drop",
    "average_gain",
    "box_contrast",
    "box_error",
    "box_masks",
    "boxes",
    "collage",
    "collages",
    "complexity",
    "confidence_measures",
    "deletion",
    "energy",
    "grid_pointing_game",
    "impute",
    "increase_in_confidence",
    "infidelity",
    "insertion",
    "iou",
    "largest_box",
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
